"""What holds for every model: shapes, strides, key names, gradients, sizes."""

import pytest
import torch
from torch.nn.functional import interpolate
from variants import VARIANTS

import perpixel
from perpixel.models.build import build
from perpixel.recipes.models import FCN, Auxiliary, Model, ResNet, SemanticFPN

STRIDE = {
    name: 4 if spec.head.type == "semantic_fpn" else spec.backbone.output_stride
    for name, spec in VARIANTS.items()
}


@pytest.fixture(params=VARIANTS)
def variant(request) -> str:
    return request.param


def test_logits_have_the_heads_own_stride(variant: str):
    model = build(VARIANTS[variant], num_classes=5).eval()
    with torch.inference_mode():
        for height, width in ((64, 96), (65, 97), (33, 70)):
            logits = model(torch.randn(2, 3, height, width)).logits
            stride = STRIDE[variant]
            assert logits.shape == (2, 5, -(-height // stride), -(-width // stride))


def test_the_auxiliary_head_answers_only_when_asked(variant: str):
    model = build(VARIANTS[variant], num_classes=5).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert model(images).aux_logits is None
        extra = model(images, return_aux=True).aux_logits
        if VARIANTS[variant].aux_head is None:
            assert extra is None
        else:
            assert extra is not None
            assert extra.shape == (1, 5, 8, 8)


def test_every_trainable_weight_gets_a_gradient(variant: str):
    model = build(VARIANTS[variant], num_classes=5)
    output = model(torch.randn(2, 3, 64, 64), return_aux=True)
    loss = output.logits.square().mean()
    if output.aux_logits is not None:
        loss = loss + output.aux_logits.square().mean()
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_images_of_a_batch_do_not_meet(variant: str):
    model = build(VARIANTS[variant], num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        both, alone = model(images).logits, model(images[1:]).logits
    assert (both[1:] - alone).abs().max() < 1e-3 * alone.abs().max()


def test_key_names_are_these():
    keys = build(VARIANTS["fcn-r18-d8-deep"], num_classes=5).state_dict().keys()
    for key in (
        "backbone.stem.0.weight",
        "backbone.stem.7.running_mean",
        "backbone.layer2.0.downsample.0.weight",
        "backbone.layer4.1.bn2.bias",
        "head.convs.1.0.weight",
        "head.convs.1.1.running_var",
        "head.fuse.0.weight",
        "head.classifier.bias",
        "auxiliary.convs.0.0.weight",
        "auxiliary.classifier.weight",
    ):
        assert key in keys
    keys = build(VARIANTS["fpn-r18"], num_classes=5).state_dict().keys()
    for key in (
        "backbone.conv1.weight",
        "backbone.bn1.weight",
        "head.lateral.3.bias",
        "head.output.0.weight",
        "head.scales.3.2.0.weight",
        "head.scales.0.0.1.num_batches_tracked",
    ):
        assert key in keys


# FACTS of the toolkits' instantiated models: mmsegmentation, sssegmentation, pytorch-auto-drive.
def _mmseg(depth: int, stem: str, *, auxiliary: bool = True) -> Model:
    wide = depth != 18
    return Model(
        backbone=ResNet(depth=depth, stem=stem, output_stride=8),
        head=FCN(num_convs=2, channels=512 if wide else 128, concat_input=True),
        aux_head=Auxiliary(channels=256 if wide else 64) if auxiliary else None,
    )


def _sssegmentation(depth: int, head: str) -> Model:
    fcn = head == "fcn"
    return Model(
        backbone=ResNet(depth=depth, stem="deep", output_stride=8 if fcn else 32),
        head=FCN(num_convs=2, channels=512) if fcn else SemanticFPN(fpn_norm=True),
        aux_head=Auxiliary(channels=512) if fcn else None,
    )


@pytest.mark.parametrize(
    ("spec", "classes", "parameters"),
    [
        (_mmseg(18, "deep"), 19, 12_822_342),
        (_mmseg(18, "7x7"), 19, 12_803_110),
        (_mmseg(50, "deep"), 19, 49_497_734),
        (_mmseg(50, "7x7"), 19, 49_478_502),
        (_mmseg(50, "deep", auxiliary=False), 19, 47_133_043),
        (_mmseg(50, "deep"), 150, 49_598_604),
        (_mmseg(101, "deep"), 60, 68_521_432),
        (_sssegmentation(50, "fcn"), 21, 40_066_954),
        (_sssegmentation(101, "fcn"), 150, 59_191_436),
        (_sssegmentation(50, "fpn"), 21, 28_500_213),
        (_sssegmentation(101, "fpn"), 19, 47_492_083),
        (
            Model(backbone=ResNet(depth=50, stem="deep"), head=SemanticFPN()),
            150,
            28_514_806,
        ),
        (
            Model(
                backbone=ResNet(depth=101, output_stride=8),
                head=FCN(num_convs=1, channels=512, dropout_type="element"),
            ),
            19,
            51_948_115,
        ),
    ],
)
def test_parameter_counts_are_the_toolkits(spec: Model, classes: int, parameters: int, monkeypatch):
    with torch.device("meta"):
        model = build(spec, num_classes=classes)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_first_block_of_a_dilated_stage_keeps_the_previous_dilation():
    model = build(_mmseg(50, "deep"), num_classes=2)
    dilations = [
        [block.conv2.dilation[0] for block in stage]
        for stage in (model.backbone.layer3, model.backbone.layer4)
    ]
    assert dilations == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]


def test_zero_init_makes_every_residual_branch_silent():
    spec = ResNet(depth=50, zero_init_residual=True)
    model = build(Model(backbone=spec), num_classes=2)
    assert not model.backbone.layer2[1].bn3.weight.any()
    assert model.backbone.layer2[1].bn2.weight.all()


@pytest.mark.parametrize(
    ("head", "whole_channels"),
    [
        (FCN(num_convs=0, dropout=0.3), True),
        (FCN(num_convs=0, dropout=0.3, dropout_type="element"), False),
        (SemanticFPN(fpn_channels=32, channels=32, dropout=0.3), True),
    ],
    ids=["fcn", "fcn-element", "fpn"],
)
def test_dropout_drops_its_share_before_the_classifier(head: FCN | SemanticFPN, whole_channels):
    """A classifier that passes channels on shows which are dropped: they leave its bias alone."""
    spec = Model(backbone=ResNet(depth=18, base_channels=8), head=head)
    width = 64 if head.type == "fcn" else 32  # those of the last stage
    model = build(spec, num_classes=width).eval()
    with torch.no_grad():
        model.head.classifier.weight.copy_(torch.eye(width)[..., None, None])
        model.head.classifier.bias.fill_(1)
        images = torch.randn(8, 3, 64, 64)
        kept = model(images).logits - 1
        model.head.dropout.train()
        found = model(images).logits - 1
    visible = kept.abs() > 1e-3
    dropped = found.abs() < 1e-6
    torch.testing.assert_close(found[~dropped], (kept / 0.7)[~dropped], rtol=1e-3, atol=1e-4)
    assert dropped[visible].float().mean() == pytest.approx(0.3, abs=0.1)
    by_channel = dropped.where(visible, True).flatten(2).all(2) | ~(dropped & visible).flatten(
        2
    ).any(2)
    assert by_channel.all() == whole_channels


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_pyramid_doubles_its_levels_as_its_toolkits_do(align_corners: bool):
    """Kirillov et al. (2019), figure 3, written out: every doubling is one of align_corners."""
    spec = VARIANTS["fpn-r18"].model_copy(update={"align_corners": align_corners})
    model = build(spec, num_classes=5).eval()
    head = model.head

    def doubled(features: torch.Tensor) -> torch.Tensor:
        return interpolate(features, scale_factor=2, mode="bilinear", align_corners=align_corners)

    with torch.inference_mode():
        images = torch.randn(1, 3, 64, 96)
        features = model.backbone(images)
        top_down = head.lateral[3](features[3])
        levels = [top_down]
        for level in (2, 1, 0):
            top_down = head.lateral[level](features[level]) + interpolate(top_down, scale_factor=2)
            levels.insert(0, top_down)
        merged = head.scales[0][0](head.output[0](levels[0]))
        for level, count in ((1, 1), (2, 2), (3, 3)):
            scaled = head.output[level](levels[level])
            for index in range(count):
                scaled = doubled(head.scales[level][index](scaled))
            merged = merged + scaled
        expected, found = head.classifier(merged), model(images).logits
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_initial_weights_have_their_formulas_spread():
    """He et al.'s by fan-out before a ReLU, 0.01 for classifiers, Glorot's uniform in the neck."""
    model = build(Model(backbone=ResNet(depth=18), head=SemanticFPN()), num_classes=100)
    conv = model.backbone.layer2[0].conv1.weight  # 64 to 128 channels
    assert conv.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    classifier = model.head.classifier
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not classifier.bias.any()
    lateral = model.head.lateral[3]  # 512 to 256 channels
    bound = (6 / (512 + 256)) ** 0.5
    assert 0.99 * bound < lateral.weight.abs().max().item() <= bound
    assert lateral.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not lateral.bias.any()


def test_the_python_door_builds_a_recipes_model():
    model = perpixel.build(perpixel.recipe("camvid/fcn_r18-d8"), num_classes=11)
    assert model(torch.randn(1, 3, 64, 64)).logits.shape == (1, 11, 8, 8)
