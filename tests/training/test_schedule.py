import math
import re

import pytest
import timm
from timm.optim import param_groups_layer_decay

import perpixel
from perpixel.errors import UsageError
from perpixel.models.build import build
from perpixel.recipes.schema import Optimizer, Recipe, Schedule
from perpixel.training.optimizer import learning_rate, make_optimizer, set_learning_rate


def rates(schedule: Schedule, steps: int, lr: float = 0.01) -> list[float]:
    return [learning_rate(step, steps=steps, lr=lr, schedule=schedule) for step in range(steps)]


def test_poly_is_the_toolkits_closed_form():
    found = rates(Schedule(), 40_000)
    for step in (0, 1, 17_000, 39_999):
        expected = (1 - step / 40_000) ** 0.9 * (0.01 - 1e-4) + 1e-4
        assert found[step] == pytest.approx(expected, rel=1e-12)


def test_only_mmsegmentation_1_reaches_the_floor():
    assert rates(Schedule(min_lr_at_last_step=True), 10)[-1] == pytest.approx(1e-4, rel=1e-12)
    assert rates(Schedule(), 10)[-1] > 1e-3
    assert rates(Schedule(min_lr=0), 10)[-1] > 0
    assert rates(Schedule(min_lr_at_last_step=True), 1) == [0.01]


def test_cosine_is_its_formula_and_falls_from_the_rate_to_the_floor():
    found = rates(Schedule(policy="cosine", min_lr=1e-3), 1000)
    for step in (0, 250, 500, 999):
        expected = 1e-3 + 0.5 * (0.01 - 1e-3) * (1 + math.cos(math.pi * step / 1000))
        assert found[step] == pytest.approx(expected, rel=1e-12)
    assert rates(Schedule(policy="cosine", min_lr=0, min_lr_at_last_step=True), 10)[-1] == 0


@pytest.mark.parametrize("policy", ["poly", "cosine"])
def test_warm_up_rises_in_even_steps_and_then_changes_nothing(policy: str):
    cold, warm = (rates(Schedule(policy=policy, warmup=share), 100) for share in (0.0, 0.1))
    assert warm[10:] == cold[10:]
    assert [w / c for w, c in zip(warm[:10], cold[:10], strict=True)] == pytest.approx(
        [(step + 1) / 11 for step in range(10)]
    )


def test_the_backbone_may_learn_more_slowly():
    model = build(perpixel.recipe("camvid/fcn_r18-d8").model, num_classes=3)
    optimizer = make_optimizer(model, Optimizer(lr=1, backbone_lr_mult=0.1))
    set_learning_rate(optimizer, 0.5)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rate[id(parameter)] == (0.05 if name.startswith("backbone.") else 0.5)


@pytest.mark.parametrize("ratio", [1e-6, 0.1, 1.0])
@pytest.mark.parametrize("policy", ["poly", "cosine"])
def test_a_warm_up_from_a_fraction_is_mmcvs(policy: str, ratio: float):
    """mmcv's LrUpdaterHook.get_warmup_lr, linear: regular_lr (1 - k), k = (1 - i/W) (1 - ratio)."""
    cold = rates(Schedule(policy=policy), 100)
    warm = rates(Schedule(policy=policy, warmup=0.1, warmup_from=ratio), 100)
    for step in range(10):
        k = (1 - step / 10) * (1 - ratio)
        assert warm[step] == pytest.approx(cold[step] * (1 - k), rel=1e-12)
    assert warm[10:] == cold[10:]
    assert warm[0] == pytest.approx(cold[0] * ratio, rel=1e-9)
    assert rates(Schedule(policy=policy, warmup_from=ratio), 100) == cold  # no warm-up


def test_dinov2s_probe_warms_up_from_a_millionth():
    recipe = perpixel.recipe("linear/dinov2_vits14_voc2012")
    found = rates(recipe.schedule, recipe.train.steps, recipe.optimizer.lr)
    assert found[0] == pytest.approx(1e-9)
    for step in (1, 700, 1499):
        k = (1 - step / 1500) * (1 - 1e-6)
        assert found[step] == pytest.approx(1e-3 * (1 - step / 40_000) * (1 - k), rel=1e-9)
    assert found[1500] == pytest.approx(1e-3 * (1 - 1500 / 40_000), rel=1e-12)


