import errno
import os
import sys
from pathlib import Path

import pytest

from perpixel.errors import PerpixelError
from perpixel.io.atomic import atomic_replace, atomic_write, sync_folder


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    atomic_write(tmp_path / "a" / "file", b"content")
    assert (tmp_path / "a" / "file").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


@pytest.mark.parametrize("sync", [False, True])
def test_an_error_leaves_the_old_content(tmp_path, sync):
    atomic_write(tmp_path / "file", b"old")
    with pytest.raises(ZeroDivisionError), atomic_replace(tmp_path / "file", sync=sync) as part:
        part.write_bytes(b"new" * (1 // 0))
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_crash_leaves_behind_is_replaced(tmp_path):
    with pytest.raises(SystemExit), atomic_replace(tmp_path / "file") as part:
        raise SystemExit
    part.write_bytes(b"of a process that was killed")
    atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="pipes have a path on Linux")
def test_a_pipe_is_written_to():
    reading, writing = os.pipe()
    atomic_write(Path(f"/proc/self/fd/{writing}"), b"content")
    assert os.read(reading, 100) == b"content"
    os.close(reading)
    os.close(writing)


def test_an_unwritable_place_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PerpixelError, match="cannot be written"):
        atomic_write(tmp_path / "file" / "below", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PerpixelError, match="cannot be written"):
        atomic_write(tmp_path / "folder", b"x")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


def test_windows_opens_no_folder(tmp_path, monkeypatch):
    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as windows:
        windows.setattr(os, "open", refused)
        with pytest.raises(PermissionError):
            sync_folder(tmp_path)
        windows.setattr(os, "name", "nt")
        sync_folder(tmp_path)
