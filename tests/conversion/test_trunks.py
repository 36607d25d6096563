"""Files of published models on timm's backbones: their names, found with and without a recipe."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import weights
from torch import nn

import perpixel
from perpixel.checkpoints import zoo
from perpixel.checkpoints.format import read_checkpoint
from perpixel.cli.convert import convert
from perpixel.conversion import find
from perpixel.conversion.names import to_toolkit_names
from perpixel.conversion.trunks import TRUNKS, timm_name
from perpixel.errors import PerpixelError, UsageError
from perpixel.models.build import build
from perpixel.recipes.backbones import RECIPES

CASES = Path(__file__).parent.parent / "parity" / "cases"
POOLFORMER = "mmseg/fpn_poolformer_s12_8x4_512x512_40k_ade20k"


def state_of(case: str) -> dict[str, torch.Tensor]:
    shapes = json.loads((CASES / f"{case}.json").read_text())["shapes"]
    return {name: torch.from_numpy(value) for name, value in weights.fill(shapes).items()}


@pytest.fixture(scope="module")
def poolformer() -> dict[str, torch.Tensor]:
    return state_of("mmseg_fpn_poolformer-s12_ade20k")


@pytest.mark.parametrize("trunk", TRUNKS, ids=lambda trunk: trunk.timm)
def test_every_weight_of_every_recipe_has_a_name_and_goes_back(trunk):
    """Tables are one to one: a file's names become ours, and ours the file's."""
    pattern = trunk.timm.rstrip("*_").removesuffix("_m")
    recipes = [r for r in RECIPES if r.model.backbone.name.startswith(pattern)]
    assert recipes
    for recipe in recipes[:1] + recipes[-1:]:
        with torch.device("meta"):
            model = build(recipe.model, num_classes=2)
        ours = [f"backbone.{timm_name(name)}" for name in model.backbone.state_dict()]
        if callable(trunk.name_map):
            continue  # numbered by the file's own names: in the parity cases
        rows = trunk.rows(())
        theirs = to_toolkit_names(rows, ours)
        assert set(theirs) == set(ours)
        assert len(set(theirs.values())) == len(ours)


@pytest.mark.parametrize("trunk", TRUNKS, ids=lambda trunk: trunk.timm)
def test_without_a_recipe_the_backbone_is_the_recipes(trunk):
    """What weights do not show, the published trunk and its stride, is the family's."""
    recipe = next(
        r
        for r in RECIPES
        if r.model.backbone.name.startswith(trunk.timm.rstrip("*_").removesuffix("_m"))
    )
    own = recipe.model.backbone
    assert trunk.spec.as_published == own.as_published
    assert trunk.spec.output_stride == own.output_stride


@pytest.mark.parametrize("prefix", ["module.", "model."])
def test_what_stands_before_all_names_is_ignored(poolformer, prefix: str):
    finding = find({f"{prefix}{name}": value for name, value in poolformer.items()})
    assert finding.model.backbone.name == "poolformer_s12"


def test_a_missing_and_a_foreign_name_are_listed(poolformer):
    state = {
        name.replace("network.2.0.mlp.fc1", "network.2.0.mlp.fc9"): value
        for name, value in poolformer.items()
    }
    with pytest.raises(PerpixelError) as error:
        find(state)
    text = str(error.value)
    assert "nearest model, Semantic FPN on poolformer_s12 (4 mismatches)" in text
    assert "missing backbone.network.2.0.mlp.fc1.weight [512, 128, 1, 1]" in text
    assert "unexpected backbone.network.2.0.mlp.fc9.weight" in text


def test_a_file_is_not_taken_for_a_recipe_of_another_size(poolformer, tmp_path):
    torch.save(poolformer, tmp_path / "file.pth")
    recipe = POOLFORMER.replace("s12", "s24")
    with pytest.raises(PerpixelError, match=r"nearest model, Semantic FPN on poolformer_s24"):
        convert(tmp_path / "file.pth", tmp_path / "out", recipe=recipe)
    assert not (tmp_path / "out").exists()


