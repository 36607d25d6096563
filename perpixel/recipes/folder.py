"""Recipes for a user's own images: a folder described by its dataset.toml."""

from perpixel.recipes.camvid import RECIPES as _CAMVID
from perpixel.recipes.schema import Augment, Data, Recipe

_SOURCE = "perpixel: a start for one's own images"


def _for_folder(recipe: Recipe) -> Recipe:
    return recipe.model_copy(
        update={
            "name": recipe.name.replace("camvid/", "folder/"),
            "source": _SOURCE,
            "data": Data(name="folder"),
            "augment": Augment(crop_size=recipe.augment.crop_size),
            # The final phase's crops have CamVid's size.
            "train": recipe.train.model_copy(update={"final_phase": None}),
        }
    )


RECIPES = tuple(_for_folder(recipe) for recipe in _CAMVID)
