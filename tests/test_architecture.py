"""The rules of docs/architecture.md that a machine can hold: arrows, exported names."""

import ast
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import perpixel

PACKAGE = Path(perpixel.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

ANYTHING = {"", "api", "cli", "__main__", "checkpoints"}
DEVICES = {"acceleration", "ops", "runtime"}
HEAVY = {"torch", "cv2", "numpy", "safetensors", "PIL"}


def arrows() -> dict[str, set[str]]:
    """What each part of the package may import, from docs/architecture.md's list."""
    page = (PACKAGE.parent / "docs/architecture.md").read_text()
    block = page[page.index("recipes, io, ") :].partition("\napi, cli ")[0]
    found = {}
    for line in block.splitlines():
        parts, arrow, targets = line.partition(" -> ")
        assert arrow, line
        allowed = set() if targets == "(nothing)" else {name.strip() for name in targets.split(",")}
        found |= {part.strip(): allowed for part in parts.split(",")}
    return found


def room(name: str) -> str:
    """The part of the page that a module, such as perpixel.data.loader, belongs to.

    The files of checkpoints are parts of their own: conversion stands between them.
    """
    parts = [*name.split(".")[1:], ""]
    return "/".join(parts[: 2 if parts[0] == "checkpoints" else 1]).rstrip("/")


def module(path: Path) -> str:
    names = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(names).removesuffix(".__init__")


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their arrow"
            assert node.module is not None
            if node.module in ("perpixel", "perpixel.checkpoints"):
                found += [f"{node.module}.{name.name}" for name in node.names]
            else:
                found.append(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path):
    here = room(module(path))
    if here in ANYTHING:
        return
    allowed = arrows()[here] | {here, "errors"}
    for name in imports(ast.parse(path.read_text())):
        assert name != "perpixel", f"{here} imports the whole package"
        if name.startswith("perpixel."):
            assert room(name) in allowed, f"{here} may not import {name}"


def test_no_arrow_is_unused():
    used: dict[str, set[str]] = {name: set() for name in arrows()}
    for path in FILES:
        here = room(module(path))
        if here not in ANYTHING:
            names = imports(ast.parse(path.read_text()))
            used[here] |= {room(name) for name in names if name.startswith("perpixel.")}
    assert {name: found - {name, "errors"} for name, found in used.items()} == arrows()


def test_recipes_hold_no_torch_and_no_images():
    for path in (PACKAGE / "recipes").rglob("*.py"):
        top = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
        assert not top & HEAVY, path


def test_the_public_surface_is_this():
    assert set(perpixel.__all__) == {
        "Interrupted", "PerpixelError", "Recipe", "StopTraining", "UsageError", "build", "evaluate",
        "export", "list_recipes", "load", "load_model", "override", "push_to_hub", "recipe",
        "save_pretrained", "train",
    }  # fmt: skip
    for name in perpixel.__all__:
        assert getattr(perpixel, name).__doc__


def test_no_public_name_hides_a_part_of_the_package():
    """As `import perpixel.recipes.models as m` would fail by a function called `recipes`."""
    parts = {path.stem if path.suffix else path.name for path in PACKAGE.iterdir()}
    assert not parts & set(perpixel.__all__)


@pytest.mark.parametrize(
    "code",
    [
        "import perpixel",
        "import perpixel; perpixel.recipe('scenes/semantic_fpn_r18'); perpixel.list_recipes()",
        "import runpy, sys; sys.argv = ['perpixel', '--help']\n"
        "try: runpy.run_module('perpixel', run_name='__main__')\n"
        "except SystemExit: pass",
        "import runpy, sys; sys.argv = ['perpixel', 'train', '--help']\n"
        "try: runpy.run_module('perpixel', run_name='__main__')\n"
        "except SystemExit: pass",
        "import runpy, sys; sys.argv = ['perpixel', 'zoo']\n"
        "try: runpy.run_module('perpixel', run_name='__main__')\n"
        "except SystemExit: pass",
    ],
    ids=["import", "recipes", "help", "train-help", "zoo"],
)
def test_torch_is_not_imported_by(code: str):
    check = f"{code}\nimport sys; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


def test_only_three_rooms_know_kinds_of_devices():
    """Elsewhere a device is a value that is passed on."""
    knows = re.compile(r"torch\.cuda|device\.type[!=]=|is_cuda|nccl|gloo|avx|amx", re.IGNORECASE)
    elsewhere = [path for path in FILES if room(module(path)) not in DEVICES]
    code = {path: tokens(path) for path in elsewhere}
    assert len(code) > 100
    assert [path.name for path, text in code.items() if knows.search(text)] == []


def tokens(path: Path) -> str:
    """A file's code without comments and strings."""
    left_out = (tokenize.COMMENT, tokenize.STRING)
    with tokenize.open(path) as file:
        found = list(tokenize.generate_tokens(file.readline))
    return "".join(token.string for token in found if token.type not in left_out)


def test_the_page_names_every_file():
    page = (PACKAGE.parent / "docs/architecture.md").read_text()
    named = set(re.findall(r"\w+", page)) | set(re.findall(r"\w+\.py", page))
    commands = {path for path in FILES if path.parent.name == "cli"}
    others = [path for path in FILES if path.stem != "__init__" and path not in commands]
    assert [path.name for path in others if path.stem not in named] == []
    files = {path.name for path in FILES} | {"test_architecture.py", "utils.py"}
    assert set(re.findall(r"\b\w+\.py\b", page)) <= files
