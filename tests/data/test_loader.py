import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import perpixel
from perpixel.data.augment import resize
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.data.loader import batches
from perpixel.errors import CorruptFileError, PerpixelError

RECIPE = perpixel.override(
    perpixel.recipe("scenes/semantic_fpn_r18"),
    ["train.steps=7", "train.batch_size=3", "augment.crop_size=32x40"],
)
SET = SyntheticStreets("train", count=5)
NAMES = [SET.sample_id(index) for index in range(5)]


def run(*, workers: int = 0, first_step: int = 0) -> list:
    return [
        (batch.images.tolist(), batch.labels.tolist(), batch.names)
        for batch in batches(SET, RECIPE, first_step=first_step, workers=workers)
    ]


def test_the_number_of_workers_changes_nothing():
    expected = run()
    assert len(expected) == 7
    for workers in (1, 2, 4):
        assert run(workers=workers) == expected


def test_every_epoch_augments_an_image_differently():
    recipe = perpixel.override(RECIPE, ["train.batch_size=1", "augment.flip_prob=0"])
    first, second = list(
        batches(SyntheticStreets("train", count=1), recipe, first_step=0, workers=0)
    )[:2]
    assert first.names == second.names
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.labels, second.labels)


@pytest.mark.parametrize("workers", [0, 4])
def test_ranks_divide_the_samples_of_one_process(workers: int):
    """A micro-batch of all ranks together is the one of a single process."""
    recipe = perpixel.override(RECIPE, ["train.batch_size=8", "train.grad_accum_steps=2"])
    single = list(batches(SET, recipe, first_step=3, workers=0))
    per_rank = [
        list(batches(SET, recipe, first_step=3, workers=workers, rank=rank, world_size=2))
        for rank in range(2)
    ]
    for expected, *ranks in zip(single, *per_rank, strict=True):
        for micro_batch in range(2):
            rank_slice = slice(2 * micro_batch, 2 * micro_batch + 2)
            step_slice = slice(4 * micro_batch, 4 * micro_batch + 4)
            images = torch.cat([batch.images[rank_slice] for batch in ranks])
            labels = torch.cat([batch.labels[rank_slice] for batch in ranks])
            assert torch.equal(images, expected.images[step_slice])
            assert torch.equal(labels, expected.labels[step_slice])


def test_the_final_phase_shows_whole_images_unscaled():
    final_phase = {"fraction": 0.3, "crop_size": [96, 128]}
    recipe = perpixel.override(
        RECIPE,
        ["train.steps=10", f"train.final_phase={json.dumps(final_phase)}", "augment.flip_prob=0"],
    )
    seen = list(batches(SET, recipe, first_step=0, workers=0))
    assert [tuple(batch.images.shape[1:3]) for batch in seen] == [(32, 40)] * 7 + [(96, 128)] * 3
    for batch in seen[7:]:
        for image, label, name in zip(batch.images, batch.labels, batch.names, strict=True):
            index = [SET.sample_id(place) for place in range(len(SET))].index(name)
            assert np.array_equal(image, SET.image(index))
            assert np.array_equal(label, SET.label(index))


def test_any_step_can_be_the_first():
    assert run(first_step=4) == run()[4:]


def test_the_seed_decides():
    other = perpixel.override(RECIPE, ["train.seed=1"])
    names = [batch.names for batch in batches(SET, other, first_step=0, workers=0)]
    assert names != [names for _, _, names in run()]


def test_every_epoch_shows_every_image_once():
    longer = perpixel.override(RECIPE, ["train.steps=10"])
    stream = [name for batch in batches(SET, longer, first_step=0, workers=0) for name in batch[2]]
    orders = {tuple(stream[first : first + 5]) for first in range(0, 30, 5)}
    assert {tuple(sorted(order)) for order in orders} == {tuple(NAMES)}
    assert len(orders) > 1


class Broken(SyntheticStreets):
    def label(self, index):
        raise PerpixelError(f"{index}.png: corrupt")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_one_readable_error(workers: int):
    with pytest.raises(PerpixelError, match=r"^\d.png: corrupt$"):
        next(batches(Broken("train", count=4), RECIPE, first_step=0, workers=workers))


