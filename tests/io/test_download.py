"""Downloads against a server on loopback that cuts connections and serves corrupt bytes."""

import errno
import hashlib
import http.client
import http.server
import itertools
import os
import ssl
import threading
from pathlib import Path

import numpy as np
import pytest

from perpixel.errors import PerpixelError
from perpixel.io import download

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `cuts` bytes at most per connection, ranges only if `ranges`."""

    cuts: int | None = None
    ranges = True
    content = CONTENT
    status = 200

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        byte_range = self.headers.get("Range")
        self.server.requests.append(byte_range)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        content, first = self.server.content, 0
        if byte_range and self.server.ranges:
            first = int(byte_range.removeprefix("bytes=").rstrip("-"))
            if first >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        last = None if self.server.cuts is None else first + self.server.cuts
        self.wfile.write(content[first:last])

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PERPIXEL_MIRROR", raising=False)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/weights/net-{SHA256[:8]}.pth"


def files(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"}


def test_a_file_arrives_once(server: Server, tmp_path):
    path = download.fetch(url(server), sha256=SHA256[:8])
    assert path.read_bytes() == CONTENT
    assert files(tmp_path) == {path.name}
    assert download.fetch(url(server), sha256=SHA256) == path
    assert len(server.requests) == 1


def test_cut_connections_are_resumed(server: Server):
    server.cuts = 100_000
    assert download.fetch(url(server), sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_starts_again(server: Server):
    server.cuts, server.ranges = 100_000, False
    with pytest.raises(PerpixelError, match="cannot be downloaded"):
        download.fetch(url(server), sha256=SHA256)
    server.cuts = None
    assert download.fetch(url(server), sha256=SHA256).read_bytes() == CONTENT


def test_what_has_arrived_is_kept_for_the_next_call(server: Server, tmp_path):
    server.cuts = 10_000
    with pytest.raises(PerpixelError, match=r"cannot be downloaded \(the connection breaks off"):
        download.fetch(url(server), sha256=SHA256)
    (part,) = files(tmp_path)
    assert part.endswith(".part")
    server.cuts = None
    assert download.fetch(url(server), sha256=SHA256).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=50000-"


def test_corrupt_bytes_are_never_kept(server: Server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(PerpixelError, match="corrupt on the way"):
        download.fetch(url(server), sha256=SHA256)
    assert files(tmp_path) == set()
    server.content = CONTENT
    assert download.fetch(url(server), sha256=SHA256).read_bytes() == CONTENT


def test_a_corrupt_file_in_the_cache_is_downloaded_again(server: Server):
    path = download.fetch(url(server), sha256=SHA256)
    path.write_bytes(b"broken")
    assert download.fetch(url(server), sha256=SHA256).read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_taken(server: Server, tmp_path):
    (tmp_path / "cache").mkdir()
    name = url(server).rpartition("/")[2]
    (tmp_path / "cache" / f"{name}.part").write_bytes(CONTENT)
    assert download.fetch(url(server), sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 5)])
def test_only_passing_faults_are_tried_again(server: Server, status: int, tries: int):
    server.status = status
    with pytest.raises(PerpixelError, match=str(status)):
        download.fetch(url(server), sha256=SHA256)
    assert len(server.requests) == tries


def test_a_mirror_is_asked_in_place_of_the_network(server: Server, monkeypatch, tmp_path):
    mirror, name = tmp_path / "mirror", f"net-{SHA256[:8]}.pth"
    mirror.mkdir()
    monkeypatch.setenv("PERPIXEL_MIRROR", str(mirror))
    with pytest.raises(PerpixelError, match=f"{name}: not in the mirror PERPIXEL_MIRROR"):
        download.fetch(f"http://far.invalid/{name}", sha256=SHA256)
    (mirror / name).write_bytes(CONTENT)
    assert download.fetch(f"http://far.invalid/{name}", sha256=SHA256).read_bytes() == CONTENT
    monkeypatch.setenv("PERPIXEL_MIRROR", f"http://127.0.0.1:{server.server_port}/a/")
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "other"))
    assert download.fetch(f"http://far.invalid/{name}", sha256=SHA256).read_bytes() == CONTENT


def test_two_at_once_download_it_once(server: Server):
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(download.fetch(url(server), sha256=SHA256)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.ENETUNREACH, "Network is unreachable"), ssl.SSLError(1, "bad record")]
)
def test_what_the_system_says_of_the_network_is_tried_again(server: Server, monkeypatch, error):
    read, times = http.client.HTTPResponse.read, iter([True])

    def failing(answer, amount=None):
        if next(times, False):
            raise error
        return read(answer, amount)

    monkeypatch.setattr(http.client.HTTPResponse, "read", failing)
    assert download.fetch(url(server), sha256=SHA256).read_bytes() == CONTENT
    times = itertools.repeat(True)
    with pytest.raises(PerpixelError, match=rf"cannot be downloaded \(.*{error.strerror}"):
        download.fetch(url(server), sha256=SHA256, folder=Path(os.environ["PERPIXEL_CACHE"], "b"))


def test_a_full_disk_is_not_the_networks(server: Server, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", fsync)
    with pytest.raises(PerpixelError, match=r"cannot be written \(No space left"):
        download.fetch(url(server), sha256=SHA256)
    assert len(server.requests) == 1


def test_a_file_that_is_here_needs_no_writing(server: Server, monkeypatch):
    path = download.fetch(url(server), sha256=SHA256)
    monkeypatch.setattr(download, "FileLock", None)  # as root writes to read-only folders, too
    assert download.fetch(url(server), sha256=SHA256) == path


def test_an_unwritable_cache_is_named(server: Server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "file"))
    with pytest.raises(PerpixelError, match="cannot be written"):
        download.fetch(url(server), sha256=SHA256)


def test_a_user_without_a_home_is_told_of_the_cache(monkeypatch):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(download.Path, "home", home)
    monkeypatch.delenv("PERPIXEL_CACHE", raising=False)
    with pytest.raises(PerpixelError, match="name a folder in PERPIXEL_CACHE"):
        download.cache_folder()
