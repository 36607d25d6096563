"""Change a recipe by paths ("train.steps=100"), and carry it in and out of JSON."""

import difflib
import json
from collections.abc import Collection, Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.base import Spec
from perpixel.recipes.schema import Recipe

_TYPES = {"resnet", "timm", "fcn", "semantic_fpn", "custom"}


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Returns the recipe with every "path=value" of `settings` applied, in order.

    A value is JSON where it parses as such (100, 0.5, true, null, [512, 512]); 512x1024 is a size;
    anything else is text. Raises UsageError for a path or value the recipe does not have.
    """
    values = recipe.model_dump(mode="json")
    if isinstance(settings, str):
        settings = [settings]
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(
                f"--set {setting!r}: write it as path=value, for example train.steps=100"
            )
        _assign(values, path.strip(), text.strip())
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lists = any(problem["type"] == "tuple_type" for problem in error.errors())
        hint = ". A list is written [0.5,2], a size 512x1024" if lists else ""
        raise UsageError(readable(error) + hint) from None


def dump(recipe: Recipe) -> str:
    """The recipe as indented JSON text."""
    return recipe.model_dump_json(indent=2)


def load(text: str, *, origin: str) -> Recipe:
    """The recipe that `dump` wrote; `origin` names the file in errors."""
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        raise PerpixelError(f"{origin}: not a recipe: {readable(error)}") from None


def differences(old: Spec, new: Spec) -> list[str]:
    """Paths in which two specs of a kind differ, as "train.steps: 100 -> 200"."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    paths = sorted(before.keys() | after.keys())
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in paths
        if before.get(path) != after.get(path)
    ]


def suggestion(word: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest of `known`, or an empty text."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


_ELSEWHERE = {
    "accumulate": "Did you mean train.grad_accum_steps?",
    "amp": "Did you mean train.precision?",
    "batch": "Did you mean train.batch_size?",
    "crop": "Did you mean augment.crop_size, or inference.window_size?",
    "data_root": "The data set's folder is the option --data.",
    "device": "The device is the option --device.",
    "epochs": "Did you mean train.steps, which is epochs x images / train.batch_size?",
    "ignore_index": "255 is ignored; a folder's dataset.toml says which values are (ignored_ids).",
    "images_per_step": "Did you mean train.batch_size, of all ranks together?",
    "imgsz": "Did you mean augment.crop_size?",
    "iters": "Did you mean train.steps?",
    "max_iters": "Did you mean train.steps?",
    "num_classes": "The data set says how many classes there are.",
    "samples_per_gpu": "Did you mean train.batch_size, of all ranks together?",
    "weight": "Did you mean loss.class_weights?",
    "workers": "Worker processes are the option --workers.",
}
"""Other toolkits' names, as the last part of a path, and what has their place here."""


def _place_of(path: str, known: list[str]) -> str:
    """Which setting a path may have meant, by its last part or by its spelling."""
    parent, _, leaf = path.rpartition(".")
    if path in ("optimizer.type", "optimizer.kind", "optimizer.algorithm"):
        return " Did you mean optimizer.name?"
    if leaf == "kind" and f"{parent}.type" in known:
        return f" Did you mean {parent}.type?"
    longer = [name for name in known if name.startswith(f"{path}_")]
    if longer:  # augment.flip is augment.flip_prob
        return f" Did you mean {longer[0]}?"
    if leaf in _ELSEWHERE:
        return f" {_ELSEWHERE[leaf]}"
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    return f" Did you mean {' or '.join(same)}?" if same else suggestion(path, known)


def require_known(name: str, known: Collection[str], complaint: str) -> None:
    """Raises UsageError with the complaint, and what is known, unless `name` is."""
    if name not in known:
        raise UsageError(f"{complaint}.{suggestion(name, known)} There are: {', '.join(known)}")


def readable(error: ValidationError) -> str:
    """pydantic's complaints as "train.steps='many': Input should be ..."."""
    return "; ".join(dict.fromkeys(map(_complaint, error.errors(include_url=False))))


def _complaint(problem: ErrorDetails) -> str:
    kind, said = problem["type"], problem["msg"]
    # A type's own name is in pydantic's places, but in no path.
    parts = [part for part in problem["loc"] if part not in _TYPES]
    if kind == "missing" and parts and isinstance(parts[-1], int):
        parts, said = parts[:-1], "There are too few numbers"
    where = ".".join(str(part) for part in parts)
    match kind:
        case "value_error":  # of several settings together: what they are would fill a page
            return f"{where}: {problem['ctx']['error']}".removeprefix(": ")
        case "unknown_type":
            where = f"{where}.type" if isinstance(problem["input"], dict) else where
            return f"{where}={problem['input'].get('type')!r}: {said}"
        case "tuple_type":
            said = "Input should be a list of values"
        case "model_type":
            said = f"It has parts of its own: set those, as {where}.NAME=value"
    if not where:  # the whole file
        return said
    return f"{where}={problem['input']!r}: {said}"


def _assign(values: dict[str, Any], path: str, text: str) -> None:
    *parents, leaf = path.split(".")
    node: Any = values
    for depth, part in enumerate([*parents, leaf]):
        where = ".".join(path.split(".")[:depth]) or "the recipe"
        if not isinstance(node, dict):
            raise UsageError(f"unknown setting {path!r}: {where} is {node!r} and has no parts.")
        if part not in node:
            raise UsageError(
                f"unknown setting {path!r}: {where} has {', '.join(sorted(node))}."
                + _place_of(path, sorted(_flat(values)))
            )
        if depth < len(parents):
            node = node[part]
    value = _value(text, node[leaf])
    if leaf == "type" and parents and value != node["type"]:
        node.clear()
        node.update(_defaults(parents, value))
    else:
        node[leaf] = value


def _defaults(path: list[str], kind: object) -> dict[str, Any]:
    """What the part of a recipe at `path` says when it is of another kind and nothing else is set.

    Raises UsageError when there is no such kind.
    """
    *parents, part = path
    spec: Any = Recipe
    for parent in parents:
        spec = spec.model_fields[parent].annotation
    try:
        values = spec.model_validate({part: {"type": kind}}).model_dump(mode="json")
    except ValidationError as error:
        raise UsageError("".join(f"{parent}." for parent in parents) + readable(error)) from None
    found: dict[str, Any] = values[part]
    return found


def _value(text: str, old: Any) -> Any:
    if text.lower() == "none":
        return None
    height, x, width = text.partition("x")
    if x and height.isdigit() and width.isdigit() and not isinstance(old, str):  # a "7x7" stem
        return [int(height), int(width)]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or a number or nesting beyond all measure
        return text


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
