"""timm's backbones under our heads: recipes everywhere, models where timm imports."""

import pytest
import torch

import perpixel
from perpixel.checkpoints import zoo
from perpixel.checkpoints.format import (
    Checkpoint,
    model_from_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from perpixel.conversion import to_state_dict
from perpixel.errors import PerpixelError, UsageError
from perpixel.models import timm_backbone
from perpixel.models.build import build
from perpixel.profiling.flops import count
from perpixel.recipes import overrides
from perpixel.recipes.models import ResNet, Timm
from perpixel.training.pretrained import load_pretrained

FPN = perpixel.recipe("camvid/semantic_fpn_r18")
FCN = perpixel.recipe("camvid/fcn_r18-d8")
KIND = ["model.backbone.type=timm"]

try:
    import timm
except (ImportError, RuntimeError) as error:
    REASON = f"timm does not import here: {error}"
    timm = None
else:
    REASON = ""
needs_timm = pytest.mark.skipif(timm is None, reason=REASON)


def test_the_type_changes_by_a_setting_and_back():
    recipe = perpixel.override(FPN, [*KIND, "model.backbone.name=resnet18"])
    assert recipe.model.backbone == Timm(name="resnet18")
    assert recipe.model.head == FPN.model.head
    back = perpixel.override(recipe, ["model.backbone.type=resnet", "model.backbone.depth=50"])
    assert back.model.backbone == ResNet(depth=50)
    head = perpixel.override(FPN, ["model.head.type=fcn", "model.head.channels=8"]).model.head
    assert (head.type, head.channels) == ("fcn", 8)
    same = perpixel.override(FPN, ["model.backbone.type=resnet"])
    assert same == FPN  # a type that stays forgets nothing


def test_settings_of_the_other_type_are_unknown():
    with pytest.raises(UsageError, match=r"unknown setting 'model.backbone.depth'"):
        perpixel.override(FPN, [*KIND, "model.backbone.depth=50"])
    with pytest.raises(UsageError, match=r"model\.backbone\.type.*'resnets'"):
        perpixel.override(FPN, ["model.backbone.type=resnets"])


def test_a_timm_backbone_is_written_and_read():
    recipe = perpixel.override(FPN, KIND)
    assert overrides.load(overrides.dump(recipe), origin="new") == recipe


def test_without_timm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(PerpixelError, match=r'pip install "perpixel\[timm\]"'):
        build(perpixel.override(FPN, KIND).model, num_classes=3)


def test_init_timm_is_for_timm_backbones(monkeypatch):
    with pytest.raises(UsageError, match="not timm's"):
        zoo.initial_weights(FPN, "timm")
    monkeypatch.setattr(zoo, "pretrained_weights", lambda spec: {spec.name: torch.ones(1)})
    recipe = perpixel.override(FPN, [*KIND, "model.backbone.name=resnet18"])
    initial = zoo.initial_weights(recipe, "timm")
    assert initial.weights == {"resnet18": torch.ones(1)}
    assert initial.origin.startswith("resnet18 of timm (sha256 ")


@needs_timm
@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "efficientnet_b0"])
def test_timms_plain_files_start_a_training(name, tmp_path):
    whole = timm.create_model(name, num_classes=7)
    torch.save({"state_dict": whole.state_dict(), "epoch": 1}, tmp_path / "best.pth.tar")
    recipe = perpixel.override(FPN, [*KIND, f"model.backbone.name={name}"])
    initial = zoo.initial_weights(recipe, tmp_path / "best.pth.tar")
    model = build(recipe.model, num_classes=2)
    load_pretrained(model, initial, class_names=("a", "b"))
    overlay = {"file": str(tmp_path / "best.pth.tar"), "num_classes": 7}
    timms = timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay
    ).state_dict()
    loaded = model.backbone.body.state_dict()
    assert loaded.keys() == timms.keys()
    assert all(torch.equal(loaded[key], timms[key]) for key in timms)
    assert any("left out of it, " in line for line in initial.lines)


