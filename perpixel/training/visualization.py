"""The figures in a run's `results`: the first batch, curves, the best weights' evaluation.

A figure that cannot be drawn does not end a run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perpixel.data.dataset import Classes, Dataset
from perpixel.data.label_sheet import label_sheet
from perpixel.data.loader import Batch
from perpixel.evaluation.metrics import Scores
from perpixel.evaluation.visualization import prediction_sheet
from perpixel.inference.predictor import Predictor
from perpixel.io import charts
from perpixel.io.images import write_image
from perpixel.training.run_logger import RunLogger, rows


def draw_batch(out: Path, batch: Batch, classes: Classes, logger: RunLogger) -> None:
    """Draws train_batch.png: augmented images as the model gets them, their masks over them."""
    with _logs_failure(logger):
        samples = zip(batch.images.numpy(), batch.labels.numpy(), batch.names, strict=True)
        write_image(out / "results" / "train_batch.png", label_sheet(samples, classes))


def draw_evaluation(
    out: Path, predictor: Predictor, dataset: Dataset, scores: Scores, logger: RunLogger
) -> None:
    """Draws confusion.png and predictions.png of an evaluation."""
    with _logs_failure(logger):
        scores.plot_confusion(out / "results" / "confusion.png")
        sheet = prediction_sheet(predictor, dataset, scores)
        write_image(out / "results" / "predictions.png", sheet)


def draw_curves(out: Path, logger: RunLogger, *, step: int) -> None:
    """Draws curves.png of a run up to `step`."""
    with _logs_failure(logger):
        logged = rows(out / "metrics.jsonl", up_to=step)
        curves = charts.draw(charts.charts([logged])[:2])
        write_image(out / "results" / "curves.png", curves)


@contextmanager
def _logs_failure(logger: RunLogger) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a data set, a font or a full disk may raise
        logger.info(f"results/ lacks a figure: {type(error).__name__}: {error}")
