"""The recipes of published results against the tables they come from.

published.csv holds what the tables print, the steps their epochs come to, and parameter counts of
the toolkits' own modules. The whole tables are compared where this machine has them.
"""

import csv
import re
from pathlib import Path

import pytest
import torch

import perpixel
from perpixel.data import registry
from perpixel.models.build import build
from perpixel.recipes import backbones
from perpixel.recipes.published import steps
from perpixel.recipes.schema import Recipe
from perpixel.training.optimizer import learning_rate

HERE = Path(__file__).parent
TABLES = HERE.parents[2] / "shared" / "recipes.csv"
OURS = ("camvid/", "folder/", "scenes/", "linear/")
CAFFE = perpixel.recipes("caffe-fcn/*")
BACKBONES = {recipe.name for recipe in backbones.RECIPES}  # test_backbones.py
PUBLISHED = [
    name
    for name in perpixel.recipes()
    if not name.startswith((*OURS, "caffe-fcn/")) and name not in BACKBONES
]
TOOLKIT = {
    "mmseg": "mmsegmentation",
    "sssegmentation": "sssegmentation",
    "sssegmentation-legacy": "sssegmentation",
    "pytorch-auto-drive": "pytorch-auto-drive",
}

with (HERE / "published.csv").open() as file:
    EXPECTED = {row["name"]: row for row in csv.DictReader(file)}


def number(text: str) -> float | None:
    return float(text) if text else None


def test_every_published_row_is_a_recipe():
    assert len(PUBLISHED) == 59
    assert set(PUBLISHED) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_figures_length_and_network_are_the_sources(name: str):
    recipe, row = perpixel.recipe(name), EXPECTED[name]
    for figure in ("miou", "miou_ms_flip", "memory_gb", "fps"):
        assert getattr(recipe.published, figure) == number(row[figure]), figure
    assert recipe.train.steps == int(row["steps"])
    assert recipe.source.startswith(TOOLKIT[name.partition("/")[0]])
    assert f"table {row['table']}" in recipe.source
    classes = registry.classes(recipe.data.name)
    assert classes is not None
    assert len(classes) == int(row["classes"])
    with torch.device("meta"):
        model = build(recipe.model, num_classes=int(row["classes"]))
    assert sum(p.numel() for p in model.parameters()) == int(row["parameters"])


CAFFE_NETS = {  # README's mIoU, rate, momentum, steps of solve.py, classes, parameters
    "voc-fcn32s": (63.6, 1e-10, 0.99, 25 * 4000, 21, 134_346_581),
    "voc-fcn16s": (65.0, 1e-12, 0.99, 25 * 4000, 21, 134_357_354),
    "voc-fcn8s": (65.5, 1e-14, 0.99, 25 * 4000, 21, 134_362_751),
    "voc-fcn8s-atonce": (65.4, 1e-10, 0.99, 75 * 4000, 21, 134_362_751),
    "voc-fcn-alexnet": (48.0, 1e-4, 0.9, 25 * 4000, 21, 56_954_261),
    "pascalcontext-fcn32s": (None, 1e-10, 0.99, 50 * 8000, 60, 134_506_364),
    "pascalcontext-fcn16s": (None, 1e-12, 0.99, 50 * 8000, 60, 134_537_144),
    "pascalcontext-fcn8s": (None, 1e-14, 0.99, 50 * 8000, 60, 134_552_564),
    "siftflow-fcn32s": (None, 1e-10, 0.99, 50 * 2000, 33, 134_395_745),
    "siftflow-fcn16s": (None, 1e-12, 0.99, 50 * 2000, 33, 134_412_674),
    "siftflow-fcn8s": (None, 1e-12, 0.99, 50 * 2000, 33, 134_421_155),
    "nyud-fcn32s-color": (None, 1e-10, 0.99, 50 * 2000, 40, 134_424_424),
}


def test_every_net_of_the_original_fcn_on_color_images_is_a_recipe():
    assert [f"caffe-fcn/{name}" for name in CAFFE_NETS] == CAFFE