def test_zoo_fetch_reads_the_published_file(poolformer, tmp_path: Path, monkeypatch):
    """From a mirror with a file of that name, whose hash is another: it is refused; with the
    right one it becomes the recipe's checkpoint."""
    recipe = perpixel.recipe(POOLFORMER)
    url = recipe.published.weights_url
    assert url is not None
    monkeypatch.setenv("PERPIXEL_MIRROR", str(tmp_path))
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / url.rpartition("/")[2]
    torch.save({"meta": {}, "state_dict": poolformer}, file)
    with pytest.raises(PerpixelError, match="sha256"):
        zoo.fetch(POOLFORMER)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    renamed = file.with_name(file.name.replace("b5aa2f49", sha256[:8]))
    file.rename(renamed)
    published = recipe.published.model_copy(
        update={"weights_url": url.replace("b5aa2f49", sha256[:8])}
    )
    changed = recipe.model_copy(update={"published": published})
    monkeypatch.setattr(zoo, "recipe_called", {POOLFORMER: changed}.get)
    checkpoint = read_checkpoint(zoo.fetch(POOLFORMER).path)
    assert checkpoint.recipe.model == recipe.model
    assert len(checkpoint.class_names) == 150
    expected = poolformer["backbone.norm4.weight"]
    assert torch.equal(checkpoint.weights["head.norms.2.weight"], expected)


def test_a_training_starts_from_the_whole_file(poolformer, tmp_path: Path):
    torch.save(poolformer, tmp_path / "file.pth")
    recipe = perpixel.recipe(POOLFORMER)
    initial = zoo.initial_weights(recipe, tmp_path / "file.pth")
    assert initial is not None
    classifier = poolformer["decode_head.conv_seg.weight"]
    assert torch.equal(initial.weights["head.classifier.weight"], classifier)


def test_a_head_alone_is_joined_with_its_backbone(tmp_path: Path, capsys):
    state = state_of("dinov2_vits14_voc2012_linear")
    heads = {name: value for name, value in state.items() if name.startswith("decode_head.")}
    torch.save({"state_dict": heads}, tmp_path / "head.pth")
    torch.save(
        {name: value for name, value in state.items() if name not in heads},
        tmp_path / "backbone.pth",
    )
    head, backbone, out = (tmp_path / name for name in ("head.pth", "backbone.pth", "out"))
    recipe = "linear/dinov2_vits14_voc2012"
    with pytest.raises(UsageError, match="--backbone FILE"):
        convert(head, out, recipe=recipe)
    with pytest.raises(UsageError, match="needs the --recipe"):
        convert(head, out, backbone=backbone)
    with pytest.raises(PerpixelError, match="the backbone does not fit"):
        convert(head, out, recipe="linear/dinov2_vitb14_voc2012", backbone=backbone)
    assert not out.exists()
    convert(head, out, recipe=recipe, backbone=backbone)
    text = capsys.readouterr().out
    assert "FCN on vit_small_patch14_dinov2 with 21 classes, in dinov2's names" in text
    made = read_checkpoint(out).weights
    for name, value in (
        ("head.classifier.weight", state["decode_head.conv_seg.weight"]),
        ("head.norm.running_mean", state["decode_head.bn.running_mean"]),
        ("backbone.body.model.blocks.3.attn.qkv.weight", state["blocks.3.attn.qkv.weight"]),
    ):
        assert torch.equal(made[name], value)


def test_a_whole_model_needs_no_backbone(poolformer):
    with pytest.raises(UsageError, match="of a whole model: give no backbone"):
        find(poolformer, backbone={})


def test_query_key_and_value_are_split():
    """As torch's own multi-head attention reads its in_proj."""
    state = state_of("mmseg_fpn_twins-pcpvt-s_ade20k_96x128")
    finding = find(state)
    joined = state["backbone.layers.1.2.attn.attn.in_proj_weight"]
    query = finding.weights["backbone.body.model.blocks.1.2.attn.q.weight"]
    both = finding.weights["backbone.body.model.blocks.1.2.attn.kv.weight"]
    attention = nn.MultiheadAttention(128, 2)
    assert attention.in_proj_weight.shape == joined.shape
    np.testing.assert_array_equal(joined, torch.cat([query, both]))
    assert query.shape == (128, 128)
