"""Probes on cached features are the probes on images, and the cache is never out of date."""

import os
import re
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from test_ranks import torchrun
from test_run import TINY, losses, same, weights

import perpixel
from perpixel.data.dataset import PairDataset
from perpixel.errors import Interrupted, PerpixelError, UsageError
from perpixel.io.images import read_image, write_image
from perpixel.recipes import overrides
from perpixel.recipes.schema import Recipe
from perpixel.training import feature_cache, run_logger

PROBE = perpixel.override(
    TINY,
    ["train.freeze=backbone", "augment.enabled=false", "train.batch_size=4", "optimizer.lr=0.05"],
)
CACHED = perpixel.override(PROBE, ["train.cache_features=true"])
ALL_LEVELS = ["model.aux_head=null", "model.head.type=semantic_fpn", "model.head.channels=8",
              "model.backbone.output_stride=32", "augment.crop_size=48x64"]  # fmt: skip
CHANGES = {
    "last level": ["model.aux_head=null"],
    "with auxiliary head": [],
    "all levels": ALL_LEVELS,
    "averaged": ["train.ema_decay=0.9"],
    "micro-batches": ["train.grad_accum_steps=2"],
    "resized": ["data.resize=40x56", "augment.pad=center", "augment.crop_size=48x64"],
    "compiled": ["train.compile=default", "train.steps=2"],
    "half": ["train.precision=bfloat16"],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("PERPIXEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture(scope="module")
def source(mini: Path, tmp_path_factory) -> Path:
    """A run whose backbone the others freeze."""
    folder = tmp_path_factory.mktemp("source")
    perpixel.train(TINY, data=mini, out=folder, device="cpu")
    return folder


@pytest.fixture
def train(mini: Path, source: Path, tmp_path: Path):
    """Trains into a folder of this name, and returns it."""

    def run(name: str, recipe: Recipe = CACHED, **named) -> Path:
        named = {"data": mini, "init": source, "device": "cpu"} | named
        perpixel.train(recipe, out=tmp_path / name, **named)
        return tmp_path / name

    return run


def computed(run: Path) -> list[int]:
    """How many images' features each start of a run has computed."""
    return [int(n) for n in re.findall(r"(\d+) images? to compute", (run / "log.txt").read_text())]


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*"))


@pytest.mark.parametrize("kind", CHANGES)
def test_a_run_on_features_is_the_run_on_images(train, kind: str):
    """To 1e-4 in every loss, in bfloat16 to its rounding; batch norms of the head train."""
    plain = train("plain", perpixel.override(PROBE, CHANGES[kind]))
    cached = train("cached", perpixel.override(CACHED, CHANGES[kind]))
    close = {"rel": 3e-2} if kind == "half" else {"rel": 1e-4}
    assert losses(cached) == pytest.approx(losses(plain), **close)
    assert len(set(losses(cached))) > 1
    if kind != "half":
        for (name, there), here in zip(
            weights(plain).items(), weights(cached).values(), strict=True
        ):
            torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4, msg=name)
    statistics = weights(cached)
    key = "head.scales.0.0.1" if kind == "all levels" else "head.convs.0.1"
    assert statistics[f"{key}.running_mean"].abs().max() > 0
    assert not (plain / "log.txt").read_text().count("to compute")


def test_the_backbone_stays(train, source: Path):
    before, after = weights(source), weights(train("cached"))
    frozen = [name for name in after if name.startswith("backbone.")]
    assert len(frozen) > 100
    changed = [name for name in frozen if not torch.equal(before[name], after[name])]
    assert all(name.endswith("num_batches_tracked") for name in changed)


def test_images_are_read_once_and_heads_share_them(train, cache: Path, monkeypatch):
    read = []
    image = PairDataset.image

    def count(self, index: int, **named) -> np.ndarray:
        read.append(self.sample_id(index))
        return image(self, index, **named)

    monkeypatch.setattr(PairDataset, "image", count)
    first = train("first", perpixel.override(CACHED, ["train.steps=30"]))  # of 12 images: 10 epochs
    assert computed(first) == [12]
    # Their hashes, their features, the drawing of the first batch and of the classes shown.
    assert sum("train/" in name for name in read) <= 2 * 12 + 4
    second = train("second", perpixel.override(CACHED, ["model.head.channels=16", "train.seed=1"]))
    assert computed(second) == [0]
    assert len(entries(cache)) == 12


def test_workers_change_nothing(train):
    assert losses(train("alone")) == losses(train("helped", workers=2))
    assert same(weights(train("alone-too")), weights(train("helped-too", workers=2)))


def test_a_killed_run_is_resumed_bit_for_bit_even_without_its_cache(train, cache, monkeypatch):
    straight = train("straight")

    def stop_after_three(self, step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_logger.RunLogger, "set_step", stop_after_three)
        with pytest.raises(Interrupted, match="stopped after step 3"):
            train("stopped")
    shutil.rmtree(cache)
    stopped = train("stopped", resume="must")
    assert computed(stopped) == [0, 12]
    assert losses(stopped) == losses(straight)
    assert same(weights(stopped), weights(straight))


def test_a_run_stopped_while_it_computes_begins_there_again(train, cache: Path, monkeypatch):
    def stop_after_five(self, done: int, total: int) -> None:
        if done == 5 and entries(cache):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_logger.RunLogger, "show_features", stop_after_five)
        with pytest.raises(Interrupted, match=r"before the first step.* same command"):
            train("run")
    assert len(entries(cache)) == 5
    assert computed(train("run")) == [12, 7]


