"""Heads and backbones of a user's own, in recipes, checkpoints and runs."""

import sys
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import perpixel
from perpixel.acceleration.fuse_conv_bn import fuse_conv_bn
from perpixel.checkpoints.format import Checkpoint, read_checkpoint, write_checkpoint
from perpixel.checkpoints.zoo import initial_weights
from perpixel.conversion import to_state_dict
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes import overrides
from perpixel.recipes.models import Auxiliary, CustomBackbone, CustomHead, SemanticFPN
from perpixel.recipes.schema import Recipe


class Pooled(CustomHead):
    type: Literal["pooled"] = "pooled"
    level: int = 2

    def build(
        self, in_channels: Sequence[int], num_classes: int, *, align_corners: bool
    ) -> nn.Module:
        return PooledHead(self.level, in_channels[self.level], num_classes)


class PooledHead(nn.Module):
    def __init__(self, level: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.level = level
        self.score = nn.Conv2d(channels, num_classes, 1)
        nn.init.constant_(self.score.bias, 3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.score(features[self.level])


class Patches(CustomBackbone):
    type: Literal["patches"] = "patches"
    channels: int = 8

    def build(self) -> nn.Module:
        return PatchesBackbone(self.channels)


class PatchesBackbone(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = (channels,) * 4
        self.stages = nn.ModuleList(nn.Conv2d(3, channels, s, stride=s) for s in (4, 8, 16, 32))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [stage(images) for stage in self.stages]


def changed(**parts: object) -> Recipe:
    base = perpixel.recipe("scenes/fcn_r18-d8")
    model = base.model.model_copy(update={"aux_head": None, **parts})
    return base.model_copy(update={"model": model})


RECIPES = {
    "head": changed(head=Pooled(level=1)),
    "backbone": changed(backbone=Patches(), head=SemanticFPN(channels=8, fpn_channels=8)),
    "both": changed(backbone=Patches(channels=4), head=Pooled()),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_and_a_checkpoint_hold_it(name: str, tmp_path):
    recipe = RECIPES[name]
    assert overrides.load(overrides.dump(recipe), origin="here") == recipe
    model = perpixel.build(recipe, num_classes=3).eval()
    path = tmp_path / "model.safetensors"
    palette = ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    write_checkpoint(path, Checkpoint(recipe, tuple("abc"), palette, model.state_dict()))
    assert read_checkpoint(path).recipe.model == recipe.model
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(perpixel.load_model(path)(images).logits, model(images).logits)
    assert perpixel.load(path).predict(torch.zeros(64, 96, 3).byte().numpy()).mask.shape == (64, 96)


def test_its_settings_are_settings():
    recipe = perpixel.override(RECIPES["both"], ["model.head.level=3", "model.backbone.channels=2"])
    assert recipe.model.head == Pooled(level=3)
    assert recipe.model.backbone == Patches(channels=2)
    assert perpixel.override(recipe, ["model.head.type=pooled"]) == recipe
    again = perpixel.override(recipe, ["model.head.type=fcn", "model.head.type=pooled"])
    assert again.model.head == Pooled()
    with pytest.raises(UsageError, match=r"model\.head\.level='high': Input should be a valid int"):
        perpixel.override(recipe, ["model.head.level=high"])
    with pytest.raises(UsageError, match=r"unknown setting 'model\.head\.levl'"):
        perpixel.override(recipe, ["model.head.levl=3"])


def test_its_own_initialization_stays():
    model = perpixel.build(RECIPES["both"], num_classes=3)
    assert (model.head.score.bias == 3).all()


@pytest.mark.parametrize("part", ["head", "backbone"])
def test_an_unknown_type_says_what_there_is(part: str):
    first, own = ("'fcn'", "'pooled'") if part == "head" else ("'resnet'", "'patches'")
    message = rf"model\.{part}\.type='pool': There are {first}, .*{own}.*; a custom one is known"
    with pytest.raises(UsageError, match=message):
        perpixel.override(RECIPES["both"], [f"model.{part}.type=pool"])
    text = overrides.dump(RECIPES["both"]).replace('"pooled"', '"pool"')
    with pytest.raises(PerpixelError, match=r"model\.head\.type='pool': There are"):
        overrides.load(text, origin="recipe.json")


def test_it_trains(tmp_path):
    recipe = perpixel.override(
        RECIPES["both"], ["train.steps=2", "train.batch_size=2", "augment.crop_size=64x64"]
    )
    run = perpixel.train(recipe, out=tmp_path / "run", device="cpu")
    assert perpixel.load(run.folder).recipe.model == recipe.model


class PreActivated(CustomHead):
    type: Literal["pre_activated"] = "pre_activated"

    def build(
        self, in_channels: Sequence[int], num_classes: int, *, align_corners: bool
    ) -> nn.Module:
        return PreActivatedHead(in_channels[-1], num_classes)


class PreActivatedHead(nn.Module):
    """Its norm does not follow the convolution that was registered before it."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.score(self.bn(self.conv(features[-1]).relu()))


def test_its_norms_are_not_fused_into_what_they_do_not_follow():
    model = perpixel.build(changed(backbone=Patches(), head=PreActivated()), num_classes=3).eval()
    nn.init.constant_(model.head.bn.running_mean, 0.5)
    images = torch.randn(1, 3, 64, 64)
    fused = fuse_conv_bn(model)
    with torch.inference_mode():
        assert torch.equal(fused(images).logits, model(images).logits)


def test_an_auxiliary_head_needs_features_at_two_strides():
    class OneStride(PatchesBackbone):
        def __init__(self) -> None:
            super().__init__(8)
            self.out_channels, self.stages = (8,), self.stages[-1:]

    class One(CustomBackbone):
        type: Literal["one"] = "one"

        def build(self) -> nn.Module:
            return OneStride()

    recipe = changed(backbone=One(), aux_head=Auxiliary())
    with pytest.raises(UsageError, match=r"model\.aux_head needs a backbone with features at two"):
        perpixel.build(recipe, num_classes=3)


def test_a_toolkits_file_does_not_start_a_custom_head(tmp_path):
    """Its own head is found, which then does not fit: the backbone's weights are taken."""
    narrow = perpixel.override(
        perpixel.recipe("scenes/fcn_r18-d8"), ["model.backbone.base_channels=8"]
    )
    state = to_state_dict(perpixel.build(narrow, num_classes=3), toolkit="mmseg")
    torch.save({"state_dict": state}, tmp_path / "fcn.pth")
    model = narrow.model.model_copy(update={"head": Pooled(), "aux_head": None})
    initial = initial_weights(narrow.model_copy(update={"model": model}), tmp_path / "fcn.pth")
    assert initial is not None
    assert "head.classifier.weight" in initial.weights


def test_it_is_no_other_toolkits_model():
    model = perpixel.build(changed(head=Pooled()), num_classes=3)
    with pytest.raises(PerpixelError, match=r"mmseg cannot build this model: .*a custom head"):
        to_state_dict(model, toolkit="mmseg")


def test_torchvision_has_one_width():
    recipe = perpixel.override(
        perpixel.recipe("scenes/fcn_r18-d8"),
        ["model.backbone.base_channels=8", "model.backbone.output_stride=32"],
    )
    model = perpixel.build(recipe, num_classes=3)
    with pytest.raises(PerpixelError, match=r"torchvision cannot .*another width"):
        to_state_dict(model, toolkit="torchvision")


def test_a_backbone_without_out_channels_is_named():
    class Bare(CustomBackbone):
        type: Literal["bare"] = "bare"

        def build(self) -> nn.Module:
            return nn.Identity()

    with pytest.raises(UsageError, match=r"the backbone 'bare' has no out_channels"):
        perpixel.build(changed(backbone=Bare()), num_classes=3)


def test_a_head_of_another_number_of_classes_is_refused():
    class TooMany(CustomHead):
        type: Literal["too_many"] = "too_many"

        def build(
            self, in_channels: Sequence[int], num_classes: int, *, align_corners: bool
        ) -> nn.Module:
            return PooledHead(0, in_channels[0], num_classes + 1)

    recipe = changed(backbone=Patches(), head=TooMany())
    with pytest.raises(UsageError, match=r"head 'too_many' returns Tensor \[\[1, 4, 32, 32\]\]"):
        perpixel.build(recipe, num_classes=3)


def test_a_backbone_that_returns_something_else_is_refused():
    class Single(CustomBackbone):
        type: Literal["single"] = "single"

        def build(self) -> nn.Module:
            module = nn.Conv2d(3, 8, 4, stride=4)
            module.out_channels = (8,)
            return module

    with pytest.raises(UsageError, match=r"backbone 'single' returns Tensor .*list of features"):
        perpixel.build(changed(backbone=Single(), head=Pooled(level=0)), num_classes=3)


def test_names_are_needed_and_not_those_of_others():
    with pytest.raises(TypeError, match="'fcn' is taken"):

        class Taken(CustomHead):
            type: Literal["fcn"] = "fcn"

    with pytest.raises(TypeError, match="Nameless needs a name"):

        class Nameless(CustomBackbone):
            pass


def test_a_recipes_file_may_import_its_neighbors(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbor_of_mine.py").write_text("import perpixel\nbase = 'scenes/fcn_r18-d8'\n")
    (tmp_path / "mine.py").write_text(
        "import perpixel\nfrom neighbor_of_mine import base\nr = perpixel.recipe(base)\n"
    )
    assert perpixel.recipe(f"{tmp_path}/mine.py:r").name == "scenes/fcn_r18-d8"
