"""Finds, fetches and reads the checkpoint of a run, a file, a recipe or a Hub repository."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from perpixel.checkpoints import hub
from perpixel.checkpoints.format import (
    Checkpoint,
    InitialWeights,
    read_checkpoint,
    write_checkpoint,
)
from perpixel.conversion import files
from perpixel.conversion.caffe import has_head, trunk_weights
from perpixel.conversion.detect import backbone_weights, is_published_model, is_toolkit_model
from perpixel.conversion.import_ import import_checkpoint
from perpixel.errors import PerpixelError, UsageError, plural
from perpixel.io import download
from perpixel.io.atomic import atomic_write
from perpixel.models.build import build
from perpixel.models.timm_backbone import pretrained_source
from perpixel.recipes import recipe as recipe_called
from perpixel.recipes import recipes
from perpixel.recipes.models import (
    VGG16,
    CaffeNet,
    FCNSkip,
    Model,
    ResNet,
    Timm,
    method_name,
)
from perpixel.recipes.overrides import differences, suggestion
from perpixel.recipes.published import hash_in_name, imagenet
from perpixel.recipes.schema import Download, Recipe
from perpixel.recipes.shipped import REPLACED, SHIPPED

_REPOSITORY = Path(__file__).parents[2]
"""Where the package lies in a checkout: the folder that holds `benchmarks`."""

_TORCHVISION_VGG16 = "397923af"
"""The first digits of the sha256 of vgg16-397923af.pth."""

_FAMILIES = {name.partition("/")[0] for name in recipes()}
"""The parts of recipes' names before the slash; the Hub is not asked for a misspelled recipe."""


@dataclass(frozen=True)
class FetchResult:
    """A recipe's checkpoint, at `path`: shipped, or published, converted and written there.

    `sha256` is the hash of the downloaded file; `verified` says whether its source publishes one to
    compare it with; `note` says how it fits the recipe and where the classes' names come from.
    """

    path: Path
    sha256: str
    verified: bool
    note: str


def find(source: str | Path) -> Checkpoint:
    """Reads the checkpoint that `source` names.

    It is a checkpoint file, a run folder (its best weights), a recipe whose weights are shipped or
    were fetched, or OWNER/NAME or OWNER/NAME@REVISION on the Hugging Face Hub. Raises UsageError
    when it is none of these, PerpixelError when a file cannot be read.
    """
    path, name = Path(source), str(source)
    if path.is_dir():
        return read_checkpoint(_find_in_run(path))
    if path.is_file():
        if path.suffix in (".onnx", ".pt2"):
            raise UsageError(
                f"{path}: an exported file, and no checkpoint; `perpixel predict` and `perpixel "
                f"serve` take .onnx files, everything else the model that was exported"
            )
        if path.suffix not in (".safetensors", "") and not files.is_ours(path):
            raise UsageError(
                f"{path}: no perpixel checkpoint; another toolkit's file becomes one by "
                f"`perpixel convert {path} OUT.safetensors`"
            )
        return read_checkpoint(path)
    if name in recipes():
        fetched = _shipped_path(name) or fetched_path(name)
        if name in REPLACED and not fetched.is_file():
            message = f"{name} ships no weights any more: {REPLACED[name]}, which has, is used"
            print(message, file=sys.stderr, flush=True)
            return find(REPLACED[name])
        if fetched.is_file():
            return read_checkpoint(fetched)
        advice = f"train it with `perpixel train {name} --data ROOT --out RUN` and name RUN"
        if recipe_called(name).published.weights_url is not None:
            advice = f"get its published weights with `perpixel zoo fetch {name}`, or {advice}"
        raise PerpixelError(f"{name} is a recipe without a checkpoint here: {advice}")
    unknown = f"{name}: no such run folder, checkpoint file or recipe here."
    unknown += suggestion(name, recipes())
    repository, _, revision = name.partition("@")
    if name.partition("/")[0] not in _FAMILIES and hub.is_repository(repository):
        try:
            return read_checkpoint(hub.download(repository, revision=revision or None))
        except PerpixelError as error:
            raise PerpixelError(f"{unknown} As a name on the Hugging Face Hub: {error}") from None
    raise UsageError(unknown)


def fetched_path(name: str) -> Path:
    """Returns the path of the recipe's fetched checkpoint, in the cache folder."""
    return download.cache_folder() / "models" / f"{name}.safetensors"


def _shipped_path(name: str) -> Path | None:
    """Returns the path of the weights that ship under a recipe's name; None where there are none.

    In a checkout that is the repository's own file, else one that is downloaded once.
    """
    shipped = SHIPPED.get(name)
    if shipped is None:
        return None
    own = _REPOSITORY / shipped.path
    if own.is_file() and download.hash_of(own) == shipped.sha256:
        return own
    return download.fetch(shipped.url, sha256=shipped.sha256)


