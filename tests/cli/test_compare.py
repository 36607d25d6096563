"""`perpixel compare` as a user meets it: two small backbones on a miniature data set."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import perpixel
from perpixel.checkpoints import zoo
from perpixel.checkpoints.format import InitialWeights
from perpixel.comparison.backbones import with_backbone
from perpixel.io.images import read_image
from perpixel.models import resnet
from perpixel.recipes.models import Timm
from perpixel.recipes.overrides import load
from perpixel.recipes.schema import Recipe

FPN = "camvid/semantic_fpn_r18"
NAMES = ["resnet18", "test_efficientnet"]
QUICK = [
    "--device", "cpu", "--set", "train.steps=2", "--set", "train.log_every=1",
    "--set", "train.batch_size=2", "--set", "train.precision=float32",
    "--set", "augment.crop_size=32x32", "--set", "model.backbone.base_channels=8",
    "--set", "model.head.channels=32",
]  # fmt: skip


@pytest.fixture
def compare(command, mini: Path, tmp_path: Path):
    """Compares these backbones in the folder `out` of the test's own."""

    def run(*words: object, recipe: str = FPN, names: list[str] = NAMES) -> tuple[int, str, str]:
        backbones = ",".join(names)
        common = ["--data", mini, "--out", tmp_path / "out", *QUICK]
        common += ["--set", "model.head.fpn_channels=32"] if recipe == FPN else []
        return command("compare", recipe, "--backbones", backbones, *common, *words)

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def content(out: Path) -> Any:
    return json.loads((out / "comparison.json").read_text())


def metrics(out: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]


def final_weights(out: Path, name: str) -> dict[str, torch.Tensor]:
    return perpixel.load_model(out / name / "checkpoints" / "model.safetensors").state_dict()


def test_the_table_has_the_runs_own_scores_and_the_models_own_counts(compare, out):
    code, printed, err = compare("--size", "48x64")
    assert code == 0, err
    rows = content(out)["backbones"]
    assert [row["backbone"] for row in rows] == NAMES
    table = (out / "comparison.md").read_text()
    recipes = []
    for row in rows:
        name = row["backbone"]
        scores = json.loads((out / name / "evaluate.json").read_text())
        for score in ("miou", "pixel_accuracy", "mean_accuracy"):
            assert row[score] == scores[score]
        recipe = load((out / name / "recipe.json").read_text(), origin=name)
        model = perpixel.build(recipe, num_classes=11)
        assert row["params"] == sum(parameter.numel() for parameter in model.parameters())
        rates = [line["images_per_second"] for line in metrics(out, name) if "loss" in line]
        assert row["training_seconds"] == pytest.approx(2 / rates[0] + 2 / rates[1])
        assert row["latency_ms"] > 0
        recipes.append(recipe)
        (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} "))
        shown = [cell.strip() for cell in line.split("|")[1:-1]]
        assert shown == [
            name, f"{row['miou']:.2f}", f"{row['pixel_accuracy']:.2f}",
            f"{row['params'] / 1e6:.2f}", f"{row['macs'] / 1e9:.2f}", f"{row['latency_ms']:.1f}",
            f"{row['training_seconds']:.0f}",
        ]  # fmt: skip
        assert shown in [printed_line.split() for printed_line in printed.splitlines()]
    assert len({len(line) for line in table.splitlines() if line.startswith("|")}) == 1
    assert "48x64" in table
    first, second = recipes
    own = perpixel.recipe(FPN).model.backbone
    assert first.model.backbone == own.model_copy(update={"base_channels": 8})
    assert second.model.backbone == Timm(name="test_efficientnet")
    assert second.model_copy(update={"model": first.model}) == first
    image = read_image(out / "comparison.png")
    assert image.shape[1] > 1000
    assert len(set(map(tuple, image.reshape(-1, 3)))) > 20


def test_macs_and_latency_are_of_the_size(compare, out):
    macs = []
    for size in ("32x32", "64x64"):
        assert compare("--size", size, names=NAMES[:1])[0] == 0
        assert content(out)["size"] == [int(size[:2])] * 2
        macs.append(content(out)["backbones"][0]["macs"])
    assert macs[1] == 4 * macs[0]


def test_the_same_command_trains_what_is_not_trained_yet(compare, out):
    assert compare(names=NAMES[:1])[0] == 0
    rows, weights = metrics(out, "resnet18"), final_weights(out, "resnet18")
    scores = content(out)["backbones"][0]
    code, _, err = compare()
    assert code == 0, err
    assert metrics(out, "resnet18") == rows
    torch.testing.assert_close(final_weights(out, "resnet18"), weights, rtol=0, atol=0)
    assert "step 1" not in err.partition("test_efficientnet")[0]
    both = content(out)["backbones"]
    assert [row["backbone"] for row in both] == NAMES
    assert both[0] | {"latency_ms": 0} == scores | {"latency_ms": 0}


def test_backbones_that_cannot_be_are_all_refused_first(compare, out):
    code, _, err = compare(names=["resnet17", "resnet18", "hiera_tiny_224", "levit_128"])
    assert code == 2
    assert "nothing was trained, as 3 of 4 backbones cannot be compared" in err
    assert "resnet17: timm has no backbone 'resnet17'. Did you mean resnet18?" in err
    assert "hiera_tiny_224: " in err
    assert "It was made for 224x224" in err
    assert "levit_128: " in err
    assert not out.exists()


