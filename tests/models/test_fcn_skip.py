"""The original FCN at every size, its deconvolutions, its start, and training it."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, pad

import perpixel
from perpixel.data.loader import batches
from perpixel.data.user_dataset import wrap_dataset
from perpixel.models.build import build
from perpixel.models.fcn_skip import Deconvolution, bilinear_kernel
from perpixel.profiling.flops import count
from perpixel.recipes.models import FCN, VGG16, Auxiliary, CaffeNet, FCNSkip, Model, ResNet
from perpixel.runtime.distributed import DistInfo
from perpixel.training.freeze import freeze_backbone
from perpixel.training.parallel import check_batch_divides
from perpixel.training.step import forward, loss_from_logits, micro_batches

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
    upsampled = interpolate(ring, scale_factor=stride, mode="bilinear")
    half = stride // 2
    expected = upsampled[..., half:-half, half:-half]
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
    run = perpixel.train(recipe, out=tmp_path, device="cpu", init="none")
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


WHOLE = perpixel.override(
    LEARNING, ["augment.crop_size=null", "train.steps=4", "train.batch_size=1"]
)


def test_whole_images_of_several_sizes_train(tmp_path):
    run = perpixel.train(
        WHOLE, train_dataset=_DarkAndLight(), eval_dataset=_DarkAndLight(), out=tmp_path,
        device="cpu", init="none",
    )  # fmt: skip
    assert run.scores.images == 4
    assert run.scores.miou > 60  # either class alone has 25 at most


def test_whole_images_are_padded_on_their_way_only():
    """Three of several sizes in one batch; a micro-batch is one of them as it is."""
    recipe = perpixel.override(
        WHOLE, ["train.batch_size=3", "train.grad_accum_steps=3", "augment.flip_prob=0"]
    )
    dataset = wrap_dataset(_DarkAndLight())
    (batch, *_) = batches(dataset, recipe, first_step=0, workers=0)
    assert batch.sizes is not None
    sizes = [(height, width) for height, width in batch.sizes.tolist()]
    assert len(set(sizes)) == 3
    assert batch.images.shape[1:3] == tuple(map(max, zip(*sizes, strict=True)))
    for image, label, (height, width) in zip(batch.images, batch.labels, sizes, strict=True):
        assert (label[height:] == 255).all()
        assert (label[:, width:] == 255).all()
        assert set(label[:height, :width].unique().tolist()) == {0, 1}
        assert torch.equal(image[..., 0] == 200, label == 1)
    parts = list(micro_batches(batch.images, batch.labels, recipe, DistInfo(), sizes=batch.sizes))
    assert [tuple(part.images.shape[1:3]) for part in parts] == sizes
    assert [tuple(part.labels.shape[1:]) for part in parts] == sizes


def test_a_sum_over_pixels_is_the_mean_over_images():
    """In one batch as in micro-batches; unlabeled pixels count nothing."""
    recipe = perpixel.override(
        LEARNING, ["loss.reduction=sum", "augment.crop_size=32x40", "train.batch_size=2"]
    )
    torch.manual_seed(0)
    model = build(recipe.model, num_classes=2)
    for score in (model.head.classifier, *model.head.skips):
        torch.nn.init.normal_(score.weight, std=0.1)
    images = torch.randint(0, 256, (2, 32, 40, 3), dtype=torch.uint8)
    labels = torch.randint(0, 2, (2, 32, 40), dtype=torch.uint8)
    labels[1, :9] = 255
    gradients = []
    for parts in (1, 2):
        settings = perpixel.override(recipe, [f"train.grad_accum_steps={parts}"])
        model.zero_grad()
        for batch in micro_batches(images, labels, settings, DistInfo()):
            output = forward(model, batch.images, settings, dtype=torch.float32)
            (batch.factor * loss_from_logits(output, batch.labels, settings)).backward()
        gradients.append(model.head.classifier.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)
    output = forward(model, images, recipe, dtype=torch.float32)
    expected = torch.nn.functional.cross_entropy(
        output.logits, labels.long(), ignore_index=255, reduction="sum"
    )
    torch.testing.assert_close(loss_from_logits(output, labels, recipe), expected / 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["inference.mode=slide"], "needs an inference.window_size"),
        (["train.compile=default"], "compile is for one crop size"),
        (["loss.reduction=sum", "loss.dice=1"], "reduction=sum beside dice or lovasz"),
        (
            ["model.head.stride=16", "model.head.skip_scales=[0.01,1]"],
            "skip_scales are for stride=8",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes: list[str], says: str):
    with pytest.raises(perpixel.UsageError, match=says):
        perpixel.override(WHOLE, changes)


def test_what_needs_a_size_or_one_image_says_so(tmp_path):
    with pytest.raises(perpixel.UsageError, match="trains on whole images"):
        _ = WHOLE.window_size
    with pytest.raises(perpixel.UsageError, match=r"one at a time.*grad_accum_steps=3"):
        check_batch_divides(perpixel.override(WHOLE, ["train.batch_size=3"]), world_size=1)
    check_batch_divides(perpixel.override(WHOLE, ["train.batch_size=2"]), world_size=2)
    check_batch_divides(
        perpixel.override(LEARNING, ["augment.crop_size=32x32", "train.batch_size=1"]), 1
    )  # a batch norm would have one value, and there is none
    with pytest.raises(perpixel.UsageError, match="starts from a run or checkpoint of FCN-16s"):
        perpixel.train(LEARNING, out=tmp_path, device="cpu")
