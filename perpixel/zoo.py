"""From whatever names a model to its checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from perpixel import conversion, download
from perpixel.checkpoint import Checkpoint, read_checkpoint
from perpixel.conversion import backbone, files
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes import recipes
from perpixel.recipes.settings import suggestion
from perpixel.recipes.spec import Recipe


def find(source: str | Path) -> Checkpoint:
    """The checkpoint of a file, or of a run folder: its final weights, else its best so far.

    Raises UsageError when `source` names nothing, PerpixelError when a file cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        return read_checkpoint(_of_run(path))
    if path.is_file():
        return read_checkpoint(path)
    if str(source) in recipes():
        raise PerpixelError(
            f"{source} is a recipe without a checkpoint here: train it with `perpixel train "
            f"{source} --data ROOT --out RUN` and name that run folder"
        )
    raise UsageError(
        f"{source}: no such run folder, checkpoint file or recipe."
        + suggestion(str(source), recipes())
    )


def initial_weights(recipe: Recipe, init: str | Path | None) -> Mapping[str, Tensor] | None:
    """Weights, by our names, for a training of `recipe` to start from; None for random ones.

    init: None for what the recipe names, "none" for nothing, or a run folder, our checkpoint or
    another toolkit's file, be it a whole network or an ImageNet backbone. Raises PerpixelError.
    """
    if init == "none" or (init is None and recipe.train.init is None):
        return None
    if init is None:
        assert recipe.train.init is not None
        init = download.fetch(recipe.train.init.url, sha256=recipe.train.init.sha256)
    path = Path(init)
    if files.is_ours(path) or not path.is_file():
        return find(init).weights
    state = files.read_source(path).state
    try:
        if backbone.is_backbone(state):
            return backbone.backbone_weights(state)
        return conversion.find(state, like=recipe.model).weights
    except PerpixelError as error:
        raise PerpixelError(f"{path}: {error}") from None


def _of_run(folder: Path) -> Path:
    for name in ("model", "best"):
        path = folder / "checkpoints" / f"{name}.safetensors"
        if path.is_file():
            return path
    raise PerpixelError(
        f"{folder}: no checkpoints/model.safetensors or checkpoints/best.safetensors there; is it "
        f"a run folder, and has the run come to its first evaluation?"
    )
