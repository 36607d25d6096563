"""timm's backbones under our heads: recipes everywhere, models where timm imports."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

import perpixel
from perpixel.acceleration.fuse_conv_bn import fuse_conv_bn
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
from perpixel.recipes.published import imagenet
from perpixel.training.pretrained import load_pretrained

FPN = perpixel.recipe("camvid/semantic_fpn_r18")
FCN = perpixel.recipe("camvid/fcn_r18-d8")
KIND = ["model.backbone.type=timm"]


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
    with pytest.raises(PerpixelError, match=r"pip install --upgrade torch torchvision timm"):
        build(perpixel.override(FPN, KIND).model, num_classes=3)


# --- ImageNet weights ----------------------------------------------------------------------------

SMALL = perpixel.override(FPN, [*KIND, "model.backbone.name=resnet10t"])


@pytest.fixture
def published(tmp_path: Path, monkeypatch) -> Path:
    """timm's file of resnet10t, at a URL that a mirror has."""
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "file")
    sha256 = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    file = (tmp_path / "file").rename(tmp_path / f"resnet10t-{sha256[:8]}.pth")
    config = SimpleNamespace(
        url=f"https://example.org/{file.name}", hf_hub_id=None, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    monkeypatch.setattr(timm, "get_pretrained_cfg", {"resnet10t": config}.get)
    monkeypatch.setenv("PERPIXEL_MIRROR", str(tmp_path))
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "cache"))
    return file


@pytest.mark.parametrize("init", ["imagenet", None])
def test_a_training_starts_from_timms_file(published: Path, init):
    recipe = perpixel.override(SMALL, ["train.pretrained=imagenet"] if init is None else [])
    initial = zoo.initial_weights(recipe, init)
    model = build(recipe.model, num_classes=2)
    lines = load_pretrained(model, initial, class_names=("a", "b"))
    expected = torch.load(published)["layer1.0.conv1.weight"]
    assert torch.equal(model.backbone.body.layer1[0].conv1.weight, expected)
    assert initial.origin.startswith(f"{published.name} (sha256 ")
    assert "they expect another input (recipe -> there): mean: [123.675" in "".join(lines)
    assert zoo.initial_weights(recipe, "none") is None


def test_a_file_of_another_hash_is_refused(published: Path):
    published.write_bytes(published.read_bytes()[:-9])
    with pytest.raises(
        PerpixelError, match=r"has the sha256 .*or train with --init FILE, or from random weights"
    ):
        zoo.initial_weights(SMALL, "imagenet")


def test_without_a_network_the_error_says_what_to_fetch(published: Path, monkeypatch):
    monkeypatch.setenv("PERPIXEL_MIRROR", str(published.parent / "empty"))
    with pytest.raises(PerpixelError, match=r"put https://example\.org/resnet10t-\w+\.pth there"):
        zoo.initial_weights(SMALL, "imagenet")


def test_a_file_on_the_hub_is_asked_for_by_its_repository(published: Path, monkeypatch):
    config = SimpleNamespace(url="", hf_hub_id="timm/x", mean=(0.485,) * 3, std=(0.229,) * 3)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config)
    monkeypatch.setattr(zoo.hub, "download", {"timm/x": published}.get)
    assert zoo.initial_weights(SMALL, "imagenet").origin.startswith("timm/x (sha256 ")


def test_a_backbone_without_such_weights_is_named(monkeypatch):
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: None)
    with pytest.raises(UsageError, match=r"resnet10t: timm publishes no weights .*--init FILE"):
        zoo.initial_weights(SMALL, "imagenet")
    deep = perpixel.override(FPN, ["model.backbone.depth=34", "model.backbone.stem=deep"])
    with pytest.raises(UsageError, match="ResNet-34: no ImageNet weights are known"):
        zoo.initial_weights(deep, "imagenet")


@pytest.mark.parametrize("name", perpixel.recipes("folder/*"))
def test_own_images_start_from_weights_that_are_published(name: str):
    recipe = perpixel.recipe(name)
    assert recipe.train.pretrained == "imagenet"
    backbone = recipe.model.backbone
    if isinstance(backbone, Timm):
        source, normalization = timm_backbone.pretrained_source(backbone)
        assert source.startswith(("https://", "timm/"))
        assert recipe.input == recipe.input.model_copy(update=normalization)
    else:
        assert imagenet(backbone).url.startswith("https://download.pytorch.org/")


# --- Models --------------------------------------------------------------------------------------


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
    with pytest.raises(UsageError, match="models with a ResNet, and this model's backbone is"):
        to_state_dict(model, toolkit="mmseg")


def test_features_of_other_orders_are_turned():
    swin = Timm(name="swin_tiny_patch4_window7_224")
    backbone = timm_backbone.TimmBackbone(swin).eval()
    shapes = [tuple(feature.shape[1:]) for feature in backbone(torch.rand(1, 3, 224, 224))]
    assert shapes == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