def fetch(name: str, *, out: Path | None = None) -> FetchResult:
    """Downloads the weights that ship under a recipe's name, or that its source publishes.

    The latter are converted to a checkpoint; all names and shapes must be those of the recipe's
    model. The checkpoint is written to `out`, by default to where `find(name)` looks. Raises
    UsageError for an unknown name, else PerpixelError.
    """
    recipe = recipe_called(name)
    if shipped := _shipped_path(name):
        if out is not None:
            atomic_write(out, shipped.read_bytes())
        return FetchResult(out or shipped, SHIPPED[name].sha256, True, SHIPPED[name].note)
    path, url = out or fetched_path(name), recipe.published.weights_url
    if url is None:
        raise PerpixelError(
            f"{name}: its source publishes no weights; train it with `perpixel train {name} "
            f"--data ROOT --out RUN`"
        )
    if url.startswith("https://drive.google.com/"):
        raise PerpixelError(
            f"{name}: Google Drive gives its weights to browsers only. Open {url}, and convert the "
            f"file: `perpixel convert FILE {path} --recipe {name}`"
        )
    sha256, sha1 = hash_in_name(url), recipe.published.weights_sha1
    file = download.fetch(url, sha256=sha256 or "", sha1=sha1 or "")
    verified = sha256 is not None or sha1 is not None
    backbone = None
    if name.startswith("linear/"):  # its file is the head alone
        backbone = _imagenet_weights(recipe).weights
    try:
        imported = import_checkpoint(file, recipe=recipe, backbone=backbone)
    except PerpixelError as error:
        if verified:
            raise
        raise PerpixelError(
            f"{error}\nIts source publishes no hash to verify it: delete it to download it again"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):  # two processes may fetch it at once
        write_checkpoint(path, imported.checkpoint)
    note = f"All names and shapes match the recipe's model. {imported.note}"
    return FetchResult(path, download.hash_of(file), verified, note)


def initial_weights(recipe: Recipe, init: str | Path | None) -> InitialWeights | None:
    """Reads the weights, by our names, that a training of `recipe` starts from; None for random.

    init: None for what the recipe says, "none" for random ones, "imagenet" for the backbone's from
    torchvision or timm, a run folder, a checkpoint, or another toolkit's file (a whole model or a
    backbone). Raises PerpixelError.
    """
    if init == "imagenet" or (init is None and recipe.train.pretrained is not None):
        try:
            return _imagenet_weights(recipe)
        except PerpixelError as error:
            advice = "or train with --init FILE, or from random weights with --init none"
            raise type(error)(f"{error}; {advice}") from None
    head = recipe.model.head
    if init is None and isinstance(head, FCNSkip) and head.starts_from_a_stage:
        raise UsageError(
            f"{method_name(head)} trained in stages starts from a run or checkpoint of "
            f"FCN-{2 * head.stride}s: name it with --init, or train from random weights with "
            f"--init none"
        )
    if init is None or init == "none":
        return None
    path = Path(init)
    if _is_foreign(path) and (backbone_only := _backbone_in(path, recipe.model, name=path.name)):
        return replace(backbone_only, lines=(*backbone_only.lines, *_other_input(recipe)))
    checkpoint, lines = _read_model(init, like=recipe.model, dataset=recipe.data.name)
    theirs = checkpoint.recipe.model.head
    if isinstance(head, FCNSkip) and isinstance(theirs, FCNSkip) and head.starts_from_a_stage:
        before = f"FCN-{2 * head.stride}s"
        if method_name(theirs) != before:
            lines.append(
                f"{method_name(head)} usually starts from {before}, not {method_name(theirs)}"
            )
    elif changes := differences(recipe.model, checkpoint.recipe.model):
        lines.append(
            f"their model is another (recipe -> there): {'; '.join(changes)}; --model-from "
            f"{init} takes theirs"
        )
    if changes := differences(recipe.input, checkpoint.recipe.input):
        lines.append(f"their input is another (recipe -> there): {'; '.join(changes)}")
    name = path.resolve().name if path.exists() else str(init)
    origin = f"{name} (sha256 {download.hash_of(checkpoint.origin or path)})"
    return InitialWeights(checkpoint.weights, origin, checkpoint.class_names, tuple(lines))


def _imagenet_weights(recipe: Recipe) -> InitialWeights:
    """Downloads the backbone's file of ImageNet weights, once, and reads it."""
    backbone, chosen = recipe.model.backbone, recipe.train.pretrained
    lines = []
    if isinstance(backbone, Timm) and not isinstance(chosen, Download):
        source, _ = pretrained_source(backbone)
        sha256 = hash_in_name(source)
        path = download.fetch(source, sha256=sha256) if sha256 else hub.download(source)
        name = path.name if sha256 else source
        lines += _other_input(recipe)
    else:
        file = chosen if isinstance(chosen, Download) else imagenet(backbone)
        path = download.fetch(file.url, sha256=file.sha256)
        name = path.name
    weights = _backbone_in(path, recipe.model, name=name)
    assert weights is not None  # none of these files is a whole model of ours
    return replace(weights, lines=(*weights.lines, *lines))


