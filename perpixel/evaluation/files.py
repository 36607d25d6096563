"""An evaluation's files: evaluate.json, confusion.csv and pictures.csv."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from perpixel.evaluation.confusion import Scores
from perpixel.writing import write_whole


def write_scores(folder: Path, scores: Scores) -> None:
    """Writes the three into `folder`; raises PerpixelError naming the file that cannot be written.

    confusion.csv has a row for every label and a column for every prediction; pictures.csv a row
    for every picture, its cells empty where the picture shows no such class.
    """
    names = list(scores.iou)
    write_whole(folder / "evaluate.json", json.dumps(scores.as_json(), indent=2).encode())
    matrix = zip(names, scores.confusion.tolist(), strict=True)
    _write(folder / "confusion.csv", ["label", *names], ([name, *row] for name, row in matrix))
    pictures = ([p.name, p.miou, p.pixel_accuracy, *p.iou.values()] for p in scores.pictures)
    _write(folder / "pictures.csv", ["image", "miou", "pixel_accuracy", *names], pictures)


def _write(path: Path, header: list[str], rows: Iterable[Sequence[object]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_whole(path, table.getvalue().encode(errors="surrogateescape"))
