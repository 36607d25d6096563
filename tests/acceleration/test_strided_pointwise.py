"""1x1 convolutions with a stride train on CPUs, where oneDNN's own gradient writes beyond memory.

In a process of its own, which a fault may end.
"""

import subprocess
import sys

import pytest
import torch
from torch import nn

from perpixel.acceleration.strided_pointwise import avoid_strides

STEPS = """
import torch
import perpixel
from perpixel.training.step import make_train_state, train_step

recipe = perpixel.override(
    perpixel.recipe("scenes/semantic_fpn_r18"),
    ["model.backbone.type=timm", "model.backbone.name=fastvit_t8", "train.precision=float32",
     "train.batch_size=2", "model.head.channels=32", "model.head.fpn_channels=32"],
)
model = perpixel.build(recipe, num_classes=3)
state = make_train_state(model, recipe, device=torch.device("cpu"), dtype=torch.float32)
images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
for step in (0, 1):
    assert train_step(state, images, images[..., 0] % 3, recipe, step=step).is_finite
"""


def test_fastvit_trains():
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (8, 4)])
def test_numbers_stay(channels: int, groups: int):
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 16, 1, stride=(2, 3), groups=groups)
    images = torch.randn(2, channels, 31, 40, requires_grad=True)
    results = []
    for _ in range(2):
        conv.zero_grad()
        images.grad = None
        output = conv(images)
        output.pow(2).sum().backward()
        results.append((output, conv.weight.grad.clone(), conv.bias.grad.clone(), images.grad))
        avoid_strides(conv)
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(after, before)
    assert isinstance(conv, nn.Conv2d)
    assert list(conv.state_dict()) == ["weight", "bias"]
