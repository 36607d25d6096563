"""`perpixel predict`."""

import glob
from pathlib import Path
from typing import Annotated

import typer

from perpixel.cli import options
from perpixel.errors import PerpixelError, UsageError


def predict(
    model: options.Model,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Pictures, folders or globs.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the masks go.")],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the pictures with their classes on top.")
    ] = False,
    submission: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write what a benchmark's server takes: cityscapes, ade20k or pascal_voc.",
        ),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
) -> None:
    """Write a palette PNG of class indices for every picture.

    A picture that cannot be read is named and left out; the others are written, and the command
    ends with 1. Example: perpixel predict runs/camvid street/ photo.jpg --out masks --overlay
    """
    from rich.progress import track

    import perpixel
    from perpixel.data.submission import submission as find_submission
    from perpixel.images import write_image, write_mask

    if submission is not None and overlay:
        raise UsageError("--submission writes nothing but the server's files; leave out --overlay")
    server = None if submission is None else find_submission(submission)
    jobs = _jobs(inputs, out, flat=server is not None)
    _require_free(jobs, out if server is None else out / server.folder, overlay=overlay)
    predictor = perpixel.load(model, device=device, precision=precision)
    if server is not None:
        server.require(predictor.names)
    failed = []
    for name, picture in track(jobs.items(), description="predict", transient=True):
        try:
            result = predictor.predict(picture)
        except PerpixelError as error:
            failed.append(str(error))
            continue
        if server is None:
            write_mask(out / f"{name}.png", result.classes, result.palette)
        else:
            server.write(out, name, result.classes)
        if overlay:
            write_image(out / f"{name}_overlay.png", result.overlay())
    typer.echo(f"{len(jobs) - len(failed)} of {len(jobs)} pictures written to {out}")
    if failed:
        raise PerpixelError("left out:\n  " + "\n  ".join(failed))


def _jobs(inputs: list[str], out: Path, *, flat: bool) -> dict[str, Path]:
    """Pictures by the name of their result: the path below a folder, or the bare file name.

    `flat` takes the bare name of all, as a submission's files lie in one folder.
    """
    from perpixel.data.folder import files_below
    from perpixel.images import IMAGE_SUFFIXES

    jobs: dict[str, Path] = {}
    for given in inputs:
        found = (
            [Path(given)]
            if Path(given).exists()
            else [Path(p) for p in sorted(glob.glob(given, recursive=True))]
        )
        if not found:
            raise UsageError(f"{given}: no such picture or folder, and no file matches it")
        for path in found:
            pictures = [path]
            if path.is_dir():
                files = [path / file for file in files_below(path)]
                if out.resolve() != path.resolve():  # results of an earlier call are no pictures
                    own = out.resolve()
                    files = [file for file in files if not file.resolve().is_relative_to(own)]
                pictures = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
                if not pictures:
                    raise UsageError(f"{path}: holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
            for picture in pictures:
                whole = path.is_dir() and not flat
                below = picture.relative_to(path) if whole else Path(picture.name)
                name = below.with_suffix("").as_posix()
                if jobs.setdefault(name, picture) != picture:
                    raise UsageError(
                        f"{jobs[name]} and {picture} would both be written as {name}.png: predict "
                        f"them into different folders"
                    )
    return jobs


def _require_free(jobs: dict[str, Path], out: Path, *, overlay: bool) -> None:
    """No result may be written over a picture, or over another result."""
    endings = (".png", "_overlay.png") if overlay else (".png",)
    targets = [out / f"{name}{ending}" for name in jobs for ending in endings]
    pictures = {picture.resolve() for picture in jobs.values()}
    seen: set[Path] = set()
    for target in targets:
        if target.resolve() in pictures or target in seen:
            raise UsageError(f"{target} would be written over: name another folder with --out")
        seen.add(target)
