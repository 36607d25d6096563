"""From whatever names a model to its checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from perpixel import conversion
from perpixel.checkpoints import hub
from perpixel.checkpoints.format import Checkpoint, read_checkpoint, write_checkpoint
from perpixel.conversion import files
from perpixel.conversion.detect import backbone_weights
from perpixel.conversion.import_ import import_checkpoint
from perpixel.errors import PerpixelError, UsageError
from perpixel.io import download
from perpixel.models.timm_backbone import pretrained_weights
from perpixel.recipes import recipe as recipe_called
from perpixel.recipes import recipes
from perpixel.recipes.models import Timm
from perpixel.recipes.overrides import suggestion
from perpixel.recipes.published import hash_in_name
from perpixel.recipes.schema import Recipe

_FAMILIES = {name.partition("/")[0] for name in recipes()}
"""The first parts of recipes' names; a wrong name of such a kind is not looked for on the Hub."""


@dataclass(frozen=True)
class FetchResult:
    """A published checkpoint made ours. `sha256` is the whole hash of what was downloaded.

    `verified` says whether its source publishes a hash, which it then has; `note` where the
    classes' names are from.
    """

    path: Path
    sha256: str
    verified: bool
    note: str


def find(source: str | Path) -> Checkpoint:
    """The checkpoint of a file, of a run folder (its final weights, else its best so far), or of a
    recipe whose published weights were fetched, or of OWNER/NAME or OWNER/NAME@REVISION on the
    Hugging Face Hub.

    Raises UsageError when `source` names nothing, PerpixelError when a file cannot be read.
    """
    path, name = Path(source), str(source)
    if path.is_dir():
        return read_checkpoint(_of_run(path))
    if path.is_file():
        return read_checkpoint(path)
    if name in recipes():
        kept = fetched_path(name)
        if kept.is_file():
            return read_checkpoint(kept)
        get = ""
        if recipe_called(name).published.weights_url is not None:
            get = f"get its published weights with `perpixel zoo fetch {name}`, or "
        raise PerpixelError(
            f"{name} is a recipe without a checkpoint here: {get}train it with `perpixel train "
            f"{name} --data ROOT --out RUN` and name that run folder"
        )
    nothing = f"{name}: no such run folder, checkpoint file or recipe here."
    nothing += suggestion(name, recipes())
    repository, _, revision = name.partition("@")
    if name.partition("/")[0] not in _FAMILIES and hub.is_repository(repository):
        try:
            return read_checkpoint(hub.download(repository, revision=revision or None))
        except PerpixelError as error:
            raise PerpixelError(f"{nothing} As a name on the Hugging Face Hub: {error}") from None
    raise UsageError(nothing)


def fetched_path(name: str) -> Path:
    """Where the recipe's fetched checkpoint is kept, below PERPIXEL_CACHE."""
    return download.cache_folder() / "models" / f"{name}.safetensors"


def fetch(name: str, *, out: Path | None = None) -> FetchResult:
    """Downloads the weights that a recipe's source publishes and makes a checkpoint of them.

    It must be the recipe's model, name by name and shape by shape. It is written to `out`, or
    where `find(name)` looks. Raises UsageError for an unknown name, PerpixelError otherwise.
    """
    recipe = recipe_called(name)
    path, url = out or fetched_path(name), recipe.published.weights_url
    if url is None:
        raise PerpixelError(
            f"{name}: its source publishes no weights; train it with `perpixel train {name} "
            f"--data ROOT --out RUN`"
        )
    if url.startswith("https://drive.google.com/"):
        raise PerpixelError(
            f"{name}: Google Drive hands its weights to browsers only. Open {url}, and make a "
            f"checkpoint of the file: `perpixel convert FILE {path} --recipe {name}`"
        )
    sha256 = hash_in_name(url)
    file = download.fetch(url, sha256=sha256 or "")
    try:
        imported = import_checkpoint(file, recipe=recipe)
    except PerpixelError as error:
        if sha256 is not None:
            raise
        raise PerpixelError(
            f"{error}\nNo hash is published to check it by: delete it to download it again"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):  # two may fetch it at once
        write_checkpoint(path, imported.checkpoint)
    return FetchResult(path, download.hash_of(file), sha256 is not None, imported.note)


def initial_weights(recipe: Recipe, init: str | Path | None) -> Mapping[str, Tensor] | None:
    """Weights, by our names, for a training of `recipe` to start from; None for random ones.

    init: None for what the recipe names, "none" for nothing, or a run folder, our checkpoint or
    another toolkit's file, be it a whole model or an ImageNet backbone; "timm" for what timm
    publishes for the recipe's timm backbone. Raises PerpixelError.
    """
    if init == "timm":
        if not isinstance(recipe.model.backbone, Timm):
            raise UsageError("--init timm: the recipe's backbone is none of timm's")
        return pretrained_weights(recipe.model.backbone)
    named = recipe.train.pretrained
    if init is None and named is not None:
        try:
            init = download.fetch(named.url, sha256=named.sha256)
        except PerpixelError as error:
            raise PerpixelError(f"{error}; or train without it (--init none)") from None
    if init is None or init == "none":
        return None
    path = Path(init)
    if files.is_ours(path) or not path.is_file():
        return find(init).weights
    state = files.read_source(path).state
    try:
        return backbone_weights(state) or conversion.find(state, like=recipe.model).weights
    except PerpixelError as error:
        raise PerpixelError(f"{path}: {error}") from None


def _of_run(folder: Path) -> Path:
    for path in (
        folder / "checkpoints" / "model.safetensors",
        folder / "checkpoints" / "best.safetensors",
        folder / hub.WEIGHTS,  # as `save_pretrained` leaves it
    ):
        if path.is_file():
            return path
    if seeds := sorted(folder.glob("seed-*")):
        raise UsageError(
            f"{folder} holds {len(seeds)} runs, one of each seed: name one of them, as {seeds[0]}; "
            f"seeds.json says which is the best, once all are trained"
        )
    raise PerpixelError(
        f"{folder}: no checkpoints/model.safetensors or checkpoints/best.safetensors there; is it "
        f"a run folder, and has the run come to its first evaluation?"
    )
