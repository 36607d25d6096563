"""What `perpixel serve` does with many images at once, and with what is no image at all.

    python benchmarks/serving.py MODEL [--concurrent 200] [--malformed 1000]

Starts the command on a free port and asks it: the same image over one and more connections (time
and images per second), so many times at once, then so many malformed requests, drawn from the
server's own /openapi.json and from what breaks HTTP itself. Prints the counts of status codes and
leaves with 1 if there was a 500, a status that the schema does not list, or the server died.
"""

import argparse
import io
import random
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from measure import proc_status, write_result
from PIL import Image

from perpixel.runtime.device import resolve_device

# What HTTP or its library refuses before the application's schema is asked.
_PROTOCOL = {400, 404, 405, 431}


def image(height: int, width: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def bomb() -> bytes:
    """A PNG of 1.1 kB that says it is 50,000 pixels wide and high."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    for kind, data in (b"IHDR", header), (b"IDAT", zlib.compress(bytes(2**20))), (b"IEND", b""):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


def bodies(draw: random.Random) -> Iterator[bytes]:
    """Images, corrupt ones, and other bytes, without end."""
    good = [image(16, 16, kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")]
    while True:
        content = bytearray(draw.choice(good))
        match draw.randrange(7):
            case 0:
                del content[draw.randrange(len(content)) :]
            case 1:
                for _ in range(draw.randrange(1, 20)):
                    content[draw.randrange(len(content))] = draw.randrange(256)
            case 2:  # in the header, where sizes and kinds are
                content[draw.randrange(min(64, len(content)))] = draw.choice([0, 1, 127, 255])
            case 3:
                content = bytearray(draw.randbytes(draw.randrange(300)))
            case 4:
                content = bytearray(bomb())
            case 5:
                content += draw.randbytes(draw.randrange(100))
            case 6:
                content[:12] = draw.choice(
                    [b"GIF89a", b"\x00\x00\x00\x0cjP  ", b"%PDF", b"\xff\xd8"]
                )
        yield bytes(content)


def multipart(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """A Content-Type and a body that it may or may not describe."""
    boundary = draw.choice(["x", "a b", "é", "", "-" * 200, '"', "x; charset=hex", "x; charset=\0"])
    names = ["image", "", "image", "image\r\nX: y", "\x00", "ï" * 300]
    lines = []
    for _ in range(draw.choice([0, 1, 1, 1, 2, 30])):
        name = draw.choice(names)
        file = draw.choice(
            ["", '; filename="a.png"', '; filename="../../x"', "; filename*=UTF-8''%"]
        )
        lines.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode(
                "latin-1", "replace"
            )
            + content
            + draw.choice([b"\r\n", b"\n", b""])
        )
    body = b"".join(lines) + draw.choice([f"--{boundary}--\r\n", "", "--"]).encode()
    media = draw.choice([f"multipart/form-data; boundary={boundary}", "multipart/form-data", ";;;"])
    return media.replace("\0", "%00"), body


def asks(
    client: httpx.Client, schema: dict[str, Any], draw: random.Random
) -> Iterator[httpx.Request]:
    """Requests near the schema, without end: its paths, methods, parameters and media types."""
    paths = list(schema["paths"])
    segment = schema["paths"]["/v1/segment"]["post"]
    formats = next(p for p in segment["parameters"] if p["name"] == "format")["schema"]
    known = next(each["enum"] for each in formats["anyOf"] if "enum" in each)
    media = [*segment["requestBody"]["content"], "text/plain", "image/gif", "image/png;;=", "é", ""]
    accepts = [*segment["responses"]["200"]["content"], "*/*", "text/html", ";q=", "*/*;q=9e9", ""]
    stream = bodies(draw)
    while True:
        path, method = "/v1/segment", "POST"
        if draw.random() < 0.2:
            path = draw.choice(
                [*paths, "/", "/..%2f..", "/v1/segment/", "/%00", "/é", "/" + "a" * 3000]
            )
            method = draw.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"])
        query = draw.choice(
            [
                "", "", *(f"?format={each}" for each in known), "?format=", "?format[]=1",
                "?format=%00%ff", "?format=png&format=json", "?" + "a=" * 500,
            ]
        )  # fmt: skip
        body = next(stream)
        kind = draw.choice(media)
        if kind == "multipart/form-data" or draw.random() < 0.2:
            kind, body = multipart(draw, body)
        headers = {"Content-Type": kind, "Accept": draw.choice(accepts)}
        sent = {name: value.encode("latin-1") for name, value in headers.items()}
        yield client.build_request(method, path + query, headers=sent, content=body)


def send(client: httpx.Client, ask: httpx.Request) -> str:
    return str(client.send(ask).status_code)


def raw(draw: random.Random) -> bytes:
    """Bytes that are not quite HTTP."""
    start = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\n"
    return draw.choice(
        [
            draw.randbytes(draw.randrange(1, 500)),
            b"GET / HTTP/9.9\r\n\r\n",
            start + b"Content-Length: -1\r\n\r\n",
            start + b"Content-Length: 99999999999999999999999\r\n\r\n",
            start + b"Content-Length: 1e9\r\n\r\nx",
            start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            start + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n",
            start + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            start + b"Content-Type: \x00\r\n\r\n",
            start + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
            start + b"Content-Length: 100\r\n\r\nshort",
            b"POST /v1/segment HTTP/1.1\r\n\r\n",
        ]
    )


def send_raw(url: httpx.URL, content: bytes) -> str:
    """The status of the answer, or "closed" for a connection that ends without one."""
    assert url.port is not None
    with socket.create_connection((url.host, url.port), timeout=30) as line:
        try:
            line.sendall(content)
            line.shutdown(socket.SHUT_WR)
            found = re.match(rb"HTTP/1\.1 (\d+)", line.recv(100))
        except OSError:  # closed before it had heard all
            found = None
    return found[1].decode() if found else "closed"


@contextmanager
def served(model: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "perpixel", "serve", model, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                sys.exit("the server did not start")
            limits = httpx.Limits(max_connections=None)
            with httpx.Client(
                base_url=found[0], timeout=120, trust_env=False, limits=limits
            ) as client:
                yield process, client
        finally:
            process.terminate()


def rates(client: httpx.Client, content: bytes, each: int) -> list[dict[str, float]]:
    """Seconds and images per second over one, two and four connections."""
    rows = []
    for connections in (1, 2, 4):

        def timed(_: int) -> float:
            start = time.perf_counter()
            client.post("/v1/segment", content=content).raise_for_status()
            return time.perf_counter() - start

        with ThreadPoolExecutor(connections) as threads:
            start = time.perf_counter()
            seconds = sorted(threads.map(timed, range(each * connections)))
            whole = time.perf_counter() - start
        rows.append(
            {
                "connections": connections,
                "images_per_second": len(seconds) / whole,
                "p50_ms": 1000 * seconds[len(seconds) // 2],
                "p90_ms": 1000 * seconds[len(seconds) * 9 // 10],
            }
        )
        print(" ".join(f"{name} {value:.1f}" for name, value in rows[-1].items()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--each", type=int, default=20, help="images per connection")
    parser.add_argument("--concurrent", type=int, default=200)
    parser.add_argument("--queue-size", default="16", help="the server's")
    parser.add_argument("--malformed", type=int, default=1000)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/serving.json")
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    content, draw = image(height, width, "JPEG"), random.Random(0)
    with served(given.model, "--queue-size", given.queue_size) as (process, client):
        schema = client.get("/openapi.json").json()
        documented = set(schema["paths"]["/v1/segment"]["post"]["responses"])
        result: dict[str, Any] = {"size": given.size, "rates": rates(client, content, given.each)}
        with ThreadPoolExecutor(given.concurrent) as threads:
            ask = client.build_request("POST", "/v1/segment", content=content)
            jobs = [threads.submit(send, client, ask) for _ in range(given.concurrent)]
            result["concurrent"] = Counter(job.result() for job in jobs)
        print(f"{given.concurrent} at once: {dict(result['concurrent'])}")
        before = proc_status("VmRSS", process.pid)
        stream, codes = asks(client, schema, draw), Counter()
        for index in range(given.malformed):
            broken = index % 10 == 0
            codes[
                send_raw(client.base_url, raw(draw)) if broken else send(client, next(stream))
            ] += 1
        result["malformed"] = codes
        print(f"{given.malformed} malformed: {dict(sorted(codes.items()))}")
        after = proc_status("VmRSS", process.pid)
        result["memory_mib"] = [round(memory / 2**20) for memory in (before, after)]
        print(f"memory before and after them: {result['memory_mib']} MiB")
        alive = client.get("/healthz").status_code == 200 and process.poll() is None
        progress = re.search(r"perpixel_in_progress (\d+)", client.get("/metrics").text)
    allowed = documented | {str(code) for code in _PROTOCOL} | {"closed"}
    strange = (set(codes) | set(result["concurrent"])) - allowed
    if not alive or strange or progress is None or progress[1] != "0":
        sys.exit(f"alive: {alive}, strange: {strange}, {progress and progress[0]}")
    if given.keep:
        print(write_result("serving", result, device=resolve_device()))  # the server's


if __name__ == "__main__":
    main()
