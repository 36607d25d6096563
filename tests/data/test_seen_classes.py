"""No score for a split in which one class is all there is: refused, with the table that fits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import perpixel
from perpixel.cli.main import app
from perpixel.data.registry import open_dataset
from perpixel.errors import PerpixelError
from perpixel.io.images import write_image
from perpixel.training.train import Run

SHORT = [
    "augment.crop_size=32x32", "train.batch_size=2", "train.steps=3", "train.precision=float32",
    "model.backbone.base_channels=8", "model.head.channels=8", "model.head.fpn_channels=8",
]  # fmt: skip
RUNNER = CliRunner()


def write_pairs(root: Path, masks: list[np.ndarray]) -> None:
    for index, mask in enumerate(masks):
        image = np.random.default_rng(index).integers(0, 256, (*mask.shape[:2], 3))
        write_image(root / f"images/{index:02}.png", image.astype(np.uint8))
        write_image(root / f"masks/{index:02}.png", mask)


def describe(root: Path, classes: str) -> None:
    splits = "".join(
        f'[splits.{split}]\nimages = "images"\nmasks = "masks"\n' for split in ("train", "val")
    )
    (root / "dataset.toml").write_text(f"classes = {classes}\n{splits}")


def crack_masks(*values: int) -> list[np.ndarray]:
    masks = np.random.default_rng(0).choice(np.array(values, np.uint8), (6, 32, 32))
    return list(masks)


def train(root: Path, out: Path) -> Run:
    recipe = perpixel.override(perpixel.recipe("folder/semantic_fpn_r18"), SHORT)
    return perpixel.train(recipe, data=root, out=out, init="none", device="cpu")


@pytest.mark.parametrize("classes", ['["background", "crack"]', '["crack"]'])
def test_black_and_white_masks_under_a_table_that_ignores_white_are_refused(tmp_path, classes):
    write_pairs(tmp_path / "data", crack_masks(0, 255))
    describe(tmp_path / "data", classes)
    recipe = ["train", "folder/semantic_fpn_r18", "--data", str(tmp_path / "data")]
    result = RUNNER.invoke(app, [*recipe, "--out", str(tmp_path / "run")])
    assert result.exit_code != 0
    assert isinstance(result.exception, PerpixelError)
    assert "ids = [0]" in str(result.exception)
    assert "ids = [255]" in str(result.exception)
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_the_proposed_table_trains(tmp_path):
    write_pairs(tmp_path / "data", crack_masks(0, 255))
    table = '[{ name = "background", ids = [0] }, { name = "crack", ids = [255] }]'
    describe(tmp_path / "data", table)
    assert train(tmp_path / "data", tmp_path / "run").scores.confusion.any(axis=1).all()


def test_a_class_that_no_mask_shows_is_named_first_and_last(tmp_path):
    write_pairs(tmp_path / "data", crack_masks(0, 1))
    describe(tmp_path / "data", '["background", "crack", "rust"]')
    train(tmp_path / "data", tmp_path / "run")
    log = (tmp_path / "run" / "log.txt").read_text()
    first, last = log.split("step 3", 1)[0], log.rsplit("step 3", 1)[1]
    for split in ("train", "val"):
        assert f"{split}: the masks show no rust" in first
        assert f"{split}: the masks show no rust" in last


VALUES = st.lists(st.sampled_from([0, 1, 2, 85, 128, 254, 255]), min_size=1, max_size=3)
TABLES = st.sampled_from(["init", '["background", "crack"]', '["crack"]', '["a", "b", "c"]'])


@settings(max_examples=25)
@given(VALUES, TABLES, st.booleans())
def test_a_split_of_one_class_has_no_score(tmp_path_factory, values, table, mixed):
    """`init` or a table by hand, then `check`, a training of three steps and `eval`."""
    folder = tmp_path_factory.mktemp("kind")
    root = folder / "data"
    masks = crack_masks(*values)
    if not mixed:  # each mask is of one value
        masks = [
            np.full_like(mask, values[index % len(values)]) for index, mask in enumerate(masks)
        ]
    write_pairs(root, masks)
    try:
        if table == "init":
            RUNNER.invoke(app, ["data", "init", str(root)], catch_exceptions=False)
        else:
            describe(root, table)
        checked = RUNNER.invoke(app, ["data", "check", "folder", str(root)])
        run = train(root, folder / "run")
        scores = perpixel.evaluate(run.folder, data=root)
    except PerpixelError:
        return
    for split in ("train", "val"):
        dataset = open_dataset("folder", root, split)
        shown = set().union(*(np.unique(dataset.label(i)).tolist() for i in range(len(dataset))))
        assert len(shown - {255}) > 1
    assert checked.exit_code == 0
    assert (scores.confusion.sum(axis=1) > 0).sum() > 1
