"""perpixel: semantic segmentation baselines as recipes. Importing it does not import torch."""

import os

# OpenCV would print its own account of a corrupt file beside the error that names the file. It
# reads this when it loads, so this comes before whatever imports it.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

from perpixel.api import (
    build,
    evaluate,
    export,
    load,
    load_model,
    push_to_hub,
    save_pretrained,
    train,
)
from perpixel.errors import Interrupted, PerpixelError, StopTraining, UsageError
from perpixel.recipes import list_recipes, recipe
from perpixel.recipes.overrides import override
from perpixel.recipes.schema import Recipe

__version__ = "0.2.0"

__all__ = [
    "Interrupted",
    "PerpixelError",
    "Recipe",
    "StopTraining",
    "UsageError",
    "build",
    "evaluate",
    "export",
    "list_recipes",
    "load",
    "load_model",
    "override",
    "push_to_hub",
    "recipe",
    "save_pretrained",
    "train",
]
