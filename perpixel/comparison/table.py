"""A comparison's files: comparison.json, comparison.md and comparison.png."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from perpixel.comparison.compare import Comparison, Row
from perpixel.errors import plural
from perpixel.io.atomic import atomic_write
from perpixel.io.images import write_image
from perpixel.io.scatter import Panel, draw
from perpixel.recipes.base import Size
from perpixel.recipes.models import method_name
from perpixel.recipes.schema import Recipe

HEADINGS = (
    "backbone",
    "mIoU",
    "pixel acc.",
    "params (M)",
    "MACs (G)",
    "latency (ms)",
    "training (s)",
)
"""The columns of the table; the first is text, the others are numbers."""


def cells(row: Row) -> tuple[str, ...]:
    """Returns a row of the table, a text for each of HEADINGS."""
    return (
        row.backbone,
        f"{row.miou:.2f}",
        f"{row.pixel_accuracy:.2f}",
        f"{row.params / 1e6:.2f}",
        f"{row.macs / 1e9:.2f}",
        f"{row.latency_ms:.1f}",
        f"{row.training_seconds:.0f}",
    )


def write(
    folder: Path,
    comparison: Comparison,
    recipe: Recipe,
    *,
    images: int,
    size: Size,
    machine: str,
) -> None:
    """Writes the three files into `folder`; raises PerpixelError where it cannot be written.

    recipe: one of those that were trained. images: how many were evaluated. size, machine: of the
    latency.
    """
    content = {
        "recipe": recipe.name,
        "dataset": recipe.data.name,
        "split": recipe.data.eval_split,
        "images": images,
        "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size,
        "initial_weights": "random" if recipe.train.pretrained is None else "imagenet",
        "size": list(size),
        "machine": machine,
        "backbones": [asdict(row) for row in comparison.rows],
        "failed": dict(comparison.failed),
    }
    atomic_write(folder / "comparison.json", (json.dumps(content, indent=2) + "\n").encode())
    caption = _caption(recipe, images=images, size=size, machine=machine)
    failed = "".join(
        f"\n- {name} failed: {' '.join(reason.split())}"
        for name, reason in comparison.failed.items()
    )
    text = (
        f"# {method_name(recipe.model.head)} on {plural(len(comparison.rows), 'backbone')}\n\n"
        f"{_markdown_table(comparison.rows)}\n{caption}\n{failed and failed + chr(10)}\n"
        f"![mIoU against latency and parameters](comparison.png)\n"
    )
    atomic_write(folder / "comparison.md", text.encode())
    height, width = size
    panels = [
        Panel(
            f"latency of an image of {height}x{width} (ms), {machine}",
            [(row.backbone, row.latency_ms, row.miou) for row in comparison.rows],
        ),
        Panel(
            "parameters (M)",
            [(row.backbone, row.params / 1e6, row.miou) for row in comparison.rows],
        ),
    ]
    method = method_name(recipe.model.head)
    title = f"{method}: mIoU (%) on {recipe.data.name} {recipe.data.eval_split}"
    write_image(folder / "comparison.png", draw(panels, title=title))


def _caption(recipe: Recipe, *, images: int, size: Size, machine: str) -> str:
    height, width = size
    start = "random weights" if recipe.train.pretrained is None else "ImageNet weights"
    return (
        f"Recipe {recipe.name}: {plural(recipe.train.steps, 'step')} of {recipe.train.batch_size} "
        f"images from {start}. Scores in percent, of the final weights, on "
        f"{plural(images, 'image')} ({recipe.data.name}, split {recipe.data.eval_split}). "
        f"Multiply-adds (MACs) and latency at {height}x{width}: the median of single images in "
        f"float32, the best of three rounds, on {machine}. Training: the steps alone, without "
        f"evaluations."
    )


def _markdown_table(rows: Sequence[Row]) -> str:
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ""
    for number, line in enumerate(lines):
        first, *others = zip(line, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        text += f"| {' | '.join(padded)} |\n"
        if number == 0:
            first_rule, *rules = ("-" * width for width in widths)
            text += f"| {' | '.join([first_rule, *(rule[:-1] + ':' for rule in rules)])} |\n"
    return text
