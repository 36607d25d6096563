"""The fused loss against interpolate + cross-entropy: seconds and extra memory, forward + backward.

Four images of 512x512 with ADE20K's 150 classes, from logits at stride 8 (FCN) and 4 (Semantic
FPN). Extra memory is the peak during the loss over what was held before it: of the process on a
CPU, each way in a process of its own; of the allocator on CUDA.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from measure import alternating, apart, extra_memory, record, write_result
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from perpixel.losses import segmentation_loss
from perpixel.recipes.schema import IGNORE_INDEX, OHEM, Loss

IMAGES, CLASSES, SIZE = 4, 150, 512
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def batch(stride: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    small = SIZE // stride
    logits = torch.randn(IMAGES, CLASSES, small, small, device=DEVICE).to(dtype)
    labels = torch.randint(0, CLASSES, (IMAGES, SIZE, SIZE), dtype=torch.uint8, device=DEVICE)
    labels[:, :20] = IGNORE_INDEX
    return logits.contiguous(memory_format=torch.channels_last), labels


def fused(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return _with_gradient(lambda x: segmentation_loss(x, labels, loss), logits)


def materialised(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    def loss(x: Tensor) -> Tensor:
        exact = x if x.dtype == torch.float64 else x.float()
        full = interpolate(exact, size=labels.shape[1:], mode="bilinear")
        return cross_entropy(full, labels.long(), ignore_index=IGNORE_INDEX)

    return _with_gradient(loss, logits)


def _with_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    found = loss(leaf)
    found.backward()
    assert leaf.grad is not None
    return found.detach(), leaf.grad


USUAL = "interpolate, cross_entropy"
WAYS = {
    USUAL: materialised,
    "perpixel": partial(fused, Loss()),
    "perpixel, OHEM": partial(fused, Loss(ohem=OHEM())),
}


def extra(way: str, stride: int, dtype: torch.dtype) -> float:
    """Bytes that a way holds at most beyond logits and labels."""
    small = [tensor[:1, ..., :8, :8].contiguous() for tensor in batch(stride, dtype)]
    WAYS[way](*small)  # what a first call loads is not the loss's own
    given = batch(stride, dtype)
    return extra_memory(lambda: WAYS[way](*given), DEVICE)


def errors(stride: int, dtype: torch.dtype) -> tuple[float, float]:
    """Relative errors of the fused loss and gradient against float64's materialised ones."""
    logits, labels = batch(stride, dtype)
    logits, labels = logits[:1], labels[:1]
    loss, gradient = fused(Loss(), logits, labels)
    true_loss, true_gradient = materialised(logits.double(), labels)
    of_gradient = (gradient.double() - true_gradient).abs().max() / true_gradient.abs().max()
    return abs(loss.double() / true_loss - 1).item(), of_gradient.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    results = []
    for stride in (8, 4):
        for dtype in (torch.float32, torch.bfloat16):
            kind = str(dtype).removeprefix("torch.")
            title, given = f"logits at stride {stride}, {kind}", batch(stride, dtype)
            ways = {name: partial(way, *given) for name, way in WAYS.items()}
            seconds = alternating(ways, rounds=rounds)
            memory = {name: [apart(extra, name, stride, dtype) for _ in range(3)] for name in WAYS}
            results.append(record(title, "seconds", seconds, against=USUAL))
            results.append(record(title, "bytes", memory, against=USUAL))
    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        found[kind] = errors(8, dtype)
        print(
            f"{kind}: relative errors of loss {found[kind][0]:.1e}, gradient {found[kind][1]:.1e}"
        )
    print(write_result("loss", {"measured": results, "errors": found}, device=DEVICE))


if __name__ == "__main__":
    main()
