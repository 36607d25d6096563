"""segmentation_models_pytorch's FPN, its Semantic FPN: logits at full size, mean loss."""

from typing import Any

from subjects import plain

# isort: split

import segmentation_models_pytorch as smp
from torch import Tensor, nn
from torch.nn import functional


def training_step(case: dict[str, Any]) -> plain.Run:
    return plain.training_step(_model(case), case, objective=_objective)


def forward(case: dict[str, Any]) -> plain.Run:
    model = _model(case)
    return plain.forward(model, case, logits=lambda images: model.decoder(model.encoder(images)))


def _objective(logits: Tensor, truth: Tensor) -> Tensor:
    return functional.cross_entropy(logits, truth, ignore_index=255)


def _model(case: dict[str, Any]) -> nn.Module:
    return smp.FPN(
        "resnet50", encoder_weights=None, classes=case["classes"], upsampling=4, decoder_dropout=0.1
    )