def test_what_changes_is_computed_again(train, mini: Path, cache: Path, tmp_path: Path):
    moved = Path(shutil.copytree(mini, tmp_path / "moved"))
    train("first")
    assert computed(train("moved", data=moved)) == [0]
    changed = moved / "train" / "03.png"
    write_image(changed, 255 - read_image(changed))
    assert computed(train("changed", data=moved)) == [1]
    other = train("other", perpixel.override(TINY, ["train.seed=1"]), init="none")
    others = {
        "weights": train("weights", init=other),
        "input": train("input", perpixel.override(CACHED, ["input.mean=[1,2,3]"])),
        "size": train("size", perpixel.override(CACHED, ["augment.crop_size=40x40"])),
        "levels": train("levels", perpixel.override(CACHED, ["model.aux_head=null"])),
        "precision": train("precision", perpixel.override(CACHED, ["train.precision=bfloat16"])),
    }
    assert {kind: computed(run) for kind, run in others.items()} == {kind: [12] for kind in others}


@pytest.mark.parametrize("fault", ["cut off", "a flipped bit", "empty"])
def test_a_corrupt_entry_is_computed_again(train, cache: Path, fault: str):
    first = train("first")
    entry = entries(cache)[4]
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    faults = {"cut off": content[:-9], "a flipped bit": content, "empty": b""}
    entry.write_bytes(faults[fault])
    again = train("again")
    assert computed(again) == [1]
    assert losses(again) == losses(first)


def test_an_entry_lost_during_a_run_ends_it(train, cache: Path, monkeypatch):
    def lose(self, step: int) -> None:
        if step == 1:
            for entry in entries(cache):
                entry.write_bytes(b"")

    with monkeypatch.context() as patch:
        patch.setattr(run_logger.RunLogger, "set_step", lose)
        with pytest.raises(PerpixelError, match=r"safetensors: not a safetensors file.*resume"):
            train("run")


def test_a_corrupt_image_is_replaced_as_ever(train, mini: Path, tmp_path: Path):
    broken = Path(shutil.copytree(mini, tmp_path / "broken"))
    (broken / "train" / "05.png").write_bytes(b"no image")
    settings = ["train.max_corrupt_fraction=0.5"]
    plain = train("plain", perpixel.override(PROBE, settings), data=broken)
    cached = train("cached", perpixel.override(CACHED, settings), data=broken)
    assert computed(cached) == [11]
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-4)
    assert "05.png" in (cached / "log.txt").read_text()


def test_too_small_a_disk_is_said_before_it_is_full(train, cache: Path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: usage(1000))
    with pytest.raises(
        PerpixelError, match=r"features of 12 images take about .* and 1\.0 kB are free.*_CACHE"
    ):
        train("run")
    assert entries(cache) == []


def test_two_ranks_share_the_work(train, mini: Path, source: Path, cache: Path, tmp_path: Path):
    alone = train("alone", perpixel.override(CACHED, ["model.head.dropout=0"]))
    shutil.rmtree(cache)
    recipe = perpixel.override(CACHED, ["model.head.dropout=0"])
    (tmp_path / "r.py").write_text(
        "from perpixel.recipes import overrides\n"
        f"r = overrides.load({overrides.dump(recipe)!r}, origin='test')\n"
    )
    torchrun(
        "-m", "perpixel", "train", f"{tmp_path}/r.py:r", "--data", mini, "--init", source,
        "--out", tmp_path / "ranks", "--device", "cpu",
    )  # fmt: skip
    assert computed(tmp_path / "ranks") == [12]
    assert len(entries(cache)) == 12
    assert losses(tmp_path / "ranks")[0] == pytest.approx(losses(alone)[0], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.freeze=off"], r"set train\.freeze=backbone too"),
        (["train.freeze=stage2"], r"set train\.freeze=backbone too"),
        (["augment.enabled=true"], r"set augment\.enabled=false too"),
        (
            ["augment.enabled=true", "train.freeze=off"],
            r"set train\.freeze=backbone and augment\.enabled=false too",
        ),
        (["augment.crop_size=null"], r"set augment\.crop_size=HxW"),
        (
            ['train.final_phase={"fraction":0.5,"crop_size":[48,48]}'],
            r"set train\.final_phase=null too",
        ),
    ],
)
def test_what_has_no_features_to_keep_is_refused(settings: list[str], said: str):
    with pytest.raises(UsageError, match=rf"train\.cache_features=true is for a frozen .*{said}"):
        perpixel.override(CACHED, settings)


def test_the_command_says_what_to_set(command, mini: Path, tmp_path: Path):
    words = ["train", "camvid/fcn_r18-d8", "--data", mini, "--out", tmp_path / "run"]
    code, _, err = command(*words, "--set", "train.cache_features=true")
    assert code == 2
    for setting in ("train.freeze=backbone", "augment.enabled=false", "train.final_phase=null"):
        assert setting in " ".join(err.split())
