"""Downloads files: verified by hash, resumed after broken connections, and complete or absent."""

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
    """Returns the path of the file at `url`, in `folder` (by default the cache), once downloaded.

    sha256, sha1, md5: the file's hashes where known, or their first eight or more hex digits. The
    cache is the folder PERPIXEL_CACHE (by default ~/.cache/perpixel). PERPIXEL_MIRROR, a folder or
    a base URL that holds files of the same names, takes the network's place. Raises PerpixelError;
    a partial download is kept, and the next call resumes it.
    """
    hashes = {"sha256": sha256, "sha1": sha1, "md5": md5}
    name = url.rpartition("/")[2]
    path = (folder or cache_folder()) / name
    try:
        if path.exists() and not _hash_mismatch(path, hashes):  # the cache may be read-only
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{name}.lock")):
            if path.exists() and not _hash_mismatch(path, hashes):  # by another process meanwhile
                return path
            part = path.with_name(f"{name}.part")
            mirror = os.environ.get("PERPIXEL_MIRROR", "")
            if mirror and "://" not in mirror:
                original = Path(mirror, name)
                if not original.is_file():
                    raise PerpixelError(
                        f"{original}: not in the mirror PERPIXEL_MIRROR; put {url} there"
                    )
                shutil.copyfile(original, part)
            else:
                _download(f"{mirror.rstrip('/')}/{name}" if mirror else url, part)
            if mismatch := _hash_mismatch(part, hashes):
                part.unlink()
                raise PerpixelError(
                    f"{url}: the downloaded file has the {mismatch}: corrupt on the way, or "
                    f"changed at its source. It was deleted"
                )
            part.replace(path)
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def cache_folder() -> Path:
    """Returns the folder of downloads: PERPIXEL_CACHE, by default ~/.cache/perpixel.

    Raises PerpixelError where the user has no home folder and PERPIXEL_CACHE is not set.
    """
    try:
        return Path(os.environ.get("PERPIXEL_CACHE") or Path.home() / ".cache" / "perpixel")
    except RuntimeError:  # a container's user without an entry in passwd
        raise PerpixelError(
            "this user has no home folder to keep downloads in: name a folder in PERPIXEL_CACHE"
        ) from None


def hash_of(path: Path, algorithm: str = "sha256") -> str:
    """Returns the file's hash in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _hash_mismatch(path: Path, hashes: dict[str, str]) -> str:
    """Describes the first hash that differs, as "md5 12345678..., not 9abc"; "" if none does."""
    for algorithm, expected in hashes.items():
        actual = hash_of(path, algorithm) if expected else ""
        if not actual.startswith(expected):
            return f"{algorithm} {actual[: max(len(expected), 8)]}..., not {expected}"
    return ""


def _download(url: str, part: Path) -> None:
    """Completes the partial file `part`, over several connections where they break."""
    reason: Exception = ConnectionError("the connection breaks off")
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(2**attempt / 10)
        try:
            if _append(url, part):
                return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing to add: complete, which the hash verifies
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
    """Appends what one connection delivers; returns whether the file has the announced length."""
    size = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    with _network(lambda: urllib.request.urlopen(request, timeout=_TIMEOUT)) as response:
        resumed = response.status == 206
        size = size if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else size + int(length)
        with (
            part.open("ab" if resumed else "wb") as file,
            Progress(
                *Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn()
            ) as bar,
        ):
            task = bar.add_task(part.name.removesuffix(".part"), total=total, completed=size)
            while chunk := _network(lambda: response.read(_CHUNK)):
                file.write(chunk)
                bar.update(task, advance=len(chunk))
            file.flush()
            os.fsync(file.fileno())
    return total is None or part.stat().st_size >= total


def _network(call: Callable[[], Any]) -> Any:
    """Calls `call`; raises ConnectionError for an OSError, which could be a full disk's, too."""
    try:
        return call()
    except urllib.error.URLError:
        raise
    except OSError as error:  # no route, a broken TLS record
        raise ConnectionError(str(error)) from error
