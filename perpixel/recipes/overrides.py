"""Changes a recipe by paths ("train.steps=100"), and converts it to and from JSON."""

import difflib
import json
from collections.abc import Collection, Iterable
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.base import Spec
from perpixel.recipes.schema import Recipe

_OTHER_NAMES = {
    "accumulate": "train.grad_accum_steps",
    "optimizer.algorithm": "optimizer.name",
    "amp": "train.precision",
    "auxiliary": "model.aux_head",
    "base_lr": "optimizer.lr",
    "batch": "train.batch_size (of all ranks)",
    "bs": "train.batch_size (of all ranks)",
    "crop": "augment.crop_size, or inference.window_size",
    "crop_tries": "augment.crop_attempts",
    "data_root": "the option --data",
    "device": "the option --device",
    "early_stop": "evaluate.patience",
    "early_stopping": "evaluate.patience",
    "early_stopping_patience": "evaluate.patience",
    "encoder": "model.backbone",
    "encoder_name": (
        "model.backbone.name, of model.backbone.type=timm, or model.backbone.depth, of a ResNet"
    ),
    "encoder_weights": "the option --init",
    "epochs": "train.steps (epochs x images / train.batch_size)",
    "eval_interval": "evaluate.every",
    "eval_steps": "evaluate.every",
    "finish": "train.final_phase",
    "fliplr": "augment.flip_prob",
    "flipud": "augment.vertical_flip_prob",
    "floor": "schedule.min_lr",
    "freeze_at": "train.freeze",
    "freeze_backbone": "train.freeze",
    "freeze_encoder": "train.freeze",
    "frozen_stages": "train.freeze",
    "hflip": "augment.flip_prob",
    "horizontal_flip": "augment.flip_prob",
    "ignore_index": "ignored_ids in a folder's dataset.toml",
    "images_per_gpu": "train.batch_size (of all ranks)",
    "images_per_step": "train.batch_size (of all ranks)",
    "image_size": "augment.crop_size",
    "img_size": "augment.crop_size",
    "imgsz": "augment.crop_size",
    "iterations": "train.steps",
    "iters": "train.steps",
    "kind": "type, as in model.backbone.type",
    "optimizer.kind": "optimizer.name",
    "learning_rate": "optimizer.lr",
    "load_from": "the option --init",
    "lr0": "optimizer.lr",
    "max_class_share": "augment.cat_max_ratio",
    "max_damaged": "train.max_corrupt_fraction",
    "max_epochs": "train.steps (epochs x images / train.batch_size)",
    "max_iters": "train.steps",
    "max_skipped": "train.max_nonfinite_steps",
    "max_steps": "train.steps",
    "loss.mean": "loss.avg_non_ignore",
    "norm_eval": "model.backbone.frozen_bn, or train.freeze",
    "num_classes": "classes in a folder's dataset.toml",
    "num_epochs": "train.steps (epochs x images / train.batch_size)",
    "num_steps": "train.steps",
    "num_train_epochs": "train.steps (epochs x images / train.batch_size)",
    "output_dir": "the option --out",
    "random_rotate90": "augment.rotate90_prob",
    "resume_from": "the option --resume",
    "rot90": "augment.rotate90_prob",
    "samples_per_gpu": "train.batch_size (of all ranks)",
    "share": "train.final_phase.fraction",
    "optimizer.type": "optimizer.name",
    "val_interval": "evaluate.every",
    "vflip": "augment.vertical_flip_prob",
    "weight": "loss.class_weights",
    "width": "model.head.channels",
    "windows": "inference.mode",
    "work_dir": "the option --out",
    "workers": "the option --workers",
}
"""Settings of other toolkits and of version 0.1, by path or its last part, and their names here."""


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Returns the recipe with every "path=value" of `settings` applied, in order.

    A value is JSON where it parses as such (100, 0.5, true, null, [512, 512]); 512x1024 is a size;
    anything else is text. Raises UsageError for a path or value that the recipe does not have.
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
        raise UsageError(readable(error)) from None


