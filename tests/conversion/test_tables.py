"""Names to models and back, for models that no parity case holds."""

import numpy as np
import pytest
import torch

from perpixel.conversion import build_model, find, from_state_dict, to_state_dict
from perpixel.conversion.detect import TOOLKITS
from perpixel.conversion.names import to_perpixel_names, to_toolkit_names
from perpixel.errors import PerpixelError, UsageError
from perpixel.models.build import build
from perpixel.recipes.models import FCN, Auxiliary, Model, ResNet, SemanticFPN

R18 = ResNet(depth=18, output_stride=8)
SMALL = Model(backbone=R18, head=FCN(num_convs=2, channels=8, concat_input=True))

# toolkit, model, classes, in a few depths, stems, widths and heads
NETWORKS = [
    ("mmseg", SMALL, 3),
    ("mmseg", SMALL.model_copy(update={"aux_head": Auxiliary(num_convs=2, channels=4)}), 150),
    ("mmseg", Model(backbone=ResNet(depth=34, stem="deep"), head=FCN(num_convs=1, channels=8)), 2),
    ("mmseg", Model(backbone=R18, head=FCN(num_convs=0)), 5),
    ("mmseg", Model(backbone=R18, head=FCN(num_convs=3, channels=8, kernel_size=1)), 5),
    ("mmseg", Model(backbone=ResNet(depth=34), head=SemanticFPN(fpn_channels=16, channels=8)), 19),
    ("mmseg", Model(backbone=ResNet(depth=50), head=SemanticFPN(fpn_channels=16, channels=8)), 7),
    ("sssegmentation", Model(backbone=R18, head=FCN(num_convs=3, channels=8)), 21),
    (
        "sssegmentation",
        Model(backbone=R18, head=FCN(num_convs=0), aux_head=Auxiliary(num_convs=2)),
        4,
    ),
    (
        "sssegmentation",
        Model(
            backbone=ResNet(depth=34, stem="deep"),
            head=SemanticFPN(fpn_channels=8, channels=8, fpn_norm=True),
        ),
        9,
    ),
    (
        "torchvision",
        Model(
            backbone=ResNet(depth=34),
            head=FCN(num_convs=1, channels=128, dropout_type="element"),
            aux_head=Auxiliary(channels=64, dropout_type="element"),
        ),
        21,
    ),
    (
        "pytorch-auto-drive",
        Model(
            backbone=R18,
            head=FCN(num_convs=1, channels=128, dropout_type="element"),
            align_corners=True,
        ),
        19,
    ),
    (
        "detectron2",
        Model(
            backbone=ResNet(depth=18, stride_in_1x1=True, frozen_bn=True),
            head=SemanticFPN(fpn_channels=32, channels=64, norm="group", dropout=0.0),
        ),
        54,
    ),
    (
        "detectron2",
        Model(
            backbone=ResNet(depth=50, stride_in_1x1=True, frozen_bn=False),
            head=SemanticFPN(fpn_channels=8, channels=8, norm="batch", dropout=0.0),
        ),
        2,
    ),
]


def named(toolkit: str, model: Model, classes: int) -> dict[str, torch.Tensor]:
    """A model's weights, random, under a toolkit's names."""
    with torch.device("meta"):
        weights = build(model, num_classes=classes).state_dict()
    names = to_toolkit_names(TOOLKITS[toolkit].name_map, weights)
    return {
        names[name]: torch.rand(tensor.shape).to(tensor.dtype) for name, tensor in weights.items()
    }


@pytest.mark.parametrize(("toolkit", "model", "classes"), NETWORKS)
def test_names_and_shapes_tell_the_model(toolkit: str, model: Model, classes: int):
    state = named(toolkit, model, classes)
    finding = find(state, output_stride=model.backbone.output_stride)
    assert (finding.toolkit.name, finding.model, finding.num_classes) == (toolkit, model, classes)
    names = to_perpixel_names(finding.toolkit.name_map, state)
    assert set(finding.weights) == set(names.values())
    assert all(torch.equal(finding.weights[names[name]], state[name]) for name in state)


@pytest.mark.parametrize(
    ("toolkit", "spec", "classes"), [n for n in NETWORKS if n[0] in ("mmseg", "torchvision")]
)
def test_export_round_trip(toolkit: str, spec: Model, classes: int):
    model = build(spec, num_classes=classes).eval()
    state = to_state_dict(model, toolkit=toolkit)
    back = from_state_dict(
        state, output_stride=spec.backbone.output_stride, align_corners=spec.align_corners
    )
    assert back.spec.backbone == spec.backbone
    assert not back.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
    exported = to_state_dict(back, toolkit=toolkit)
    assert list(exported) == list(state)


