"""Several ranks, started by torchrun on this machine, are one run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import narrow
import pytest
import torch

import perpixel
from perpixel.checkpoint import read_checkpoint
from perpixel.errors import UsageError
from perpixel.losses import mean_weight, segmentation_loss
from perpixel.recipes import settings
from perpixel.recipes.spec import Loss, Recipe
from perpixel.training.parallel import require_even_shares

# No dropout: its random numbers differ from rank to rank.
EIGHT = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"),
    [
        "train.steps=4",
        "train.images_per_step=8",
        "train.crop=32x32",
        "train.log_every=1",
        "model.head.width=8",
        "model.head.dropout=0",
        "model.auxiliary.width=8",
        "model.auxiliary.dropout=0",
        "train.precision=float32",
        "optimizer.lr=0.05",
    ],
)
pytestmark = pytest.mark.usefixtures("narrow")


def torchrun(recipe: Recipe, mini: Path, out: Path, *options: str, ranks: int = 2) -> str:
    """Trains in so many processes; what they said."""
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.parent / f"{out.name}.py"
    file.write_text(
        "from perpixel.recipes import settings\n"
        f"r = settings.load({settings.dump(recipe)!r}, origin='test')\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={ranks}", narrow.__file__, "train", f"{file}:r",
            "--data", mini, "--out", out, "--device", "cpu", *options,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(run / "checkpoints" / "model.safetensors").weights)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["train.accumulate=2", "loss.class_weights=[1,2,0.5,1,1,3,1,1,1,1,1]"],
    ],
    ids=["plain", "accumulated"],
)
def test_two_ranks_of_four_pictures_are_one_of_eight(mini: Path, tmp_path, changes: list[str]):
    """To 1e-4 in every loss: the sums are taken in another order."""
    recipe = perpixel.override(EIGHT, changes)
    perpixel.train(recipe, data=mini, out=tmp_path / "one", device="cpu")
    said = torchrun(recipe, mini, tmp_path / "two", "--workers", "1")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        assert (two[name] - tensor).float().norm() <= 2e-2 * tensor.float().norm() + 1e-4, name
    scores = [json.loads((tmp_path / run / "evaluate.json").read_text()) for run in ("one", "two")]
    assert scores[0]["images"] == scores[1]["images"] == 3
    assert said.count("4 steps of 8, on cpu in float32, 2 ranks") == 1, "only one rank speaks"


def test_without_shared_statistics_ranks_would_differ(mini: Path, tmp_path):
    """What the tolerance above must be able to see."""
    perpixel.train(EIGHT, data=mini, out=tmp_path / "eight", device="cpu")
    halves = perpixel.override(EIGHT, ["train.accumulate=2"])
    perpixel.train(halves, data=mini, out=tmp_path / "halves", device="cpu")
    apart = zip(losses(tmp_path / "eight"), losses(tmp_path / "halves"), strict=True)
    assert max(abs(a / b - 1) for a, b in apart) > 3e-4


@pytest.mark.parametrize(
    "spec",
    [
        Loss(),
        Loss(mean="all"),
        Loss(class_weights=(1, 0, 3)),
        Loss(focal=1, cross_entropy=0.5),
    ],
)
def test_weighted_means_of_parts_are_the_mean_of_the_whole(spec: Loss):
    logits = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    labels = torch.randint(0, 3, (4, 5, 5), dtype=torch.uint8)
    labels[0] = 255
    labels[1, :3] = 255
    means = [
        segmentation_loss(a, b, spec) for a, b in zip(logits.split(1), labels.split(1), strict=True)
    ]
    weights = torch.stack([mean_weight(part, spec) for part in labels.split(1)])
    whole = segmentation_loss(logits, labels, spec)
    assert (torch.stack(means) * weights).sum() / weights.sum() == pytest.approx(whole.item())


def test_shares_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match=r"images_per_step=8 .* by 3 ranks .* multiple of 3"):
        require_even_shares(EIGHT, 3)
    with pytest.raises(UsageError, match=r"accumulate=4 passes: make it a multiple of 16"):
        require_even_shares(perpixel.override(EIGHT, ["train.accumulate=4"]), 4)


def test_one_tiny_picture_is_too_little_for_batch_norm(mini: Path, tmp_path):
    tiny = perpixel.override(EIGHT, ["train.images_per_step=1", "train.crop=8x8"])
    with pytest.raises(
        UsageError, match=r"images_per_step=1 in .*crops of 8x8 leave batch norm a sing"
    ):
        perpixel.train(tiny, data=mini, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_seeds_follow_one_another_in_one_group(mini: Path, tmp_path):
    short = perpixel.override(EIGHT, ["train.steps=1"])
    torchrun(short, mini, tmp_path / "seeds", "--seeds", "2")
    summary = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert list(summary["miou"]) == ["0", "1"]