def test_the_backbones_own_initialization_stays():
    spec = perpixel.override(FPN, [*KIND, "model.backbone.name=convnext_atto"]).model
    torch.manual_seed(0)
    alone = timm_backbone.TimmBackbone(spec.backbone).state_dict()
    torch.manual_seed(0)
    built = build(spec, num_classes=5).backbone.state_dict()
    assert all(torch.equal(alone[name], built[name]) for name in alone)


def test_what_timm_cannot_make_is_refused():
    for backbone, complaint in (
        (Timm(name="convnext_tini"), "Did you mean convnext_tiny"),
        (Timm(name="pvt_v2_b0", output_stride=8), "output stride 8"),
    ):
        spec = FPN.model.model_copy(update={"backbone": backbone})
        with pytest.raises(UsageError, match=complaint):
            build(spec, num_classes=5)
    three = FPN.model.model_copy(update={"backbone": Timm(name="visformer_tiny")})
    with pytest.raises(UsageError, match="features at four strides"):
        build(three, num_classes=5)


ANY_SIZE = (  # a model of each family, the smallest
    "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3", "deit_tiny_patch16_224", "deit3_small_patch16_224",
    "eva02_tiny_patch14_224", "xcit_nano_12_p16_224", "xcit_nano_12_p8_224",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swin_s3_tiny_224",
    "swinv2_cr_tiny_224", "hieradet_small", "hrnet_w18_small_v2", "pvt_v2_b0",
    "twins_pcpvt_small", "poolformer_s12", "caformer_s18", "repvit_m1_1", "convnext_atto",
    "convnextv2_atto", "fastvit_t8", "swiftformer_xs", "inception_next_tiny", "mambaout_femto",
    "focalnet_tiny_srf", "davit_tiny", "tiny_vit_5m_224", "edgenext_xx_small", "mobilevit_xxs",
    "mobileone_s0", "regnety_002", "efficientnet_lite0", "mobilenetv3_small_050", "resnet10t",
    "densenet121", "dla34", "mvitv2_tiny", "nextvit_small", "vgg11", "ghostnet_050",
    "res2net50_26w_4s", "samvit_base_patch16",
)  # fmt: skip


@pytest.mark.parametrize("name", ANY_SIZE)
def test_a_family_takes_images_of_any_size(name: str):
    """On the meta device: shapes are those of real images, and no time goes into arithmetic."""
    spec = perpixel.override(FPN, [*KIND, f"model.backbone.name={name}"]).model
    with torch.device("meta"):
        model = build(spec, num_classes=3)
        logits = model(torch.zeros(2, 3, 200, 333)).logits
    assert logits.shape[:2] == (2, 3)
    strides = model.backbone.strides  # of one stride alone: a pyramid from about 4 on
    stride = {8: 4, 14: 3.5, 16: 4}[strides[0]] if len(set(strides)) == 1 else strides[0]
    for side, image_side in zip(logits.shape[2:], (200, 333), strict=True):
        assert abs(side - image_side / stride) <= 4


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "hrnet_w18_small_v2"])
def test_padding_changes_no_feature_of_a_size_that_fits(name: str):
    backbone = timm_backbone.TimmBackbone(Timm(name=name)).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        plain, ours = backbone.body(images)[-4:], backbone(images)
        odd = backbone(images[..., :61, :90])
    for feature, expected in zip(ours, plain, strict=True):
        expected = expected.permute(0, 3, 1, 2) if name.startswith("swin") else expected
        torch.testing.assert_close(feature, expected)
    assert [tuple(f.shape[2:]) for f in odd] == [(16, 23), (8, 12), (4, 6), (2, 3)]


def test_swin_shifts_its_last_windows_at_every_size():
    """As the toolkits' do; timm's own default has them fixed where the weights' size needs none."""
    body = timm_backbone.TimmBackbone(Timm(name="swin_tiny_patch4_window7_224")).body
    shifts = [module.shift_size for module in body.modules() if hasattr(module, "shift_size")]
    assert all(max(shift) > 0 for shift in shifts[1::2])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_dinov2"])
