"""The server as its clients meet it: a real one, over a socket."""

import asyncio
import base64
import io
import json
import re
import struct
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from browser import wait
from PIL import Image

from perpixel.cli import main
from perpixel.errors import OutOfMemoryError
from perpixel.inference.predictor import Predictor
from perpixel.io.images import IMAGE_SUFFIXES, write_image
from perpixel.serving.pool import Limits

PNG = {"Content-Type": "image/png"}


def image(height: int = 48, width: int = 64, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def pages() -> bytes:
    content = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 1)]
    frames[0].save(content, "TIFF", save_all=True, append_images=frames[1:])
    return content.getvalue()


def bomb(height: int, width: int) -> bytes:
    """A PNG of few bytes whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2**20))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )  # fmt: skip


def predicted(model: Path, folder: Path, monkeypatch) -> dict[str, bytes]:
    """The files that `perpixel predict` writes, by the images' names."""
    out = folder / "masks"
    words = ["perpixel", "predict", model, folder, "--out", out, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit, match=r"^0$"):
        main.main()
    return {path.stem: path.read_bytes() for path in out.iterdir()}


class Slow(Predictor):
    """A predictor that waits to be let go, so that tests decide how long an image takes."""

    def __init__(self, predictor: Predictor) -> None:
        self.__dict__ = dict(predictor.__dict__)
        self.started, self.go, self.calls = threading.Semaphore(0), threading.Event(), 0

    def predict(self, image):
        self.calls += 1
        self.started.release()
        assert self.go.wait(timeout=60)
        return super().predict(image)


@pytest.fixture
def slow(predictor):
    slow_predictor = Slow(predictor)
    yield slow_predictor
    slow_predictor.go.set()