@needs_timm
@pytest.mark.parametrize(
    ("recipe", "name", "stride"),
    [
        (FPN, "convnext_atto", 32),
        (FPN, "resnet10t", 32),
        (FPN, "efficientnet_b0", 32),
        (FCN, "resnet10t", 8),
        (FCN, "convnext_atto", 16),
        (FCN, "mobilenetv3_small_050", 32),
    ],
)
def test_backbones_train_under_our_heads(recipe, name, stride, tmp_path):
    backbone = [*KIND, f"model.backbone.name={name}", f"model.backbone.output_stride={stride}"]
    recipe = perpixel.override(recipe, backbone)
    model = build(recipe.model, num_classes=5).train()
    output = model(torch.rand(2, 3, 64, 96), return_aux=True)
    assert output.logits.shape == (2, 5, *((16, 24) if recipe.model.head.type == "semantic_fpn"
                                         else (64 // stride, 96 // stride)))  # fmt: skip
    (output.logits.sum() + (0 if output.aux_logits is None else output.aux_logits.sum())).backward()
    untrained = [n for n, p in model.named_parameters() if p.grad is None]
    assert not [n for n in untrained if n.startswith("head.")]
    counted = count(recipe.model, num_classes=5, size=(64, 96))
    every = sum(p.numel() for p in model.parameters())
    assert counted.params + counted.params_auxiliary == every
    path, names = tmp_path / "c.safetensors", tuple("abcde")
    palette = tuple((v, v, v) for v in range(5))
    write_checkpoint(path, Checkpoint(recipe, names, palette, model.state_dict()))
    images = torch.rand(1, 3, 64, 64)
    model.eval()
    assert torch.equal(
        model_from_checkpoint(read_checkpoint(path))(images).logits, model(images).logits
    )
    with pytest.raises(UsageError, match="converted for a ResNet, and this model's backbone is"):
        to_state_dict(model, toolkit="mmseg")


@needs_timm
def test_features_of_other_orders_are_turned():
    swin = Timm(name="swin_tiny_patch4_window7_224")
    backbone = timm_backbone.TimmBackbone(swin).eval()
    shapes = [tuple(feature.shape[1:]) for feature in backbone(torch.rand(1, 3, 224, 224))]
    assert shapes == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


@needs_timm
def test_the_backbones_own_initialization_stays():
    spec = perpixel.override(FPN, [*KIND, "model.backbone.name=convnext_atto"]).model
    torch.manual_seed(0)
    alone = timm_backbone.TimmBackbone(spec.backbone).state_dict()
    torch.manual_seed(0)
    built = build(spec, num_classes=5).backbone.state_dict()
    assert all(torch.equal(alone[name], built[name]) for name in alone)


@needs_timm
def test_published_weights_are_asked_for_under_our_names(monkeypatch):
    asked = []
    create = timm.create_model

    def stand_in(name, *, pretrained, **options):
        asked.append((name, pretrained))
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", stand_in)
    spec = perpixel.override(FPN, [*KIND, "model.backbone.name=resnet10t"]).model
    weights = timm_backbone.pretrained_weights(spec.backbone)
    assert asked == [("resnet10t", True)]
    own = build(spec, num_classes=5).state_dict()
    assert {name for name in own if name.startswith("backbone.")} == set(weights)


@needs_timm
def test_what_timm_cannot_make_is_refused():
    for backbone, complaint in (
        (Timm(name="convnext_tini"), "Did you mean convnext_tiny"),
        (Timm(name="pvt_v2_b0", output_stride=8), "output stride 8"),
    ):
        spec = FPN.model.model_copy(update={"backbone": backbone})
        with pytest.raises(UsageError, match=complaint):
            build(spec, num_classes=5)
    three = FPN.model.model_copy(update={"backbone": Timm(name="vit_tiny_patch16_224")})
    with pytest.raises(UsageError, match="features at four strides"):
        build(three, num_classes=5)
