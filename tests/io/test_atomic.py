import errno
import os

from perpixel.io.atomic import atomic_write, sync_folder


def test_windows_opens_no_folder(tmp_path, monkeypatch):
    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    atomic_write(tmp_path / "a" / "file", b"one ", b"two")
    assert (tmp_path / "a" / "file").read_bytes() == b"one two"
    with monkeypatch.context() as windows:
        windows.setattr(os, "open", refused)
        windows.setattr(os, "name", "nt")
        sync_folder(tmp_path)
