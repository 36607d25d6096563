"""Which images a command works on, and what their results are called."""

import glob
from pathlib import Path

import typer

from perpixel.errors import UsageError

_OTHER_IMAGES = (
    ".avif", ".dng", ".exr", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef", ".pgm",
    ".ppm", ".psd", ".tga",
)  # fmt: skip


def find_jobs(inputs: list[str], out: Path, *, flat: bool) -> dict[str, Path]:
    """Images by the name of their result: the path below a folder, or the bare file name.

    `flat` takes the bare name of all, as a submission's files lie in one folder. Images in a
    folder whose format is not read are counted on stderr.
    """
    from perpixel.data.datasets.folder import files_below
    from perpixel.inference.video import VIDEO_SUFFIXES
    from perpixel.io.images import IMAGE_SUFFIXES
    from perpixel.runtime import distributed

    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    jobs: dict[str, Path] = {}
    written: dict[str, Path] = {}  # by names without case: on many disks A.png is a.png
    others: list[str] = []
    for given in inputs:
        found = [given] if Path(given).exists() else sorted(glob.glob(given, recursive=True))
        if not found:
            raise UsageError(f"{given}: no such image or folder, and no file matches it")
        for path in map(Path, found):
            images = [path]
            if path.is_dir():
                files = [path / file for file in files_below(path)]
                own = out.resolve()
                if not path.resolve().is_relative_to(own):  # an earlier call's results are none
                    files = [file for file in files if not file.resolve().is_relative_to(own)]
                kinds = [file.suffix.lower() for file in files]
                others += [kind for kind in kinds if kind in _OTHER_IMAGES]
                images = [file for file in files if file.name.lower().endswith(suffixes)]
                if not images:
                    raise UsageError(f"{path}: holds no images ({', '.join(suffixes)})")
            for image in images:
                whole = path.is_dir() and not flat
                below = image.relative_to(path) if whole else Path(image.name)
                name = below.with_suffix("").as_posix()
                other = written.setdefault(name.lower(), image)
                if other != image:
                    raise UsageError(
                        f"{other} and {image} would both be written as {name}.png, or under "
                        f"names that differ in case alone, which many disks take for one: rename "
                        f"one, or predict each with an --out of its own"
                    )
                jobs[name] = image
    if others and distributed.get_dist_info().is_main:
        typer.echo(
            f"{len(others)} image{'s' * (len(others) != 1)} in formats that are not read left "
            f"out ({', '.join(sorted(set(others)))}); convert them to PNG or JPEG",
            err=True,
        )
    return jobs


def require_free(jobs: dict[str, Path], out: Path, *, endings: list[str]) -> None:
    """No result may be written over an image, or over another result.

    A video's are its frames', in a folder of the video's name: nothing else may be there.
    """
    from perpixel.inference.video import VIDEO_SUFFIXES

    targets = [out / f"{name}{ending}" for name in jobs for ending in endings]
    images = {image.resolve() for image in jobs.values()}
    folders = {
        (out / name).resolve()
        for name, path in jobs.items()
        if path.name.lower().endswith(VIDEO_SUFFIXES)
    }
    for path in [*images, *(target.resolve() for target in targets)] if folders else []:
        for folder in folders.intersection(path.parents):
            raise UsageError(
                f"{folder} is for a video's frames, and {path} lies there: name another folder "
                f"with --out, or predict the video by itself"
            )
    files = {_file(image) for image in images if image.exists()}
    seen: set[str] = set()
    for target in targets:
        folded = str(target).lower()
        if (target.exists() and _file(target) in files) or folded in seen:
            raise UsageError(f"{target} would be written over: name another folder with --out")
        seen.add(folded)


def _file(path: Path) -> tuple[int, int]:
    """Which file it is, by whatever name: where case does not matter, it has several."""
    found = path.stat()
    return found.st_dev, found.st_ino
