"""`perpixel data download` from a server on loopback that holds miniature archives."""

import hashlib
import http.server
import io
import shutil
import struct
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import miniatures
import pytest
from filelock import FileLock

import perpixel.data.download as data_download
from perpixel.data.download import ARCHIVES, Archive
from perpixel.data.registry import open_dataset
from perpixel.errors import PerpixelError, UsageError
from perpixel.io import download


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder, ranges included; `cut` bytes at most per connection."""

    cut: int | None = None
    requests: ClassVar[list[str]]

    def do_GET(self):
        self.requests.append(self.path)
        content = (Path(self.directory) / self.path.rpartition("/")[2]).read_bytes()
        byte_range = self.headers.get("Range")
        first = int(byte_range.removeprefix("bytes=").rstrip("-")) if byte_range else 0
        self.send_response(206 if byte_range else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first : None if self.cut is None else first + self.cut])

    def log_message(self, *words):
        pass


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """The folder whose files the server serves."""
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


@pytest.fixture
def handler(shelf, monkeypatch):
    class ShelfHandler(Handler):
        requests: ClassVar[list[str]] = []

        def __init__(self, *words):
            super().__init__(*words, directory=str(shelf))

    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ShelfHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PERPIXEL_MIRROR", f"http://127.0.0.1:{server.server_port}/files")
        yield ShelfHandler
        server.shutdown()


def stock(monkeypatch, shelf: Path, source: Path, name: str) -> None:
    """Packs the folders of `source` into the data set's archives, and publishes their hashes."""
    archives = []
    for archive in ARCHIVES[name]:
        path = shelf / archive.url.rpartition("/")[2]
        miniatures.packed(source, archive.to, path, inside=archive.inside or archive.to)
        content = path.read_bytes()
        archives.append(
            replace(
                archive,
                md5=archive.md5 and hashlib.md5(content).hexdigest(),
                sha1=archive.sha1 and hashlib.sha1(content).hexdigest(),
            )
        )
    monkeypatch.setitem(ARCHIVES, name, tuple(archives))


def write_camvid(root: Path) -> None:
    miniatures.camvid_release(root / "CamVid")


WRITERS = {
    "pascal_voc": (miniatures.pascal_voc, "trainaug", 5),
    "ade20k": (miniatures.ade20k, "train", 4),
    "camvid": (write_camvid, "train", 4),
    "pascal_context": (miniatures.pascal_context, "train", 3),
    "pascal_context_59": (miniatures.pascal_context, "val", 1),
}


def test_every_downloadable_data_set_is_tested():
    assert set(WRITERS) == set(ARCHIVES)
    published = {a.url.rpartition("/")[2]: a for several in ARCHIVES.values() for a in several}
    assert published["VOCtrainval_11-May-2012.tar"].md5 == "6cd6e144f989b92b3379bac3b3de84fd"
    assert published["benchmark.tgz"].md5 == "82b4d87ceb2ed10f6038a1cba92111cb"


@pytest.mark.parametrize("name", WRITERS)
def test_a_data_set_arrives_ready_to_open(handler, shelf, tmp_path, monkeypatch, name):
    write, split, count = WRITERS[name]
    write(tmp_path / "source")
    stock(monkeypatch, shelf, tmp_path / "source", name)
    data_download.download(name, tmp_path / "root")
    dataset = open_dataset(name, tmp_path / "root", split)
    assert len(dataset) == count
    assert dataset.label(0).shape == dataset.image(0).shape[:2]
    requests = len(handler.requests)
    assert requests == len(ARCHIVES[name])
    data_download.download(name, tmp_path / "root")  # complete, so nothing is requested
    assert len(handler.requests) == requests
    left = {path.name for path in (tmp_path / "root").iterdir()}
    assert left == {Path(archive.to).parts[0] for archive in ARCHIVES[name]}


def test_a_broken_download_resumes(handler, shelf, tmp_path, monkeypatch):
    miniatures.ade20k(tmp_path / "source")
    stock(monkeypatch, shelf, tmp_path / "source", "ade20k")
    handler.cut = 1000
    with pytest.raises(PerpixelError, match="cannot be downloaded"):
        data_download.download("ade20k", tmp_path / "root")
    part = tmp_path / "root/.perpixel-downloads/ADEChallengeData2016.zip.part"
    assert part.stat().st_size == 5000
    handler.cut = None
    data_download.download("ade20k", tmp_path / "root")
    assert len(open_dataset("ade20k", tmp_path / "root", "val")) == 2


def test_a_file_with_another_hash_is_refused(handler, shelf, tmp_path, monkeypatch):
    miniatures.ade20k(tmp_path / "source")
    stock(monkeypatch, shelf, tmp_path / "source", "ade20k")
    with (shelf / "ADEChallengeData2016.zip").open("ab") as file:
        file.write(b"more")
    with pytest.raises(PerpixelError, match="sha1"):
        data_download.download("ade20k", tmp_path / "root")
    assert not (tmp_path / "root/ADEChallengeData2016").exists()


