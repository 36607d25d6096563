"""From a data set's name to the data set."""

from pathlib import Path

from perpixel.data.camvid import open_camvid
from perpixel.data.dataset import Dataset
from perpixel.data.folder import open_folder, splits_of_folder
from perpixel.data.scenes import Scenes
from perpixel.errors import UsageError
from perpixel.recipes.settings import suggestion

NAMES = ("camvid", "folder", "scenes")


def splits(name: str, root: Path) -> tuple[str, ...]:
    """The labelled splits to look at in the data set called `name`, below `root`."""
    if name == "folder":
        return splits_of_folder(root)
    return ("train", "val", "test") if (root / "test.txt").is_file() else ("train", "val")


def open_dataset(name: str, root: Path | None, split: str, *, complete: bool = True) -> Dataset:
    """The split of the data set called `name`, below `root` ("scenes" needs none).

    Raises UsageError for an unknown name or a missing root, PerpixelError for bad contents; with
    `complete` false not for pairs whose files are absent: those are listed with the others.
    """
    if name == "scenes":
        return Scenes(split)
    if name not in NAMES:
        raise UsageError(
            f"no data set is called {name!r}.{suggestion(name, NAMES)} There are: "
            + ", ".join(NAMES)
        )
    if root is None:
        raise UsageError(f"data set {name!r} needs --data ROOT, the folder that holds it")
    match name:
        case "camvid":
            return open_camvid(root, split)
        case _:
            return open_folder(root, split, complete=complete)