def test_a_head_and_an_output_stride_refuse_backbones(compare, out):
    code, _, err = compare(recipe="camvid/fcn_r18-d8", names=["resnet18", "pvt_v2_b0"])
    assert code == 2
    assert "1 of 2 backbones" in err
    assert "timm makes no features of it at output stride 8" in err
    assert not out.exists()


def test_backbones_without_published_weights_are_refused(compare, out):
    code, _, err = compare("--init", "imagenet", names=["darknet17", "skresnet50"])
    assert code == 2
    assert "2 of 2 backbones" in err
    for name in ("darknet17", "skresnet50"):
        assert f"{name}: no ImageNet weights are published for it" in err
    assert not out.exists()


def test_weights_that_cannot_be_had_are_said_before_the_first_training(compare, out, monkeypatch):
    def fail(recipe: Recipe) -> InitialWeights:
        raise perpixel.PerpixelError("no network")

    monkeypatch.setattr(zoo, "_imagenet_weights", fail)
    code, _, err = compare("--init", "imagenet", "--set", "model.backbone.base_channels=64")
    assert code == 1
    assert "2 of 2 backbones cannot be compared" in err
    assert "no network" in err
    assert not out.exists()


def test_the_input_is_that_of_the_weights(compare, out, monkeypatch):
    def random_weights(recipe: Recipe) -> InitialWeights:
        state = perpixel.build(recipe, num_classes=2).state_dict()
        return InitialWeights(
            {name: state[name] for name in state if name.startswith("backbone.")}, "random numbers"
        )

    monkeypatch.setattr(zoo, "_imagenet_weights", random_weights)
    names = ["resnet18", "test_resnet"]
    code, _, err = compare("--init", "imagenet", "--set", "input.mean=[1,2,3]", names=names)
    assert code == 0, err
    means = []
    for name in names:
        text = (out / name / "recipe.json").read_text()
        means.append(json.loads(text)["input"]["mean"])
        assert "initial weights from random numbers" in (out / name / "log.txt").read_text()
    assert means == [[123.675, 116.28, 103.53], [127.5, 127.5, 127.5]]
    assert content(out)["initial_weights"] == "imagenet"


def test_a_recipes_own_file_of_weights_is_its_own_backbones():
    recipe = perpixel.recipe("mmseg/fcn_r50-d8_512x1024_40k_cityscapes")
    same = with_backbone(recipe, "resnet50", pretrained=True)
    assert same == recipe
    smaller = with_backbone(recipe, "resnet18", pretrained=True)
    assert smaller.train.pretrained == "imagenet"
    assert smaller.model.backbone == recipe.model.backbone.model_copy(update={"depth": 18})
    assert with_backbone(recipe, "resnet50", pretrained=False).train.pretrained is None


def test_a_mistake_in_a_models_code_does_not_cost_the_others(compare, out, monkeypatch):
    forward = resnet.ResNet.forward

    def fail(self: resnet.ResNet, images: torch.Tensor) -> list[torch.Tensor]:
        if images.is_meta:
            return forward(self, images)
        raise ZeroDivisionError("of a test")

    monkeypatch.setattr(resnet.ResNet, "forward", fail)
    code, printed, err = compare()
    assert code == 1
    assert "Traceback" in err
    assert "resnet18: ZeroDivisionError: of a test" in err
    assert "test_efficientnet" in printed
    assert "resnet18" not in printed
    assert [row["backbone"] for row in content(out)["backbones"]] == ["test_efficientnet"]
    assert list(content(out)["failed"]) == ["resnet18"]
    assert "resnet18 failed" in (out / "comparison.md").read_text()
    code, _, err = compare()
    assert code == 1
    assert "1 of 2 backbones failed" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbones", "resnet18,,resnet34"], "separated by commas"),
        (["--backbones", "resnet18,test_vit,resnet18"], "resnet18 is there twice"),
        (["--size", "8"], "--size '8': write it as HEIGHTxWIDTH"),
    ],
)
def test_wrong_words_are_refused(compare, out, words, message):
    code, _, err = compare(*words)
    assert code == 2
    assert message in err
    assert not out.exists()


def test_a_single_runs_folder_is_refused(compare, out):
    (out / "checkpoints").mkdir(parents=True)
    code, _, err = compare()
    assert code == 2
    assert "holds a single run" in err


def test_torchrun_is_refused(compare, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    from perpixel.cli.compare import compare as function

    with pytest.raises(perpixel.UsageError, match="compare is one process"):
        function(FPN, "resnet18", Path("out"))


def test_a_table_is_not_replaced_by_another(compare, out):
    """Neither by one without runs that are there, nor by one of other settings."""
    assert compare()[0] == 0
    before = (out / "comparison.md").read_text()
    code, _, err = compare(names=NAMES[:1])
    assert code == 2
    assert f"also holds 1 run, which the table would leave out ({NAMES[1]})" in err
    code, _, err = compare("--set", "optimizer.lr=0.5")
    assert code == 2
    assert "is a run with other settings (there -> now): optimizer.lr: " in err
    assert (out / "comparison.md").read_text() == before