def test_masks_are_predicts_files_byte_for_byte(client, model, tmp_path, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    for suffix in IMAGE_SUFFIXES:
        write_image(tmp_path / f"plain{suffix[1:]}{suffix}", pixels)
    sent = {path.stem: path.read_bytes() for path in tmp_path.iterdir()}
    expected = predicted(model, tmp_path, monkeypatch)
    assert expected.keys() == sent.keys()
    for name, content in sent.items():
        answer = client.post("/v1/segment", content=content)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.content == expected[name], name
    with Image.open(io.BytesIO(expected["turned"])) as mask:
        assert mask.size == (40, 56)


@pytest.mark.parametrize(
    ("kind", "media"),
    [("JPEG", "image/jpg"), ("PNG", "image/x-png"), ("TIFF", "image/tif"), ("BMP", "text/plain"),
     ("PNG", "image/jpeg"), ("WEBP", "application/x-www-form-urlencoded"), ("PNG", None)],
)  # fmt: skip
def test_an_images_bytes_decide_not_its_content_type(client, kind, media):
    headers = {} if media is None else {"Content-Type": media}
    answer = client.post("/v1/segment", content=image(kind=kind), headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_multipart_json_and_run_lengths_agree(client, predictor):
    sent = image()
    result = predictor.predict(Image.open(io.BytesIO(sent)))
    answer = client.post("/v1/segment?format=json", files={"image": ("a b.png", sent)}).json()
    assert (answer["width"], answer["height"]) == (64, 48)
    assert [area["name"] for area in answer["classes"]] == list(predictor.class_names)
    assert "rle" not in answer["classes"][0]
    assert {area["name"]: area["share"] for area in answer["classes"]} == pytest.approx(
        result.class_fractions
    )
    with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as mask:
        assert (np.asarray(mask) == result.mask).all()
    accept = {"Accept": "application/vnd.perpixel.rle+json"}
    shapes = client.post("/v1/segment", content=sent, headers=PNG | accept)
    assert shapes.headers["content-type"] == accept["Accept"]
    decoded = np.full(48 * 64, 255)
    assert "mask" not in shapes.json()
    for area in (area for area in shapes.json()["classes"] if area["pixels"]):
        assert area["rle"]["size"] == [48, 64]
        counts = area["rle"]["counts"]
        decoded[np.repeat(np.arange(len(counts)) % 2 == 1, counts)] = area["index"]
    assert (decoded.reshape(48, 64, order="F") == result.mask).all()


@pytest.mark.parametrize(
    ("request_", "status", "expected"),
    [
        ({"content": b"text", "headers": {"Content-Type": "text/plain"}}, 415, "not an image"),
        ({"data": {"image": "x"}}, 415, "not an image"),
        ({"content": b"", "headers": PNG}, 422, "empty"),
        ({"content": b"no image", "headers": PNG}, 415, "not an image that can be read"),
        ({"content": image()[:600], "headers": PNG}, 422, "decoded"),
        ({"content": image(48, 64, "GIF")}, 415, "PNG, JPEG, BMP, WEBP, PPM, TIFF"),
        ({"content": pages()}, 422, "several pages or frames"),
        ({"content": bytes(40_001), "headers": PNG}, 413, "40000 bytes"),
        ({"content": iter([bytes(30_000)] * 2), "headers": PNG}, 413, "40000 bytes"),
        ({"files": {"image": bytes(40_000)}}, 413, "40000 bytes"),
        ({"content": image(120, 100)}, 413, "120x100 pixels"),
        ({"content": bomb(60_000, 60_000)}, 413, "this server's limit of"),
        ({"content": bomb(12_000, 12_000)}, 413, "12000x12000 pixels"),
        ({"content": bomb(2**31 - 1, 2**31 - 1)}, 413, "this server's limit of"),
        ({"content": image(1, 200)}, 413, "1x200 pixels"),
        ({"content": image(), "params": {"format": "gif"}}, 422, "format"),
        ({"content": image(), "headers": {"Accept": "text/html"}}, 406, "image/png"),
        ({"files": {"photo": image()}}, 422, "no file named image"),
        ({"files": {"image": (None, "text")}}, 400, "fields"),
        ({"files": [("image", image()), ("image", image())]}, 400, "files"),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refusals_say_why_and_name_no_path(client, model, request_, status, expected):
    answer = client.post("/v1/segment", **request_)
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert expected in detail
    for leak in ("Traceback", 'File "', str(model.parent), "site-packages", "/perpixel/"):
        assert leak not in detail
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/segment", 405), ("GET", "/v1/other", 404), ("POST", "/", 405),
     ("GET", "/docs", 404), ("GET", "/redoc", 404), ("POST", "/v1/segment/", 404),
     ("GET", "/../pyproject.toml", 404)],
)  # fmt: skip
def test_other_requests_are_refused(client, method, path, status):
    assert client.request(method, path).status_code == status


def test_a_bomb_is_refused_before_it_is_decoded(serve, predictor, monkeypatch):
    decoded = []
    monkeypatch.setattr("perpixel.serving.pool.decode_image", lambda *a, **k: decoded.append(a))
    client = serve(predictor, Limits(max_pixels=1_000_000))
    assert client.post("/v1/segment", content=bomb(30_000, 30_000)).status_code == 413
    assert decoded == []


def test_too_many_at_once_wait_or_are_refused(serve, slow):
    client = serve(slow, Limits(concurrency=1, queue_size=2))
    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(client.post, "/v1/segment", content=image()) for _ in range(3)]
        assert slow.started.acquire(timeout=30)
        wait(
            lambda: "perpixel_in_progress 3" in client.get("/metrics").text,
            "perpixel_in_progress 3",
        )
        refused = client.post("/v1/segment", content=image())
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200  # the event loop is free meanwhile
        slow.go.set()
        assert [job.result().status_code for job in jobs] == [200, 200, 200]
    assert client.post("/v1/segment", content=image()).status_code == 200
    text = client.get("/metrics").text
    assert 'perpixel_requests_total{path="/v1/segment",status="503"} 1' in text
    assert 'perpixel_requests_total{path="/v1/segment",status="200"} 4' in text
    assert "perpixel_in_progress 0" in text
    assert f"perpixel_pixels_total {4 * 48 * 64}" in text
    assert 'perpixel_segment_seconds_bucket{le="+Inf"} 4' in text


def test_work_whose_time_is_up_keeps_its_place_until_it_ends(serve, slow):
    client = serve(slow, Limits(concurrency=1, queue_size=1, timeout=1.5))
    late = client.post("/v1/segment", content=image())
    assert (late.status_code, "1.5 seconds" in late.text) == (504, True)
    # The thread is still at work: one more may wait, and times out before it starts.
    assert client.post("/v1/segment", content=image()).status_code == 504
    assert slow.calls == 1
    assert "perpixel_in_progress 1" in client.get("/metrics").text
    slow.go.set()
    wait(lambda: "perpixel_in_progress 0" in client.get("/metrics").text, "perpixel_in_progress 0")
    assert client.post("/v1/segment", content=image()).status_code == 200


def test_an_image_that_does_not_arrive_gives_its_place_back(serve, predictor):
    client = serve(predictor, Limits(concurrency=1, queue_size=0, timeout=1.5))
    stalled = threading.Event()

    def drip():
        yield image()[:100]
        stalled.wait(timeout=30)

    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(client.post, "/v1/segment", content=drip(), headers=PNG)
        wait(lambda: 'status="408"' in client.get("/metrics").text, 'status="408"')
        assert client.post("/v1/segment", content=image()).status_code == 200
        stalled.set()
        job.exception()  # an answer, or a connection that was closed while it sent


@pytest.mark.parametrize("error", [MemoryError, OutOfMemoryError])
def test_too_little_memory_is_an_answer(serve, predictor, monkeypatch, error):
    def fail(self, image):
        raise error

    monkeypatch.setattr(Predictor, "predict", fail)
    answer = serve(predictor, Limits()).post("/v1/segment", content=image())
    assert (answer.status_code, "memory" in answer.text) == (413, True)


def test_a_bug_shows_nothing_and_is_counted(serve, predictor, monkeypatch):
    def fail(self, image):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(Predictor, "predict", fail)
    client = serve(predictor, Limits())
    answer = client.post("/v1/segment", content=image())
    assert answer.status_code == 500
    assert "secret" not in answer.text
    client.close()  # after a bug the server ends the connection, in its own time
    text = httpx.get(client.base_url.join("/metrics"), trust_env=False).text
    assert 'path="/v1/segment",status="500"} 1' in text


def test_two_hundred_at_once(serve, predictor):
    client = serve(predictor, Limits(concurrency=2, queue_size=30))
    sent = image(8, 8)

    async def flood():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=client.base_url, limits=limits, timeout=60, trust_env=False
        ) as many:
            asks = (many.post("/v1/segment", content=sent) for _ in range(200))
            return await asyncio.gather(*asks)

    answers = asyncio.run(flood())
    codes = {answer.status_code for answer in answers}
    assert 200 in codes
    assert codes <= {200, 503}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    assert "perpixel_in_progress 0" in client.get("/metrics").text


def test_the_schema_tells_every_status_and_needs_no_model(client):
    schema = client.get("/openapi.json").json()
    segment = schema["paths"]["/v1/segment"]["post"]
    assert set(segment["responses"]) == {
        "200", "400", "406", "408", "413", "415", "422", "503", "504",
    }  # fmt: skip
    assert "multipart/form-data" in segment["requestBody"]["content"]
    assert set(schema["paths"]) == {"/v1/segment", "/v1/model", "/healthz", "/metrics"}
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for outside in ("http://", "https://", "//cdn", "@import"):
        assert outside not in page.text
    model = client.get("/v1/model").json()
    assert model["name"] == "camvid/fcn_r18-d8"
    assert model["classes"][0] == {"name": "sky", "color": "#808080"}


def test_every_reference_in_the_schema_leads_somewhere(client):
    text = client.get("/openapi.json").text
    schema = json.loads(text)
    references = set(re.findall(r'"\$ref":"(#/[^"]+)"', text))
    assert "#/components/schemas/Segmentation" in references
    for reference in references:
        node = schema
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
