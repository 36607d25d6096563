"""One HTML file, with everything in it, of one or more runs or evaluations."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from perpixel.recipes import settings
from perpixel.recipes.spec import Recipe
from perpixel.reporting import curves
from perpixel.reporting.reading import Source
from perpixel.reporting.samples import Sample

# Apart in hue and in brightness, on white and on black.
_COLOURS = ("#2f7de1", "#e8792b", "#2aa198", "#b2468d", "#8a9a1f", "#7a5cd6", "#c23b3b", "#5f7285")


@dataclass(frozen=True)
class Gallery:
    """Pictures under one title. `models` names the runs that each picture has views of, `classes`
    the data set's classes with their colours, "#rrggbb"."""

    title: str
    classes: list[tuple[str, str]]
    models: tuple[str, ...]
    samples: list[Sample]


def render(sources: Sequence[Source], galleries: Sequence[Gallery], notes: Sequence[str]) -> str:
    """The HTML text. Every name is escaped; nothing is loaded from anywhere.

    `notes` say what else the report lacks, and why.
    """
    names = labels(sources)
    figures = curves.charts(sources)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["number"] = _number
    page = resources.files("perpixel.reporting").joinpath("report.html").read_text("utf-8")
    matrices = [
        {
            "title": name,
            "names": source.confusion.names,
            "rows": source.confusion.matrix.tolist(),
        }
        for name, source in zip(names, sources, strict=True)
        if source.confusion is not None
    ]
    return environment.from_string(page).render(
        sources=list(zip(names, _colours(sources), sources, strict=True)),
        charts=figures,
        box=(curves.WIDTH, curves.HEIGHT),
        classes=_classes(sources),
        matrices=matrices,
        galleries=galleries,
        differences=_differences(names, sources),
        recipes=[
            (name, settings.dump(source.recipe))
            for name, source in zip(names, sources, strict=True)
            if source.recipe is not None
        ],
        missing=[(name, source.missing()) for name, source in zip(names, sources, strict=True)],
        notes=notes,
        data={
            "names": names,
            "charts": [chart.lines for chart in figures],
            "matrices": matrices,
        },
    )


def labels(sources: Sequence[Source]) -> list[str]:
    """A short name for every source, no two alike: the folder's, or the whole path."""
    short = [source.path.resolve().name for source in sources]
    count = Counter(short)
    chosen = [
        name if count[name] == 1 else os.fspath(source.path)
        for name, source in zip(short, sources, strict=True)
    ]
    return [
        name if chosen.count(name) == 1 else f"{name} ({index + 1})"
        for index, name in enumerate(chosen)
    ]


def _colours(sources: Sequence[Source]) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(len(sources))]


def _classes(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """A row for every class: its name, its share of the labels, and each source's IoU."""
    ious = [source.scores["iou"] if source.scores else {} for source in sources]
    shares: dict[str, float] = {}
    for source in reversed(sources):  # the first source's count
        shares |= source.frequencies()
    return [
        {"name": name, "share": shares.get(name), "iou": [iou.get(name) for iou in ious]}
        for name in dict.fromkeys(name for iou in ious for name in iou)
    ]


def _differences(names: Sequence[str], sources: Sequence[Source]) -> list[tuple[str, list[str]]]:
    """What every further recipe has otherwise than the first one that is there."""
    known: list[tuple[str, Recipe]] = [
        (name, source.recipe)
        for name, source in zip(names, sources, strict=True)
        if source.recipe is not None
    ]
    return [
        (f"{known[0][0]} → {name}", settings.differences(known[0][1], recipe))
        for name, recipe in known[1:]
    ]


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