def test_a_plain_vits_pyramid_trains(name: str):
    spec = perpixel.override(FPN, [*KIND, f"model.backbone.name={name}"]).model
    model = build(spec, num_classes=3).train()
    output = model(torch.rand(2, 3, 64, 80)).logits
    output.sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None} <= {
        n for n in model.state_dict() if n.startswith("backbone.")
    }
    names = {n.split(".")[2] for n, _ in model.named_parameters() if "pyramid" in n}
    assert names == {"0", "1"}
    fused = fuse_conv_bn(model.eval())
    images = torch.rand(1, 3, 50, 70)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images).logits, model(images).logits, rtol=1e-4, atol=1e-5)
    fcn = perpixel.override(
        FCN, [*KIND, f"model.backbone.name={name}", "model.aux_head=null"]
    ).model
    stride = 14 if "14" in name else 16
    logits = build(fcn, num_classes=3)(torch.rand(2, 3, 64, 80)).logits
    assert logits.shape[2:] == (-(-64 // stride), -(-80 // stride))


FIXED = ("hiera_tiny_224", "beit_base_patch16_224", "maxvit_tiny_tf_224", "efficientformer_l1",
         "efficientformerv2_s0", "gcvit_xxtiny", "cait_xxs24_224")  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_a_backbone_of_one_size_says_so_before_training(name: str):
    timm_backbone.check_sizes(Timm(name=name), [(224, 224)])
    with pytest.raises(UsageError, match=r"cannot take images of 256x320 .*crop_size=224x224"):
        timm_backbone.check_sizes(Timm(name=name), [(224, 224), (256, 320)])


def test_a_training_of_a_wrong_size_ends_before_it_begins(tmp_path: Path):
    recipe = perpixel.override(
        perpixel.recipe("scenes/semantic_fpn_r18"),
        [*KIND, "model.backbone.name=efficientformer_l1", "train.steps=1"],
    )
    with pytest.raises(UsageError, match="take another backbone"):
        perpixel.train(recipe, out=tmp_path / "run", device="cpu", init="none")
    assert not (tmp_path / "run").exists()


def test_a_linear_probe_trains_its_head_alone(tmp_path: Path):
    torch.manual_seed(0)
    vit = timm.create_model("test_vit")
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    recipe = perpixel.override(
        perpixel.recipe("linear/dinov2_vits14"),
        ["data.name=scenes", "model.backbone.name=test_vit", "train.epochs=null", "train.steps=6",
         "train.batch_size=2", "augment.base_size=null", "augment.crop_size=64x64",
         "inference.base_size=null", "inference.mode=whole", "evaluate.fraction=1"],
    )  # fmt: skip
    run = perpixel.train(recipe, out=tmp_path / "run", device="cpu", init=tmp_path / "vit.pth")
    assert run.scores.images == 60
    trained = perpixel.load_model(tmp_path / "run").state_dict()
    for name, tensor in vit.state_dict().items():
        if not name.startswith(("head.", "fc_norm.")):
            assert torch.equal(trained[f"backbone.body.model.{name}"], tensor), name
    assert trained["head.norm.running_mean"].abs().max() > 0
    assert "taken" not in (tmp_path / "run/log.txt").read_text()
    with pytest.raises(UsageError, match=r"would keep random weights as they are"):
        perpixel.train(recipe, out=tmp_path / "random", device="cpu", init="none")


def test_padding_on_all_sides():
    """Three pixels before and four after 57 of them, to five patches of 14, less 6 in all."""
    spec = Timm(name="vit_small_patch14_dinov2", as_published=True)
    backbone = timm_backbone.TimmBackbone(spec).eval()
    images = torch.rand(1, 3, 63, 57)
    padded = torch.zeros(1, 3, 70, 70)
    padded[..., 3:66, 6:63] = images
    with torch.inference_mode():
        for ours, theirs in zip(backbone(images), backbone.body(padded), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_what_is_for_some_backbones_only():
    with pytest.raises(UsageError, match="is for plain ViTs"):
        timm_backbone.TimmBackbone(Timm(name="resnet10t", final_norm=True))
    with pytest.raises(UsageError, match="no published code is known that differs from timm's"):
        timm_backbone.TimmBackbone(Timm(name="resnet10t", as_published=True))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "pvt_v2_b0", "convnext_atto"])
def test_drop_path_is_timms(name: str):
    """The probabilities of timm.create_model(drop_path_rate=...), in training only."""

    def probabilities(model: torch.nn.Module) -> list[float]:
        paths = (m for m in model.modules() if isinstance(m, timm.layers.DropPath))
        return [path.drop_prob for path in paths]

    torch.manual_seed(0)
    backbone = timm_backbone.TimmBackbone(Timm(name=name, drop_path=0.5))
    found = probabilities(backbone)
    assert found == probabilities(timm.create_model(name, drop_path_rate=0.5))
    assert max(found) == pytest.approx(0.5)
    assert min(found) < max(found)
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        first, second = (backbone.train()(images)[-1] for _ in range(2))
        assert not torch.allclose(first, second)
        first, second = (backbone.eval()(images)[-1] for _ in range(2))
        assert torch.equal(first, second)
    assert not any(probabilities(timm_backbone.TimmBackbone(Timm(name=name))))


def test_without_a_setting_drop_path_is_timms_default():
    with torch.device("meta"):
        ours = timm_backbone.TimmBackbone(Timm(name="nextvit_small"))
        theirs = timm.create_model("nextvit_small")
    last = [
        [m.drop_prob for m in model.modules() if isinstance(m, timm.layers.DropPath)][-1]
        for model in (ours, theirs)
    ]
    assert last[0] == last[1] > 0


@pytest.mark.parametrize("name", ["repvit_m1_1", "hrnet_w18_small", "vgg11"])
def test_a_backbone_without_drop_path_says_so(name: str):
    recipe = perpixel.override(
        FCN, [*KIND, f"model.backbone.name={name}", "model.backbone.drop_path=0.1"]
    )
    with pytest.raises(UsageError, match=rf"drop_path=0\.1: timm's {name} has no drop path.*=0$"):
        build(recipe.model, num_classes=2)
