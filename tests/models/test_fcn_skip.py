"""The original FCN at every size, its deconvolutions, its start, and training it."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, pad

import perpixel
from perpixel.models.build import build
from perpixel.models.fcn_skip import Deconvolution, bilinear_kernel
from perpixel.profiling.flops import count
from perpixel.recipes.models import FCN, VGG16, Auxiliary, CaffeNet, FCNSkip, Model, ResNet
from perpixel.recipes.schema import Recipe
from perpixel.training.freeze import freeze_backbone

SMALL = VGG16(base_channels=2, fc_channels=4)
MODELS = [
    Model(backbone=SMALL, head=FCNSkip(stride=32)),
    Model(backbone=SMALL, head=FCNSkip(stride=16)),
    Model(backbone=SMALL, head=FCNSkip(stride=8, skip_scales=(0.01, 0.0001))),
    Model(backbone=CaffeNet(fc_channels=4), head=FCNSkip(stride=32)),
]
SIZES = [(side, 65 - side) for side in range(1, 65)] + [(1, 1), (64, 64), (333, 501), (1, 701)]


@pytest.mark.parametrize("spec", MODELS, ids=["32s", "16s", "8s", "alexnet"])
def test_every_size_gives_logits_of_its_size(spec: Model):
    model = build(spec, num_classes=3).eval()
    with torch.inference_mode():
        for size in SIZES:
            assert model(torch.zeros(1, 3, *size)).logits.shape == (1, 3, *size)


@pytest.mark.parametrize("stride", [2, 8, 32])
def test_a_deconvolution_is_bilinear_upsampling_with_zeros_beyond_the_border(stride: int):
    x = torch.randn(1, 2, 5, 7)
    ring = pad(x, (1, 1, 1, 1))
    enlarged = interpolate(ring, scale_factor=stride, mode="bilinear")
    half = stride // 2
    expected = enlarged[..., half:-half, half:-half]
    ours = Deconvolution(2, kernel_size=2 * stride, stride=stride)(x)
    torch.testing.assert_close(ours, expected)


def test_the_kernel_of_an_odd_size():
    """FCN-AlexNet's, of 63: factor 32, its center at 31."""
    row = bilinear_kernel(63)[31]
    assert row[31] == 1
    assert row[0] == row[62] == 1 / 32


def test_scores_start_at_zero_and_fixed_kernels_are_no_parameters():
    model = build(Model(backbone=SMALL, head=FCNSkip()), num_classes=3)
    assert not model(torch.randn(1, 3, 40, 40)).logits.any()
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if "upsample" in name]
    learned = build(Model(backbone=SMALL, head=FCNSkip(learned_upsampling=True)), num_classes=3)
    upsampling = [name for name, _ in learned.named_parameters() if "upsample" in name]
    assert upsampling == ["head.upsample2.0.weight", "head.upsample2.1.weight"]
    assert learned.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("voc-fcn32s", 134_346_581, 180_903_432_960 + 462_422_016),
        ("voc-fcn16s", 134_357_354, 180_924_248_832 + 523_837_440),
        ("voc-fcn8s", 134_362_751, 180_965_880_576 + 563_153_472),
        ("voc-fcn-alexnet", 56_954_261, 20_976_403_744 + 448_084_224),
    ],
)
def test_parameters_and_multiply_adds_at_500x500(name: str, params: int, macs: int):
    counted = count(perpixel.recipe(f"caffe-fcn/{name}").model, num_classes=21, size=(500, 500))
    assert (counted.params, counted.macs_convolutions) == (params, macs)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"backbone": SMALL, "head": FCN()}, "made for each other, and here are fcn and vgg16"),
        ({"backbone": ResNet(), "head": FCNSkip()}, "here are fcn_skip and resnet"),
        ({"backbone": CaffeNet(), "head": FCNSkip(stride=8)}, "caffenet has no skips"),
        ({"backbone": SMALL, "head": FCNSkip(), "aux_head": Auxiliary()}, "no auxiliary head"),
    ],
)
def test_what_does_not_go_together(parts: dict, says: str):
    with pytest.raises(ValueError, match=says):
        Model(**parts)


def test_a_frozen_trunk_keeps_its_weights():
    model = build(Model(backbone=SMALL, head=FCNSkip()), num_classes=3)
    freeze_backbone(model, "backbone")
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {
        "head"
    }


LEARNING = perpixel.override(
    perpixel.recipe("caffe-fcn/voc-fcn8s-atonce"),
    [
        "data.name=scenes", "data.train_split=train", "data.eval_split=val",
        "model.backbone.base_channels=4", "model.backbone.fc_channels=32",
        "model.backbone.dropout=0", "loss.reduction=mean", "optimizer.name=adamw",
        "optimizer.lr=0.002", "optimizer.bias_lr_mult=1", "optimizer.clip_grad_norm=1",
        "model.head.skip_scales=[1,1]", "train.pretrained=null", "train.steps=50",
        "train.batch_size=2", "augment.crop_size=64x80", "evaluate.every=null",
        "train.log_every=1", "input.std=[58,58,58]",
    ],
)  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fcn_8s_learns_from_random_weights(tmp_path, precision: str):
    """A model that gives every pixel one class has at most 5 mIoU on the scenes."""
    recipe = perpixel.override(LEARNING, [f"train.precision={precision}"])
    run = perpixel.train(recipe, out=tmp_path, device="cpu")
    print(f"mIoU {run.scores.miou:.1f}")
    assert run.scores.miou > 10


class _DarkAndLight:
    """Images of several sizes, of two classes: dark and light."""

    class_names = ("dark", "light")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        size = 40 + 8 * index, 60 - 6 * index
        mask = np.zeros(size, np.uint8)
        mask[: size[0] // 2] = 1
        return np.repeat(200 * mask[..., None], 3, axis=2), mask


@pytest.mark.parametrize("batch_size", [1, 3])
def test_whole_images_of_several_sizes_train(tmp_path, batch_size: int):
    changes = ["augment.crop_size=null", "train.steps=4", f"train.batch_size={batch_size}"]
    recipe: Recipe = perpixel.override(LEARNING, [*changes, "loss.reduction=sum"])
    run = perpixel.train(
        recipe,
        train_dataset=_DarkAndLight(),
        eval_dataset=_DarkAndLight(),
        out=tmp_path,
        device="cpu",
    )
    assert run.scores.images == 4
    with pytest.raises(perpixel.UsageError, match="trains on whole images"):
        _ = recipe.window_size