@pytest.mark.parametrize("name", CAFFE_NETS)
def test_settings_of_the_original_fcn(name: str):
    recipe = perpixel.recipe(f"caffe-fcn/{name}")
    miou, lr, momentum, steps_run, num_classes, parameters = CAFFE_NETS[name]
    optimizer, train = recipe.optimizer, recipe.train
    assert recipe.published.miou == miou
    assert (optimizer.lr, optimizer.momentum, train.steps) == (lr, momentum, steps_run)
    assert (optimizer.weight_decay, optimizer.bias_lr_mult) == (5e-4, 2)
    assert not optimizer.decay_norm_and_bias
    is_alexnet = name == "voc-fcn-alexnet"
    assert train.batch_size == train.grad_accum_steps == (20 if is_alexnet else 1)
    assert recipe.loss.reduction == ("mean" if is_alexnet else "sum")
    assert learning_rate(0, steps=steps_run, lr=lr, schedule=recipe.schedule) == lr
    assert learning_rate(steps_run - 1, steps=steps_run, lr=lr, schedule=recipe.schedule) == lr
    assert recipe.augment.crop_size is None
    assert recipe.input.channel_order == "bgr"
    classes = registry.classes(recipe.data.name)
    assert classes is not None
    assert len(classes) == num_classes
    with torch.device("meta"):
        model = build(recipe.model, num_classes=num_classes)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_rows_source_is_its_own():
    sources = [perpixel.recipe(name).source for name in PUBLISHED]
    assert len(set(sources)) == 59


def test_profiles_are_the_tables():
    (recipe,) = (r for r in map(perpixel.recipe, PUBLISHED) if r.published.profiles)
    assert recipe.name == "pytorch-auto-drive/fcn_resnet101_cityscapes_256x512"
    if not TABLES.is_file():
        pytest.skip("the tables are not on this machine (looked for ../shared/recipes.csv)")
    with TABLES.open() as file:
        rows = [row for row in csv.DictReader(file) if not row["dataset"]]
    assert len(rows) == len(recipe.published.profiles) == 3
    for row, profile in zip(rows, recipe.published.profiles, strict=True):
        assert profile.size == (int(row["crop_h"]), int(row["crop_w"]))
        figures = profile.fps, profile.mparams, profile.gflops
        assert figures == (float(row["fps"]), float(row["params_m"]), float(row["flops_g"]))
        assert profile.machine in row["notes"]


def tables() -> list[dict[str, str]]:
    if not TABLES.is_file():
        pytest.skip("the tables are not on this machine (looked for ../shared/recipes.csv)")
    with TABLES.open() as file:
        return [row for row in csv.DictReader(file) if row["dataset"]]  # others are profiling's


def test_settings_and_links_are_the_tables():
    rows = tables()
    assert len(rows) == 59
    order = {
        table: [r for r in rows if r["table"] == table] for table in {r["table"] for r in rows}
    }
    for name in PUBLISHED:
        recipe = perpixel.recipe(name)
        match = re.search(r"table (\d+), row (\d+)\)", recipe.source)
        assert match is not None
        _same(recipe, order[match[1]][int(match[2]) - 1])


def _same(recipe: Recipe, row: dict[str, str]) -> None:
    published, model, train = recipe.published, recipe.model, recipe.train
    links = published.config_url, published.weights_url, published.log_url
    assert links == (row["cfg_url"], row["model_url"] or None, row["log_url"] or None)
    assert published.miou == number(row["miou"])
    assert published.miou_ms_flip == number(row["miou_ms_flip"])
    assert published.memory_gb == number(row["mem_gb"])
    assert published.fps == number(row["fps"])

    assert model.head.type == {"FCN": "fcn", "SemanticFPN": "semantic_fpn"}[row["method"]]
    assert model.backbone.depth == int(row["backbone"].removeprefix("ResNet-").removesuffix("b"))
    assert model.backbone.output_stride == int(row["output_stride"])
    assert model.backbone.stem == ("7x7" if row["stem"] == "7x7" else "deep")
    assert model.align_corners == (row["align_corners"] == "True")
    if row["aux_head"] == "none":
        assert model.aux_head is None
    else:
        assert model.aux_head is not None
        width = re.fullmatch(r"layer3:1conv:(\d+)ch:w0.4", row["aux_head"])
        assert width is not None
        assert model.aux_head.channels == int(width[1])
        assert (model.aux_head.num_convs, recipe.loss.aux_weight) == (1, 0.4)

    name = {
        "VOC2012": "pascal_voc", "ADE20K": "ade20k", "Cityscapes": "cityscapes",
        "PascalContext60": "pascal_context",
    }[row["dataset"]]  # fmt: skip
    data = recipe.data
    assert (data.name, data.train_split, data.eval_split) == (
        name,
        row["train_split"],
        row["eval_split"],
    )
    assert recipe.augment.crop_size == (int(row["crop_h"]), int(row["crop_w"]))
    assert train.batch_size == int(row["batch_size"])
    assert recipe.optimizer.lr == float(row["lr"])
    assert recipe.optimizer.momentum == float(row["momentum"])
    assert recipe.optimizer.weight_decay == float(row["weight_decay"])
    assert (recipe.schedule.power, recipe.schedule.min_lr) == (
        float(row["power"]),
        float(row["min_lr"]),
    )
    assert recipe.inference.mode == row["test_mode"].partition("(")[0]
    assert (train.precision == "float32") == (row["amp"] == "no")


