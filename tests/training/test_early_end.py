"""Runs that end before their last step: evaluate.patience, and StopTraining from on_log."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from test_run import TINY, losses, same, weights

import perpixel
from perpixel.checkpoints import zoo
from perpixel.checkpoints.format import read_checkpoint
from perpixel.data.dataset import Dataset
from perpixel.errors import Interrupted, PerpixelError, UsageError
from perpixel.evaluation.metrics import Scores
from perpixel.inference.predictor import Predictor
from perpixel.training import run_logger
from perpixel.training import train as training

SHORT = perpixel.override(
    TINY, ["train.steps=12", "train.save_every=3", "evaluate.every=2", "evaluate.patience=2"]
)
MIOUS = (10, 20, 15, 20, 30, 40)  # 20 a second time is no better


@pytest.fixture
def scripted(monkeypatch):
    """Lets the evaluations that follow give these mIoUs, in order, and then fail."""
    measure = training.evaluate

    def script(*mious: float) -> None:
        rest = list(mious)

        def evaluate(predictor: Predictor, dataset: Dataset, progress: object) -> Scores:
            if not rest:
                raise PerpixelError("no evaluation is left")
            return replace(measure(predictor, dataset), miou=rest.pop(0))

        monkeypatch.setattr(training, "evaluate", evaluate)

    return script


def run(mini: Path, out: Path, *changes: str, **named: object) -> None:
    recipe = perpixel.override(SHORT, changes)
    perpixel.train(recipe, data=mini, out=out, device="cpu", **named)


def check_end(out: Path) -> None:
    """It ended after the fourth evaluation, with the files of a whole run."""
    assert "no better mIoU in 2 evaluations: stopped at step 8 of 12" in (
        (out / "log.txt").read_text()
    )
    assert len(losses(out)) == 8
    scores = json.loads((out / "evaluate.json").read_text())
    assert (scores["miou"], scores["step"]) == (20, 4)  # those of the weights that `out` stands for
    best = out / "checkpoints" / "best.safetensors"
    assert zoo.find(out).origin == best
    assert (
        (out / "log.txt")
        .read_text()
        .endswith(f"done: mIoU 20.00; best 20.00 at step 4, which predict and eval use: {best}\n")
    )
    steps = {
        name: read_checkpoint(out / "checkpoints" / f"{name}.safetensors").step
        for name in ("model", "best")
    }
    assert steps == {"model": 8, "best": 4}
    assert not (out / "checkpoints" / "model-earlier.safetensors").exists()


def test_patience_ends_a_run_and_resuming_it_changes_nothing(mini, tmp_path, scripted):
    scripted(*MIOUS)
    run(mini, tmp_path)
    check_end(tmp_path)
    before = weights(tmp_path)
    scripted(20)
    run(mini, tmp_path, resume="must")
    check_end(tmp_path)
    assert same(weights(tmp_path), before)
    scripted(30)  # as on another machine, a little better: the run has ended all the same
    run(mini, tmp_path, resume="must")
    assert len(losses(tmp_path)) == 8


def test_a_stopped_run_ends_at_the_same_step(mini, tmp_path, scripted, monkeypatch):
    def stop_after_seven(self, step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    scripted(*MIOUS)
    with monkeypatch.context() as patch:
        patch.setattr(run_logger.RunLogger, "set_step", stop_after_seven)
        with pytest.raises(Interrupted):
            run(mini, tmp_path)
    scripted(*MIOUS[3:])
    run(mini, tmp_path, resume="must")
    check_end(tmp_path)


def test_a_run_that_fails_in_its_last_evaluation_ends_when_resumed(mini, tmp_path, scripted):
    scripted(*MIOUS[:3])
    with pytest.raises(PerpixelError, match="no evaluation is left"):
        run(mini, tmp_path)
    scripted(*MIOUS[3:])
    run(mini, tmp_path, resume="must")
    check_end(tmp_path)


def test_more_patience_goes_on(mini, tmp_path, scripted):
    scripted(*MIOUS)
    run(mini, tmp_path)
    scripted(*MIOUS[4:])
    more = {"resume": "must", "allow_config_change": True}
    run(mini, tmp_path, "evaluate.patience=3", **more)
    assert len(losses(tmp_path)) == 12
    assert (tmp_path / "checkpoints" / "model-earlier.safetensors").exists()
    assert json.loads((tmp_path / "evaluate.json").read_text())["miou"] == 40


def test_patience_needs_evaluations():
    with pytest.raises(UsageError, match=r"patience=2 counts evaluations.*set evaluate\.every"):
        perpixel.override(SHORT, ["evaluate.every=null"])


def test_the_log_says_that_on_log_ended_the_run(mini, tmp_path):
    def stop(row: dict[str, float | int]) -> None:
        if row["step"] == 2:
            raise perpixel.StopTraining

    perpixel.train(TINY, data=mini, out=tmp_path, device="cpu", on_log=stop)
    assert (
        "on_log raised StopTraining: stopped at step 3 of 6" in (tmp_path / "log.txt").read_text()
    )
