"""`perpixel predict`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import options
from perpixel.cli.jobs import find_jobs, require_free
from perpixel.errors import OutOfMemory, PerpixelError, UsageError

if TYPE_CHECKING:
    from perpixel.data.submission import Submission
    from perpixel.images import Array
    from perpixel.inference.predictor import Predictor, Result

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="Pictures, videos, folders or globs.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the masks go.")]
Overlay = Annotated[
    bool, typer.Option("--overlay", help="Also write the pictures with their classes on top.")
]
Probabilities = Annotated[
    bool,
    typer.Option("--probabilities", help="Also write NAME.npy: float16, height x width x classes."),
]
Geo = Annotated[
    bool,
    typer.Option(
        "--geo",
        help="TIFFs of any size, read in windows; the mask is a GeoTIFF in the same place.",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--submission",
        metavar="NAME",
        help="Write what a benchmark's server takes: cityscapes, ade20k or pascal_voc.",
    ),
]


def predict(
    model: options.Model,
    inputs: Inputs,
    out: Out,
    overlay: Overlay = False,
    probabilities: Probabilities = False,
    submission: Server = None,
    geo: Geo = False,
    windows: options.Windows = None,
    scales: options.Scales = None,
    flip: options.Flip = None,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    batch: options.Batch = 1,
    window_batch: options.WindowBatch = 4,
    compile_network: options.Compile = False,
) -> None:
    """Write a palette PNG of class indices for every picture, and for every frame of a video.

    A picture that cannot be read is named and left out; the others are written, and the command
    ends with 1. Example: perpixel predict runs/camvid street/ photo.jpg --out masks --overlay

    On several GPUs or machines: torchrun --nproc-per-node 4 -m perpixel predict ...
    """
    from perpixel import distributed
    from perpixel.data.submission import submission as find_submission

    if (submission is not None or geo) and (overlay or probabilities):
        raise UsageError(
            "--submission and --geo write masks alone: leave out --overlay and --probabilities"
        )
    server = None if submission is None else find_submission(submission)
    jobs = find_jobs(inputs, out, flat=server is not None)
    if (probabilities or geo) and any(map(_is_video, jobs.values())):
        raise UsageError("--probabilities and --geo are for pictures, not videos; leave one out")
    endings = [".tif" if geo else ".png"]
    endings += ["_overlay.png", "_overlay.mp4"] * overlay + [".npy"] * probabilities
    require_free(jobs, out if server is None else out / server.folder, endings=endings)
    options.require_writable(out, folder=True)
    predictor = options.load_model(
        model,
        device=device,
        precision=precision,
        windows="blend" if geo and windows is None else windows,
        scales=scales,
        flip=flip,
        window_batch=window_batch,
        compiled=compile_network,
    )
    if server is not None:
        server.require(predictor.names)
    ranks = distributed.ranks()
    own = dict(list(jobs.items())[ranks.rank :: ranks.world])
    failed: list[str] = []
    with _bar(len(own), shown=ranks.main) as show:
        long = {name: path for name, path in own.items() if geo or _is_video(path)}
        for name, path in long.items():
            failed += _write_long(predictor, path, out / name, show, overlay=overlay, batch=batch)
        still = {name: path for name, path in own.items() if name not in long}
        for name, found in _results(predictor, still, batch=batch):
            if isinstance(found, PerpixelError):
                failed.append(str(found))
            else:
                _write(out, name, found, server, overlay=overlay)
                if probabilities:
                    _write_probabilities(out / f"{name}.npy", predictor, found)
            show(None, 1, 1)
    left_out = _sum_over_ranks(len(failed), predictor)
    if ranks.main:
        typer.echo(f"{len(jobs) - left_out} of {len(jobs)} pictures written to {out}")
    if failed:
        raise PerpixelError("left out:\n  " + "\n  ".join(failed))


Show = Callable[[str | None, int, int], None]


@contextmanager
def _bar(jobs: int, *, shown: bool) -> Iterator[Show]:
    """A progress bar over the jobs, and a second one over the parts of a long one.

    It is told (name, parts done, parts in all); no name ends the job at hand.
    """
    from rich.progress import Progress

    with Progress(transient=True, disable=not shown) as bar:
        whole = bar.add_task("predict", total=jobs)
        parts = bar.add_task("", total=1, visible=False)

        def show(name: str | None, done: int, total: int) -> None:
            if name is None:
                bar.advance(whole)
            bar.update(
                parts,
                description=name or "",
                completed=done,
                total=total,
                visible=name is not None,
            )

        yield show


def _sum_over_ranks(count: int, predictor: "Predictor") -> int:
    """Waits for every rank: one that ended with an error would take the others with it."""
    import torch

    from perpixel import distributed

    where = predictor.engine.device
    with distributed.group(where):
        return int(distributed.summed(torch.tensor(count, device=where)))


def _results(
    predictor: "Predictor", jobs: dict[str, Path], *, batch: int
) -> Iterator["tuple[str, Result | PerpixelError]"]:
    """Every picture's result, or why there is none; a few pictures are in memory at a time."""
    from perpixel.data.reading import read_ahead
    from perpixel.images import read_image

    def read(job: tuple[str, Path]) -> "tuple[str, Array | PerpixelError]":
        try:
            return job[0], read_image(job[1])
        except PerpixelError as error:
            return job[0], error

    waiting: list[tuple[str, Array]] = []

    def flush() -> Iterator["tuple[str, Result | PerpixelError]"]:
        names = [name for name, _ in waiting]
        try:
            found = predictor.predict_batch([image for _, image in waiting])
        except OutOfMemory as error:
            yield from ((name, PerpixelError(f"{jobs[name]}: {error}")) for name in names)
        else:
            yield from zip(names, found, strict=True)
        waiting.clear()

    for name, image in read_ahead(read, jobs.items(), threads=1):
        if isinstance(image, PerpixelError):
            yield name, image
            continue
        if waiting and image.shape != waiting[0][1].shape:
            yield from flush()
        waiting.append((name, image))
        if len(waiting) == batch:
            yield from flush()
    yield from flush()


