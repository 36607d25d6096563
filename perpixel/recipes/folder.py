"""Recipes for a user's own pictures: a folder described by its dataset.toml."""

from perpixel.recipes.camvid import RECIPES as _STREETS
from perpixel.recipes.spec import Augment, Data, Recipe

_SOURCE = "perpixel: a start for one's own pictures, weights from random initialisation"


def _for_folder(recipe: Recipe) -> Recipe:
    return recipe.model_copy(
        update={
            "name": recipe.name.replace("camvid/", "folder/"),
            "source": _SOURCE,
            "data": Data(name="folder"),
            "augment": Augment(),
            # The finish's crop is CamVid's size.
            "train": recipe.train.model_copy(update={"finish": None}),
        }
    )


RECIPES = tuple(_for_folder(recipe) for recipe in _STREETS)
