"""Write docs/api/*.md: signatures and docstrings of the public Python, read from the sources.

    python docs/make_api.py

Nothing is imported, so it runs anywhere; tests/test_docs.py holds the pages to what this returns.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "api"
PACKAGE = Path(__file__).parents[1] / "perpixel"


class Part(NamedTuple):
    """A section of a page: one module, and the names to show of it; none means all public ones."""

    heading: str
    module: str
    names: tuple[str, ...] = ()


class Page(NamedTuple):
    """A page of the reference; `summary` is its line in the index and its first paragraph."""

    title: str
    summary: str
    parts: tuple[Part, ...]


PAGES = {
    "functions": Page(
        "Functions",
        "Load a model, train, evaluate, export: what `import perpixel` gives.",
        (
            Part("Functions", "perpixel.api"),
            Part("The result of a training", "perpixel.training.train", ("Run",)),
            Part("A data set of your own", "perpixel.data.user_dataset", ("SegmentationDataset",)),
            Part("An exported file", "perpixel.exporting.export", ("ExportResult",)),
        ),
    ),
    "recipes": Page(
        "Recipes and settings",
        "Find and change recipes; every setting, its default and its limits.",
        (
            Part("Finding recipes", "perpixel.recipes.__init__", ("recipe", "recipes")),
            Part("Changing recipes", "perpixel.recipes.overrides", ("override",)),
            Part("Settings of a recipe", "perpixel.recipes.schema"),
            Part(
                "Settings of its model",
                "perpixel.recipes.models",
                (
                    "Model",
                    "ResNet",
                    "Timm",
                    "FCN",
                    "SemanticFPN",
                    "Auxiliary",
                    "Custom",
                    "CustomBackbone",
                    "CustomHead",
                ),
            ),
        ),
    ),
    "models": Page(
        "Models",
        "The `torch.nn.Module` that `perpixel.build` and `perpixel.load_model` return.",
        (
            Part("A model", "perpixel.models.segmenter", ("Segmenter", "SegmentationOutput")),
            Part("A faster one", "perpixel.acceleration.accelerate", ("accelerate",)),
        ),
    ),
    "inference": Page(
        "Inference",
        "What `perpixel.load` returns, and the masks that it predicts.",
        (
            Part(
                "A model and its results",
                "perpixel.inference.predictor",
                ("Result", "Predictor"),
            ),
            Part("An exported file", "perpixel.inference.exported", ("ExportedPredictor",)),
            Part("A checkpoint", "perpixel.checkpoints.format", ("Checkpoint",)),
        ),
    ),
    "evaluation": Page(
        "Evaluation",
        "The scores that `perpixel.evaluate` and a finished training return.",
        (Part("Scores", "perpixel.evaluation.metrics", ("Scores", "ImageScores")),),
    ),
    "conversion": Page(
        "Conversion",
        "Other toolkits' state dicts into models, and back (`perpixel.conversion`).",
        (
            Part("From another toolkit", "perpixel.conversion.detect", ("from_state_dict",)),
            Part("To another toolkit", "perpixel.conversion.export_", ("to_state_dict",)),
        ),
    ),
    "errors": Page(
        "Errors",
        "The exceptions, and the exit codes that commands make of them.",
        (
            Part(
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
        ),
    ),
}

_WRITTEN = """\
Written by `python docs/make_api.py` from the docstrings: change those, not this page.
"""

_INDEX = """\
# Python reference

[quick-start.md](../quick-start.md) uses the commands; `import perpixel` does the same from Python.
[training.md](../training.md) has a complete example. The commands describe themselves
(`perpixel --help`, `perpixel train --help`).

| page | holds |
|---|---|
{rows}

In signatures `Array` is a uint8 NumPy array, `Size` is (height, width), `PositiveInt` is an integer
above 0, `UnitInterval` is a number from 0 to 1, `HalfOpenUnit` is one from 0 to below 1, and
`Weight` is a number of at least 0.

{written}"""


def pages() -> dict[str, str]:
    """The texts of docs/api/, by file name."""
    rows = "\n".join(
        f"| [{page.title}]({name}.md) | {page.summary} |" for name, page in PAGES.items()
    )
    index = _INDEX.format(rows=rows, written=_WRITTEN)
    return {"index.md": index} | {f"{name}.md": _text(page) for name, page in PAGES.items()}


def _text(page: Page) -> str:
    texts = [f"# {page.title}\n\n{page.summary}\n\n{_WRITTEN}"]
    for heading, module, names in page.parts:
        path = PACKAGE.parent / (module.replace(".", "/") + ".py")
        lines = path.read_text("utf-8").splitlines()
        texts.append(f"## {heading}\n\n`{module.removesuffix('.__init__')}`\n")
        nodes = [node for node in ast.parse("\n".join(lines)).body if _is_shown(node, names)]
        texts += [text for node in nodes for text in _describe(node, lines)]
    return "\n".join(texts)


def _is_shown(node: ast.stmt, names: tuple[str, ...]) -> bool:
    known = isinstance(node, ast.FunctionDef | ast.ClassDef)
    return known and (node.name in names if names else not node.name.startswith("_"))


def _describe(node: ast.stmt, lines: list[str], owner: str = "") -> Iterator[str]:
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
        yield from _describe(member, lines, f"{node.name}.")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        old.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
