"""The recipe and data root of a run, in its folder, so that it can be resumed from there alone."""

from pathlib import Path

from pydantic import ValidationError

from perpixel.errors import PerpixelError
from perpixel.io.atomic import atomic_write
from perpixel.recipes import overrides
from perpixel.recipes.base import Spec
from perpixel.recipes.schema import Recipe

_RECIPE, _RUN = "recipe.json", "run.json"


class _Run(Spec):
    """Facts of the machine, which no recipe holds; `data` None: built in, or objects in Python."""

    data: str | None


def write_run_files(out: Path, recipe: Recipe, *, data_root: Path | None) -> None:
    """Writes recipe.json and run.json into the run folder `out`; raises PerpixelError."""
    atomic_write(out / _RECIPE, overrides.dump(recipe).encode())
    run = _Run(data=None if data_root is None else str(data_root.absolute()))
    atomic_write(out / _RUN, run.model_dump_json(indent=2).encode())


def read_recipe(out: Path) -> Recipe:
    """Reads the recipe of the run in `out`; raises PerpixelError when there is none."""
    path = out / _RECIPE
    if not path.is_file():
        raise PerpixelError(
            f"{path}: no such file, so there is no run to resume; name a RECIPE to start one"
        )
    return overrides.load(path.read_text(), origin=str(path))


def read_data_root(out: Path) -> Path | None:
    """Reads where the data set of the run in `out` was; None when it is not recorded.

    Raises PerpixelError when it is not there now.
    """
    path = out / _RUN
    if not path.is_file():  # a run of version 0.2 or before
        return None
    try:
        data = _Run.model_validate_json(path.read_bytes()).data
    except ValidationError as error:
        problem = f"not what a run records: {overrides.readable(error)}"
    else:
        if data is None or Path(data).exists():
            return None if data is None else Path(data)
        problem = f"the run's data set was in {data}, which does not exist now"
    raise PerpixelError(f"{path}: {problem}; name the data set's folder with --data")
