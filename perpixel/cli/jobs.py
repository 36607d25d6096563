"""Finds the images of `perpixel predict` and names their results."""

import glob
import os
from pathlib import Path

import typer

from perpixel.errors import UsageError, plural


def find_jobs(inputs: list[str], out: Path, *, flat: bool) -> dict[str, Path]:
    """Returns images and videos by the name of their result: the path below a folder, or the bare
    file name.

    `flat` uses bare names only, as a submission's files lie in one folder. Masks among the images
    of a folder are not predicted. Prints the number of files in folders that are left out.
    """
    from perpixel.data.image_files import divide_files
    from perpixel.data.paths import first_few
    from perpixel.inference.video import VIDEO_SUFFIXES
    from perpixel.io.images import IMAGE_SUFFIXES
    from perpixel.runtime import distributed

    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    jobs: dict[str, Path] = {}
    others: list[Path] = []
    masks: list[Path] = []
    for text in inputs:
        matches = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))
        if not matches:
            raise UsageError(f"{text}: no such image or folder, and no file matches it")
        for path in map(Path, matches):
            images = [path]
            if path.is_dir():
                files = _files_below(path, out)
                image_names, mask_names = divide_files(path, files)
                videos = [file for file in files if file.lower().endswith(VIDEO_SUFFIXES)]
                images = [path / file for file in sorted(image_names + videos)]
                if not images:
                    raise UsageError(f"{path}: holds no images ({', '.join(suffixes)})")
                masks += [path / file for file in mask_names]
                left_out = set(files).difference(image_names, mask_names, videos)
                others += [path / file for file in left_out]
            for image in images:
                relative = image.relative_to(path) if path.is_dir() and not flat else image.name
                name = Path(relative).with_suffix("").as_posix()
                other = jobs.setdefault(name, image)
                if other != image:
                    raise UsageError(
                        f"{other} and {image} would both be written as {name}.png: name one kind "
                        f"alone, as '{Path(image).parent}/*{Path(image).suffix}', or predict them "
                        f"with different --out"
                    )
    if masks and distributed.get_dist_info().is_main:
        folders = first_few(sorted({str(mask.parent) for mask in masks}))
        typer.echo(
            f"masks left out: {plural(len(masks), 'file')} in {folders}; name such a folder or "
            f"file itself to predict it",
            err=True,
        )
    if others and distributed.get_dist_info().is_main:
        kinds = ", ".join(sorted({file.suffix.lower() or file.name for file in others}))
        typer.echo(
            f"files left out: {len(others)} ({kinds}); convert images to PNG or JPEG", err=True
        )
    return jobs


def require_free(
    jobs: dict[str, Path], out: Path, *, suffixes: list[str], keep_masks: bool = False
) -> None:
    """Raises UsageError if a result would overwrite an image, another result or a user's mask.

    The masks of a video's frames have a folder of the video's name, where nothing else may lie.
    """
    from perpixel.io.images import is_prediction

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
    masks = {out / f"{name}{suffixes[0]}" for name in jobs} if keep_masks else set()
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
        if target in masks and target.exists() and not is_prediction(target):
            raise UsageError(
                f"{target} exists and is no prediction, but a mask of yours, perhaps: name another "
                f"folder with --out, or move it away"
            )
        taken.add(name)


def is_video(path: Path) -> bool:
    """Returns whether a file is a video, by its suffix."""
    from perpixel.inference.video import VIDEO_SUFFIXES

    return path.name.lower().endswith(VIDEO_SUFFIXES)


def _files_below(folder: Path, out: Path) -> list[str]:
    """Returns the files below a folder without those in `out`, the results of an earlier call."""
    from perpixel.data.datasets.folder import files_below

    files = files_below(folder)
    if folder.resolve().is_relative_to(out.resolve()):
        return files
    return [file for file in files if not (folder / file).resolve().is_relative_to(out.resolve())]


def _file_id(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
