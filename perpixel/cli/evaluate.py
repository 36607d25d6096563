"""`perpixel eval`."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import options
from perpixel.errors import UsageError

if TYPE_CHECKING:
    from perpixel.evaluation.confusion import Matrix, Scores
    from perpixel.recipes.spec import Inference, Recipe


def evaluate(
    model: options.Model,
    data: options.Data = None,
    dataset: options.Dataset = None,
    split: Annotated[
        str | None, typer.Option(help="The split to score; by default the recipe's, often val.")
    ] = None,
    windows: Annotated[
        str | None, typer.Option(help="whole, or slide: overlapping windows of the training crop.")
    ] = None,
    scales: Annotated[
        str | None, typer.Option(help="Scale factors to average over, e.g. 0.5,0.75,1,1.25,1.5.")
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Average over the mirrored picture.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the scores as JSON.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write evaluate.json and confusion.csv into DIR."),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
) -> None:
    """Score a model: mIoU, per-class IoU, pixel and mean accuracy, from one confusion matrix.

    Example: perpixel eval runs/camvid --data CamVid --split val --flip --scales 0.75,1,1.25
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    import perpixel
    from perpixel.checkpoint import write_whole
    from perpixel.evaluation.confusion import scores as read_scores

    predictor = perpixel.load(model, device=device, precision=precision)
    inference = _inference(predictor.recipe, windows, scales, flip)
    columns = TextColumn("eval"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[m]}")
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("eval", total=None, m="")

        def show(done: int, total: int, matrix: "Matrix") -> None:
            miou = read_scores(matrix, names=predictor.names).miou
            bar.update(task, completed=done, total=total, m=f"mIoU {miou:.2f}")

        scores = perpixel.evaluate(
            predictor, data=data, dataset=dataset, split=split, inference=inference, progress=show
        )
    text = json.dumps(scores.as_json(), indent=2).encode()
    if json_file is not None:
        write_whole(json_file, text)
    if out is not None:
        write_whole(out / "evaluate.json", text)
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["label", *predictor.names])
        for name, counts in zip(predictor.names, scores.confusion.tolist(), strict=True):
            rows.writerow([name, *counts])
        write_whole(out / "confusion.csv", table.getvalue().encode())
    _print(scores)


def _inference(
    recipe: "Recipe", windows: str | None, scales: str | None, flip: bool | None
) -> "Inference":
    """The recipe's inference with the command's changes, through the recipe's own checks."""
    from perpixel.recipes.settings import override

    changes = []
    if windows == "slide" and recipe.inference.crop is None:
        tall, wide = recipe.train.crop
        changes += [f"inference.crop={tall}x{wide}"]
        changes += [f"inference.stride={max(tall * 2 // 3, 1)}x{max(wide * 2 // 3, 1)}"]
    if windows is not None:
        changes.append(f"inference.windows={windows}")
    if scales is not None:
        try:
            factors = [float(part) for part in scales.split(",")]
        except ValueError:
            raise UsageError(f"--scales {scales!r}: give numbers such as 0.5,1,1.5") from None
        changes.append(f"inference.scales={json.dumps(factors)}")
    if flip is not None:
        changes.append(f"inference.flip={json.dumps(flip)}")
    return override(recipe, changes).inference


def _print(scores: "Scores") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("class", "IoU", "accuracy")
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, iou in scores.iou.items():
        accuracy = scores.accuracy[name]
        table.add_row(
            escape(name), *("-" if value is None else f"{value:.2f}" for value in (iou, accuracy))
        )
    console = Console()
    console.print(table)
    console.print(
        f"mIoU {scores.miou:.2f}  pixel accuracy {scores.pixel_accuracy:.2f}  mean accuracy "
        f"{scores.mean_accuracy:.2f}  {scores.images} images  {scores.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
