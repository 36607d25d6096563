"""Our models and inference against what the toolkits themselves computed (cases/README.md)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import pad
from variants import predictor_of

from perpixel.acceleration import winograd
from perpixel.conversion import build_model, find
from perpixel.inference.tta import iter_scores, predict_masks
from perpixel.models.normalize import normalize
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.schema import Data, Recipe

from . import weights

CASES = sorted(
    path.stem
    for path in (Path(__file__).parent / "cases").glob("*.npz")
    if not path.stem.startswith(("caffe", "dinov2"))  # test_caffe.py, test_dinov2.py
)
OUTPUT_STRIDE = {"sssegmentation_fcn_resnet101os16_cityscapes": 16}  # else the default

_LAYOUT = dict.fromkeys(("mmsegmentation", "PVTv2-Seg", "RepViT"), "mmseg")

RELATIVE = 1e-3  # the promise; measured errors are below 1e-5
NOISE = 1e-4  # of the largest score: classes are compared where the best one leads by more


@dataclass
class Case:
    name: str
    said: dict
    arrays: dict
    image: np.ndarray
    model: Segmenter
    recipe: Recipe


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    name = request.param
    folder = Path(__file__).parent / "cases"
    said = json.loads((folder / f"{name}.json").read_text())
    state = weights.fill(said["shapes"])
    for entry, factor in said.get("multiply", {}).items():
        state[entry] = state[entry] * np.float32(factor)
    finding = find(
        state,
        output_stride=OUTPUT_STRIDE.get(name),
        align_corners=said["align_corners"],
    )
    toolkit = said["toolkit"].split()[0]
    assert _LAYOUT.get(toolkit, toolkit) == finding.toolkit.name
    assert finding.num_classes == said["num_classes"]
    fed = finding.toolkit.input
    assert fed.channel_order == said.get("channel_order", "RGB").lower()
    np.testing.assert_allclose(fed.mean, said["mean"], rtol=1e-6)
    np.testing.assert_allclose(fed.std, said["std"], rtol=1e-6)
    recipe = Recipe(
        name=name,
        source=said["config"],
        data=Data(name="folder"),
        model=finding.model,
        input=fed,
        inference=finding.toolkit.inference,
    )
    with np.load(folder / f"{name}.npz") as arrays:
        image = weights.image(*said["image"])
        yield Case(name, said, dict(arrays), image, build_model(finding), recipe)


def test_parameters(case: Case):
    parameters = case.model.parameters()
    assert sum(p.numel() for p in parameters if p.requires_grad) == case.said["params"]


@pytest.mark.parametrize("quick", [False, True])
def test_logits(case: Case, quick: bool, monkeypatch):
    """As they come, and with Winograd's algorithm wherever it can be, on however small maps."""
    model = case.model
    if quick:
        monkeypatch.setattr(winograd, "pays", lambda *_, **__: True)
        model = deepcopy(model)
        winograd.use_winograd(model)
    fed = normalize(torch.from_numpy(case.image)[None], case.recipe.input)
    divisor = case.recipe.input.size_divisor
    fed = pad(fed, (0, -fed.shape[3] % divisor, 0, -fed.shape[2] % divisor))
    with torch.inference_mode():
        output = model(fed, return_aux=True)
    _close(output.logits[0], case.arrays["logits"])
    assert (output.aux_logits is None) == ("aux_logits" not in case.arrays)
    if output.aux_logits is not None:
        _close(output.aux_logits[0], case.arrays["aux_logits"])


def test_whole(case: Case):
    (found,) = predict_masks(predictor_of(case.model, case.recipe), [case.image])
    sure = case.arrays["margin"] > NOISE * np.abs(case.arrays["logits"]).max()
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(found[sure], case.arrays["pred_whole"][sure])


def test_stretched(case: Case):
    """The published test of PoolFormer, PVTv2 and RepViT: stretched to multiples of 32."""
    if "stretch" not in case.said:
        pytest.skip("not stretched in this case")
    found = _compare(
        case,
        {"resize_to_multiple": case.said["stretch"]},
        expected=case.arrays["pred_stretch"],
    )
    _close(found.mean(dim=(0, 1)), case.arrays["logits_stretch_mean"])


def test_slide(case: Case):
    if not case.said.get("slide"):
        pytest.skip("no sliding windows in this case")
    crop, stride = case.said["slide"]
    found = _compare(
        case,
        {"mode": "slide", "window_size": tuple(crop), "stride": tuple(stride)},
        expected=case.arrays["pred_slide"],
    )
    _close(found.mean(dim=(0, 1)), case.arrays["logits_slide_mean"])


def test_scales_and_flip(case: Case):
    if not case.said.get("tta"):
        pytest.skip("one scale in this case")
    found = _compare(
        case,
        {"scales": tuple(case.said["tta"]), "flip": True},
        expected=case.arrays["pred_tta"],
    )
    _close(found.mean(dim=(0, 1)), case.arrays["prob_tta"])


def _compare(case: Case, inference: dict, *, expected: np.ndarray) -> torch.Tensor:
    """The scores [H, W, classes]; the mask is as expected where the best leads by more than
    the noise."""
    changed = case.recipe.inference.model_copy(update=inference)
    predictor = predictor_of(case.model, case.recipe.model_copy(update={"inference": changed}))
    with _remembering(case.model):
        found = torch.cat([values for _, values in iter_scores(predictor, case.image)])
        (classes,) = predict_masks(predictor, [case.image])
    best, second = found.topk(2, dim=2).values.unbind(2)
    sure = (best - second > NOISE * found.abs().max()).numpy()
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(classes[sure], expected[sure])
    return found


@contextmanager
def _remembering(model: Segmenter) -> Iterator[None]:
    """What is the same images again gets the same output again, which takes the model long."""
    forward, known = model.forward, []

    def remembered(images: torch.Tensor, **named):
        for seen, how, output in known:
            if how == named and torch.equal(seen, images):
                return output
        known.append((images.clone(), named, forward(images, **named)))
        return known[-1][2]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "forward", remembered)
        yield


def _close(ours: torch.Tensor, theirs: np.ndarray) -> None:
    error = np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max()
    print(f"relative error {error:.1e}")
    assert error < RELATIVE
