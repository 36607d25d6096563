"""Steps of mmsegmentation's and of Caffe's own training code, from our loss and optimizer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import perpixel
from perpixel.conversion import from_state_dict, to_state_dict
from perpixel.losses import segmentation_loss
from perpixel.models.layers import dropout
from perpixel.models.normalize import normalize
from perpixel.recipes.schema import Data, Input, Loss, Optimizer, Recipe, Schedule
from perpixel.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from perpixel.training.step import loss_from_logits

from . import weights
from .caffe import caffe_weights

SAID = json.loads((Path(__file__).parent / "cases" / "train_mmseg_fcn_r18-d8.json").read_text())
LOSS = Loss(avg_non_ignore=False, aux_weight=0.4)
OPTIMIZER = Optimizer(lr=0.01, momentum=0.9, weight_decay=5e-4)
SCHEDULE = Schedule(power=0.9, min_lr=1e-4, min_lr_at_last_step=True)
DATA = Data(name="folder")


def test_ten_steps():
    model = from_state_dict(weights.fill(SAID["shapes"]), align_corners=False).train()
    recipe = Recipe(name="case", source="", data=DATA, model=model.spec, loss=LOSS)
    for head in (model.head, model.auxiliary):
        head.dropout = dropout(0.0, type="channel")
    optimizer = make_optimizer(model, OPTIMIZER)
    images, labels = _batch()
    steps = len(SAID["steps"])
    for index, said in enumerate(SAID["steps"]):
        lr = learning_rate(index, steps=steps, lr=OPTIMIZER.lr, schedule=SCHEDULE)
        assert lr == pytest.approx(said["lr"], rel=1e-6)
        set_learning_rate(optimizer, lr)
        output = model(images, return_aux=True)
        main = segmentation_loss(output.logits, labels, LOSS)
        auxiliary = LOSS.aux_weight * segmentation_loss(output.aux_logits, labels, LOSS)
        # Batch norm on two small images amplifies rounding from step to step, so that CPUs and
        # numbers of threads differ: the first steps are held to more than the later ones.
        near, points = (1e-4, 0.2) if index < 3 else (1e-3, 0.5)
        assert main.item() == pytest.approx(said["loss_decode"], rel=near)
        assert auxiliary.item() == pytest.approx(said["loss_aux"], rel=near)
        whole = loss_from_logits(output, labels, recipe)
        assert whole.item() == pytest.approx(said["loss"], rel=near)
        print(f"loss {whole.item() / said['loss'] - 1:+.1e}")
        assert _accuracy(output.logits, labels) == pytest.approx(said["acc"], abs=points)
        optimizer.zero_grad(set_to_none=True)
        whole.backward()
        optimizer.step()

    state = to_state_dict(model, toolkit="mmseg")
    norms = {name: state[name].double().norm().item() for name in SAID["final_norms"]}
    print(f"norms {max(abs(norms[n] / said - 1) for n, said in SAID['final_norms'].items()):.1e}")
    assert norms == pytest.approx(SAID["final_norms"], rel=1.5e-3)
    assert {name for name in state if not name.endswith("num_batches_tracked")} == set(norms)


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    height, width = SAID["size"]
    images = np.stack([weights.image(height, width, seed) for seed in (1, 2)])
    labels = np.stack([weights.image(height, width, seed)[..., 0] for seed in (3, 4)])
    labels = labels.astype(np.int64) * SAID["num_classes"] // 256
    labels[:, :5] = 255
    # Laid out as the toolkit's own: ten steps of batch norm on two small images amplify the
    # rounding of another layout's kernels to a few 1e-4.
    return normalize(torch.from_numpy(images), Input()).contiguous(), torch.from_numpy(labels)


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    full = torch.nn.functional.interpolate(logits, size=labels.shape[-2:], mode="bilinear")
    known = labels != 255
    return 100 * (full.argmax(dim=1) == labels)[known].float().mean().item()


def test_five_steps_of_caffe():
    """Caffe's SGDSolver on FCN-8s at once: a summed loss, biases at twice the rate, no decay."""
    path = Path(__file__).parent / "cases" / "train_caffe_fcn8s-atonce.json"
    said = json.loads(path.read_text())
    model = from_state_dict(caffe_weights(said), toolkit="caffe", variant="atonce")
    model.backbone.dropout = dropout(0.0, type="element")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = perpixel.recipe("caffe-fcn/voc-fcn8s-atonce")
    spec = recipe.optimizer.model_copy(
        update={"lr": said["steps"][0]["lr"], "weight_decay": said["weight_decay"]}
    )
    assert spec.momentum == said["momentum"]
    optimizer = make_optimizer(model.train(), spec)
    mean = {"mean": (104.00699, 116.66877, 122.67892)}
    for index, step in enumerate(said["steps"]):
        set_learning_rate(optimizer, step["lr"])
        image = weights.image(*said["size"], 10 + index)
        label = weights.image(*said["size"], 20 + index)[None, ..., 0].astype(np.int64)
        label = label * said["num_classes"] // 256
        label[:, :5] = 255
        labels = torch.from_numpy(label)
        images = normalize(torch.from_numpy(image[None]), recipe.input.model_copy(update=mean))
        logits = model(images).logits
        loss = segmentation_loss(logits, labels, recipe.loss)
        assert loss.item() == pytest.approx(step["loss"], rel=2e-5)
        assert _accuracy(logits, labels) == pytest.approx(step["acc"], abs=0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    after = to_state_dict(model, toolkit="caffe")
    assert after.keys() == said["final_norms"].keys()
    norms = {name: after[name].double().norm().item() for name in after}
    assert norms == pytest.approx(said["final_norms"], rel=1e-5)
    model.load_state_dict(before)
    start = to_state_dict(model, toolkit="caffe")
    changes = {name: (after[name] - start[name]).double().norm().item() for name in after}
    assert changes == pytest.approx(said["delta_norms"], rel=1e-3, abs=1e-12)
