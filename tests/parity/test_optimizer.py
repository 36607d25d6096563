"""Our optimizers' steps against their published formulas, in NumPy's float64."""

import numpy as np
import pytest
import torch

from perpixel.models.build import build
from perpixel.recipes.models import FCN, Model, ResNet
from perpixel.recipes.schema import Optimizer
from perpixel.training.optimizer import make_optimizer, set_learning_rate

RATES = (0.02, 0.01, 0.03)


def sgd(weight: np.ndarray, gradients: list, spec: Optimizer, *, scale: float, decay: float):
    """Heavy-ball momentum on the gradient of loss and decay (torch.optim.SGD)."""
    velocity = np.zeros_like(weight)
    for lr, gradient in zip(RATES, gradients, strict=True):
        velocity = spec.momentum * velocity + gradient + decay * weight
        weight = weight - lr * scale * velocity
    return weight


def adamw(weight: np.ndarray, gradients: list, spec: Optimizer, *, scale: float, decay: float):
    """Loshchilov and Hutter (2019), algorithm 2, its decay times the rate (torch.optim.AdamW)."""
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step, (lr, gradient) in enumerate(zip(RATES, gradients, strict=True), start=1):
        weight = weight * (1 - lr * scale * decay)
        first = spec.betas[0] * first + (1 - spec.betas[0]) * gradient
        second = spec.betas[1] * second + (1 - spec.betas[1]) * gradient**2
        spread = np.sqrt(second / (1 - spec.betas[1] ** step)) + 1e-8
        weight = weight - lr * scale * first / (1 - spec.betas[0] ** step) / spread
    return weight


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
@pytest.mark.parametrize(
    ("formula", "settings"),
    [
        (sgd, {"name": "sgd", "momentum": 0.8}),
        (adamw, {"name": "adamw", "betas": (0.7, 0.95)}),
    ],
    ids=["sgd", "adamw"],
)
def test_three_steps(formula, settings, decay_norm_and_bias: bool):
    """Decay of a size that shows; norms and biases with and without it; a slower backbone."""
    spec = Optimizer(
        **settings, weight_decay=0.5, decay_norm_and_bias=decay_norm_and_bias, backbone_lr_mult=0.1
    )
    model = build(
        Model(backbone=ResNet(depth=18, base_channels=8), head=FCN(num_convs=1, channels=8)),
        num_classes=3,
    )
    named = dict(model.named_parameters())
    with torch.no_grad():  # norms' shifts and biases begin at 0, where decay does nothing
        for parameter in named.values():
            parameter.normal_()
    before = {name: parameter.detach().double().numpy() for name, parameter in named.items()}
    gradients: dict[str, list] = {name: [] for name in named}
    optimizer = make_optimizer(model, spec)
    for lr in RATES:
        set_learning_rate(optimizer, lr)
        for name, parameter in named.items():
            parameter.grad = torch.randn_like(parameter)
            gradients[name].append(parameter.grad.double().numpy())
        optimizer.step()
    for name, parameter in named.items():
        scale = 0.1 if name.startswith("backbone.") else 1.0
        decay = 0.5 if decay_norm_and_bias or parameter.ndim > 1 else 0.0
        expected = formula(before[name], gradients[name], spec, scale=scale, decay=decay)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