def _is_video(path: Path) -> bool:
    from perpixel.inference.video import VIDEO_SUFFIXES

    return path.name.lower().endswith(VIDEO_SUFFIXES)


def _write(
    out: Path, name: str, result: "Result", server: "Submission | None", *, overlay: bool
) -> None:
    from perpixel.images import write_image, write_mask

    if server is None:
        write_mask(out / f"{name}.png", result.classes, result.palette)
    else:
        server.write(out, name, result.classes)
    if overlay:
        write_image(out / f"{name}_overlay.png", result.overlay())


def _write_probabilities(path: Path, predictor: "Predictor", result: "Result") -> None:
    from numpy.lib.format import write_array_header_1_0

    part = path.with_name(f".{path.name}.part")
    shape = (*result.classes.shape, len(result.names))
    try:
        # Not as a memory map: Windows moves no file that is mapped, and a full disk ends a process
        # that writes to one.
        with part.open("wb") as file:
            about = {"descr": "<f2", "fortran_order": False, "shape": shape}
            write_array_header_1_0(file, about)
            for _, values in predictor.probabilities(result.image):
                file.write(values.astype("<f2").tobytes())
        part.replace(path)
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)


def _write_long(
    predictor: "Predictor", path: Path, target: Path, show: Show, *, overlay: bool, batch: int
) -> list[str]:
    """A video or a TIFF in parts; what went wrong, if anything."""
    from perpixel.inference.geotiff import predict_geotiff
    from perpixel.inference.video import predict_video

    def progress(done: int, total: int) -> None:
        show(path.name, done, total)

    try:
        if _is_video(path):
            drawn = target.with_name(f"{target.name}_overlay.mp4") if overlay else None
            predict_video(
                predictor, path, masks=target, overlay=drawn, batch=batch, progress=progress
            )
        else:
            mask = target.with_name(f"{target.name}.tif")
            predict_geotiff(predictor, path, mask, progress=progress)
    except UsageError:
        raise
    except PerpixelError as error:
        return [str(error)]
    finally:
        show(None, 1, 1)
    return []
