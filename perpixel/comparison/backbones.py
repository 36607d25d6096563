"""A recipe with other backbones, and what refuses them before the first training."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from perpixel.checkpoints import zoo
from perpixel.data.dataset import Dataset, read_pair
from perpixel.data.registry import with_dataset_input
from perpixel.errors import PerpixelError, UsageError, plural
from perpixel.models.timm_backbone import (
    check_sizes,
    pretrained_source,
    published_family,
    require_name,
)
from perpixel.profiling.flops import Count, count
from perpixel.recipes.base import Size
from perpixel.recipes.models import Backbone, Timm
from perpixel.recipes.overrides import differences, load, override
from perpixel.recipes.published import imagenet
from perpixel.recipes.schema import Download, Input, Recipe
from perpixel.training.checkpoint import list_checkpoints
from perpixel.training.train import (
    check_random_weights_are_trained,
    check_trainable,
    input_sizes,
)

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
"""The names that mean perpixel's own ResNets; all others are timm's."""


def with_backbone(recipe: Recipe, name: str, *, pretrained: bool) -> Recipe:
    """Returns the recipe with another backbone at the same output stride.

    name: one of RESNETS, or a name of timm's. What the recipe sets for its own backbone stays
    where the other one is of the same type, such as a ResNet's stem, except
    `as_published` where timm's model is the published one. With
    `pretrained` the run starts from the backbone's published ImageNet weights, and `input` is
    theirs. Raises UsageError for a name or a combination that there is not, and where no such
    weights are published.
    """
    if name not in RESNETS:
        require_name(name, known=RESNETS)
    own = recipe.model.backbone
    if isinstance(own, Timm) and own.as_published and published_family(name) is None:
        recipe = override(recipe, ["model.backbone.as_published=false"])
    changed = override(
        recipe,
        [
            f"model.backbone.type={'resnet' if name in RESNETS else 'timm'}",
            f"model.backbone.output_stride={own.output_stride}",
            f"model.backbone.depth={name.removeprefix('resnet')}"
            if name in RESNETS
            else f"model.backbone.name={name}",
        ],
    )
    if not pretrained:
        return override(changed, ["train.pretrained=none"])
    backbone = changed.model.backbone
    if backbone == own and isinstance(recipe.train.pretrained, Download):
        return changed
    mean, std = _normalization(backbone)
    return override(
        changed,
        [
            "train.pretrained=imagenet",
            f"input.mean={[*mean]}",
            f"input.std={[*std]}",
            "input.channel_order=rgb",
        ],
    )


def _normalization(backbone: Backbone) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and std of the backbone's ImageNet weights, of 0..255 values."""
    try:
        if isinstance(backbone, Timm):
            _, normalization = pretrained_source(backbone)
            return normalization["mean"], normalization["std"]
        imagenet(backbone)
    except UsageError:
        raise UsageError(
            "no ImageNet weights are published for it; --init none trains all from random weights"
        ) from None
    return Input().mean, Input().std


def plan(
    recipe: Recipe,
    names: Sequence[str],
    *,
    pretrained: bool,
    train_dataset: Dataset,
    eval_dataset: Dataset,
    size: Size,
) -> dict[str, tuple[Recipe, Count]]:
    """Returns the recipe of each backbone, and the counts of its model at `size`.

    Nothing is trained or downloaded; models are built on PyTorch's meta device. Raises UsageError
    that names all backbones which the recipe cannot have, and why.
    """
    image, _ = read_pair(eval_dataset, 0)
    num_classes = len(train_dataset.classes)
    planned: dict[str, tuple[Recipe, Count]] = {}
    problems: dict[str, PerpixelError] = {}
    for name in names:
        try:
            changed = with_backbone(recipe, name, pretrained=pretrained)
            changed = with_dataset_input(changed, train_dataset).with_steps(len(train_dataset))
            backbone = changed.model.backbone
            if isinstance(backbone, Timm):
                sizes = [*input_sizes(changed, (image.shape[0], image.shape[1])), size]
                check_sizes(backbone, dict.fromkeys(sizes))
            check_trainable(changed, num_classes)
            if not pretrained:
                check_random_weights_are_trained(changed)
            planned[name] = changed, count(changed.model, num_classes=num_classes, size=size)
        except UsageError as error:
            problems[name] = error
    _refuse(problems, total=len(names))
    return planned


def check_folder(out: Path, planned: Mapping[str, tuple[Recipe, Count]]) -> None:
    """Raises UsageError where the folder holds runs that the table would leave out, or of another
    recipe, whose table would be replaced."""
    there = {file.parent.name: file for file in sorted(out.glob("*/recipe.json"))}
    if others := [name for name in there if name not in planned]:
        raise UsageError(
            f"{out} also holds {plural(len(others), 'run')}, which the table would leave out "
            f"({', '.join(others)}): name them with --backbones, too, or another folder with --out"
        )
    for name, file in there.items():
        run = load(file.read_text(), origin=str(file))
        if changes := differences(run, planned[name][0]):
            raise UsageError(
                f"{file.parent} is a run with other settings (there -> now): {'; '.join(changes)}. "
                f"Name another folder with --out"
            )


def fetch_weights(recipes: Iterable[tuple[Recipe, Path]]) -> None:
    """Downloads the initial weights of those runs that have not begun, so that none waits for them.

    Each run is its recipe and its folder. Raises PerpixelError that names all backbones whose
    weights cannot be had.
    """
    problems, total = {}, 0
    for recipe, folder in recipes:
        total += 1
        if recipe.train.pretrained is not None and not list_checkpoints(folder / "checkpoints"):
            try:
                zoo.initial_weights(recipe, None)
            except PerpixelError as error:
                problems[folder.name] = error
    _refuse(problems, total=total)


def _refuse(problems: dict[str, PerpixelError], *, total: int) -> None:
    if problems:
        wrong = all(isinstance(error, UsageError) for error in problems.values())
        lines = "".join(f"\n  {name}: {error}" for name, error in problems.items())
        raise (UsageError if wrong else PerpixelError)(
            f"nothing was trained, as {len(problems)} of {plural(total, 'backbone')} cannot be "
            f"compared:{lines}"
        )
