"""DINOv2's linear probe against the original code, on windows that pad to 518x518 and others."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from variants import predictor_of

import perpixel
from perpixel.inference.tta import predict_masks
from perpixel.models.build import build
from perpixel.models.normalize import normalize

from . import weights

CASES = Path(__file__).parent / "cases"
NAMES = ["dinov2_vits14_voc2012_linear", "dinov2_vits14_voc2012_linear_97x131"]


@pytest.fixture(scope="module", params=NAMES)
def said(request: pytest.FixtureRequest) -> dict:
    return json.loads((CASES / f"{request.param}.json").read_text()) | {"name": request.param}


@pytest.fixture(scope="module")
def model(said: dict) -> perpixel.models.segmenter.Segmenter:
    """With the case's weights, renamed from the original's as timm does."""
    state = {name: torch.from_numpy(value) for name, value in weights.fill(said["shapes"]).items()}
    for name, factor in said["multiply"].items():
        state[name] = state[name] * factor
    model = build(perpixel.recipe("linear/dinov2_vits14_voc2012").model, num_classes=21).eval()
    trunk = {name: value for name, value in state.items() if not name.startswith("decode_head.")}
    timms = timm.models.vision_transformer.checkpoint_filter_fn(trunk, model.backbone.body.model)
    model.backbone.body.model.load_state_dict(timms)
    for ours, theirs in (("norm", "bn"), ("classifier", "conv_seg")):
        part = {
            name.removeprefix(f"decode_head.{theirs}."): value
            for name, value in state.items()
            if name.startswith(f"decode_head.{theirs}.")
        }
        model.head.get_submodule(ours).load_state_dict(part)
    return model


def test_parameters(model, said: dict):
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.head, model.backbone)]
    assert counts[0] == said["params_head"]
    assert sum(counts) == said["params"] - model.backbone.out_channels[0]  # the unused mask_token


def test_logits_and_mask(model, said: dict):
    image = weights.image(*said["image"])
    recipe = perpixel.recipe("linear/dinov2_vits14_voc2012")
    with np.load(CASES / f"{said['name']}.npz") as arrays, torch.inference_mode():
        logits = model(normalize(torch.from_numpy(image)[None], recipe.input)).logits[0]
        error = (logits - torch.from_numpy(arrays["logits"])).abs().max() / logits.abs().max()
        print(f"relative error {error:.1e}")
        assert error < 1e-5
        whole = perpixel.override(recipe, ["inference.mode=whole", "inference.base_size=null"])
        (mask,) = predict_masks(predictor_of(model, whole), [image])
        sure = arrays["margin"] > 1e-4 * np.abs(arrays["logits"]).max()
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(mask[sure], arrays["pred_whole"][sure])
