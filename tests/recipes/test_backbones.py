"""Recipes on timm's backbones against the tables of their sources, and what differs in their code.

backbones.csv holds what the tables print, and settings of their configs.
"""

import csv
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import perpixel
from perpixel.data import registry
from perpixel.models.build import build
from perpixel.recipes.backbones import RECIPES
from perpixel.training.optimizer import learning_rate
from perpixel.training.step import make_train_state

with (Path(__file__).parent / "backbones.csv").open() as file:
    ROWS = {row["name"]: row for row in csv.DictReader(file)}


def number(text: str) -> float | None:
    return float(text) if text else None


def test_every_row_is_a_recipe():
    probes = [name for name in perpixel.recipes("linear/*") if not name.endswith("14")]
    assert len(ROWS) == 58
    assert {recipe.name for recipe in RECIPES} | set(probes) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_figures_settings_and_links_are_the_tables(name: str):
    recipe, row = perpixel.recipe(name), ROWS[name]
    published, train, optimizer = recipe.published, recipe.train, recipe.optimizer
    for figure, column in (
        ("miou", "miou"), ("miou_ms_flip", "miou_ms_flip"), ("memory_gb", "mem_gb"), ("fps", "fps"),
    ):  # fmt: skip
        assert getattr(published, figure) == number(row[column]), figure
    assert published.config_url == row["cfg_url"]
    assert published.weights_url == (row["model_url"] or None)
    assert published.log_url == (row["log_url"] or None)
    assert recipe.model.backbone.name.partition(".")[0].replace("_384", "") == row[
        "timm_name"
    ].replace("_224", "")
    assert recipe.augment.crop_size == (int(row["crop_h"]), int(row["crop_w"]))
    assert (train.batch_size, train.steps) == (int(row["batch"]), int(row["steps"]))
    assert optimizer.name == row["optimizer"].split()[0].lower()
    assert optimizer.lr == float(row["lr"])
    assert optimizer.weight_decay == float(row["weight_decay"].split()[0])
    assert recipe.schedule.power == float(row["power"])
    assert recipe.schedule.min_lr == float(row["min_lr"])
    drop_path = recipe.model.backbone.drop_path or 0.0
    assert drop_path == float((row["drop_path"] or "0").split()[0])
    assert (recipe.inference.resize_to_multiple == 32) == ("stretched" in row["test_mode"])
    assert recipe.inference.mode == row["test_mode"].partition("(")[0]
    assert timm.get_pretrained_cfg(recipe.model.backbone.name) is not None


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name]["params_m"]])
def test_parameters_are_the_tables(name: str):
    """In millions of two decimals; of a probe those of the head. PoolFormer's output norms, of
    some thousands, are not in the table."""
    recipe = perpixel.recipe(name)
    classes = registry.classes(recipe.data.name)
    assert classes is not None
    with torch.device("meta"):
        model = build(recipe.model, num_classes=len(classes))
    part = model.head if name.startswith("linear/") else model
    count = sum(p.numel() for p in part.parameters()) / 1e6
    assert count == pytest.approx(float(ROWS[name]["params_m"]), abs=0.006)


def test_twins_rate_is_constant():
    recipe = perpixel.recipe("mmseg/twins_pcpvt-s_fpn_fpnhead_8x4_512x512_80k_ade20k")
    for step in (0, 1, 40_000, 79_999):
        rate = learning_rate(step, steps=80_000, lr=recipe.optimizer.lr, schedule=recipe.schedule)
        assert rate == pytest.approx(1e-4, rel=1e-12)


def test_what_is_frozen_in_training():
    """PoolFormer's stem, and the statistics of RepViT's batch norms, but not their scale."""
    device = torch.device("cpu")
    recipe = perpixel.recipe("mmseg/fpn_poolformer_s12_8x4_512x512_40k_ade20k")
    model = build(recipe.model, num_classes=2)
    body = make_train_state(model, recipe, device=device, dtype=torch.float32).model.backbone.body
    frozen = [name for name, p in body.named_parameters() if not p.requires_grad]
    assert frozen == ["stem.conv.weight", "stem.conv.bias"]

    recipe = perpixel.recipe("repvit/fpn_repvit_m1_1_ade20k_40k")
    model = build(recipe.model, num_classes=2)
    model = make_train_state(model, recipe, device=device, dtype=torch.float32).model
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.rand(2, 3, 64, 64))
    changed = {name for name, value in model.named_buffers() if not value.equal(before[name])}
    assert changed
    assert not any(name.startswith("backbone.") for name in changed)
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.weight.requires_grad for norm in norms)


def test_a_stem_that_timm_does_not_name_is_refused():
    recipe = perpixel.override(perpixel.recipe("camvid/fcn_mobilenetv2-d8"), ["train.freeze=stem"])
    with pytest.raises(perpixel.errors.UsageError, match="has no part `stem`"):
        make_train_state(
            build(recipe.model, num_classes=2),
            recipe,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