def _tar(path: Path, member: tarfile.TarInfo, content: bytes = b"x") -> None:
    with tarfile.open(path, "w") as file:
        member.size = len(content) if member.isfile() else 0
        file.addfile(member, io.BytesIO(content))


def _linked(path: Path, kind: bytes = tarfile.SYMTYPE, to: str = "/etc") -> None:
    member = tarfile.TarInfo("set/link")
    member.type, member.linkname = kind, to
    _tar(path, member)


def _folder(path: Path) -> None:
    member = tarfile.TarInfo("set")
    member.type = tarfile.DIRTYPE
    _tar(path, member)


def _zip_of_kind(path: Path, *, flags: int = 0, compression: int = 0) -> None:
    """A zip file whose directory says so of its only file."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("set/a", "x")
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<HH", content, content.index(signature) + place, flags, compression)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("outside.tar", lambda path: _tar(path, tarfile.TarInfo("set/../../outside"))),
        ("absolute.tar", lambda path: _tar(path, tarfile.TarInfo("/outside"))),
        ("link.tar", _linked),
        ("hard.tar", lambda path: _linked(path, tarfile.LNKTYPE, "set/not there")),
        ("nothing in it.tar", _folder),
        ("encrypted.zip", lambda path: _zip_of_kind(path, flags=1)),
        ("unknown.zip", lambda path: _zip_of_kind(path, compression=97)),
        ("no.zip", lambda path: path.write_bytes(b"no archive")),
        ("no.tgz", lambda path: path.write_bytes(b"no archive")),
        ("empty.tar", lambda path: path.write_bytes(b"")),
    ],
)
def test_a_corrupt_or_malicious_archive_leaves_nothing(shelf, tmp_path, monkeypatch, name, write):
    write(shelf / name)
    monkeypatch.setenv("PERPIXEL_MIRROR", str(shelf))
    monkeypatch.setitem(ARCHIVES, "ade20k", (Archive(f"http://far.invalid/{name}", "set"),))
    root = tmp_path / "below/root"
    with pytest.raises(PerpixelError, match="not an archive that can be unpacked"):
        data_download.download("ade20k", root)
    assert not (root / "set").exists()
    assert not list(tmp_path.rglob("outside"))
    assert not list((root / ".perpixel-downloads").glob("*.*[rpz]"))


def test_a_zip_file_writes_nothing_outside_of_its_folder(shelf, tmp_path, monkeypatch):
    with zipfile.ZipFile(shelf / "a.zip", "w") as file:
        file.writestr("set/../../outside", "x")
    monkeypatch.setenv("PERPIXEL_MIRROR", str(shelf))
    monkeypatch.setitem(ARCHIVES, "ade20k", (Archive("http://far.invalid/a.zip", "set"),))
    with pytest.raises(PerpixelError, match="holds no folder set, or nothing in it"):
        data_download.download("ade20k", tmp_path / "below/root")
    assert not list(tmp_path.rglob("outside"))


def test_a_truncated_archive_is_fetched_again(handler, shelf, tmp_path, monkeypatch):
    write_camvid(tmp_path / "source")
    stock(monkeypatch, shelf, tmp_path / "source", "camvid")
    content = (shelf / "CamVid.zip").read_bytes()
    (shelf / "CamVid.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(PerpixelError, match="downloads it again"):
        data_download.download("camvid", tmp_path / "root")
    (shelf / "CamVid.zip").write_bytes(content)
    data_download.download("camvid", tmp_path / "root")
    assert len(open_dataset("camvid", tmp_path / "root", "test")) == 2


def test_a_data_set_without_archives_is_explained(tmp_path):
    with pytest.raises(PerpixelError, match=r"needs a login.*gtFine_trainvaltest\.zip"):
        data_download.download("cityscapes", tmp_path)
    with pytest.raises(UsageError, match=r"scenes cannot be downloaded.*pascal_voc"):
        data_download.download("scenes", tmp_path)
    with pytest.raises(UsageError, match="Did you mean ade20k"):
        data_download.download("ade20", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_targets_parents_are_made_and_a_full_disk_is_named(shelf, tmp_path, monkeypatch):
    miniatures.ade20k(tmp_path / "source")
    stock(monkeypatch, shelf, tmp_path / "source", "ade20k")
    monkeypatch.setenv("PERPIXEL_MIRROR", str(shelf))

    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(PerpixelError, match="cannot be written"):
        data_download.download("ade20k", tmp_path / "root")


def test_two_downloads_at_once_are_refused(handler, shelf, tmp_path, monkeypatch):
    miniatures.ade20k(tmp_path / "source")
    stock(monkeypatch, shelf, tmp_path / "source", "ade20k")
    root = tmp_path / "root"
    (root / ".perpixel-downloads").mkdir(parents=True)
    other_process = FileLock(root / ".perpixel-downloads" / "lock")
    with other_process, pytest.raises(PerpixelError, match="another process is downloading there"):
        data_download.download("ade20k", root)
    data_download.download("ade20k", root)
    assert len(open_dataset("ade20k", root, "val")) == 2
