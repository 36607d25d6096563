"""Bands of multispectral TIFFs, from dataset.toml to the predictions of a trained model."""

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

import perpixel
from perpixel.data.registry import open_dataset, with_dataset_input
from perpixel.errors import PerpixelError, UsageError
from perpixel.io.images import read_image, read_mask, write_image

TOML = """
classes = ["water", "land"]
{keys}
[splits.train]
images = "images"
masks = "masks"
[splits.val]
images = "images"
masks = "masks"
"""
TINY = [
    "data.name=folder", "train.steps=1", "train.batch_size=2", "augment.crop_size=32x32",
    "train.precision=float32", "model.backbone.base_channels=8", "model.head.channels=8",
]  # fmt: skip
KEYS = "bands = [5, 3, 2]\nmean = [10.5, 20.0, 30.0]\nstd = [4.0, 5.0, 6.0]"


def recipe(*settings: str) -> perpixel.Recipe:
    return perpixel.override(perpixel.recipe("camvid/fcn_r18-d8"), [*TINY, *settings])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images of six bands, 16 bits each, whose masks follow the fifth."""
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 2**16, (40, 48, 6), np.uint16)
        tifffile.imwrite(
            root / f"images/{index}.tif", pixels, photometric="minisblack", planarconfig="contig"
        )
        write_image(root / f"masks/{index}.png", (pixels[..., 4] > 2**15).astype(np.uint8))
    (root / "dataset.toml").write_text(TOML.format(keys=KEYS))
    return root


def test_a_model_predicts_files_in_the_bands_that_it_was_trained_on(root, tmp_path, command):
    perpixel.train(recipe(), data=root, out=tmp_path / "run", device="cpu")
    model = perpixel.load(tmp_path / "run")
    assert model.recipe.input.bands == (5, 3, 2)
    assert model.recipe.input.mean == (10.5, 20, 30)
    assert model.recipe.input.std == (4, 5, 6)
    file = root / "images/0.tif"
    expected = model.predict(read_image(file, bands=(5, 3, 2))).mask
    assert (model.predict(file).mask == expected).all()
    code, *_ = command(
        "predict", tmp_path / "run", file, "--out", tmp_path / "o", "--device", "cpu"
    )
    assert code == 0
    assert (read_mask(tmp_path / "o/0.png") == expected).all()
    tifffile.imwrite(
        tmp_path / "stack.tif",
        np.zeros((2, 9, 40, 48), np.uint8),
        photometric="minisblack",
        planarconfig="separate",
    )
    code, _, err = command(
        "predict", tmp_path / "run", tmp_path / "stack.tif", "--out", tmp_path / "o"
    )
    assert (code, "stack.tif: holds several pages or frames" in err) == (1, True)
    write_image(tmp_path / "photo.png", np.zeros((40, 48, 3), np.uint8))
    with pytest.raises(PerpixelError, match=r"photo\.png: has 3 bands, and bands = \[5, 3, 2\]"):
        model.predict(tmp_path / "photo.png")
    (tmp_path / "film.mp4").write_bytes(b"")
    words = ("predict", tmp_path / "run", tmp_path / "film.mp4", "--out", tmp_path / "o")
    assert command(*words, "--device", "cpu")[0] == 2
    perpixel.evaluate(tmp_path / "run", data=root)
    (root / "dataset.toml").write_text(TOML.format(keys="bands = [1, 2, 3]"))
    with pytest.raises(UsageError, match=r"bands=\[5, 3, 2\], .* has bands = \[1, 2, 3\]"):
        perpixel.evaluate(tmp_path / "run", data=root)


def test_a_cache_holds_the_bands_and_says_so(root, tmp_path, command):
    assert command("data", "cache", "folder", root, "--out", tmp_path / "cache")[0] == 0
    perpixel.train(recipe(), data=tmp_path / "cache", out=tmp_path / "cached", device="cpu")
    perpixel.train(recipe(), data=root, out=tmp_path / "plain", device="cpu")
    cached, plain = (perpixel.load(tmp_path / name) for name in ("cached", "plain"))
    assert cached.recipe == plain.recipe
    assert cached.recipe.input.bands == (5, 3, 2)
    pixels = np.full((32, 32, 3), 100, np.uint8)
    assert np.array_equal(cached.logits(pixels), plain.logits(pixels))


def test_the_recipe_and_dataset_toml_may_not_contradict_each_other(root, tmp_path):
    for settings, says in (
        (["input.bands=[4,3,2]"], r"input.bands=\[4, 3, 2\], .* bands = \[5, 3, 2\]"),
        (["input.mean=[1,2,3]"], r"input.mean=\[1.0, 2.0, 3.0\], .* mean = \[10.5, 20.0, 30.0\]"),
    ):
        with pytest.raises(UsageError, match=says):
            perpixel.train(recipe(*settings), data=root, out=tmp_path / "run", device="cpu")
    (root / "dataset.toml").write_text(TOML.format(keys=""))
    with pytest.raises(UsageError, match=r"bands=\[4, 3, 2\], .*toml has bands = \[\]"):
        perpixel.train(recipe("input.bands=[4,3,2]"), data=root, out=tmp_path / "run", device="cpu")


def test_mean_and_std_take_the_place_of_the_recipes_own(root):
    """Those of folder/fast are its backbone's."""
    dataset = open_dataset("folder", root, "train")
    fast = with_dataset_input(perpixel.recipe("folder/fast"), dataset)
    assert (fast.input.mean, fast.input.std) == ((10.5, 20, 30), (4, 5, 6))
    with pytest.raises(UsageError, match=r"input.mean=\[1.0, 2.0, 3.0\]"):
        with_dataset_input(perpixel.override(fast, ["input.mean=[1,2,3]"]), dataset)


def test_mean_and_std_are_of_red_green_and_blue_whatever_the_models_order(root, tmp_path):
    swapped = recipe("input.channel_order=bgr")
    perpixel.train(swapped, data=root, out=tmp_path / "run", device="cpu")
    assert perpixel.load(tmp_path / "run").recipe.input.mean == (30, 20, 10.5)


def test_check_prints_mean_and_std_of_the_chosen_bands(root, command):
    code, out, _ = command("data", "check", "folder", root)
    assert code == 0
    files = [read_image(file, bands=(5, 3, 2)) for file in sorted((root / "images").iterdir())]
    pixels = np.concatenate([image.reshape(-1, 3) for image in files])
    for name, values in (("mean", pixels.mean(0)), ("std", pixels.std(0))):
        numbers = re.search(rf"  {name} = \[(.*)\]", out)
        assert numbers is not None
        assert np.allclose([float(n) for n in numbers[1].split(",")], values, rtol=1e-3)
