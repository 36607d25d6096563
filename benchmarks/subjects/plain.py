"""What peers that are plain PyTorch have in common: autocast and a scaler on CUDA, SGD.

torchvision's operators are built for CUDA and do not load beside a CPU's torch, but it wants the
schemas of two: whoever imports it imports this first.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[], object]

if torch.version.cuda is None:  # else torchvision defines its own
    SCHEMAS = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        SCHEMAS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def training_step(
    model: nn.Module, case: dict[str, Any], *, objective: Callable[[Any, Tensor], Tensor]
) -> Run:
    """`objective` makes of the model's output and labels [N, H, W] the loss."""
    device = case["device"]
    torch.backends.cudnn.benchmark = True  # as in the other toolkits' trainings
    model = model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(enabled=device != "cpu")
    images = _images(case)
    truth = torch.randint(case["classes"], (case["batch"], *case["size"]), device=device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision(case):
            loss = objective(model(images), truth)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return run


def forward(model: nn.Module, case: dict[str, Any], *, logits: Callable[[Tensor], object]) -> Run:
    """`logits` is the part of `model` that ends before they are upsampled."""
    model.to(case["device"]).eval()
    images = _images(case)

    def run() -> None:
        with torch.inference_mode(), precision(case):
            logits(images)

    return run


def precision(case: dict[str, Any]) -> torch.autocast:
    """float32 on the CPU, as these toolkits run there, and float16 on CUDA."""
    return torch.autocast(case["device"].partition(":")[0], enabled=case["device"] != "cpu")


def _images(case: dict[str, Any]) -> Tensor:
    return torch.randn(case["batch"], 3, *case["size"], device=case["device"])
