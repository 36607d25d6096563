"""Renders one or more runs or evaluations as one self-contained HTML file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from typing import Any

from jinja2 import Environment, StrictUndefined

from perpixel.io import charts
from perpixel.recipes import overrides
from perpixel.reporting.reading import Source
from perpixel.reporting.samples import Sample

# Distinct in hue and in brightness, on white and on black.
_COLORS = ("#2f7de1", "#e8792b", "#2aa198", "#b2468d", "#8a9a1f", "#7a5cd6", "#c23b3b", "#5f7285")


@dataclass(frozen=True)
class Gallery:
    """Images under one title. `classes` has the data set's classes with their colors, "#rrggbb"."""

    title: str
    classes: list[tuple[str, str]]
    samples: list[Sample]


def render(
    sources: Mapping[str, Source], galleries: Sequence[Gallery], notes: Sequence[str]
) -> str:
    """Returns the HTML text of `sources`, by name (`name_sources`).

    Every name is escaped; the file loads nothing. `notes` say what else is missing, and why.
    """
    drawn = charts.charts([source.rows for source in sources.values()])
    recipes = [(name, source.recipe) for name, source in sources.items() if source.recipe]
    matrices = [
        {"title": name, "names": source.confusion.names, "rows": source.confusion.matrix.tolist()}
        for name, source in sources.items()
        if source.confusion is not None
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["number"] = _number
    page = resources.files("perpixel.reporting").joinpath("report.html").read_text("utf-8")
    return environment.from_string(page).render(
        sources=list(zip(sources, cycle(_COLORS), sources.values(), strict=False)),
        charts=drawn,
        box=(charts.WIDTH, charts.HEIGHT),
        classes=_classes(list(sources.values())),
        matrices=matrices,
        galleries=galleries,
        differences=[
            (f"{recipes[0][0]} → {name}", overrides.differences(recipes[0][1], recipe))
            for name, recipe in recipes[1:]
        ],
        recipes=[(name, overrides.dump(recipe)) for name, recipe in recipes],
        missing=[(name, source.missing()) for name, source in sources.items()],
        notes=notes,
        data={
            "names": list(sources),
            "charts": [chart.lines for chart in drawn],
            "matrices": matrices,
        },
    )


def name_sources(sources: Sequence[Source]) -> dict[str, Source]:
    """Names the sources by their folders, or by their paths if two folders have the same name."""
    folders = {source.path: source.path.resolve().name for source in sources}
    counts = Counter(folders.values())
    names = {path: name if counts[name] == 1 else str(path) for path, name in folders.items()}
    return {names[source.path]: source for source in sources}


def _classes(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Returns a row for every class: its name, its fraction of the labels, each source's IoU.

    They are sorted by the first source's IoU, the highest first.
    """
    ious = [source.scores["iou"] if source.scores else {} for source in sources]
    frequencies: dict[str, float] = {}
    for source in reversed(sources):  # the first source's numbers replace the others'
        frequencies |= source.frequencies()
    rows = [
        {"name": name, "share": frequencies.get(name), "iou": [iou.get(name) for iou in ious]}
        for name in dict.fromkeys(name for iou in ious for name in iou)
    ]
    return sorted(
        rows, key=lambda row: -1 if row["iou"][0] is None else row["iou"][0], reverse=True
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
