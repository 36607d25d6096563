"""Changes a recipe by paths ("train.steps=100"), and converts it to and from JSON."""

import difflib
import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.base import Spec
from perpixel.recipes.schema import Recipe

_OTHER_NAMES = {
    "augment.cat_max_ratio": "max_class_share",
    "augment.crop_attempts": "crop_tries",
    "augment.enabled=false": "augmentation no_augment",
    "augment.crop_size": "image_size img_size imgsz",
    "augment.crop_size, or inference.window_size": "crop",
    "augment.flip_prob": "fliplr hflip horizontal_flip",
    "augment.rotate90_prob": "random_rotate90 rot90",
    "augment.vertical_flip_prob": "flipud vflip",
    "classes in a folder's dataset.toml": "num_classes",
    "evaluate.every": "eval_interval eval_steps val_interval",
    "evaluate.patience": "early_stop early_stopping early_stopping_patience",
    "ignored_ids in a folder's dataset.toml": "ignore_index",
    "inference.mode": "windows",
    "loss.avg_non_ignore": "loss.mean",
    "loss.class_weights": "weight",
    "model.aux_head": "auxiliary",
    "model.backbone": "encoder",
    "model.backbone.drop_path": "drop_path_rate stochastic_depth",
    "train.norm_eval": "norm_eval",
    "model.backbone.name, of model.backbone.type=timm, or model.backbone.depth": "encoder_name",
    "model.head.channels": "width",
    "optimizer.layer_decay": "decay_rate layer_decay_rate lr_decay_rate",
    "optimizer.lr": "base_lr learning_rate lr0",
    "optimizer.name": "optimizer.algorithm optimizer.kind optimizer.type",
    "schedule.min_lr": "floor",
    "schedule.warmup_from": "warmup_ratio",
    "the option --data": "data_root",
    "the option --device": "device",
    "the option --init": "encoder_weights load_from",
    "the option --out": "output_dir work_dir",
    "the option --resume": "resume_from",
    "the option --workers": "workers",
    "train.batch_size (of all ranks)": ("batch bs images_per_gpu images_per_step samples_per_gpu"),
    "train.final_phase": "finish",
    "train.final_phase.fraction": "share",
    "train.freeze": "freeze_at freeze_backbone freeze_encoder frozen_stages",
    "train.grad_accum_steps": "accumulate",
    "train.max_corrupt_fraction": "max_damaged",
    "train.max_nonfinite_steps": "max_skipped",
    "train.precision": "amp",
    "train.steps": "iterations iters max_iters max_steps num_steps",
    "train.epochs, or the option --epochs": "epochs max_epochs num_epochs num_train_epochs",
    "type, as in model.backbone.type": "kind",
}
"""Names here, and those in other toolkits and in version 0.1, by path or its last part."""

_NAME_HERE = {other: name for name, others in _OTHER_NAMES.items() for other in others.split()}


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
        if path.strip() == "train.steps":
            values["train"]["epochs"] = None  # which would replace it
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
    before, after = flat_settings(old), flat_settings(new)
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def flat_settings(spec: Spec) -> dict[str, Any]:
    """Returns every setting by its path, as "train.steps"."""
    return _flatten(spec.model_dump(mode="json"))


def list_settings(recipe: Recipe, text: str) -> list[str]:
    """Lists the settings that begin with `text`, as "path=".

    One alone whose type lists its values is "path=value" for each of them.
    """
    paths = [path for path in flat_settings(recipe) if path.startswith(text)]
    path = paths[0] if len(paths) == 1 else text.partition("=")[0]
    values: dict[object, None] = {}
    for annotation in _annotations(path.split(".")):
        if get_origin(annotation) is Literal:
            values |= dict.fromkeys(get_args(annotation))
        elif annotation is bool:
            values |= {"false": None, "true": None}
    return [f"{path}={value}" for value in values] or [f"{path}=" for path in paths]


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
                + (
                    _suggest_type(parents[:depth], part)
                    or _suggest_setting(path, sorted(_flatten(values)))
                )
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
    return any(map(_is_spec, _annotations(path)))


def _annotations(path: list[str]) -> list[Any]:
    """Returns the types of a setting and all that they are made of, as int and None of int | None;
    of alternatives such as the backbones, those of each."""
    types: list[Any] = [Recipe]
    for part in path:
        specs = [spec for spec in types if _is_spec(spec) and part in spec.model_fields]
        annotations = [spec.model_fields[part].annotation for spec in specs]
        types = [member for annotation in annotations for member in _members(annotation)]
    return types


def _members(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _members(part)


def _is_spec(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Spec)


def _suggest_type(parents: list[str], part: str) -> str:
    """Returns the types that have the setting where the group's own type has not, or nothing."""
    specs = [spec.model_fields for spec in _annotations(parents) if _is_spec(spec)]
    types = [
        name
        for fields in specs
        if part in fields and "type" in fields
        for name in get_args(fields["type"].annotation)
    ]
    return f" Set {'.'.join(parents)}.type={' or '.join(types)} first." if types else ""


def _suggest_setting(path: str, known: list[str]) -> str:
    leaf = path.rpartition(".")[2]
    if longer := [name for name in known if name.startswith(f"{path}_")]:
        return f" Did you mean {longer[0]}?"  # train.keep is train.keep_last
    if meant := _NAME_HERE.get(path) or _NAME_HERE.get(leaf):
        return f" Did you mean {meant}?"
    if same_leaf := [name for name in known if name.rpartition(".")[2] == leaf]:
        return f" Did you mean {' or '.join(same_leaf)}?"
    if "batch" in leaf:  # its many names resemble other settings more than train.batch_size
        return f" Did you mean {_NAME_HERE['batch']}?"
    return suggestion(path, known)


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
