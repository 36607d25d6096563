"""Finds the images of `perpixel predict` and names their results."""

import glob
import os
from contextlib import suppress
from pathlib import Path

import typer

from perpixel.errors import UsageError


def find_jobs(inputs: list[str], out: Path, *, flat: bool) -> dict[str, Path]:
    """Returns images and videos by the name of their result: the path below a folder, or the bare
    file name.

    `flat` uses bare names only, as a submission's files lie in one folder. Prints the number of
    files in folders that are left out.
    """
    from perpixel.inference.video import VIDEO_SUFFIXES
    from perpixel.io.images import IMAGE_SUFFIXES
    from perpixel.runtime import distributed

    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    jobs: dict[str, Path] = {}
    others: list[Path] = []
    for text in inputs:
        matches = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))
        if not matches:
            raise UsageError(f"{text}: no such image or folder, and no file matches it")
        for path in map(Path, matches):
            images = [path]
            if path.is_dir():
                files = _files_below(path, out)
                images = [file for file in files if file.name.lower().endswith(suffixes)]
                if not images:
                    raise UsageError(f"{path}: holds no images ({', '.join(suffixes)})")
                others += set(files).difference(images)
            for image in images:
                relative = image.relative_to(path) if path.is_dir() and not flat else image.name
                name = Path(relative).with_suffix("").as_posix()
                other = jobs.setdefault(name, image)
                if other != image:
                    raise UsageError(
                        f"{other} and {image} would both be written as {name}.png: rename one, or "
                        f"predict them with different --out"
                    )
    if others and distributed.get_dist_info().is_main:
        kinds = ", ".join(sorted({file.suffix.lower() or file.name for file in others}))
        typer.echo(
            f"files left out: {len(others)} ({kinds}); convert images to PNG or JPEG", err=True
        )
    return jobs


def require_free(jobs: dict[str, Path], out: Path, *, suffixes: list[str]) -> None:
    """Raises UsageError if a result would overwrite an image or another result.

    The masks of a video's frames have a folder of the video's name, where nothing else may lie.
    """
    targets = [out / f"{name}{suffix}" for name in jobs for suffix in suffixes]
    folders = {(out / name).resolve() for name, path in jobs.items() if is_video(path)}
    for path in [*jobs.values(), *targets] if folders else []:
        for folder in folders.intersection(path.resolve().parents):
            raise UsageError(
                f"{folder} is for a video's frames, and {path} lies there: name another folder "
                f"with --out, or predict the video by itself"
            )
    # Files are compared by device and inode, and names in lower case, as on many file systems
    # A.png and a.png are one file.
    images = {_file_id(image) for image in jobs.values() if image.exists()}
    taken: set[str] = set()
    for target in targets:
        name = str(target).lower()
        if name in taken:
            raise UsageError(
                f"two inputs would both be written as {target}, as many file systems ignore case: "
                f"rename one, or predict each with an --out of its own"
            )
        if target.exists() and _file_id(target) in images:
            raise UsageError(f"{target} would be overwritten: name another folder with --out")
        taken.add(name)


def warn_of_pages(path: Path) -> None:
    """Says that only the first is used of an image file's pages or frames, where it has more."""
    from perpixel.io.images import count_pages

    if path.suffix.lower() in (".tif", ".tiff", ".webp"):
        with suppress(OSError):  # reading it will say so
            pages = count_pages(path.read_bytes())
            if pages > 1:
                typer.echo(f"{path}: holds {pages} pages or frames; the first is used", err=True)


def is_video(path: Path) -> bool:
    """Returns whether a file is a video, by its suffix."""
    from perpixel.inference.video import VIDEO_SUFFIXES

    return path.name.lower().endswith(VIDEO_SUFFIXES)


def _files_below(folder: Path, out: Path) -> list[Path]:
    """Returns the files below a folder without those in `out`, the results of an earlier call."""
    from perpixel.data.datasets.folder import files_below

    files = [folder / file for file in files_below(folder)]
    if folder.resolve().is_relative_to(out.resolve()):
        return files
    return [file for file in files if not file.resolve().is_relative_to(out.resolve())]


def _file_id(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
