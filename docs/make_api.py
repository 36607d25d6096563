"""Write docs/api.md: signatures and docstrings of the public surface, read from the sources.

    python docs/make_api.py

Nothing is imported, so it runs anywhere; tests/test_docs.py holds the page to what this returns.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).parent / "api.md"
PACKAGE = Path(__file__).parents[1] / "perpixel"

_INTRODUCTION = """\
# Python

Written by `python docs/make_api.py` from the sources: change a docstring there, not this page.
What [quick-start.md](quick-start.md) does by commands, `import perpixel` does by these; the
commands describe themselves (`perpixel --help`, `perpixel train --help`).

`Array` is a uint8 NumPy array, `Size` (height, width), `PositiveInt` a whole number above 0,
`UnitInterval` a number from 0 to 1, `HalfOpenUnit` one below 1, `Weight` a number of at least 0.
"""

# Heading, module, and the names to show of it; none: all that are public.
_PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Functions", "perpixel.api", ()),
    ("Recipes", "perpixel.recipes.__init__", ("recipe", "recipes")),
    ("Changed recipes", "perpixel.recipes.overrides", ("override",)),
    (
        "Errors",
        "perpixel.errors",
        (
            "PerpixelError",
            "UsageError",
            "CorruptFileError",
            "OutOfMemoryError",
            "Interrupted",
            "StopTraining",
        ),
    ),
    ("A model and its results", "perpixel.inference.predictor", ("Result", "Predictor")),
    ("A run", "perpixel.training.train", ("Run",)),
    ("Scores", "perpixel.evaluation.metrics", ("Scores", "ImageScores")),
    ("An exported file", "perpixel.exporting.export", ("ExportResult",)),
    ("A model", "perpixel.models.segmenter", ("Segmenter", "SegmentationOutput")),
    ("From another toolkit", "perpixel.conversion.detect", ("from_state_dict",)),
    ("To another toolkit", "perpixel.conversion.export_", ("to_state_dict",)),
    ("Settings of a recipe", "perpixel.recipes.schema", ()),
    ("Settings of its model", "perpixel.recipes.models", ()),
)


def page() -> str:
    """The text of docs/api.md."""
    parts = [_INTRODUCTION]
    for heading, module, names in _PARTS:
        path = PACKAGE.parent / (module.replace(".", "/") + ".py")
        lines = path.read_text("utf-8").splitlines()
        parts.append(f"## {heading}\n\n`{module.removesuffix('.__init__')}`\n")
        found = [node for node in ast.parse("\n".join(lines)).body if _is_shown(node, names)]
        parts += [text for node in found for text in _described(node, lines)]
    return "\n".join(parts)


def _is_shown(node: ast.stmt, names: tuple[str, ...]) -> bool:
    known = isinstance(node, ast.FunctionDef | ast.ClassDef)
    return known and (node.name in names if names else not node.name.startswith("_"))


def _described(node: ast.stmt, lines: list[str], owner: str = "") -> Iterator[str]:
    """A heading, the signature or fields as the source has them, and the docstring."""
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    yield f"###{'#' * bool(owner)} `{owner}{node.name}`\n"
    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    shown = lines[first - 1 : node.body[0].lineno - 1]
    members: list[ast.FunctionDef] = []
    if isinstance(node, ast.ClassDef):
        for item in node.body:
            if isinstance(item, ast.AnnAssign):
                shown += lines[item.lineno - 1 : item.end_lineno]
            elif isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                members.append(item)
    yield "```py\n" + inspect.cleandoc("\n" + "\n".join(shown)) + "\n```\n"
    yield (ast.get_docstring(node) or "") + "\n"
    for member in members:
        yield from _described(member, lines, f"{node.name}.")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
