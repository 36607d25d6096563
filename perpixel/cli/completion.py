"""What the shell completes: names and settings. No torch, as each TAB is a process of its own."""

import os

import typer

from perpixel.recipes import recipe, recipes
from perpixel.recipes.overrides import list_settings
from perpixel.recipes.shipped import SHIPPED

_PREFIX = "_PERPIXEL_COMPLETION_PREFIX"


def recipe_names() -> list[str]:
    """All recipes."""
    return recipes()


def model_names() -> list[str]:
    """The recipes whose weights are shipped or were fetched."""
    from perpixel.io.download import cache_folder

    models = cache_folder() / "models"
    return [*SHIPPED, *(name for name in recipes() if (models / f"{name}.safetensors").is_file())]


def dataset_names() -> list[str]:
    """All data sets."""
    from perpixel.data.registry import NAMES

    return list(NAMES)


def benchmark_names() -> list[str]:
    """The data sets with an evaluation server."""
    return ["ade20k", "cityscapes", "pascal_voc"]


def settings(ctx: typer.Context, incomplete: str) -> list[str]:
    """The settings of the recipe that the command names, and the values of those that list them."""
    name = ctx.params.get("recipe")
    chosen = recipe(name if name in recipes() else recipes()[0])
    prefix = os.environ.get(_PREFIX, "")
    return [text.removeprefix(prefix) for text in list_settings(chosen, prefix + incomplete)]


def join_words_of_bash() -> None:
    """Undoes that bash takes path=value for three words, and completes the last one alone."""
    if os.environ.get("_PERPIXEL_COMPLETE") != "complete_bash":
        return
    words, position = os.environ["COMP_WORDS"].split(), int(os.environ["COMP_CWORD"])
    before, current = words[:position], "".join(words[position : position + 1])
    if current == "=":
        before, current = [*before, "="], ""
    if before[-1] == "=":
        *before, name, _ = before
        if name.startswith("-"):
            before.append(name)
        else:
            os.environ[_PREFIX] = f"{name}="
    text = " ".join(before).replace(" = ", "=")
    os.environ |= {"COMP_WORDS": f"{text} {current}", "COMP_CWORD": str(len(text.split()))}
