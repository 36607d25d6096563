"""How near one forward pass of FCN R-50-D8 (512x512) comes to the machine's matrix products.

The rate of bfloat16 matrix products is the best of several shapes, measured in the same rounds. The
share is of the pass's multiply-adds, two operations each, in that rate. `--compile` adds the
model as `perpixel.load(compiled=True)` makes it; compiling takes its time first.
"""

import argparse
import os
from statistics import median

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does (cli/main.py)

import torch
from measure import alternating, record, write_result
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perpixel.acceleration.accelerate import accelerate
from perpixel.acceleration.fuse_conv_bn import fuse_conv_bn
from perpixel.models.build import build
from perpixel.models.segmenter import Segmenter
from perpixel.recipes import recipe
from perpixel.runtime.device import to_device
from perpixel.runtime.dtype import resolve_dtype
from perpixel.runtime.heap import keep_freed

keep_freed()  # as the command line does
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((4096, 4096, 4096), (8192, 2048, 2048), (4096, 512, 4608), (16384, 1024, 1024))


def make_model() -> Segmenter:
    torch.manual_seed(0)
    made = to_device(
        build(recipe("mmseg/fcn_r50-d8_512x512_20k_voc12aug").model, num_classes=21), DEVICE
    )
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after some training: features keep their size
            nn.init.constant_(module.weight, 0.5)
    return made.eval()


@torch.inference_mode()
def measured(images: int, *, rounds: int, compiled: bool) -> list[dict[str, object]]:
    given = torch.randn(images, 3, 512, 512, device=DEVICE)
    given = given.contiguous(memory_format=torch.channels_last)
    plain = make_model()
    exact = plain(given).logits
    half = fuse_conv_bn(plain).bfloat16()

    def autocast(model: Segmenter) -> Tensor:
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            return model(given).logits

    single = accelerate(plain, device=DEVICE, dtype=torch.float32, training=False)
    ways = {
        "float32": lambda: plain(given).logits,
        "float32, accelerated": lambda: single(given).logits,
        "autocast": lambda: autocast(plain),
        "autocast, fused": lambda: autocast(single),
        "bfloat16, fused": lambda: autocast(half),
    }
    if compiled:
        quick = fuse_conv_bn(plain).bfloat16()
        quick.compile(options={"freezing": True})
        ways["bfloat16, fused, compiled"] = lambda: autocast(quick)
    errors = {
        name: ((way().float() - exact).abs().max() / exact.abs().max()).item()
        for name, way in ways.items()
    }
    with FlopCounterMode(display=False) as counter:
        make_model().to("meta")(given.to("meta"))  # where every convolution is torch's own
    work = counter.get_total_flops()
    products = {}
    for m, n, k in SHAPES:
        a = torch.randn(m, k, device=DEVICE).bfloat16()
        b = torch.randn(k, n, device=DEVICE).bfloat16()
        products[f"{m}x{k} times {k}x{n}"] = lambda a=a, b=b: a @ b
    seconds = alternating({**ways, **products}, rounds=rounds)
    rates = {
        name: [2 * m * n * k / one for one in seconds[name]]
        for name, (m, n, k) in zip(products, SHAPES, strict=True)
    }
    best = max(median(several) for several in rates.values())
    shares = {name: [work / one / best for one in seconds[name]] for name in ways}
    print("errors:", ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    title = f"{images} of 512x512, {work / 2e9:.1f} G multiply-adds"
    return [
        record("matrix products, bfloat16", "rate", rates),
        record(title, "seconds", {name: seconds[name] for name in ways}, against="float32"),
        record("share of the best product's rate", "share", shares),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args()
    resolve_dtype("float32", torch.device(DEVICE))  # TF32 is torch's default on CUDA
    found = []
    for images in (1, 2):
        found += measured(images, rounds=chosen.rounds, compiled=chosen.compile)
    print(write_result("forward", {"measured": found}, device=DEVICE))


if __name__ == "__main__":
    main()