def override_inference(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Returns the recipe with other settings of `inference`; raises UsageError for any others."""
    changed = override(recipe, settings)
    if changed.model_copy(update={"inference": recipe.inference}) != recipe:
        raise UsageError(
            "the settings of a trained model are those of inference, as inference.flip=true"
        )
    return changed


def dump(recipe: Recipe) -> str:
    """Returns the recipe as indented JSON text."""
    return recipe.model_dump_json(indent=2)


def load(text: str, *, origin: str) -> Recipe:
    """Reads the text that `dump` wrote; raises PerpixelError that names the file `origin`."""
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        raise PerpixelError(f"{origin}: not a recipe: {readable(error)}") from None


def differences(old: Spec, new: Spec) -> list[str]:
    """Lists the paths in which two specs differ, as "train.steps: 100 -> 200"."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def suggest_for_option(option: str, value: str, recipe: Recipe) -> str:
    """Returns " Did you mean --set optimizer.lr=0.1?" for the option --lr 0.1, or an empty text."""
    known = sorted(_flatten(recipe.model_dump(mode="json")))
    meant = _meant_by(option.removeprefix("--").replace("-", "_"), known)
    if meant in known:
        meant = f"--set {meant}={value or '...'}"
    return f" Did you mean {meant}?" if meant else ""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns " Did you mean X?" for the most similar of `known`, or an empty text."""
    similar = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {similar[0]}?" if similar else ""


def require_known(name: str, known: Collection[str], complaint: str) -> None:
    """Raises UsageError with the complaint and the known names unless `name` is one of them."""
    if name not in known:
        raise UsageError(f"{complaint}.{suggestion(name, known)} There are: {', '.join(known)}")


def readable(error: ValidationError) -> str:
    """Formats pydantic's error as "train.steps='many': Input should be ..."."""
    return "; ".join(dict.fromkeys(map(_format, error.errors(include_url=False))))


def _format(problem: ErrorDetails) -> str:
    message = problem["msg"]
    loc = list(problem["loc"])
    if problem["type"] == "missing" and loc and isinstance(loc[-1], int):
        loc, message = loc[:-1], "There are too few numbers"
    path = ".".join(map(str, loc))
    match problem["type"]:
        case "tuple_type" if isinstance(problem["input"], int):
            message = "A size is written {0}x{0}, a list [0.5,2]".format(problem["input"])
        case "tuple_type":
            message = "Input should be a list, written as [0.5,2]"
            if path.endswith("class_weights"):
                message += "; `perpixel data check` prints class weights"
        case "value_error":  # of several settings together, whose values would fill a page
            return f"{path}: {problem['ctx']['error']}".removeprefix(": ")
        case "unknown_type":
            return f"{path}.type={problem['input'].get('type')!r}: {message}"
        case "no_settings":
            message += f": set {path}.type, or {path}.<setting>"
        case "model_type":
            message = f"It is a group of settings: set those, as {path}.<setting>=value"
    return f"{path}={problem['input']!r}: {message}" if path else message


def _assign(values: dict[str, Any], path: str, text: str) -> None:
    """Sets one value of a dumped recipe; a new "type" resets that part to the type's defaults."""
    *parents, leaf = path.split(".")
    node: Any = values
    for depth, part in enumerate([*parents, leaf]):
        parent = ".".join(parents[:depth]) or "the recipe"
        if not isinstance(node, dict):
            if node is None and _is_group(parents[:depth]):
                example = f"--set '{parent}={{\"{part}\": ...}}'"
                raise UsageError(f"{path}={text}: {parent} is off; turn it on with {example}")
            raise UsageError(f"unknown setting {path!r}: {parent} is {node!r}, a single value")
        if part not in node:
            raise UsageError(
                f"unknown setting {path!r}: {parent} has {', '.join(sorted(node))}."
                + _suggest_setting(path, sorted(_flatten(values)))
            )
        if depth < len(parents):
            node = node[part]
    value = _parse(text, node[leaf])
    if leaf == "type" and parents and value != node["type"]:
        node.clear()
        node.update(_defaults(parents, value))
    else:
        node[leaf] = value


def _is_group(path: list[str]) -> bool:
    """Whether an optional setting has settings of its own, as loss.ohem."""
    spec: Any = Recipe
    for part in path:
        annotation = spec.model_fields[part].annotation
        groups = [member for member in (annotation, *get_args(annotation)) if _is_spec(member)]
        if not groups:
            return False
        spec = groups[0]
    return True


def _is_spec(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Spec)


def _suggest_setting(path: str, known: list[str]) -> str:
    if longer := [name for name in known if name.startswith(f"{path}_")]:
        return f" Did you mean {longer[0]}?"  # train.keep is train.keep_last
    meant = _meant_by(path, known)
    return f" Did you mean {meant}?" if meant else suggestion(path, known)


def _meant_by(path: str, known: list[str]) -> str:
    """What a wrong path or its last part is called here: a setting or an option; "" if unknown."""
    leaf = path.rpartition(".")[2]
    if other := _OTHER_NAMES.get(path) or _OTHER_NAMES.get(leaf):
        return other
    if same_leaf := [name for name in known if name.rpartition(".")[2] == leaf]:
        return " or ".join(same_leaf)
    # The many names of the batch size resemble other settings more than train.batch_size.
    return _OTHER_NAMES["batch"] if "batch" in leaf else ""


def _defaults(path: list[str], type_name: object) -> dict[str, Any]:
    """Returns the defaults of the part of a recipe at `path` for another type.

    Raises UsageError when there is no such type.
    """
    *parents, part = path
    spec: Any = Recipe
    for parent in parents:
        spec = spec.model_fields[parent].annotation
    try:
        values = spec.model_validate({part: {"type": type_name}}).model_dump(mode="json")
    except ValidationError as error:
        raise UsageError("".join(f"{parent}." for parent in parents) + readable(error)) from None
    defaults: dict[str, Any] = values[part]
    return defaults


def _parse(text: str, old: Any) -> Any:
    if text.lower() == "none":
        return None
    height, x, width = text.partition("x")
    if x and height.isdigit() and width.isdigit() and not isinstance(old, str):  # a "7x7" stem
        return [int(height), int(width)]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # text, or a number or nesting beyond Python's limits
        return text


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
