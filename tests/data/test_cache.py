import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import perpixel
from perpixel.cli.main import app
from perpixel.data import cache as caches
from perpixel.data.loader import batches
from perpixel.data.registry import open_dataset, open_pairs
from perpixel.errors import CorruptFileError, PerpixelError, UsageError
from perpixel.io.images import write_image

RECIPE = perpixel.override(
    perpixel.recipe("camvid/semantic_fpn_r18"),
    ["train.steps=5", "train.batch_size=4", "augment.crop_size=24x32"],
)


def fill(root: Path, out: Path, *splits: str, dataset: str = "camvid") -> list[str]:
    """Writes a cache; returns the lines that it said."""
    lines: list[str] = []
    pairs = {split: open_pairs(dataset, root, split) for split in splits or ("train", "val")}
    caches.write_cache(out, dataset, pairs, say=lines.append, progress=lambda done, total: None)
    return lines


@pytest.fixture
def root(mini: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mini, tmp_path / "mini"))


def streamed(root: Path) -> list:
    opened = open_dataset("camvid", root, "train")
    return [
        (batch.images.tolist(), batch.labels.tolist(), batch.names)
        for batch in batches(opened, RECIPE, first_step=0, workers=0)
    ]


def test_batches_are_the_same_bit_for_bit(root, tmp_path):
    fill(root, tmp_path / "cache")
    assert caches.is_cache(tmp_path / "cache")
    expected = streamed(root)
    shutil.move(root, tmp_path / "elsewhere")  # the cache does not need its source
    assert streamed(tmp_path / "cache") == expected


def test_a_cached_split_is_the_split(root, tmp_path):
    fill(root, tmp_path / "cache")
    for split in ("train", "val"):
        source = open_dataset("camvid", root, split)
        cached = open_dataset("camvid", tmp_path / "cache", split)
        assert len(cached) == len(source)
        assert cached.classes == source.classes
        for index in range(len(source)):
            assert cached.sample_id(index) == source.sample_id(index)
            assert (cached.image(index) == source.image(index)).all()
            assert (cached.label(index) == source.label(index)).all()
            part = cached.image(index, rows=(7, 30))
            assert (part[7:30] == source.image(index)[7:30]).all()
            assert part.shape == (48, 64, 3)
            assert not part[:7].any()
            assert not part[30:].any()


def test_writing_continues_and_renews_changed_files(root, tmp_path):
    out = tmp_path / "cache"
    assert fill(root, out, "val")[0].startswith("3 pairs, 0 of them")
    assert fill(root, out)[0].startswith("15 pairs, 3 of them")
    assert fill(root, out)[0].startswith("15 pairs, 15 of them")
    (out / "arrays/train/03.png.pixels").unlink()
    cut = out / "arrays/train/04.png.pixels"
    cut.write_bytes(cut.read_bytes()[:200])
    (out / "arrays/train/05.png.pixels").write_bytes(b"")
    with pytest.raises(CorruptFileError, match=r"04\.png\.pixels: is truncated"):
        open_dataset("camvid", out, "train").image(4)
    with pytest.raises(CorruptFileError, match=r"train/03\.png: is not in the cache"):
        open_dataset("camvid", out, "train").image(3)
    write_image(root / "train/06.png", np.full((48, 64, 3), 9, np.uint8))
    with pytest.raises(PerpixelError, match=r"train/06\.png: was changed since it was cached"):
        open_dataset("camvid", out, "train").image(6)
    assert fill(root, out)[0].startswith("15 pairs, 11 of them")
    assert (open_dataset("camvid", out, "train").image(6) == 9).all()
    os.utime(root / "trainannot/06.png", (1, 1))
    with pytest.raises(PerpixelError, match=r"trainannot/06\.png: was changed"):
        open_dataset("camvid", out, "train").label(6)


def test_a_cache_that_does_not_fit_is_refused_before_it_starts(root, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=140_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    lines: list[str] = []
    pairs = {"train": open_pairs("camvid", root, "train")}
    with pytest.raises(PerpixelError, match="name a folder on another disk"):
        caches.write_cache(
            tmp_path / "cache", "camvid", pairs, say=lines.append, progress=lambda done, total: None
        )
    assert "the others take about 147.5 kB of the 140.0 kB" in lines[0]  # 12 x 48 x 64 x 4 bytes
    assert not list((tmp_path / "cache").rglob("*.pixels"))
    assert not caches.is_cache(tmp_path / "cache")


def test_unreadable_pairs_are_reported_at_the_end(root, tmp_path):
    (root / "train/02.png").write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save(root / "train/07.png")
    with pytest.raises(
        PerpixelError, match=r"^2 pairs cannot be read, and the cache lacks.*02\.png: not an image"
    ):
        fill(root, tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("*.pixels"))) == 2 * 13
    cached = open_dataset("camvid", tmp_path / "cache", "train")
    assert (cached.image(3) > 0).any()
    with pytest.raises(CorruptFileError, match=r"train/02\.png: is not in the cache"):
        cached.image(2)  # as the data set itself: a training lets another stand in for it


