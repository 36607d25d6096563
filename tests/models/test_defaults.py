"""Whatever a program set in torch: perpixel computes the same, and leaves it as it was."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import perpixel

TINY = perpixel.override(
    perpixel.recipe("camvid/semantic_fpn_r18"),
    [
        "train.steps=2",
        "train.images_per_step=2",
        "train.crop=32x32",
        "train.finish=null",
        "train.precision=float32",
        "model.head.width=8",
        "model.head.neck_width=8",
    ],
)
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


CALLERS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "elsewhere": lambda: default_device("meta"),
    "in a with": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "without gradients": torch.no_grad,
    "in inference": torch.inference_mode,
}


def _globals():
    drawn = torch.get_rng_state()
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), bytes(drawn.tolist()),
    )  # fmt: skip


def _all_of_it(mini, out):
    """Trains, loads, predicts, evaluates: the final weights, classes and mIoU."""
    before = _globals()
    run = perpixel.train(TINY, data=mini, out=out, device="cpu")
    model = perpixel.load(out)
    classes = model.predict(PICTURE).classes
    assert perpixel.evaluate(model, data=mini).miou == run.scores.miou
    bands = [band for _, band in model.probabilities(PICTURE)]
    assert np.concatenate(bands).sum(axis=2) == pytest.approx(1, abs=1e-5)
    assert _globals() == before
    return model.checkpoint.weights, classes, run.scores.miou


@pytest.fixture(scope="module")
def usual(mini, tmp_path_factory):
    return _all_of_it(mini, tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("caller", CALLERS)
def test_a_programs_torch_settings_change_nothing(usual, mini, tmp_path, caller):
    with CALLERS[caller]():
        weights, classes, miou = _all_of_it(mini, tmp_path)
    expected, there, score = usual
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert np.array_equal(classes, there)
    assert miou == score


def test_random_numbers_go_on_where_they_were(mini, tmp_path):
    first = torch.rand(3).tolist()
    torch.manual_seed(0)
    _all_of_it(mini, tmp_path)
    assert torch.rand(3).tolist() == first
