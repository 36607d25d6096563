"""From whatever names a model to its checkpoint."""

from pathlib import Path

from perpixel.checkpoint import Checkpoint, read_checkpoint
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes import recipes
from perpixel.recipes.settings import suggestion


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


def _of_run(folder: Path) -> Path:
    for name in ("model", "best"):
        path = folder / "checkpoints" / f"{name}.safetensors"
        if path.is_file():
            return path
    raise PerpixelError(
        f"{folder}: no checkpoints/model.safetensors or checkpoints/best.safetensors there; is it "
        f"a run folder, and has the run come to its first evaluation?"
    )