def test_a_cache_whose_writing_was_stopped_says_so(root, tmp_path):
    out = tmp_path / "cache"
    pairs = {"train": open_pairs("camvid", root, "train")}

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caches.write_cache(out, "camvid", pairs, say=lambda line: None, progress=stop)
    with pytest.raises(UsageError, match=r"no complete split 'train'; it holds nothing.*adds it"):
        open_dataset("camvid", out, "train")
    fill(root, out, "val")
    with pytest.raises(UsageError, match=r"no complete split 'train'; it holds val.*adds it"):
        open_dataset("camvid", out, "train")
    fill(root, out)
    assert len(open_dataset("camvid", out, "train")) == 12


def test_the_wrong_cache_is_an_error(root, tmp_path):
    out = tmp_path / "cache"
    fill(root, out, "val")
    with pytest.raises(UsageError, match="is a cache of camvid, not of cityscapes"):
        open_dataset("cityscapes", out, "val")
    with pytest.raises(
        UsageError, match=r"no complete split 'train'; it holds val.*--split train --out"
    ):
        open_dataset("camvid", out, "train")
    with pytest.raises(UsageError, match="is the data set's own folder"):
        fill(root, root)
    other = shutil.copytree(root, tmp_path / "other")
    with pytest.raises(UsageError, match=r"is a cache of camvid at .*mini; name another folder"):
        fill(other, out)
    (out / "cache.json").write_text("{")
    with pytest.raises(PerpixelError, match=r"cache\.json: cannot be read"):
        open_dataset("camvid", out, "val")


NAMES = ", ".join(f'"{index}"' for index in range(12))


def test_a_changed_description_or_list_makes_the_cache_stale(root, tmp_path):
    split = '[splits.{0}]\nimages = "val"\nmasks = "valannot"\nlist = "{0}.txt"\n'
    toml, list_file, out = root / "dataset.toml", root / "b.txt", tmp_path / "cache"
    toml.write_text(f"classes = [{NAMES}]\n" + split.format("a") + split.format("b"))
    (root / "a.txt").write_text("00\n01\n")
    list_file.write_text("01\n")
    lines = fill(root, out, "a", "b", dataset="folder")
    assert lines[0].startswith("2 pairs, 0 of them")  # the pair 01 of both splits counts once
    assert len(open_dataset("folder", out, "a")) == 2
    for path, change in ((toml, ('"0"', '"sky"')), (list_file, ("01", "02"))):
        before = path.read_text()
        path.write_text(before.replace(*change))
        with pytest.raises(
            PerpixelError, match=r"dataset\.toml: it or a list .* was changed since"
        ):
            open_dataset("folder", out, "b")
        with pytest.raises(
            PerpixelError, match=r"dataset\.toml: it or a list .* was changed since"
        ):
            fill(root, out, "b", dataset="folder")
        path.write_text(before)


def test_a_cache_of_an_older_version_is_read(root, tmp_path):
    fill(root, tmp_path / "cache")
    path = tmp_path / "cache/cache.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": ["train", "val"]}))
    assert len(open_dataset("camvid", tmp_path / "cache", "val")) == 3


def test_from_the_command_line(root, tmp_path):
    done = CliRunner().invoke(
        app, ["data", "cache", "camvid", str(root), "--out", str(tmp_path / "cache")]
    )
    assert done.exit_code == 0
    assert "15 pairs, 0 of them" in done.output
    assert re.search(r"use it with --data \S+cache", done.output.replace("\n", ""))
    assert len(open_dataset("camvid", tmp_path / "cache", "train")) == 12


def test_a_mask_of_two_images_is_written_once_and_read_for_both(root, tmp_path):
    shutil.copytree(root / "val", root / "night")
    for number in range(3):
        write_image(root / f"night/{number:02}.png", np.full((48, 64, 3), number, np.uint8))
    split = '[splits.{0}]\nimages = "{0}"\nmasks = "valannot"\n'
    (root / "dataset.toml").write_text(
        f"classes = [{NAMES}]\n" + split.format("val") + split.format("night")
    )
    out = tmp_path / "cache"
    assert fill(root, out, "val", "night", dataset="folder")[0].startswith("6 pairs, 0 of them")
    assert len(list(out.rglob("*.pixels"))) == 9
    day, night = (open_dataset("folder", out, name) for name in ("val", "night"))
    assert (night.image(2) == 2).all()
    assert (day.label(2) == night.label(2)).all()


def test_a_full_disk_leaves_no_part_of_a_file(root, tmp_path, monkeypatch):
    def full(part: Path, target: Path, replace=Path.replace) -> None:
        if part.name.endswith(".pixels.part"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(part, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PerpixelError, match=r"cannot be written \(No space left"):
        fill(root, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.p*"))


def test_a_mask_of_a_corrupt_image_is_cached_for_another(root, tmp_path):
    shared = "/SegNet/CamVid/trainannot/00.png"
    (root / "train.txt").write_text(
        "".join(f"/SegNet/CamVid/train/{name}.png {shared}\n" for name in ("00", "01", "02"))
    )
    (root / "train/00.png").write_bytes(b"corrupt")
    with pytest.raises(PerpixelError, match=r"train/00\.png"):
        fill(root, tmp_path / "cache", "train")
    assert (tmp_path / "cache/arrays/trainannot/00.png.pixels").is_file()
