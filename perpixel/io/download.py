"""Files from the network: verified, resumed where they broke off, whole or not there at all."""

import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from perpixel.errors import PerpixelError

_ATTEMPTS = 5
_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20


def fetch(
    url: str, *, sha256: str = "", sha1: str = "", md5: str = "", folder: Path | None = None
) -> Path:
    """The file at `url`, from `folder` (by default the cache), the mirror or the network.

    sha256, sha1, md5: the file's hashes, as far as they are known, or their first eight or more
    hex digits. The cache is the folder PERPIXEL_CACHE (by default ~/.cache/perpixel).
    PERPIXEL_MIRROR, a folder or a base URL that holds files of the same names, is asked instead of
    the network. Raises PerpixelError; what has arrived is kept, and the next call goes on from
    there.
    """
    hashes = {"sha256": sha256, "sha1": sha1, "md5": md5}
    name = url.rpartition("/")[2]
    path = (folder or cache_folder()) / name
    try:
        if path.exists() and not _difference(path, hashes):  # the cache may be read-only
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{name}.lock")):
            if path.exists() and not _difference(path, hashes):  # another has just got it
                return path
            part = path.with_name(f"{name}.part")
            source = os.environ.get("PERPIXEL_MIRROR", "")
            if source and "://" not in source:
                _copy(Path(source) / name, part, url)
            else:
                _download(f"{source.rstrip('/')}/{name}" if source else url, part)
            if found := _difference(part, hashes):
                part.unlink()
                raise PerpixelError(
                    f"{url}: what arrived has the {found}: corrupt on the way or changed at its "
                    f"source. It was deleted"
                )
            part.replace(path)
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def cache_folder() -> Path:
    """Where downloads are kept: PERPIXEL_CACHE, by default ~/.cache/perpixel.

    Raises PerpixelError where there is neither.
    """
    try:
        return Path(os.environ.get("PERPIXEL_CACHE") or Path.home() / ".cache" / "perpixel")
    except RuntimeError:  # a container's user of a mere number
        raise PerpixelError(
            "this user has no home folder to keep downloads in: name a folder in PERPIXEL_CACHE"
        ) from None


def _copy(original: Path, part: Path, url: str) -> None:
    if not original.is_file():
        raise PerpixelError(f"{original}: the mirror PERPIXEL_MIRROR lacks it; it is {url}")
    shutil.copyfile(original, part)


def _download(url: str, part: Path) -> None:
    """Adds to `part` what it lacks of the file, through several broken connections if need be."""
    reason: Exception = ConnectionError("the connection breaks off")
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(2**attempt / 10)
        try:
            if _append(url, part):
                return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing to add: whole already, which the hash will tell
                return
            reason = error
            if error.code < 500 and error.code not in (408, 429):
                break
        except (urllib.error.URLError, HTTPException, ConnectionError) as error:
            reason = error
    raise PerpixelError(
        f"{url}: cannot be downloaded ({reason}). Without a network, put the file into a folder "
        f"and name that in PERPIXEL_MIRROR"
    )


def _append(url: str, part: Path) -> bool:
    """One connection's worth; tells whether the file is whole now, as far as the server says."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    with _asked(lambda: urllib.request.urlopen(request, timeout=_TIMEOUT)) as answer:
        resumed = answer.status == 206
        there = there if resumed else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else there + int(length)
        with (
            part.open("ab" if resumed else "wb") as file,
            Progress(
                *Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn()
            ) as bar,
        ):
            task = bar.add_task(part.name.removesuffix(".part"), total=total, completed=there)
            while chunk := _asked(lambda: answer.read(_CHUNK)):
                file.write(chunk)
                bar.update(task, advance=len(chunk))
            file.flush()
            os.fsync(file.fileno())
    return total is None or part.stat().st_size >= total


def _asked(question: Callable[[], Any]) -> Any:
    """The network's answer. What goes wrong is not an OSError that could be a file's, too."""
    try:
        return question()
    except urllib.error.URLError:
        raise
    except OSError as error:  # no route, a broken TLS record
        raise ConnectionError(str(error)) from error


def hash_of(path: Path, algorithm: str = "sha256") -> str:
    """The file's hash in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _difference(path: Path, hashes: dict[str, str]) -> str:
    """Which of the file's hashes is not the expected one, as "md5 12345678..., not 9abc"; or ""."""
    for algorithm, wanted in hashes.items():
        found = hash_of(path, algorithm) if wanted else ""
        if not found.startswith(wanted):
            return f"{algorithm} {found[: max(len(wanted), 8)]}..., not {wanted}"
    return ""