# Counted on the toolkits' own modules (key count, trainable values).
PLAIN, DEEP = {"stem": "7x7"}, {"stem": "deep"}
CAT, CAT18 = FCN(concat_input=True), FCN(channels=128, concat_input=True)
COUNTED = [
    ("mmseg", ResNet(depth=18, **DEEP), CAT18, 64, 19, 160, 12_822_342),
    ("mmseg", ResNet(depth=18, **PLAIN), CAT18, 64, 19, 148, 12_803_110),
    ("mmseg", ResNet(depth=50, **DEEP), CAT, 256, 19, 358, 49_497_734),
    ("mmseg", ResNet(depth=50, **DEEP), CAT, None, 19, 350, 47_133_043),
    ("mmseg", ResNet(depth=50, **DEEP), CAT, 256, 150, 358, 49_598_604),
    ("mmseg", ResNet(depth=101, **PLAIN), CAT, 256, 19, 652, 68_470_630),
    ("mmseg", ResNet(depth=101, **DEEP), CAT, 256, 60, 664, 68_521_432),
    ("mmseg", ResNet(depth=101, **DEEP), SemanticFPN(), None, 19, 696, 47_490_035),
    ("sssegmentation", ResNet(depth=50, **DEEP), FCN(), 512, 19, 352, 40_064_902),
    ("sssegmentation", ResNet(depth=101, **DEEP), FCN(), 512, 150, 658, 59_191_436),
    ("sssegmentation", ResNet(**DEEP), SemanticFPN(fpn_norm=True), None, 150, 422, 28_516_854),
    ("pytorch-auto-drive", ResNet(depth=101), FCN(num_convs=1), None, 19, 632, 51_948_115),
    ("torchvision", ResNet(depth=101), FCN(num_convs=1), 256, 21, 640, 54_314_346),
]


@pytest.mark.parametrize(
    ("toolkit", "backbone", "head", "auxiliary", "classes", "keys", "parameters"), COUNTED
)
def test_counts(toolkit, backbone, head, auxiliary, classes, keys, parameters):
    spec = Model(
        backbone=backbone,
        head=head,
        aux_head=None if auxiliary is None else Auxiliary(channels=auxiliary),
    )
    with torch.device("meta"):
        model = build(spec, num_classes=classes)
    assert len(to_toolkit_names(TOOLKITS[toolkit].name_map, model.state_dict())) == keys
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_prefix_counters_halves_and_arrays():
    state = named("mmseg", SMALL, 3)
    odd = {
        f"module._orig_mod.{name}": tensor.half().numpy() if "head" in name else tensor.half()
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }
    weights = find(odd, output_stride=8).weights
    for name, tensor in find(state, output_stride=8).weights.items():
        if name.endswith("num_batches_tracked"):
            assert weights[name] == 0
        else:
            assert weights[name].dtype == torch.float32
            torch.testing.assert_close(weights[name], tensor.half().float())


