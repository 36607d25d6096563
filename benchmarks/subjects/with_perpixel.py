"""perpixel's side of the benchmarks, through the functions that its commands use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

import perpixel
from perpixel.acceleration.accelerate import accelerate
from perpixel.data.loader import batches
from perpixel.data.registry import open_dataset
from perpixel.evaluation.metrics import confusion
from perpixel.inference.predictor import Predictor
from perpixel.inference.tta import predict_masks
from perpixel.losses import loss_denominator, segmentation_loss
from perpixel.models.build import build
from perpixel.models.normalize import normalize
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.schema import IGNORE_INDEX, Loss, Recipe
from perpixel.runtime.dtype import autocast, resolve_dtype
from perpixel.runtime.heap import keep_freed
from perpixel.training import step as step_module
from perpixel.training.step import make_train_state, train_step

Run = Callable[[], object]

keep_freed()  # as the command line does


def training_step(case: dict[str, Any]) -> Run:
    recipe, device = _recipe(case), torch.device(case["device"])
    dtype = resolve_dtype(recipe.train.precision, device)
    torch.backends.cudnn.benchmark = True
    if recipe.train.compile != "off":
        torch.compiler.reset()  # too many models compiled in one process would run eagerly
    model = build(recipe.model, num_classes=case["classes"])
    state = make_train_state(model, recipe, device=device, dtype=dtype)
    random = np.random.default_rng(0)
    size = (case["batch"], *case["size"])
    images = torch.from_numpy(random.integers(0, 256, (*size, 3), np.uint8))
    truth = torch.from_numpy(random.integers(0, case["classes"], size, np.uint8))

    loss = segmentation_loss if case.get("fused_loss", True) else unfused_loss

    def run() -> None:
        with patch.object(step_module, "segmentation_loss", loss):
            train_step(state, images, truth, recipe, step=0)

    return run


def unfused_loss(
    logits: Tensor, labels: Tensor, spec: Loss, *, align_corners: bool = False
) -> Tensor:
    """Plain cross-entropy of upsampled logits, as PyTorch alone computes it."""
    full = interpolate(
        logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=align_corners
    )
    total = cross_entropy(full, labels.long(), ignore_index=IGNORE_INDEX, reduction="sum")
    return total / loss_denominator(labels, spec)


def forward(case: dict[str, Any]) -> Run:
    recipe, device = _recipe(case), torch.device(case["device"])
    dtype = resolve_dtype(recipe.train.precision, device)
    model = _for_prediction(recipe, case, dtype=dtype)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (case["batch"], *case["size"], 3), np.uint8)
    fed = normalize(torch.from_numpy(images).to(device), recipe.input)

    def run() -> None:
        with torch.inference_mode(), autocast(device, dtype):
            model(fed)

    return run


def prediction(case: dict[str, Any]) -> Run:
    recipe, device = _recipe(case), torch.device(case["device"])
    dtype = resolve_dtype(recipe.train.precision, device)
    model = _for_prediction(recipe, case, dtype=dtype)
    image = np.random.default_rng(0).integers(0, 256, (*case["size"], 3), np.uint8)
    names = tuple(map(str, range(case["classes"])))
    predictor = Predictor(model, recipe, class_names=names, palette=(), dtype=dtype)
    return lambda: predict_masks(predictor, [image])


def images(case: dict[str, Any]) -> Run:
    recipe = _recipe(case)
    opened = open_dataset(recipe.data.name, Path(case["root"]), "train")
    stream = batches(opened, recipe, first_step=0, workers=0)

    def run() -> None:
        for _ in range(case["count"]):
            next(stream)

    return run


def product(case: dict[str, Any]) -> Run:
    """A product of square bfloat16 matrices."""
    side, device = case["side"], torch.device(case["device"])
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return lambda: a @ b


def metric(case: dict[str, Any]) -> Run:
    random, classes = np.random.default_rng(0), case["classes"]
    truth = random.integers(0, classes, case["size"], np.uint8)
    said = np.where(random.random(case["size"]) < 0.7, truth, random.integers(0, classes))
    said = said.astype(np.uint8)
    truth[:50] = 255
    return lambda: confusion(truth, said, num_classes=classes)


def _for_prediction(recipe: Recipe, case: dict[str, Any], *, dtype: torch.dtype) -> Segmenter:
    """As perpixel.load makes it."""
    model = build(recipe.model, num_classes=case["classes"])
    return accelerate(model, device=case["device"], dtype=dtype, training=False)


def _recipe(case: dict[str, Any]) -> Recipe:
    return perpixel.override(perpixel.recipe(case["recipe"]), case["settings"])
