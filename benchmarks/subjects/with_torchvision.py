"""torchvision 0.28's FCN, trained as its reference script does: mean loss, 0.5 auxiliary."""

from typing import Any

from subjects import plain

# isort: split

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation import fcn_resnet50


def training_step(case: dict[str, Any]) -> plain.Run:
    return plain.training_step(_model(case), case, objective=_objective)


def forward(case: dict[str, Any]) -> plain.Run:
    model = _model(case)
    return plain.forward(
        model, case, logits=lambda images: model.classifier(model.backbone(images)["out"])
    )


def _objective(output: dict[str, Tensor], truth: Tensor) -> Tensor:
    loss = functional.cross_entropy(output["out"], truth, ignore_index=255)
    return loss + 0.5 * functional.cross_entropy(output["aux"], truth, ignore_index=255)


def _model(case: dict[str, Any]) -> nn.Module:
    return fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=case["classes"], aux_loss=True
    )