@pytest.mark.parametrize(
    ("toolkit", "model", "threshold"),
    [
        ("mmseg", SMALL.model_copy(update={"aux_head": Auxiliary(channels=4)}), 0.3),
        ("mmseg", Model(backbone=ResNet(depth=18), head=SemanticFPN(channels=8)), 0.75),
        ("torchvision", NETWORKS[10][1], 0.5),
    ],
)
def test_one_output_becomes_two_with_the_same_classes(toolkit: str, model: Model, threshold):
    """mmsegmentation's out_channels=1, torchvision's num_classes=1: sigmoid(x) > threshold."""
    single = build(model, num_classes=1).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        torch.nn.init.normal_(single.head.classifier.weight, std=5)
        middle = single(images).logits.flatten().sort().values
        middle = middle[len(middle) // 2 - 1 :][:2].mean()  # no output is at the threshold itself
        single.head.classifier.bias += torch.logit(torch.tensor(threshold)) - middle
        expected = single(images).logits.sigmoid() > threshold
    assert 0.2 < expected.float().mean() < 0.8
    state = to_state_dict(single, toolkit=toolkit)
    double = from_state_dict(
        state, toolkit=toolkit, output_stride=model.backbone.output_stride, threshold=threshold
    )
    assert double.num_classes == 2
    assert torch.equal(double(images).logits.argmax(1), expected[:, 0].long())
    if model.aux_head is not None:
        assert double(images, return_aux=True).aux_logits.shape[1] == 2


def test_wrong_thresholds():
    with pytest.raises(UsageError, match=r"threshold=1\.5: .* between 0 and 1"):
        from_state_dict(named("mmseg", SMALL, 1), threshold=1.5)
    with pytest.raises(UsageError, match="models of one output, and this one has more"):
        from_state_dict(named("mmseg", SMALL, 2), threshold=0.5)


def test_auxiliary_head_of_another_class_count():
    spec = SMALL.model_copy(update={"aux_head": Auxiliary(channels=4, num_classes=19)})
    model = from_state_dict(named("mmseg", spec, 60), output_stride=8)
    output = model(torch.zeros(1, 3, 32, 32), return_aux=True)
    assert (output.logits.shape[1], output.aux_logits.shape[1]) == (60, 19)
    assert model.spec.aux_head.num_classes == 19


def test_dilations_are_those_of_the_network_it_is_like():
    heads = {
        "head": FCN(num_convs=2, channels=8, dilation=6),
        "aux_head": Auxiliary(channels=4, dilation=6),
    }
    like = SMALL.model_copy(update=heads)
    state = to_state_dict(build(like, num_classes=3), toolkit="mmseg")
    finding = find(state, like=like)
    assert finding.model == like
    assert build_model(finding).auxiliary.convs[0][0].dilation == (6, 6)


def test_mean_and_std_in_old_detectron2_files():
    state = named("detectron2", NETWORKS[-2][1], 54)
    assert find(state).input is None
    state["pixel_mean"] = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    state["pixel_std"] = torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1)
    file_input = find(state).input
    assert (file_input.mean, file_input.std, file_input.channel_order) == (
        (1, 2, 3),
        (4, 5, 6),
        "bgr",
    )


def test_the_network_is_its_own():
    state = named("mmseg", SMALL, 3)
    before = torch.get_rng_state()
    model = from_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        model.head.classifier.weight.zero_()
    assert state["decode_head.conv_seg.weight"].any()
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("toolkit", ["mmseg", "sssegmentation", "torchvision"])
def test_defaults_and_arguments(toolkit: str):
    state = named(toolkit, Model(backbone=R18, head=FCN(num_convs=1, channels=128)), 3)
    default = from_state_dict(state, toolkit=toolkit).spec
    assert (default.backbone.output_stride, default.align_corners) == (8, False)
    other = from_state_dict(state, toolkit=toolkit, output_stride=16, align_corners=True)
    assert other.spec.backbone.output_stride == 16
    assert other.spec.align_corners
    assert other(torch.zeros(1, 3, 64, 64)).logits.shape[2:] == (4, 4)


def test_align_corners_reaches_into_the_pyramid():
    model = Model(backbone=ResNet(depth=18), head=SemanticFPN(fpn_channels=8, channels=8))
    state = to_state_dict(build(model, num_classes=3), toolkit="mmseg")
    images = torch.rand(1, 3, 64, 96)
    plain, repeated, aligned = (
        from_state_dict(state, align_corners=align)(images).logits for align in (False, False, True)
    )
    assert plain.isfinite().all()
    assert torch.equal(plain, repeated)
    assert aligned.shape == plain.shape
    assert (aligned - plain).abs().max() > 0.01 * plain.abs().max()


def test_what_is_missing_left_over_or_misshapen_is_one_error():
    state = named("mmseg", SMALL, 3)
    del state["backbone.layer3.1.conv2.weight"], state["decode_head.convs.1.conv.weight"]
    state["decode_head.extra.weight"] = torch.zeros(2)
    state["backbone.layer5.0.conv1.weight"] = torch.zeros(2, 3)
    state["backbone.bn1.bias"] = torch.zeros(65)
    with pytest.raises(PerpixelError) as error:
        from_state_dict(state)
    text = str(error.value)
    assert "5 mismatches" in text
    for part in (
        "missing backbone.layer3.1.conv2.weight [256, 256, 3, 3]",
        "missing decode_head.convs.1.conv.weight [8, 8, 3, 3]",
        "unexpected decode_head.extra.weight [2]",
        "unexpected backbone.layer5.0.conv1.weight [2, 3]",
        "backbone.bn1.bias is [65] and should be [64]",
    ):
        assert part in text


@pytest.mark.parametrize(
    "name", ["backbone.conv1.weight", "decode_head.conv_seg.weight", "decode_head.conv_seg.bias"]
)
def test_any_missing_name_is_named(name: str):
    state = named("mmseg", SMALL, 3)
    del state[name]
    with pytest.raises(PerpixelError, match=f"missing {name}"):
        from_state_dict(state)


