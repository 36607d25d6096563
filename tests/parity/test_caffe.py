"""FCN-32s, 16s, 8s, at once and FCN-AlexNet against Caffe itself (cases/README.md)."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import perpixel
from perpixel.conversion import build_model, find
from perpixel.models.fcn_skip import FCNSkipHead
from perpixel.models.normalize import normalize
from perpixel.models.segmenter import Segmenter

from . import weights
from .caffe import caffe_weights

CASES = Path(__file__).parent / "cases"
VGG = sorted(path.stem for path in CASES.glob("caffe_fcn*s*_voc*.npz"))
ALEXNET = sorted(path.stem for path in CASES.glob("caffe_fcn-alexnet*.npz"))
HEAD = ("score", "upscore")


def said(case: str) -> dict:
    return json.loads((CASES / f"{case}.json").read_text())


def build(case: str, shapes: dict) -> Segmenter:
    """The case's model; what `shapes` leaves out keeps zeros."""
    about = said(case)
    state = {name: np.zeros(shape, np.float32) for name, shape in about["shapes"].items()}
    kernels = [name for name in about.get("bilinear", ()) if name in shapes]
    state |= caffe_weights({"shapes": shapes, "bilinear": kernels})
    for name, factor in about.get("multiply", {}).items():
        state[name] = np.float32(factor) * state[name]
    variant = {"voc-fcn8s": "staged", "voc-fcn8s-atonce": "atonce"}.get(about["config"])
    finding = find(state, variant=variant)
    assert finding.toolkit.name == "caffe"
    np.testing.assert_allclose(finding.toolkit.input.mean, about["mean"], rtol=1e-6)
    return build_model(finding)


def images(case: str) -> Tensor:
    image = torch.from_numpy(weights.image(*said(case)["image"])[None])
    model_input = perpixel.recipe("caffe-fcn/voc-fcn8s").input
    return normalize(image, model_input.model_copy(update={"mean": tuple(said(case)["mean"])}))


@cache
def features() -> list[Tensor]:
    """VGG-16's of the image that all cases share: weights go by their names, the same in each."""
    shapes = said(VGG[0])["shapes"]
    model = build(VGG[0], {k: v for k, v in shapes.items() if not k.startswith(HEAD)})
    with torch.inference_mode():
        return model.backbone(images(VGG[0]))


def compare(case: str, logits: Tensor) -> None:
    with np.load(CASES / f"{case}.npz") as arrays:
        expected = arrays["logits"]
        error = np.abs(logits.numpy() - expected).max() / np.abs(expected).max()
        print(f"relative error {error:.1e}")
        assert error < 1e-5
        sure = arrays["margin"] > 1e-4 * np.abs(expected).max()
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(logits.argmax(0).numpy()[sure], arrays["pred_whole"][sure])


def test_there_is_every_net():
    nets = {case.removeprefix("caffe_").partition("_")[0] for case in (*VGG, *ALEXNET)}
    assert nets == {"fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce", "fcn-alexnet"}
    assert all(said(case)["image"] == said(VGG[0])["image"] for case in VGG)


@pytest.mark.parametrize("case", VGG)
def test_logits_and_mask(case: str):
    head = {k: v for k, v in said(case)["shapes"].items() if k.startswith(HEAD)}
    model = build(case, head)
    assert isinstance(model.head, FCNSkipHead)
    assert sum(p.numel() for p in model.parameters()) == said(case)["params"]
    with torch.inference_mode():
        compare(case, model.head(features())[0])


@pytest.mark.parametrize("case", ALEXNET)
def test_alexnet(case: str):
    model = build(case, said(case)["shapes"])
    assert sum(p.numel() for p in model.parameters()) == said(case)["params"]
    with torch.inference_mode():
        compare(case, model(images(case)).logits[0])
