"""DINOv2's linear probe against the original code, on windows that pad to 518x518 and others."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from variants import predictor_of

import perpixel
from perpixel.conversion import build_model, find
from perpixel.conversion.detect import backbone_weights
from perpixel.inference.tta import iter_scores, predict_masks
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
    """With the case's weights, joined as `convert --backbone` joins the two released files."""
    state = {name: torch.from_numpy(value) for name, value in weights.fill(said["shapes"]).items()}
    for name, factor in said["multiply"].items():
        state[name] = state[name] * factor
    spec = perpixel.recipe("linear/dinov2_vits14_voc2012").model
    with torch.device("meta"):
        names = build(spec, num_classes=1).backbone.state_dict()
    trunk = {name: value for name, value in state.items() if not name.startswith("decode_head.")}
    backbone, left_out = backbone_weights(trunk, names)
    assert left_out == ["mask_token"]
    head = {name: value for name, value in state.items() if name.startswith("decode_head.")}
    finding = find(head, like=spec, backbone=backbone)
    assert finding.toolkit.name == "dinov2"
    assert finding.model == spec
    return build_model(finding)


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
        if said["slide"] is None:
            return
        crop, stride = said["slide"]
        slide = perpixel.override(
            recipe,
            [
                "inference.base_size=null",
                f"inference.window_size={crop}",
                f"inference.stride={stride}",
            ],
        )
        predictor = predictor_of(model, slide)
        found = torch.cat([values for _, values in iter_scores(predictor, image)])
        mean = found.mean(dim=(0, 1)).numpy()
        expected = arrays["logits_slide_mean"]
        assert np.abs(mean - expected).max() < 1e-5 * np.abs(expected).max()
        best, second = found.topk(2, dim=2).values.unbind(2)
        sure = (best - second > 1e-4 * found.abs().max()).numpy()
        assert sure.mean() > 0.99
        (mask,) = predict_masks(predictor, [image])
        np.testing.assert_array_equal(mask[sure], arrays["pred_slide"][sure])