def scales(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Rate (of 1) and weight decay of every parameter, by name."""
    model = build(recipe.model, num_classes=3)
    optimizer = make_optimizer(model, recipe.optimizer)
    found = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    return {name: found[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("vit_tiny_patch16_224", "semantic_fpn"),
        ("deit3_small_patch16_224", "fcn"),
        ("eva02_tiny_patch14_224", "fcn"),
        ("convnext_atto", "semantic_fpn"),
        ("swin_tiny_patch4_window7_224", "semantic_fpn"),
        ("pvt_v2_b0", "semantic_fpn"),
        ("resnet18", "fcn"),
        ("mobilenetv2_100", "fcn"),
    ],
)
def test_layer_decay_is_timms(name: str, head: str):
    """timm.optim.param_groups_layer_decay of the same model with its classifier."""
    recipe = perpixel.override(
        perpixel.recipe("scenes/semantic_fpn_r18"),
        [
            f"model.head.type={head}", "model.backbone.type=timm", f"model.backbone.name={name}",
            "optimizer.layer_decay=0.7", "optimizer.weight_decay=0.05",
            "optimizer.decay_norm_and_bias=false",
        ],
    )  # fmt: skip
    whole = timm.create_model(name)
    named = {id(parameter): name for name, parameter in whole.named_parameters()}
    theirs = {
        named[id(p)]: (group["lr_scale"], group["weight_decay"] if p.ndim > 1 else 0.0)
        for group in param_groups_layer_decay(whole, weight_decay=0.05, layer_decay=0.7)
        for p in group["params"]
    }
    found = scales(recipe)
    in_head = {scale for key, (scale, _) in found.items() if key.startswith("head.")}
    assert in_head == {1.0}
    trunk = {key: value for key, value in found.items() if key.startswith("backbone.")}
    assert len(trunk) > 20
    for key, (scale, decay) in trunk.items():
        plain = key.removeprefix("backbone.body.").removeprefix("model.")
        scale_there, decay_there = theirs[re.sub(r"_(?=\d+\.)", ".", plain)]
        assert scale == pytest.approx(scale_there), key
        # Which norms' and biases are decayed is our setting; theirs spares one dimension, too.
        assert decay == decay_there, key
    assert len({scale for scale, _ in trunk.values()}) >= 5


def test_a_vit_without_a_classifier_has_the_layers_of_one_with():
    names = {"vit_small_patch14_dinov2": 1 / 2, "vit_small_patch16_224": 1 / 2}
    for name, last in names.items():
        recipe = perpixel.override(
            perpixel.recipe("linear/dinov2_vits14"),
            [
                f"model.backbone.name={name}",
                "model.backbone.as_published=false",
                "optimizer.layer_decay=0.5",
            ],
        )
        found = scales(recipe)
        for layer in range(12):
            scale, _ = found[f"backbone.body.model.blocks.{layer}.attn.qkv.weight"]
            assert scale == last * 0.5 ** (11 - layer)
        assert found["backbone.body.model.patch_embed.proj.weight"][0] == 0.5**13


def test_layers_of_a_resnet_are_its_stages():
    recipe = perpixel.override(
        perpixel.recipe("scenes/fcn_r18-d8"),
        [
            "model.backbone.base_channels=8", "optimizer.layer_decay=0.5",
            "optimizer.backbone_lr_mult=0.1", "optimizer.bias_lr_mult=2",
        ],
    )  # fmt: skip
    found = {name: scale for name, (scale, _) in scales(recipe).items()}
    assert found["backbone.conv1.weight"] == pytest.approx(0.1 * 0.5**5)
    assert found["backbone.bn1.bias"] == pytest.approx(2 * 0.1 * 0.5**5)
    for stage in (1, 2, 3, 4):
        assert found[f"backbone.layer{stage}.1.conv2.weight"] == pytest.approx(
            0.1 / 2 ** (5 - stage)
        )
    assert found["head.classifier.weight"] == 1
    assert found["head.classifier.bias"] == 2


def test_backbones_without_layers_are_refused():
    with pytest.raises(UsageError, match=r"layer_decay=0\.9 is for .* this one is of type vgg16"):
        perpixel.override(perpixel.recipe("caffe-fcn/voc-fcn32s"), ["optimizer.layer_decay=0.9"])
    recipe = perpixel.override(
        perpixel.recipe("scenes/semantic_fpn_r18"),
        [
            "model.backbone.type=timm", "model.backbone.name=poolformer_s12",
            "optimizer.layer_decay=0.9",
        ],
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"which layers poolformer_s12 has .*layer_decay=1"):
        scales(recipe)


def test_xcits_rule_decays_all_but_what_is_called_norm():
    """mmsegmentation's paramwise_cfg custom_keys={"norm": dict(decay_mult=0.)}."""
    recipe = perpixel.override(
        perpixel.recipe("scenes/semantic_fpn_r18"),
        [
            "model.backbone.type=timm", "model.backbone.name=xcit_nano_12_p16_224",
            "optimizer.weight_decay=0.01", 'optimizer.no_decay=["norm"]',
        ],
    )  # fmt: skip
    found = {name: decay for name, (_, decay) in scales(recipe).items()}
    assert {decay for name, decay in found.items() if "norm" in name} == {0.0}
    assert {decay for name, decay in found.items() if "norm" not in name} == {0.01}
    kinds = [name.rpartition(".")[2] for name in found if "norm" in name]
    assert {"weight", "bias"} == set(kinds)
    assert found["backbone.body.model.blocks.0.mlp.fc1.bias"] == 0.01
    assert found["backbone.body.model.blocks.0.local_mp.bn.weight"] == 0.01
    both = perpixel.override(recipe, ["optimizer.decay_norm_and_bias=false"])
    assert {decay for name, (_, decay) in scales(both).items() if name.endswith("bias")} == {0.0}


def test_a_text_in_no_name_is_refused():
    recipe = perpixel.override(
        perpixel.recipe("scenes/semantic_fpn_r18"),
        ["model.backbone.base_channels=8", 'optimizer.no_decay=["norn"]'],
    )
    with pytest.raises(UsageError, match=r"optimizer\.no_decay: no parameter has 'norn'"):
        scales(recipe)
