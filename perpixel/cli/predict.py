"""`perpixel predict`."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import completion, options
from perpixel.cli.jobs import find_jobs, is_video, require_free
from perpixel.errors import PerpixelError, UsageError, plural

if TYPE_CHECKING:
    from rich.progress import Progress

    from perpixel.inference.exported import ExportedPredictor
    from perpixel.inference.predictor import Predictor, Result
    from perpixel.io.images import Array


def predict(
    model: options.ModelOrExported,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, videos, folders or globs.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder for the masks.")
    ] = Path("predictions"),
    overlay: Annotated[
        bool,
        typer.Option(
            "--overlay", help="Also write overlays of the masks on the images, with a legend."
        ),
    ] = False,
    ids: Annotated[
        str | None,
        typer.Option(
            "--ids",
            metavar="NAME|FOLDER",
            autocompletion=completion.benchmark_names,
            help="Write a data set's ids in place of class indices, gray: those of cityscapes "
            "(labelIds), ade20k or pascal_voc, or of FOLDER/dataset.toml.",
        ),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="Also write NAME.npy: float16, height x width x classes."
        ),
    ] = False,
    submission: Annotated[
        str | None,
        typer.Option(
            "--submission",
            metavar="NAME",
            autocompletion=completion.benchmark_names,
            help="Write files for a benchmark's server: cityscapes, ade20k or pascal_voc.",
        ),
    ] = None,
    geo: Annotated[
        bool,
        typer.Option(
            "--geo",
            help="TIFFs of any size, read in windows; the mask is a GeoTIFF of the same location.",
        ),
    ] = False,
    mode: options.Mode = None,
    scales: options.Scales = None,
    flip: options.Flip = None,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    batch: options.Batch = 1,
    window_batch: options.WindowBatch = 4,
    compile_model: options.Compile = False,
) -> None:
    """Write a palette PNG of class indices for every image, and for every frame of a video.

    An image that cannot be read is named and skipped; the others are written, and the exit code is
    1. Example: perpixel predict runs/camvid street/ photo.jpg --out masks --overlay

    A run predicts with its best weights; RUN/checkpoints/model.safetensors are its final ones.

    On several GPUs or machines: torchrun --nproc-per-node 4 -m perpixel predict ...
    """
    from rich.progress import Progress

    import perpixel
    from perpixel.data.submission import find_ids, find_submission
    from perpixel.inference.exported import is_exported, require_checkpoint
    from perpixel.io.figures import add_legend
    from perpixel.io.images import write_image
    from perpixel.runtime import distributed

    if (submission is not None or geo) and (overlay or probabilities):
        raise UsageError(
            "--submission and --geo write masks alone: leave out --overlay and --probabilities"
        )
    if ids is not None and (submission is not None or geo):
        raise UsageError("--ids is for masks of images: leave out --submission and --geo")
    if geo and is_exported(model):
        raise UsageError(
            f"{model}: an exported file takes whole images, and --geo reads windows of them: name "
            f"the run or checkpoint that it was exported from"
        )
    server = None if submission is None else find_submission(submission)
    target = server if ids is None else find_ids(ids)
    jobs = find_jobs(inputs, out, flat=server is not None)
    has_videos = any(map(is_video, jobs.values()))
    if (probabilities or geo or ids is not None) and has_videos:
        raise UsageError("--probabilities, --geo and --ids are for images, not videos")
    suffixes = [".tif" if geo else ".png"]
    suffixes += ["_overlay.png", "_overlay.mp4"] * overlay + [".npy"] * probabilities
    folder = out if server is None else out / server.folder
    require_free(jobs, folder, suffixes=suffixes, keep_masks=server is None)
    options.require_writable(out, folder=True)
    predictor = perpixel.load(
        model,
        device=device,
        precision=precision,
        settings=options.inference_settings(
            "blend" if geo and mode is None else mode, scales, flip
        ),
        window_batch=window_batch,
        compiled=compile_model,
    )
    scorer = None
    if probabilities or geo:
        scorer = require_checkpoint(predictor, "--geo" if geo else "--probabilities")
    bands = predictor.bands
    if bands not in (None, (1, 2, 3)) and has_videos:
        raise UsageError(f"the model is for bands {bands} of images, and videos have no such bands")
    if target is not None:
        target.require(predictor.class_names)
    dist_info = distributed.get_dist_info()
    if predictor.replaces_palette and server is None and dist_info.is_main:
        typer.echo(options.REPLACED_COLORS, err=True)
    rank_jobs = dict(list(jobs.items())[dist_info.rank :: dist_info.world_size])
    images = {name: path for name, path in rank_jobs.items() if not (geo or is_video(path))}
    errors: list[str] = []

    def write(name: str, result: "Result") -> None:
        if target is None:
            result.save(out / f"{name}.png")
        else:
            target.write(out, name, result.mask)
        if overlay:
            shown = [index for index, share in enumerate(result.class_fractions.values()) if share]
            names = [result.class_names[index] for index in shown]
            colors = tuple(result.palette[index] for index in shown)
            drawn = add_legend(result.overlay(), names, colors)
            write_image(out / f"{name}_overlay.png", drawn)
        if probabilities and scorer is not None:
            _write_probabilities(out / f"{name}.npy", scorer, result)

    begun = time.perf_counter()
    with Progress(transient=True, disable=not dist_info.is_main) as bar:
        task = bar.add_task("predict", total=len(rank_jobs))
        for name, path in rank_jobs.items():
            if name not in images:
                errors += _predict_in_parts(
                    predictor,
                    path,
                    out / name,
                    bar,
                    scorer=scorer if geo else None,
                    overlay=overlay,
                    batch=batch,
                )
                bar.advance(task)
        errors += _predict_images(
            predictor,
            images,
            write,
            lambda count: bar.advance(task, count),
            batch=batch,
            write_threads=0 if probabilities else 1,  # these take another pass of the model
        )
    # The sum waits for all ranks, as one that exits with an error would end the others.
    with distributed.process_group(predictor.device):
        num_errors = int(distributed.all_gather_ints([len(errors)]).sum())
    if dist_info.is_main:
        milliseconds = 1000 * (time.perf_counter() - begun) / len(jobs)
        speed = "" if has_videos else f", {milliseconds:.0f} ms per image"
        count = f"{len(jobs) - num_errors} of {plural(len(jobs), 'image')}"
        typer.echo(f"{count} written to {out}{speed}")
    if errors:
        raise PerpixelError("not predicted:\n  " + "\n  ".join(errors))


def _predict_images(
    predictor: "Predictor | ExportedPredictor",
    jobs: dict[str, Path],
    write: "Callable[[str, Result], None]",
    advance: Callable[[int], None],
    *,
    batch: int,
    write_threads: int,
) -> list[str]:
    """Predicts images and writes the results, with a few images in memory at a time.

    The next image is decoded and the one before written while the model runs; 0 `write_threads`
    write in between. `advance` is called with numbers of images. Returns error messages, if any.
    """
    from perpixel.data.prefetch import read_ahead
    from perpixel.inference.tta import group_by_size
    from perpixel.io.images import read_image

    errors = []

    def read(name: str) -> "tuple[str, Array] | None":
        try:
            return name, read_image(jobs[name], bands=predictor.bands)
        except PerpixelError as error:
            errors.append(str(error))
            advance(1)
            return None

    def predict_all() -> "Iterator[tuple[str, Result]]":
        images = filter(None, read_ahead(read, jobs, threads=1))
        for group in group_by_size(images, batch):
            names = [name for name, _ in group]
            try:
                results = predictor.predict_batch([image for _, image in group])
            except PerpixelError as error:
                errors.extend(f"{jobs[name]}: {error}" for name in names)
                advance(len(group))
            else:
                yield from zip(names, results, strict=True)

    for _ in read_ahead(lambda item: write(*item), predict_all(), threads=write_threads):
        advance(1)
    return errors


def _write_probabilities(path: Path, predictor: "Predictor", result: "Result") -> None:
    """Writes class probabilities as .npy, a few rows at a time, as they may exceed the memory."""
    from numpy.lib.format import write_array_header_1_0

    from perpixel.inference.tta import iter_scores
    from perpixel.io.atomic import atomic_replace, reraise_oserror

    shape = (*result.mask.shape, len(result.class_names))
    # Not as a memory map: Windows cannot rename a mapped file, and a full disk kills a process that
    # writes to one.
    with reraise_oserror(path), atomic_replace(path) as part, part.open("wb") as file:
        write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for _, values in iter_scores(predictor, result.image, probabilities=True):
            file.write(values.cpu().numpy().astype("<f2").tobytes())


def _predict_in_parts(
    predictor: "Predictor | ExportedPredictor",
    path: Path,
    target: Path,
    bar: "Progress",
    *,
    scorer: "Predictor | None",
    overlay: bool,
    batch: int,
) -> list[str]:
    """Predicts a TIFF with `scorer` or, without it, a video; returns error messages, if any."""
    from perpixel.inference.geotiff import predict_geotiff
    from perpixel.inference.video import predict_video

    task = bar.add_task(path.name, total=None)

    def progress(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    try:
        if scorer is not None:
            mask = target.with_name(f"{target.name}.tif")
            predict_geotiff(scorer, path, mask, progress=progress)
        else:
            video = target.with_name(f"{target.name}_overlay.mp4") if overlay else None
            predict_video(
                predictor, path, masks=target, overlay=video, batch=batch, progress=progress
            )
    except UsageError:
        raise
    except PerpixelError as error:
        return [str(error)]
    finally:
        bar.remove_task(task)
    return []
