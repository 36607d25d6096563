"""Several ranks, started by torchrun on this machine, are one run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import perpixel
from perpixel.checkpoints.format import read_checkpoint
from perpixel.errors import UsageError
from perpixel.losses import loss_denominator, segmentation_loss
from perpixel.recipes import overrides
from perpixel.recipes.schema import Loss
from perpixel.training.parallel import check_batch_divides

# No dropout: its random numbers differ from rank to rank.
EIGHT = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"),
    [
        "model.backbone.base_channels=8",
        "train.steps=4",
        "train.batch_size=8",
        "augment.crop_size=32x32",
        "train.log_every=1",
        "model.head.channels=8",
        "model.head.dropout=0",
        "model.aux_head.channels=8",
        "model.aux_head.dropout=0",
        "train.precision=float32",
        "optimizer.lr=0.05",
    ],
)


CHANGES = {
    "plain": [],
    "recomputed": ["train.activation_checkpointing=norms"],
    "accumulated": ["train.grad_accum_steps=2", "loss.class_weights=[1,2,0.5,1,1,3,1,1,1,1,1]"],
}
BOTH = """
import sys
import torch
import perpixel
from perpixel.runtime.distributed import process_group
from perpixel.recipes import overrides

data, *runs = sys.argv[1:]
with process_group(torch.device("cpu")):
    for run in runs:
        recipe = overrides.load(open(f"{run}.json").read(), origin="test")
        perpixel.train(recipe, data=data, out=run, device="cpu", workers=1)
"""


def torchrun(*words: object) -> str:
    """Runs a script in two processes; what they said."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def ranked(mini: Path, tmp_path_factory) -> tuple[Path, str]:
    """A folder where two ranks have trained both recipes, and what they said."""
    folder = tmp_path_factory.mktemp("ranked")
    for name, changes in CHANGES.items():
        recipe = perpixel.override(EIGHT, changes)
        (folder / f"{name}.json").write_text(overrides.dump(recipe))
    (folder / "both.py").write_text(BOTH)
    return folder, torchrun(folder / "both.py", mini, *(folder / name for name in CHANGES))


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(run / "checkpoints" / "model.safetensors").weights)


@pytest.mark.parametrize("kind", CHANGES)
def test_two_ranks_of_four_images_are_one_of_eight(mini: Path, ranked, tmp_path, kind: str):
    """To 1e-4 in every loss: the sums are taken in another order."""
    recipe = perpixel.override(EIGHT, CHANGES[kind])
    perpixel.train(recipe, data=mini, out=tmp_path, device="cpu")
    folder, said = ranked
    assert losses(folder / kind) == pytest.approx(losses(tmp_path), rel=1e-4)
    one, two = weights(tmp_path), weights(folder / kind)
    for name, tensor in one.items():
        assert (two[name] - tensor).float().norm() <= 2e-2 * tensor.float().norm() + 1e-4, name
    scores = [json.loads((run / "evaluate.json").read_text()) for run in (tmp_path, folder / kind)]
    assert scores[0]["images"] == scores[1]["images"] == 3
    started = said.count("4 steps of 8, on cpu in float32, 2 ranks")
    assert started == len(CHANGES), "only one rank speaks"


def test_without_shared_statistics_ranks_would_differ(mini: Path, tmp_path):
    """What the tolerance above must be able to see."""
    perpixel.train(EIGHT, data=mini, out=tmp_path / "eight", device="cpu")
    halves = perpixel.override(EIGHT, ["train.grad_accum_steps=2"])
    perpixel.train(halves, data=mini, out=tmp_path / "halves", device="cpu")
    apart = zip(losses(tmp_path / "eight"), losses(tmp_path / "halves"), strict=True)
    assert max(abs(a / b - 1) for a, b in apart) > 3e-4


@pytest.mark.parametrize(
    "spec",
    [
        Loss(),
        Loss(avg_non_ignore=False),
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
    weights = torch.stack([loss_denominator(part, spec) for part in labels.split(1)])
    whole = segmentation_loss(logits, labels, spec)
    assert (torch.stack(means) * weights).sum() / weights.sum() == pytest.approx(whole.item())


def test_shares_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match=r"batch_size=8 .* by 3 ranks .* multiple of 3"):
        check_batch_divides(EIGHT, 3)
    with pytest.raises(
        UsageError, match=r"grad_accum_steps=4 micro-batches: make it a multiple of 16"
    ):
        check_batch_divides(perpixel.override(EIGHT, ["train.grad_accum_steps=4"]), 4)


def test_one_tiny_image_is_too_little_for_batch_norm(mini: Path, tmp_path):
    tiny = perpixel.override(EIGHT, ["train.batch_size=1", "augment.crop_size=8x8"])
    with pytest.raises(UsageError, match=r"batch_size=1 in .*crops of 8x8 leave batch norm a sing"):
        perpixel.train(tiny, data=mini, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_seeds_follow_one_another_in_one_group(mini: Path, tmp_path):
    short = perpixel.override(EIGHT, ["train.steps=1"])
    (tmp_path / "short.py").write_text(
        "from perpixel.recipes import overrides\n"
        f"r = overrides.load({overrides.dump(short)!r}, origin='test')\n"
    )
    words = [f"{tmp_path}/short.py:r", "--data", mini, "--out", tmp_path / "seeds", "--seeds", 2]
    torchrun("-m", "perpixel", "train", *words, "--device", "cpu")
    summary = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert list(summary["miou"]) == ["0", "1"]
