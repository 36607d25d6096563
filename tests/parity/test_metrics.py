"""Our scores against mmsegmentation's IoUMetric, on the pairs that the case describes."""

import json
from pathlib import Path

import numpy as np
import pytest

from perpixel.evaluation.metrics import Scores, confusion, scores
from perpixel.recipes.schema import IGNORE_INDEX

from . import weights

CASES = json.loads((Path(__file__).parent / "cases" / "metrics_mmseg.json").read_text())["cases"]
OURS = {
    "IoU": "iou",
    "Acc": "accuracy",
    "Dice": "dice",
    "Precision": "precision",
    "Recall": "accuracy",
}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case['num_classes']} classes")
def case(request: pytest.FixtureRequest) -> tuple[dict, Scores]:
    said = request.param
    classes = said["num_classes"]
    matrix = sum(confusion(*_pair(said, k), num_classes=classes) for k in range(said["pairs"]))
    return said, scores(matrix, names=tuple(str(index) for index in range(classes)))


@pytest.mark.parametrize("theirs", OURS)
def test_per_class(case: tuple[dict, Scores], theirs: str):
    said, found = case
    values = list(getattr(found, OURS[theirs]).values())
    assert [value is None for value in values] == [value is None for value in said[theirs]]
    known = [
        (value / 100, want)
        for value, want in zip(values, said[theirs], strict=True)
        if want is not None
    ]
    assert [value for value, _ in known] == pytest.approx([want for _, want in known], abs=1e-6)


def test_means(case: tuple[dict, Scores]):
    said, found = case
    assert found.pixel_accuracy / 100 == pytest.approx(said["aAcc"], abs=1e-6)
    assert found.miou / 100 == pytest.approx(said["mIoU"] / 100, abs=1e-6)
    assert found.mean_accuracy / 100 == pytest.approx(said["mAcc"] / 100, abs=1e-6)


def _pair(said: dict, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Label and prediction number k, as the case's note builds them."""
    height, width = said["size"]
    first = 100 * said["seed"] + 2 * k
    label = _classes(said, first, channel=0)
    switch = weights.image(height, width, 100 * said["seed"] + 50 + k)[..., 2] > 100
    prediction = np.where(switch, label, _classes(said, first + 1, channel=1))
    label[:4] = IGNORE_INDEX
    label[np.isin(label, said["absent"])] = IGNORE_INDEX
    return label, prediction.astype(np.uint8)


def _classes(said: dict, seed: int, *, channel: int) -> np.ndarray:
    height, width = said["size"]
    values = weights.image(height, width, seed)[..., channel].astype(np.int64)
    return (values * said["num_classes"] // 256).astype(np.uint8)