class PartlyCorrupt(SyntheticStreets):
    """Scenes of which some cannot be decoded."""

    corrupt = (1,)

    def image(self, index, *, rows=None):
        if index in self.corrupt:
            raise CorruptFileError(f"{index}.png: corrupt")
        return super().image(index, rows=rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_replaced_by_the_next_of_its_epoch(workers: int):
    intact = list(batches(SET, RECIPE, first_step=0, workers=0))
    partly_corrupt = list(
        batches(PartlyCorrupt("train", count=5), RECIPE, first_step=0, workers=workers)
    )
    epoch = (intact[0].names + intact[1].names)[:5]
    place = epoch.index(SET.sample_id(1))
    replacement = epoch[(place + 1) % 5]
    step, position = divmod(place, 3)
    assert set(partly_corrupt[step].corrupt) == {"1.png: corrupt"}
    assert partly_corrupt[step].names[position] == replacement
    for before, after in zip(intact, partly_corrupt, strict=True):
        for index, name in enumerate(before.names):
            if name != SET.sample_id(1):
                assert after.names[index] == name
                assert torch.equal(after.images[index], before.images[index])
    assert sum(len(batch.corrupt) for batch in partly_corrupt) == 4  # of 21 samples of 5 images


def test_a_data_set_of_corrupt_images_is_an_error():
    partly_corrupt = PartlyCorrupt("train", count=5)
    partly_corrupt.corrupt = range(5)
    with pytest.raises(PerpixelError, match=r"4 images in a row .* \d.png: corrupt"):
        next(batches(partly_corrupt, RECIPE, first_step=0, workers=0))


def test_a_dead_worker_is_explained():
    class Deadly(SyntheticStreets):
        def image(self, index, *, rows=None):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(PerpixelError, match="worker process that prepares images died"):
        next(batches(Deadly("train", count=5), RECIPE, first_step=0, workers=1))


def test_an_error_whose_traceback_is_kept_does_not_block_the_exit(tmp_path):
    """Its traceback holds the loader, whose workers must not keep the process from exiting."""
    (tmp_path / "script.py").write_text(
        "import perpixel\n"
        "from perpixel.data.loader import batches\n"
        "from perpixel.data.datasets.synthetic import SyntheticStreets\n"
        "class Wrong(SyntheticStreets):\n"
        "    def image(self, index, *, rows=None): raise ZeroDivisionError\n"
        "recipe = perpixel.recipe('scenes/fcn_r18-d8')\n"
        "next(batches(Wrong('train'), recipe, first_step=0, workers=2))\n"
    )
    command = [sys.executable, tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_an_empty_data_set_is_an_error():
    with pytest.raises(PerpixelError, match="no images"):
        next(batches(SyntheticStreets("train", count=0), RECIPE, first_step=0, workers=0))


def test_a_resize_comes_before_scale_and_crop():
    plain = ["augment.scale_range=[1, 1]", "augment.flip_prob=0", "augment.photometric=null"]
    small = perpixel.override(RECIPE, ["data.resize=32x40", *plain])
    batch = next(batches(SET, small, first_step=0, workers=0))
    index = NAMES.index(batch.names[0])
    image, label = resize(SET.image(index), SET.label(index), (32, 40))
    assert (batch.images[0].numpy() == image).all()
    assert (batch.labels[0].numpy() == label).all()


SCRIPT = """
import multiprocessing
import sys
from pathlib import Path
import perpixel
from perpixel.data.registry import open_pairs
from perpixel.data.loader import batches
multiprocessing.set_start_method("spawn", force=True)
pairs = open_pairs("camvid", Path(sys.argv[1]), "train")
next(batches(pairs, perpixel.recipe("camvid/fcn_r18-d8"), first_step=0, workers=1))
"""


def test_a_script_without_main_guard_is_an_error_where_processes_are_spawned(mini, tmp_path):
    """Without the check they would die, and the script wait forever."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, mini],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "PerpixelError: a worker process died as it started" in last
    assert 'if __name__ == "__main__":' in last
