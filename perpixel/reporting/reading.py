"""What a run folder, or what `eval --out` wrote, tells about a training and its scores."""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from perpixel.errors import PerpixelError, UsageError
from perpixel.evaluation.metrics import Matrix
from perpixel.recipes import overrides
from perpixel.recipes.schema import Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Confusion:
    """Counts of pixels, int64 [classes, classes]: rows the label, columns the prediction."""

    names: tuple[str, ...]
    matrix: Matrix


@dataclass(frozen=True)
class Source:
    """One run or evaluation. A part is None, or empty, where its file is missing.

    `rows` are those of metrics.jsonl, `images` each image's mIoU, in percent, by its name
    (None where it shows no label).
    """

    path: Path
    rows: list[dict[str, float]]
    scores: dict[str, Any] | None
    confusion: Confusion | None
    images: dict[str, float | None] | None
    recipe: Recipe | None
    environment: dict[str, Any] | None

    def missing(self) -> list[tuple[str, str]]:
        """(what the report lacks, the command that makes it)."""
        folder = self.path if self.path.is_dir() else self.path.parent
        score = f"perpixel eval MODEL --data ROOT --out {folder}"
        train = f"perpixel train RECIPE --data ROOT --out {folder}"
        found = [
            ("training curves (metrics.jsonl)", train, self.rows),
            ("recipe (recipe.json)", train, self.recipe),
            ("environment (environment.json)", train, self.environment),
            ("scores (evaluate.json)", score, self.scores),
            ("class frequencies and confusion matrix (confusion.csv)", score, self.confusion),
            ("worst and best images (images.csv)", score, self.images),
        ]
        return [(what, command) for what, command, part in found if not part]

    def frequencies(self) -> dict[str, float]:
        """Each class's share of the labeled pixels, 0..1."""
        if self.confusion is None:
            return {}
        labeled = self.confusion.matrix.sum(axis=1)
        shares = (labeled / max(int(labeled.sum()), 1)).tolist()
        return dict(zip(self.confusion.names, shares, strict=True))


def read_source(path: Path) -> Source:
    """A run folder, the folder of `eval --out`, or a file of `eval --json`.

    Raises UsageError when it is none of them, PerpixelError naming a file that cannot be read.
    """
    scores_file = path / "evaluate.json" if path.is_dir() else path
    source = Source(
        path=path,
        rows=_read(path / "metrics.jsonl", _rows) or [],
        scores=_read(scores_file, _scores),
        confusion=_read(path / "confusion.csv", _confusion),
        images=_read(path / "images.csv", _images),
        recipe=_read(
            path / "recipe.json",
            lambda text: overrides.load(text, origin=str(path / "recipe.json")),
        ),
        environment=_read(path / "environment.json", _object),
    )
    if not (source.rows or source.scores or source.confusion):
        raise UsageError(
            f"{path}: neither a run folder (metrics.jsonl) nor an evaluation (evaluate.json, from "
            f"`perpixel eval MODEL --data ROOT --out DIR`)"
        )
    return source


def _read(path: Path, parse: Callable[[str], T]) -> T | None:
    """A file's contents, parsed; None where there is no such file."""
    try:
        return parse(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PerpixelError(f"{path}: not what perpixel wrote there ({error})") from None


def _rows(text: str) -> list[dict[str, float]]:
    """The rows' finite numbers; a torn last line, as a crash leaves it, ends them."""
    found = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        numbers = {
            key: value
            for key, value in row.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        if "step" in numbers:
            found.append(numbers)
    return found


def _scores(text: str) -> dict[str, Any]:
    found = _object(text)
    values = [found["miou"], found["pixel_accuracy"], *found["iou"].values()]
    if not all(value is None or isinstance(value, float | int) for value in values):
        raise ValueError("a score is no number")
    return found


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _confusion(text: str) -> Confusion:
    (_, *names), *rows = csv.reader(io.StringIO(text, newline=""))
    matrix = np.array([row[1:] for row in rows], np.int64)
    if matrix.shape != (len(names), len(names)) or [row[0] for row in rows] != names:
        raise ValueError("rows and columns differ")
    return Confusion(tuple(names), matrix)


def _images(text: str) -> dict[str, float | None]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return {row["image"]: float(row["miou"]) if row["miou"] else None for row in rows}
