"""The interpreter runs kernels as Python; what a GPU runs has to compile, which needs none."""

import os
import subprocess
import sys

COMPILE = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from perpixel.ops.bilinear import resize_weights
from perpixel.ops.triton import cross_entropy
from perpixel.ops.triton import upsample_argmax


class Absent:
    '''A GPU of some architecture, for which kernels are compiled and never started.'''

    def __init__(self, architecture):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_device(self):
        return self.target.arch

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return self.target


def compile_only(kernel, grid):
    def start(*args, **named):
        compiled = kernel.run(*args, grid=grid, warmup=True, **named)
        target, = (line for line in compiled.asm["ptx"].splitlines() if line.startswith(".target"))
        print(compiled.name, target.split()[1].rstrip(","), len(compiled.asm["cubin"]) > 0)

    return start


JITFunction.__getitem__ = compile_only
rows = resize_weights(8, 64, align_corners=False)
columns = resize_weights(16, 128, align_corners=False)
labels = torch.zeros(2, 64, 128, dtype=torch.uint8)
for architecture, classes, dtype, smoothing in CASES:
    driver.set_active(Absent(architecture))
    logits = torch.zeros(2, classes, 8, 16, dtype=getattr(torch, dtype))
    logits = logits.contiguous(memory_format=torch.channels_last)
    how = {"align_corners": False, "smoothing": smoothing}
    losses, log_sums = cross_entropy.forward(logits, labels, **how)
    cross_entropy.backward(losses, logits, labels, log_sums, **how)
    upsample_argmax.upsample_argmax(logits[0].permute(1, 2, 0), rows, columns)
"""

CASES = [
    (75, 2, "float32", 0.0),
    (80, 21, "bfloat16", 0.1),
    (90, 150, "bfloat16", 0.0),
    (90, 3, "float64", 0.1),
]


def test_kernels_compile_for_gpus(tmp_path):
    told = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE.replace("CASES", repr(CASES))],
        capture_output=True, text=True, env={**told, "TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        f"{kernel} sm_{architecture}{'a' * (architecture == 90)} True"
        for architecture, *_ in CASES
        for kernel in ("_forward", "_backward", "_best_class")
    ]
