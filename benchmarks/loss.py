"""The fused loss against interpolate + cross-entropy: seconds and extra memory, forward + backward.

Four pictures of 512x512 with ADE20K's 150 classes, from logits at stride 8 (FCN) and 4 (Semantic
FPN). Extra memory is the peak during the loss over what was held before it: of the process on a
CPU, each way in a process of its own; of the allocator on CUDA.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from measure import (
    alternating,
    median,
    memory_above,
    peak_memory,
    reset_peak_memory,
    write_result,
)
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from perpixel.losses import segmentation_loss
from perpixel.recipes.spec import IGNORE, OHEM, Loss

PICTURES, CLASSES, SIZE = 4, 150, 512
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PEAK = """
import json, sys
sys.path.insert(0, "benchmarks")
import loss

way, stride, dtype = sys.argv[1], int(sys.argv[2]), getattr(loss.torch, sys.argv[3])
small = [tensor[:1, ..., :8, :8].contiguous() for tensor in loss.batch(stride, dtype)]
loss.WAYS[way](*small)  # what a first call loads is not the loss's own
given = loss.batch(stride, dtype)
print(json.dumps({"extra": loss.extra(lambda: loss.WAYS[way](*given))}))
"""


def extra(work: Callable[[], object]) -> float:
    """Bytes that `work` holds at most beyond what is held."""
    reset_peak_memory(DEVICE)
    before = memory_above(0, DEVICE)
    work()
    return memory_above(before, DEVICE)


def batch(stride: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    small = SIZE // stride
    logits = torch.randn(PICTURES, CLASSES, small, small, device=DEVICE).to(dtype)
    labels = torch.randint(0, CLASSES, (PICTURES, SIZE, SIZE), dtype=torch.uint8, device=DEVICE)
    labels[:, :20] = IGNORE
    return logits.contiguous(memory_format=torch.channels_last), labels


def fused(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return _with_gradient(lambda x: segmentation_loss(x, labels, Loss()), logits)


def fused_ohem(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return _with_gradient(lambda x: segmentation_loss(x, labels, Loss(ohem=OHEM())), logits)


def materialised(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    def loss(x: Tensor) -> Tensor:
        exact = x if x.dtype == torch.float64 else x.float()
        full = interpolate(exact, size=labels.shape[1:], mode="bilinear")
        return cross_entropy(full, labels.long(), ignore_index=IGNORE)

    return _with_gradient(loss, logits)


def _with_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    found = loss(leaf)
    found.backward()
    assert leaf.grad is not None
    return found.detach(), leaf.grad


USUAL = "interpolate, cross_entropy"
WAYS = {USUAL: materialised, "perpixel": fused, "perpixel, OHEM": fused_ohem}


def errors(stride: int, dtype: torch.dtype) -> tuple[float, float]:
    """Relative errors of the fused loss and gradient against float64's materialised ones."""
    logits, labels = batch(stride, dtype)
    logits, labels = logits[:1], labels[:1]
    loss, gradient = fused(logits, labels)
    true_loss, true_gradient = materialised(logits.double(), labels)
    of_gradient = (gradient.double() - true_gradient).abs().max() / true_gradient.abs().max()
    return abs(loss.double() / true_loss - 1).item(), of_gradient.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    measured = []
    for stride in (8, 4):
        for dtype in (torch.float32, torch.bfloat16):
            kind = str(dtype).removeprefix("torch.")
            title, given = f"logits at stride {stride}, {kind}", batch(stride, dtype)
            ways = {name: partial(way, *given) for name, way in WAYS.items()}
            seconds = alternating(ways, rounds=rounds)
            extra = {
                name: [peak_memory(PEAK, name, str(stride), kind)["extra"] for _ in range(3)]
                for name in WAYS
            }
            for unit, values in (("seconds", seconds), ("bytes", extra)):
                measured.append({"title": title, "unit": unit, "values": values, "against": USUAL})
                for name, several in values.items():
                    less = median(values[USUAL]) / median(several)
                    print(f"{title}: {name:30} {median(several):12.4g} {unit}, {less:.2f} x less")
    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        found[kind] = errors(8, dtype)
        print(
            f"{kind}: relative errors of loss {found[kind][0]:.1e}, gradient {found[kind][1]:.1e}"
        )
    result = {"measured": measured, "errors": found}
    print(write_result("loss", result, device=DEVICE))


if __name__ == "__main__":
    main()
