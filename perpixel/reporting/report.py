"""One HTML file, with everything in it, of one or more runs or evaluations."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from typing import Any

from jinja2 import Environment, StrictUndefined

from perpixel.recipes import overrides
from perpixel.recipes.schema import Recipe
from perpixel.reporting import curves
from perpixel.reporting.reading import Source
from perpixel.reporting.samples import Sample

# Apart in hue and in brightness, on white and on black.
_COLORS = ("#2f7de1", "#e8792b", "#2aa198", "#b2468d", "#8a9a1f", "#7a5cd6", "#c23b3b", "#5f7285")


@dataclass(frozen=True)
class Gallery:
    """Images under one title. `models` names the runs that each image has views of, `classes`
    the data set's classes with their colors, "#rrggbb"."""

    title: str
    classes: list[tuple[str, str]]
    models: tuple[str, ...]
    samples: list[Sample]


def render(sources: Sequence[Source], galleries: Sequence[Gallery], notes: Sequence[str]) -> str:
    """The HTML text. Every name is escaped; nothing is loaded from anywhere.

    `notes` say what else the report lacks, and why.
    """
    called = named(sources)
    recipes = {name: one.recipe for name, one in called.items() if one.recipe is not None}
    figures = curves.charts(sources)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["number"] = _number
    page = resources.files("perpixel.reporting").joinpath("report.html").read_text("utf-8")
    matrices = [
        {"title": name, "names": one.confusion.names, "rows": one.confusion.matrix.tolist()}
        for name, one in called.items()
        if one.confusion is not None
    ]
    return environment.from_string(page).render(
        sources=list(zip(called, cycle(_COLORS), sources, strict=False)),
        charts=figures,
        box=(curves.WIDTH, curves.HEIGHT),
        classes=_classes(sources),
        matrices=matrices,
        galleries=galleries,
        differences=_differences(recipes),
        recipes=[(name, overrides.dump(recipe)) for name, recipe in recipes.items()],
        missing=[(name, one.missing()) for name, one in called.items()],
        notes=notes,
        data={
            "names": list(called),
            "charts": [chart.lines for chart in figures],
            "matrices": matrices,
        },
    )


def named(sources: Sequence[Source]) -> dict[str, Source]:
    """The sources by short names, no two alike: their folders', or the whole paths."""
    short = [source.path.resolve().name for source in sources]
    chosen = [
        name if short.count(name) == 1 else os.fspath(source.path)
        for name, source in zip(short, sources, strict=True)
    ]
    return {
        name if chosen.count(name) == 1 else f"{name} ({number})": source
        for number, (name, source) in enumerate(zip(chosen, sources, strict=True), start=1)
    }


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


def _differences(recipes: Mapping[str, Recipe]) -> list[tuple[str, list[str]]]:
    """What every further recipe has otherwise than the first."""
    known = list(recipes.items())
    return [
        (f"{known[0][0]} → {name}", overrides.differences(known[0][1], recipe))
        for name, recipe in known[1:]
    ]


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
