"""`perpixel eval`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import options
from perpixel.errors import plural

if TYPE_CHECKING:
    from perpixel.evaluation.metrics import Matrix, Scores


def evaluate(
    model: options.Model,
    data: options.Data = None,
    dataset: options.Dataset = None,
    split: options.Split = None,
    mode: options.Mode = None,
    scales: options.Scales = None,
    flip: options.Flip = None,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="Also compute boundary IoU (Cheng et al., 2021).")
    ] = False,
    json_file: options.JsonFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write evaluate.json, confusion.csv and images.csv to DIR."
        ),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    batch: options.Batch = 1,
    window_batch: options.WindowBatch = 4,
    compile_model: options.Compile = False,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Threads that read images ahead.")
    ] = 2,
) -> None:
    """Evaluate a model: mIoU, per-class IoU, pixel and mean accuracy, from one confusion matrix.

    Example: perpixel eval runs/camvid --data CamVid --split val --flip --scales 0.75,1,1.25

    On several GPUs or machines: torchrun --nproc-per-node 4 -m perpixel eval ...
    """
    import perpixel
    from perpixel.evaluation.files import write_scores
    from perpixel.evaluation.metrics import scores as compute_scores
    from perpixel.inference.exported import require_checkpoint
    from perpixel.io.atomic import atomic_write
    from perpixel.runtime.distributed import get_dist_info

    options.require_writable(json_file, out / "evaluate.json" if out else None)
    predictor = require_checkpoint(
        perpixel.load(
            model,
            device=device,
            precision=precision,
            settings=options.inference_settings(mode, scales, flip),
            window_batch=window_batch,
            compiled=compile_model,
        ),
        "an evaluation",
    )
    is_main = get_dist_info().is_main
    if is_main:
        step = f", step {predictor.step}" if predictor.step else ""  # 0: of another toolkit
        typer.echo(f"evaluating {predictor.origin}{step}", err=True)
    with options.progress_bar("eval", disable=not is_main) as update:

        def show(done: int, total: int, matrix: "Matrix") -> None:
            miou = compute_scores(matrix, names=predictor.class_names).miou
            update(done, total, f"mIoU {miou:.2f}")

        scores = perpixel.evaluate(
            predictor,
            data=data,
            dataset=dataset,
            split=split,
            batch=batch,
            threads=workers,
            boundary=boundary,
            progress=show,
        )
    if not is_main:
        return
    try:
        _print(scores)
    finally:  # the files are written even if stdout is a closed pipe
        if json_file is not None:
            content = {**scores.as_json(), "step": predictor.step}
            atomic_write(json_file, json.dumps(content, indent=2).encode())
        if out is not None:
            write_scores(out, scores, step=predictor.step)


def _print(scores: "Scores") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    columns = {"IoU": scores.iou, "accuracy": scores.accuracy}
    if scores.boundary_iou is not None:
        columns["boundary IoU"] = scores.boundary_iou
    table = Table("class")
    for column in columns:
        table.add_column(column, justify="right")
    for name in scores.iou:
        values = (column[name] for column in columns.values())
        table.add_row(escape(name), *("-" if v is None else f"{v:.2f}" for v in values))
    console = Console()
    console.print(table)
    console.print(
        f"mIoU {scores.miou:.2f}  pixel accuracy {scores.pixel_accuracy:.2f}  mean accuracy "
        f"{scores.mean_accuracy:.2f}  frequency-weighted IoU {scores.frequency_weighted_iou:.2f}  "
        f"{plural(scores.images, 'image')}  {scores.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    pixels = scores.confusion.sum(axis=1)
    absent = [name for name, count in zip(scores.iou, pixels, strict=True) if not count]
    if absent:
        console.print(
            f"classes without labeled pixels: {', '.join(absent)}", markup=False, highlight=False
        )
