"""Files from the network: verified, resumed where they broke off, whole or not there at all."""

import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from perpixel.errors import PerpixelError

_ATTEMPTS = 5
_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20


def fetch(url: str, *, sha256: str | None) -> Path:
    """The file at `url`, from the cache, the mirror or the network.

    sha256: the file's hash, or the first eight or more of its hex digits; None where its source
    publishes none, and the file is taken as it arrives. Files are kept in the folder
    PERPIXEL_CACHE (by default ~/.cache/perpixel). PERPIXEL_MIRROR, a folder or a base URL that
    holds files of the same names, is asked instead of the network. Raises PerpixelError; what has
    arrived is kept, and the next call goes on from there.
    """
    name = url.rpartition("/")[2]
    path = cache_folder() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{name}.lock")):
            if path.exists() and (sha256 is None or hash_of(path).startswith(sha256)):
                return path
            part = path.with_name(f"{name}.part")
            source = os.environ.get("PERPIXEL_MIRROR", "")
            if source and "://" not in source:
                _copy(Path(source) / name, part, url)
            else:
                _download(f"{source.rstrip('/')}/{name}" if source else url, part)
            if sha256 is not None and not (found := hash_of(part)).startswith(sha256):
                part.unlink()
                raise PerpixelError(
                    f"{url}: what arrived has the sha256 {found[: max(len(sha256), 8)]}..., not "
                    f"{sha256}: damaged on the way or changed at its source. It was deleted"
                )
            part.replace(path)
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def cache_folder() -> Path:
    """Where downloads are kept: PERPIXEL_CACHE, by default ~/.cache/perpixel."""
    return Path(os.environ.get("PERPIXEL_CACHE") or Path.home() / ".cache" / "perpixel")


def _copy(original: Path, part: Path, url: str) -> None:
    if not original.is_file():
        raise PerpixelError(f"{original}: the mirror PERPIXEL_MIRROR lacks it; it is {url}")
    shutil.copyfile(original, part)


def _download(url: str, part: Path) -> None:
    """Adds to `part` what it lacks of the file, through several broken connections if need be."""
    reason: Exception = OSError("no attempt")
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(min(2**attempt / 10, 5))
        try:
            if _append(url, part):
                return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing to add: whole already, which the hash will tell
                return
            reason = error
            if error.code < 500 and error.code not in (408, 429):
                break
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = error
    raise PerpixelError(
        f"{url}: cannot be downloaded ({reason}). Without a network, put the file into a folder "
        f"and name that in PERPIXEL_MIRROR"
    )


def _append(url: str, part: Path) -> bool:
    """One connection's worth; tells whether the file is whole now, as far as the server says."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
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
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.update(task, advance=len(chunk))
            file.flush()
            os.fsync(file.fileno())
    return total is None or part.stat().st_size >= total


def hash_of(path: Path) -> str:
    """The file's sha256, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