def backbone_file(path: Path, model: Model) -> Mapping[str, Tensor]:
    """Reads the weights of a model's backbone, by our names, from a file of them."""
    weights = _backbone_in(path, model, name=path.name)
    if weights is None:
        raise UsageError(f"{path}: a whole model, and not a backbone's file")
    return weights.weights


def _other_input(recipe: Recipe) -> list[str]:
    """A line where ImageNet weights of a timm backbone expect another input than the recipe's."""
    if not isinstance(recipe.model.backbone, Timm):
        return []
    try:
        _, expected = pretrained_source(recipe.model.backbone)
    except UsageError:  # timm publishes none, and says nothing about their input
        return []
    if changes := differences(recipe.input, recipe.input.model_copy(update=expected)):
        return [
            f"as ImageNet weights they expect another input (recipe -> there): {'; '.join(changes)}"
            f"; to take theirs: --set input.mean={[*expected['mean']]} "
            f"--set input.std={[*expected['std']]}"
        ]
    return []


def with_model_of(source: str | Path, recipe: Recipe) -> Recipe:
    """Returns the recipe with the model and the input of a run, a checkpoint or a toolkit's file.

    What a toolkit's file does not tell is as in `recipe`. Raises PerpixelError.
    """
    theirs = _read_model(source, like=recipe.model)[0].recipe
    return recipe.model_copy(update={"model": theirs.model, "input": theirs.input})


def _is_foreign(path: Path) -> bool:
    return path.is_file() and not files.is_ours(path)


def _read_model(
    source: str | Path, *, like: Model, dataset: str | None = None
) -> tuple[Checkpoint, list[str]]:
    """Reads what `find` does, or another toolkit's whole model; and lines about that.

    What a toolkit's file does not tell is as in `like`; if it names no classes, and has as many
    outputs as `dataset`, they are those of `dataset`.
    """
    if not _is_foreign(Path(source)):
        return find(source), []
    imported = import_checkpoint(Path(source), like=like, dataset_if_unnamed=dataset)
    lines = imported.note.splitlines()
    head = imported.finding.model.head
    if imported.finding.toolkit.name == "caffe" and method_name(head) == "FCN-8s":
        assert isinstance(head, FCNSkip)
        kind = "in stages" if head.starts_from_a_stage else "at once"
        lines.append(f"taken for an FCN-8s trained {kind}, as the recipe's or by its own layers")
    return imported.checkpoint, lines


def _backbone_in(path: Path, model: Model, *, name: str) -> InitialWeights | None:
    """Reads a backbone's weights from another toolkit's file; None for a whole model of ours."""
    source = files.read_source(path)
    is_caffe = isinstance(model.backbone, VGG16 | CaffeNet)
    if is_caffe and has_head(source.state):
        return None
    if isinstance(model.backbone, ResNet) and is_toolkit_model(source.state):
        return None
    if isinstance(model.backbone, Timm) and is_published_model(source.state):
        return None
    with torch.device("meta"):
        expected = build(model, num_classes=1).backbone.state_dict()
    try:
        if is_caffe:
            weights, left_out = trunk_weights(source.state, expected)
        else:
            timm_name = model.backbone.name if isinstance(model.backbone, Timm) else ""
            weights, left_out = backbone_weights(source.state, expected, timm_name)
    except PerpixelError as error:
        raise PerpixelError(f"{path}: {error}") from None
    lines = [source.note] if source.note else []
    if is_caffe and "features.0.weight" in source.state:
        if download.hash_of(path).startswith(_TORCHVISION_VGG16):
            raise PerpixelError(
                f"{path}: torchvision's VGG-16 expects other channels and another scale than "
                f"Caffe's, and trains to some 5 mIoU less (pytorch-fcn's issue 84): name "
                f"VGG_ILSVRC_16_layers.caffemodel or pytorch-fcn's vgg16_from_caffe.pth"
            )
        lines.append("taken for Caffe's VGG-16 under torchvision's names, as vgg16_from_caffe.pth")
    if left_out:
        shown = ", ".join(left_out[:8]) + (", ..." if len(left_out) > 8 else "")
        lines.append(f"left out of it, {plural(len(left_out), 'tensor')}: {shown}")
    origin = f"{name} (sha256 {download.hash_of(path)})"
    return InitialWeights(weights, origin, lines=tuple(lines))


def _find_in_run(folder: Path) -> Path:
    for path in (
        folder / "checkpoints" / "best.safetensors",
        folder / "checkpoints" / "model.safetensors",  # the final weights
        folder / hub.WEIGHTS,  # written by `save_pretrained`
    ):
        if path.is_file():
            return path
    if seeds := sorted(folder.glob("seed-*")):
        raise UsageError(
            f"{folder} holds {plural(len(seeds), 'run')}, one per seed: name one of them, such as "
            f"{seeds[0]}; seeds.json says which is the best once all are trained"
        )
    raise PerpixelError(
        f"{folder}: no checkpoints/best.safetensors or checkpoints/model.safetensors there; is it "
        f"a run folder, and has the run reached its first evaluation?"
    )
