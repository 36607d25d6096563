"""Writes a run's rows to TensorBoard, Weights & Biases and MLflow, too."""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from perpixel.errors import PerpixelError, needs_extra
from perpixel.io.atomic import mute_logger
from perpixel.recipes.overrides import flat_settings, require_known
from perpixel.recipes.schema import Recipe

Row = Mapping[str, float | int]
Write = Callable[[Row], None]


@contextmanager
def open_loggers(
    names: Collection[str], folder: Path, recipe: Recipe, *, first_step: int, quiet: bool
) -> Iterator[Callable[[Row], list[str]]]:
    """Context for the run in `folder`; yields a function that gives a row to the loggers `names`.

    `first_step` is the step of the checkpoint that the run resumes from, or 0. A logger that fails
    later, such as one whose server is gone, gets no more rows, which the function returns in words.
    Raises PerpixelError when one is unknown, not installed or fails at once.
    """
    writers: dict[str, Write] = {}

    def write(row: Row) -> list[str]:
        failures = []
        for name, write_row in list(writers.items()):
            try:
                write_row(row)
            except Exception as error:  # of whatever kind the library raises
                del writers[name]
                failures.append(f"--{name} failed and gets no more rows: {error}")
        return failures

    with ExitStack() as stack:
        for name in names:
            require_known(name, _LOGGERS, f"there is no logger {name!r}")
            try:
                logger = _LOGGERS[name](folder, recipe, first_step, quiet)
                writers[name] = stack.enter_context(logger)
            except PerpixelError:
                raise
            except Exception as error:
                raise PerpixelError(f"--{name}: {error}") from error
        yield write


@contextmanager
def _tensorboard(folder: Path, _: Recipe, first_step: int, __: bool) -> Iterator[Write]:
    with needs_extra("--tensorboard", "tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    with SummaryWriter(folder / "tensorboard", purge_step=first_step + 1) as events:

        def write(row: Row) -> None:
            for name in row.keys() - {"step"}:
                events.add_scalar(name, row[name], int(row["step"]))
            events.flush()

        yield write


@contextmanager
def _wandb(folder: Path, recipe: Recipe, first_step: int, quiet: bool) -> Iterator[Write]:
    with needs_extra("--wandb", "wandb"):
        import wandb
    id_file = folder / "wandb_run_id"
    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", "perpixel"),
        name=folder.resolve().name,
        dir=folder,
        id=_earlier_id(id_file, first_step),
        resume="allow",
        config=recipe.model_dump(mode="json"),
        settings=wandb.Settings(console="off", silent=quiet),  # log.txt has the console's lines
    ) as run:
        id_file.write_text(run.id)
        # W&B's own step never goes back, as that of a resumed run does
        run.define_metric("*", step_metric="step")
        yield lambda row: run.log(dict(row))


@contextmanager
def _mlflow(folder: Path, recipe: Recipe, first_step: int, _: bool) -> Iterator[Write]:
    with needs_extra("--mlflow", "mlflow"):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    database = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    id_file = folder / "mlflow_run_id"
    with mute_logger("mlflow"):  # how it makes the database
        client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or database)
        if (run_id := _earlier_id(id_file, first_step)) is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "perpixel")
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else client.create_experiment(name)
            run_id = client.create_run(experiment, run_name=folder.resolve().name).info.run_id
            params = [Param(path, str(value)) for path, value in flat_settings(recipe).items()]
            for start in range(0, len(params), 100):  # as many as it takes at once
                client.log_batch(run_id, params=params[start : start + 100])
            id_file.write_text(run_id)
        client.update_run(run_id, status="RUNNING")

    def write(row: Row) -> None:
        now, step = int(1000 * time.time()), row["step"]
        values = [Metric(name, row[name], now, step) for name in row.keys() - {"step"}]
        client.log_batch(run_id, metrics=values)

    status = "FAILED"
    try:
        yield write
        status = "FINISHED"
    finally:
        with suppress(Exception):  # a run whose server is gone has ended all the same
            client.set_terminated(run_id, status)


def _earlier_id(file: Path, first_step: int) -> str | None:
    """Returns the id under which the service knows a resumed run."""
    return file.read_text() if first_step and file.exists() else None


_LOGGERS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
