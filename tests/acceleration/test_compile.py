import os
import shutil

import pytest
import torch

from perpixel.acceleration.compile import compile_model
from perpixel.acceleration.fuse_conv_bn import fuse_conv_bn
from perpixel.errors import UsageError
from perpixel.models.build import build
from perpixel.recipes.models import FCN, Model, ResNet
from perpixel.runtime.device import to_device

SMALL = Model(backbone=ResNet(depth=18), head=FCN(num_convs=0))


def test_without_a_compiler_the_user_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = build(SMALL, num_classes=2)
    with pytest.raises(UsageError, match="'no-such-compiler' is not on the path"):
        compile_model(model)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_a_compiled_network_predicts_the_same():
    model = fuse_conv_bn(build(SMALL, num_classes=4))
    for number in (1, 2, 3, 4):  # one block a stage is compiled in half the time
        stage = model.backbone.get_submodule(f"layer{number}")
        del stage[1]
    names = list(model.state_dict())
    images = torch.randn(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        wanted = model(images).logits
        quick = to_device(fuse_conv_bn(model), "cpu")
        compile_model(quick, options={"freezing": True})
        found = quick(images).logits
    assert quick._compiled_call_impl is not None
    assert list(quick.state_dict()) == names
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
