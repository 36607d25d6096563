"""An evaluation's files: evaluate.json, confusion.csv and images.csv."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from perpixel.evaluation.metrics import Scores
from perpixel.io.atomic import atomic_write


def write_scores(folder: Path, scores: Scores, *, step: int | None = None) -> None:
    """Writes evaluate.json, confusion.csv and images.csv into `folder`; raises PerpixelError.

    `step` is that of the weights, where it is known. confusion.csv has a row for every label and a
    column for every prediction; images.csv a row for every image, its cells empty where the image
    shows no such class.
    """
    names = list(scores.iou)
    content = {**scores.as_json(), "step": step}
    atomic_write(folder / "evaluate.json", json.dumps(content, indent=2).encode())
    matrix = zip(names, scores.confusion.tolist(), strict=True)
    _write(folder / "confusion.csv", ["label", *names], ([name, *row] for name, row in matrix))
    images = ([p.name, p.miou, p.pixel_accuracy, *p.iou.values()] for p in scores.per_image)
    _write(folder / "images.csv", ["image", "miou", "pixel_accuracy", *names], images)


def _write(path: Path, header: list[str], rows: Iterable[Sequence[object]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write(path, table.getvalue().encode(errors="surrogateescape"))
