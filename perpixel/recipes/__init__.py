"""All recipes, by name."""

import fnmatch
import runpy
import sys
from pathlib import Path

from perpixel.errors import UsageError
from perpixel.recipes import (
    backbones,
    caffe_fcn,
    camvid,
    folder,
    linear,
    mmseg,
    pytorch_auto_drive,
    sssegmentation,
    sssegmentation_legacy,
    synthetic,
)
from perpixel.recipes.overrides import suggestion
from perpixel.recipes.schema import Recipe

_MODULES = (
    camvid,
    folder,
    synthetic,
    mmseg,
    sssegmentation,
    sssegmentation_legacy,
    pytorch_auto_drive,
    caffe_fcn,
    linear,
    backbones,
)
_ALL: dict[str, Recipe] = {recipe.name: recipe for module in _MODULES for recipe in module.RECIPES}


def recipe(name: str) -> Recipe:
    """Returns the recipe called `name`, or the variable `x` of a Python file given as "file.py:x".

    Raises UsageError when there is no such recipe.
    """
    path, colon, variable = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _load_from_file(path, variable)
    if name.endswith(".py"):
        raise UsageError(f"{name}: name the recipe in the file, too, as in {name}:mine")
    if name not in _ALL:
        raise UsageError(
            f"no recipe is called {name!r}.{suggestion(name, _ALL)} `perpixel zoo` lists them all."
        )
    return _ALL[name]


def recipes(pattern: str = "*") -> list[str]:
    """Lists the names of the recipes that match a shell pattern, such as "camvid/*"."""
    return fnmatch.filter(_ALL, pattern)


def _load_from_file(path: str, variable: str) -> Recipe:
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such recipe file")
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:  # as where Python runs the file; worker processes need it, too
        sys.path.append(folder)
    try:
        values = runpy.run_path(path)
    except Exception as error:  # whatever a user's own code may raise
        raise UsageError(f"{path}: does not run: {type(error).__name__}: {error}") from error
    value = values.get(variable)
    if not isinstance(value, Recipe):
        names = [name for name, other in values.items() if isinstance(other, Recipe)]
        raise UsageError(
            f"{path}: {variable!r} is no Recipe; its recipes are: {', '.join(names) or 'none'}"
        )
    return value
