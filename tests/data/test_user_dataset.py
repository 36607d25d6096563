"""A user's data set object, in training and in evaluation."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import perpixel
from perpixel.checkpoints.format import read_checkpoint
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.errors import PerpixelError, UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPE = perpixel.override(
    perpixel.recipe("scenes/semantic_fpn_r18"),
    ["model.backbone.base_channels=8",
        "train.steps=4", "train.batch_size=2", "augment.crop_size=32x32", "train.log_every=1",
        "train.precision=float32", "model.head.channels=8", "model.head.fpn_channels=8",
        "evaluate.every=2",
    ],
)  # fmt: skip


class Streets(torch.utils.data.Dataset):
    """The built-in scenes as a user's data set."""

    def __init__(self, split: str, count: int) -> None:
        self.scenes = SyntheticStreets(split, count=count, size=(48, 64))
        self.class_names = list(self.scenes.classes.names)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.scenes.image(index), self.scenes.label(index)


def train(out: Path, **named: object) -> perpixel.Recipe:
    data = {"train_dataset": Streets("train", 6), "eval_dataset": Streets("val", 3)}
    return perpixel.train(RECIPE, out=out, device="cpu", **data | named)


def test_a_run_on_it_equals_the_run_on_the_same_built_in_images(tmp_path):
    run = train(tmp_path / "user")
    builtin = {
        "train_dataset": SyntheticStreets("train", count=6, size=(48, 64)),
        "eval_dataset": SyntheticStreets("val", count=3, size=(48, 64)),
    }
    expected = train(tmp_path / "builtin", **builtin)
    assert run.scores.iou == expected.scores.iou
    assert list(run.scores.iou) == list(builtin["eval_dataset"].classes.names)
    final = tmp_path / "user/checkpoints/model.safetensors"
    assert perpixel.evaluate(final, dataset=Streets("val", 3)).miou == run.scores.miou
    assert len(perpixel.load(tmp_path / "user").palette) == 7


def test_it_is_read_in_worker_processes_and_resumed(tmp_path):
    straight = train(tmp_path / "straight")

    def stop(row: dict) -> None:
        if row["step"] == 1:
            raise perpixel.StopTraining

    train(tmp_path / "stopped", workers=2, on_log=stop)
    done = train(tmp_path / "stopped", resume="must", workers=1)
    assert done.scores.confusion.tolist() == straight.scores.confusion.tolist()


def test_on_log_gets_every_row_and_may_end_the_run(tmp_path):
    rows = []

    def see(row: dict) -> None:
        rows.append(row)
        if row.get("loss") is not None and row["step"] == 2:
            raise perpixel.StopTraining

    run = train(tmp_path, on_log=see)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == logged
    assert [row["step"] for row in rows if "loss" in row] == [
        1,
        2,
        3,
    ]  # the stop takes effect after the next step
    assert rows[-1]["step"] == 3
    assert run.scores.miou == rows[-1]["miou"]
    assert perpixel.load(tmp_path).step == 3


class Wrong(Streets):
    def __init__(self, image: np.ndarray, mask: np.ndarray) -> None:
        super().__init__("train", 6)
        self.pair = image, mask

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.pair


IMAGE, MASK = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)


@pytest.mark.parametrize(
    ("image", "mask", "says"),
    [
        (IMAGE.astype(np.float32), MASK, r"the image is float32 \[48, 64, 3\].*uint8 RGB"),
        (IMAGE.transpose(2, 0, 1), MASK, r"the image is uint8 \[3, 48, 64\]"),
        (IMAGE, MASK.astype(np.int64), r"the mask is int64"),
        (IMAGE, MASK[:40], r"the mask is uint8 \[40, 64\].*the image's size"),
        (IMAGE, MASK + 7, r"the mask holds \[7\]; class indices are 0\.\.6"),
    ],
)
def test_a_wrong_sample_is_named(image, mask, says: str, tmp_path):
    with pytest.raises(PerpixelError, match=says):
        train(tmp_path / "run", train_dataset=Wrong(image, mask))


def test_an_object_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"__getitem__.*class_names.*list does not fit"):
        train(tmp_path / "run", train_dataset=[(IMAGE, MASK)])
    with pytest.raises(UsageError, match="both train_dataset and eval_dataset"):
        train(tmp_path / "run", eval_dataset=None)


def test_a_recipes_name_is_enough(mini: Path, tmp_path):
    with pytest.raises(UsageError, match="Did you mean camvid/fcn_r18-d8"):
        perpixel.train("camvid/fcn_r18", data=mini, out=tmp_path)


def test_the_trainable_model_has_its_batch_norms(tmp_path):
    train(tmp_path)
    model = perpixel.load_model(tmp_path)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    stored = read_checkpoint(tmp_path / "checkpoints" / "best.safetensors").weights
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
    model.train()(torch.zeros(2, 3, 32, 32)).logits.sum().backward()
    assert norms[0].weight.grad is not None


@pytest.mark.parametrize("name", ["custom_dataset", "custom_head", "own_training_loop"])
def test_the_examples_run_and_learn(name: str, tmp_path):
    words = [sys.executable, EXAMPLES / f"{name}.py", "--steps"]
    words += ["30"] if name == "own_training_loop" else ["60", "--out", tmp_path / "run"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    if name != "own_training_loop":
        scores = json.loads((tmp_path / "run" / "evaluate.json").read_text())
        assert scores["miou"] > 45  # the ground alone has 30
        assert "'disk'" in done.stdout
    else:
        accuracy = float(done.stdout.split("pixel accuracy")[-1].strip().rstrip("%"))
        assert accuracy > 85


def test_other_classes_to_evaluate_on_stop_before_training(tmp_path):
    class Others(Streets):
        def __init__(self) -> None:
            super().__init__("val", 2)
            self.class_names = self.class_names[::-1]

    with pytest.raises(PerpixelError, match="the model knows 7 classes"):
        train(tmp_path / "run", eval_dataset=Others())
    assert not (tmp_path / "run").exists()


def test_samples_that_are_no_pairs_and_names_that_are_a_text_are_named(tmp_path):
    class Dicts(Streets):
        def __getitem__(self, index: int):
            return {"index": index}

    with pytest.raises(PerpixelError, match=r"returned a dict, and should return \(image, mask\)"):
        train(tmp_path / "run", eval_dataset=Dicts("val", 2))
    words = Streets("val", 2)
    words.class_names = "road"
    with pytest.raises(UsageError, match="class_names='road' is a text"):
        train(tmp_path / "run", eval_dataset=words)
    with pytest.raises(PerpixelError, match="to evaluate on, eval_dataset, is empty"):
        train(tmp_path / "run", eval_dataset=Streets("val", 0))