def test_a_missing_block_and_a_wrong_class_count():
    state = named("mmseg", SMALL, 3)
    cut = {name: tensor for name, tensor in state.items() if ".layer4.1." not in name}
    with pytest.raises(PerpixelError, match=r"missing backbone\.layer4\.1\.conv1\.weight"):
        from_state_dict(cut)
    state["decode_head.conv_seg.bias"] = torch.zeros(4)
    with pytest.raises(PerpixelError, match=r"conv_seg\.bias is \[4\] and should be \[3\]"):
        from_state_dict(state)


def test_neck_without_norm_is_not_taken_for_one_with():
    model = Model(backbone=ResNet(depth=18), head=SemanticFPN(fpn_channels=8, channels=8))
    state = named("mmseg", model, 3)
    renamed = {name.replace("neck.", "fpn_neck.").replace("s.0.conv.", "s.0.0."): value
               for name, value in state.items()}  # fmt: skip
    with pytest.raises(PerpixelError, match="unexpected"):
        from_state_dict(renamed, toolkit="mmseg")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv1.weight": np.ones((64, 3, 7, 7)), "fc.weight": np.ones((9, 9))}, "classification"),
        ({"state_dict.fc1000_w": np.ones((9, 9))}, "classification"),
        ({"encoder.block.0.weight": np.ones(3)}, "no FCN or Semantic FPN head"),
        ({"backbone.conv1.weight": np.ones((64, 3, 7, 7))}, "no FCN or Semantic FPN head"),
        ({}, "no FCN or Semantic FPN head"),
        ({"a": "text", "b": np.ones(2), "c": np.array([None])}, "a is str, not a tensor"),
        ({"a": np.ones(2, np.uint8)}, "not floating-point"),
        ({f"{name}layer1.0.conv1.weight": np.ones(2) for name in ("a.", "ema.")}, "2 models"),
        ({"_orig_mod.a.bias": np.ones(2), "a.bias": np.ones(2)}, r"a\.bias occurs twice"),
        ({"decode_head.conv_seg.bias": np.ones(2), "decoder.7.bias": np.ones(2)}, "mismatches"),
    ],
)
def test_no_model(state: dict, message: str):
    with pytest.raises(PerpixelError, match=message):
        from_state_dict(state)


def test_a_kernel_that_no_head_here_has():
    state = named("mmseg", SMALL, 3)
    state["decode_head.convs.0.conv.weight"] = torch.zeros(8, 512, 5, 5)
    with pytest.raises(PerpixelError, match="kernel_size=5"):
        from_state_dict(state)


def test_wrong_arguments():
    state = named("mmseg", SMALL, 3)
    with pytest.raises(PerpixelError, match="not sssegmentation's names, but mmseg's"):
        from_state_dict(state, toolkit="sssegmentation")
    with pytest.raises(UsageError, match="Did you mean mmseg"):
        from_state_dict(state, toolkit="mmsg")
    with pytest.raises(UsageError, match="output_stride"):
        from_state_dict(state, output_stride=4)


@pytest.mark.parametrize(
    ("toolkit", "model", "reason"),
    [
        ("mmseg", Model(backbone=ResNet(depth=18, frozen_bn=True)), "frozen_bn"),
        ("mmseg", Model(backbone=R18, head=SemanticFPN(fpn_norm=True)), "fpn_norm"),
        ("mmseg", Model(backbone=R18, head=SemanticFPN(norm="group")), "GroupNorm"),
        ("torchvision", SMALL, "another head"),
        ("torchvision", Model(backbone=ResNet(depth=18), head=SemanticFPN()), "another head"),
        ("torchvision", Model(backbone=R18, head=FCN(num_convs=1, channels=128)), "dilated"),
        (
            "torchvision",
            Model(backbone=ResNet(depth=18, stem="deep"), aux_head=Auxiliary(channels=4)),
            "deep stem.*another auxiliary head",
        ),
    ],
)
def test_what_a_toolkit_cannot_express(toolkit: str, model: Model, reason: str):
    with pytest.raises(PerpixelError, match=reason):
        to_state_dict(build(model, num_classes=2), toolkit=toolkit)


def test_export_for_the_others_is_not_offered():
    with pytest.raises(UsageError, match="mmseg or torchvision or caffe"):
        to_state_dict(build(SMALL, num_classes=2), toolkit="detectron2")
