"""Reads the files of a run folder or of `eval --out`: metrics, scores, recipe, environment."""

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
    """Pixel counts, int64 [classes, classes]: rows are labels, columns predictions."""

    names: tuple[str, ...]
    matrix: Matrix


@dataclass(frozen=True)
class Source:
    """One run or evaluation. A field is None, or empty, if its file is missing.

    `rows` are those of metrics.jsonl; `images` maps names to mIoU in percent (None for an image
    without labels).
    """

    path: Path
    rows: list[dict[str, float]]
    scores: dict[str, Any] | None
    confusion: Confusion | None
    images: dict[str, float | None] | None
    recipe: Recipe | None
    environment: dict[str, Any] | None

    def missing(self) -> list[tuple[str, str]]:
        """Returns the missing parts of the report as (part, command that writes its file).

        An evaluation is no run: no training is missing from the folder of `eval --out`.
        """
        folder = self.path if self.path.is_dir() else self.path.parent
        evaluate = f"perpixel eval MODEL --data ROOT --out {folder}"
        train = f"perpixel train RECIPE --data ROOT --out {folder}"
        is_run = bool(self.rows or self.recipe or self.environment)
        parts = [
            ("training curves (metrics.jsonl)", train, self.rows or not is_run),
            ("recipe (recipe.json)", train, self.recipe or not is_run),
            ("environment (environment.json)", train, self.environment or not is_run),
            ("scores (evaluate.json)", evaluate, self.scores),
            ("class frequencies and confusion matrix (confusion.csv)", evaluate, self.confusion),
            ("worst and best images (images.csv)", evaluate, self.images),
        ]
        return [(part, command) for part, command, value in parts if not value]

    def frequencies(self) -> dict[str, float]:
        """Returns the fraction of the labeled pixels of each class, 0..1."""
        if self.confusion is None:
            return {}
        labeled = self.confusion.matrix.sum(axis=1)
        fractions = (labeled / max(int(labeled.sum()), 1)).tolist()
        return dict(zip(self.confusion.names, fractions, strict=True))


def read_source(path: Path) -> Source:
    """Reads a run folder, the folder of `eval --out`, or a file of `eval --json`.

    Raises UsageError if it is none of them, PerpixelError naming a file that cannot be read.
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
    """Parses a file; returns None if there is no such file."""
    try:
        return parse(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PerpixelError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PerpixelError(f"{path}: not a file that perpixel wrote ({error})") from None


def _rows(text: str) -> list[dict[str, float]]:
    """Returns the rows' finite numbers, up to a truncated line, as a crash leaves it."""
    rows = []
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
            rows.append(numbers)
    return rows


def _scores(text: str) -> dict[str, Any]:
    scores = _object(text)
    values = [scores["miou"], scores["pixel_accuracy"], *scores["iou"].values()]
    if not all(value is None or isinstance(value, float | int) for value in values):
        raise ValueError("a score is not a number")
    return scores


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _confusion(text: str) -> Confusion:
    (_, *names), *rows = csv.reader(io.StringIO(text, newline=""))
    matrix = np.array([row[1:] for row in rows], np.int64)
    if matrix.shape != (len(names), len(names)) or [row[0] for row in rows] != names:
        raise ValueError("rows and columns differ")
    return Confusion(tuple(names), matrix)


def _images(text: str) -> dict[str, float | None]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return {row["image"]: float(row["miou"]) if row["miou"] else None for row in rows}
