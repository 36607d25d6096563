"""Writes the results in benchmarks/results into docs/, as tables and a plot.

    python benchmarks/tables.py

Tables go between the markers `<!-- NAME -->` and `<!-- end of NAME -->`, NAME.json by NAME.json:
backbones.json into docs/backbones.md, the others into docs/performance.md, whose plot is
docs/performance.svg. Run again, it changes nothing.
"""

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from measure import RESULTS, UNITS, digits

DOCS = Path(__file__).parents[1] / "docs"


def table(result: Mapping[str, Any]) -> str:
    """The medians of one result file, and how many times less than mmsegmentation's each is, or
    than that of the line that the file says to compare `against`."""
    lines = [f"`python {result['command']}` on {_machine(result['machine'])}:", ""]
    lines += ["| | | median | times less |", "|---|---|---:|---:|"]
    for one in result["measured"]:
        scale, unit = UNITS[one["unit"]]
        medians = {name: median(values) for name, values in one["values"].items()}
        theirs = medians.get(one.get("against", "mmsegmentation"))
        for place, (name, value) in enumerate(medians.items()):
            title = one["title"] if place == 0 else ""
            less = f"{theirs / value:.2f}" if value != theirs and theirs else ""
            lines.append(f"| {title} | {name} | {digits(value * scale)} {unit} | {less} |")
    return "\n".join(lines)


def filled(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """`text` with the table of each result between its markers; one without any is an error."""
    for name, result in results.items():
        text = replaced(text, name, written=table(result))
    return text


def replaced(text: str, name: str, *, written: str) -> str:
    """A page's `text` with `written` between the markers of `name`; without any it is an error."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"the page that is to hold {name} needs one {begin} and one {end}")
    between = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    return between.sub(lambda _: f"\n{written}\n", text)


def plot(results: Mapping[str, Mapping[str, Any]]) -> str:
    """An SVG image with a bar, on a logarithmic scale, for every line of perpixel's.

    Other machines' results, NAME-MACHINE, are left out.
    """
    bars = [
        (f"{one['title']} ({toolkit})", ratio)
        for name, result in results.items()
        if "-" not in name
        for one in result["measured"]
        for toolkit, ratio in _ratios(one["values"])
    ]
    left, height, unit = 590, 22 * len(bars) + 40, 90  # pixels; `unit` for a factor of two
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + 9 * unit}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{left + 9 * unit}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="{height - 10}">times less than mmsegmentation, in time or memory; '
        "below 1 it is more (machines: see the tables)</text>",
    ]
    for row, (title, ratio) in enumerate(bars):
        y, length = 22 * row + 8, math.log2(ratio) * unit
        start = left + min(length, 0)
        drawn += [
            f'<text x="{left - 80}" y="{y + 12}" text-anchor="end">{escape(title)}</text>',
            f'<rect x="{start:.1f}" y="{y}" width="{abs(length):.1f}" height="16" fill="#37b"/>',
            f'<text x="{left + max(length, 0) + 4:.1f}" y="{y + 12}">{ratio:.2f}</text>',
        ]
    axis = f'<line x1="{left}" x2="{left}" y1="0" y2="{height - 30}" stroke="black"/>'
    return "\n".join([*drawn, axis, "</svg>", ""])


def results() -> dict[str, dict[str, Any]]:
    """What is in benchmarks/results of the shape that these tables have, by name."""
    read = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    return {name: result for name, result in read.items() if "measured" in result}


def backbones_table(result: Mapping[str, Any]) -> str:
    """What became of every backbone at every size, and timm's words where it refuses one."""
    families: Mapping[str, Any] = result["families"]
    sizes = list(next(iter(families.values()))["sizes"])
    rows = []
    for family, found in families.items():
        cells, notes = [], []
        for outcome in found["sizes"].values():
            cells.append(outcome["result"])
            if outcome["result"] == "padded":
                notes.append(f"multiples of {outcome['multiple']}")
            elif "message" in outcome:
                timms = re.search(r"\((\w+: .*)\)\. It was made", outcome["message"])
                notes.append(f"`{(timms[1] if timms else outcome['message']).rstrip('.')}`")
        rows.append((family, f"`{found['backbone']}`", *cells, *(notes[:1] or [""])))
    kinds = [set(row[2 : 2 + len(sizes)]) for row in rows]
    any_size = sum(kind == {"works"} for kind in kinds)
    padded = sum("padded" in kind for kind in kinds)
    one_size = sum("own size only" in kind for kind in kinds)
    failing = sum("fails" in kind for kind in kinds)
    script = result["command"].split()[0]  # single backbones may have been measured anew
    lines = [
        f"`python {script}` with torch {result['machine']['torch']}: of {len(rows)} "
        f"backbones {any_size} take all three sizes as they are, {padded} are padded for some of "
        f"them, {one_size} take their own size only, and {failing} ends in an error.",
        "",
        f"| family | timm's name | {' | '.join(sizes)} | |",
        "|---" * (3 + len(sizes)) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


def backbones_page() -> str:
    """The text of docs/backbones.md."""
    result = json.loads((RESULTS / "backbones.json").read_text())
    text = (DOCS / "backbones.md").read_text()
    return replaced(text, "backbones", written=backbones_table(result))


def _ratios(values: Mapping[str, Sequence[float]]) -> list[tuple[str, float]]:
    """perpixel's lines, where mmsegmentation's stands beside them."""
    theirs = values.get("mmsegmentation", ())
    ours = {name: several for name, several in values.items() if name.startswith("perpixel")}
    return [(name, median(theirs) / median(v)) for name, v in ours.items() if theirs]


def _machine(told: Mapping[str, Any]) -> str:
    where = told["gpu"] or f"{told['cpu']}, {told['cores']} cores"
    return f"{where}, torch {told['torch']}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    page, found = DOCS / "performance.md", results()
    page.write_text(filled(page.read_text(), found))
    (DOCS / "performance.svg").write_text(plot(found))
    (DOCS / "backbones.md").write_text(backbones_page())


if __name__ == "__main__":
    main()
