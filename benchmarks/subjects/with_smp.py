"""segmentation_models_pytorch's FPN, its Semantic FPN: logits at full size, mean loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

Run = Callable[[], object]

SCHEMAS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    SCHEMAS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import segmentation_models_pytorch as smp  # noqa: E402


def training_step(case: dict[str, Any]) -> Run:
    device = case["device"]
    model = _model(case).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(enabled=device != "cpu")
    images = torch.randn(case["batch"], 3, *case["size"], device=device)
    truth = torch.randint(case["classes"], (case["batch"], *case["size"]), device=device)

    def run() -> None:
        with torch.autocast(device.partition(":")[0], enabled=device != "cpu"):
            loss = functional.cross_entropy(model(images), truth, ignore_index=255)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return run


def forward(case: dict[str, Any]) -> Run:
    device = case["device"]
    model = _model(case).eval()
    images = torch.randn(case["batch"], 3, *case["size"], device=device)

    def run() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(device.partition(":")[0], enabled=device != "cpu"),
        ):
            model.decoder(model.encoder(images))

    return run


def _model(case: dict[str, Any]) -> torch.nn.Module:
    model = smp.FPN(
        "resnet50", encoder_weights=None, classes=case["classes"], upsampling=4, decoder_dropout=0.1
    )
    return model.to(case["device"])
