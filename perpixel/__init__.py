"""perpixel: semantic segmentation baselines as recipes. Importing it does not import torch."""

from perpixel.api import build, evaluate, load, override, recipe, recipes, train
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.spec import Recipe

__version__ = "0.1.0"

__all__ = [
    "PerpixelError",
    "Recipe",
    "UsageError",
    "build",
    "evaluate",
    "load",
    "override",
    "recipe",
    "recipes",
    "train",
]