@pytest.mark.parametrize(
    ("epochs", "images", "batch_size", "ranks", "drop_last", "expected"),
    [
        (60, 10_582, 16, 4, True, 39_660),
        (60, 10_582, 16, 1, True, 39_660),
        (130, 20_210, 16, 8, True, 164_190),
        (220, 2_975, 8, 2, True, 81_840),
        (220, 2_975, 8, 8, True, 81_840),
        (30, 10_582, 8, 1, False, 39_690),
        (60, 2_975, 8, 1, False, 22_320),
    ],
)
def test_epochs_become_steps(epochs, images, batch_size, ranks, drop_last, expected):
    counts = {"epochs": epochs, "images": images, "batch_size": batch_size, "ranks": ranks}
    assert steps(**counts, drop_last=drop_last) == expected


def test_what_the_toolkits_do_differently_is_said():
    mmseg = perpixel.recipe("mmseg/fcn_r50-d8_512x512_20k_voc12aug")
    later = perpixel.recipe("sssegmentation/fcn_resnet50os8_voc")
    first = perpixel.recipe("sssegmentation-legacy/fcn_resnet50os8_voc")
    drive = perpixel.recipe("pytorch-auto-drive/fcn_resnet101_pascalvoc_321x321")
    four = (mmseg, later, first, drive)
    assert [r.loss.avg_non_ignore for r in four] == [False, True, True, True]
    assert [r.model.head.dropout_type for r in four] == ["channel"] * 3 + ["element"]
    assert [(r.augment.pad, r.augment.pad_value) for r in four] == [
        ("bottom-right", "mean"), ("center", "mean"), ("center", "mean"), ("bottom-right", "black"),
    ]  # fmt: skip
    assert [r.augment.crop_attempts for r in four[:3]] == [11, 10, 10]
    assert [r.augment.base_size for r in four] == [(2048, 512)] * 3 + [None]
    assert [r.augment.scale_range for r in four] == [(0.5, 2.0)] * 3 + [(0.5, 1.5)]
    assert [r.augment.photometric is None for r in four] == [False] * 3 + [True]
    assert [r.model.align_corners for r in four] == [False, False, True, True]
    assert [r.optimizer.backbone_lr_mult for r in four] == [1.0, 1.0, 0.1, 1.0]
    assert not any(r.schedule.min_lr_at_last_step for r in four)
    assert [r.inference.resize_logits_twice for r in four] == [True, False, False, False]
    assert drive.inference.pad_to == (505, 505)
    ade = perpixel.recipe("sssegmentation-legacy/fcn_resnet50os8_ade20k")
    assert ade.optimizer.backbone_lr_mult == 1.0


@pytest.mark.parametrize(
    ("name", "base", "crop", "stride"),
    [
        ("fcn_r50-d8_769x769_40k_cityscapes", (2049, 1025), (769, 769), (513, 513)),
        ("fcn_r101-d8_480x480_40k_pascal_context", (520, 520), (480, 480), (320, 320)),
    ],
)
def test_windows_slide_where_mmsegmentations_did(name, base, crop, stride):
    inference = perpixel.recipe(f"mmseg/{name}").inference
    assert (inference.base_size, inference.window_size, inference.stride) == (base, crop, stride)


def test_the_backbone_starts_from_the_toolkits_imagenet_file():
    urls = {
        perpixel.recipe(name).train.pretrained.url.rpartition("/")[2]
        for name in PUBLISHED
        if name.startswith("mmseg/")
    }
    assert urls == {
        "resnet18_v1c-b5776b93.pth", "resnet50_v1c-2cccc1ad.pth", "resnet101_v1c-e67eebb6.pth",
        "resnet18-f37072fd.pth", "resnet50-0676ba61.pth", "resnet101-63fe2227.pth",
    }  # fmt: skip
    for name in PUBLISHED:
        init = perpixel.recipe(name).train.pretrained
        assert init.url.endswith(f"-{init.sha256}.pth")
