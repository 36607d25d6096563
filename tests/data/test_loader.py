import pytest

import perpixel
from perpixel.data.augment import resize
from perpixel.data.dataset import Classes
from perpixel.data.loader import batches, places
from perpixel.data.scenes import Scenes
from perpixel.errors import PerpixelError

RECIPE = perpixel.override(
    perpixel.recipe("scenes/semantic_fpn_r18"),
    ["train.steps=7", "train.images_per_step=3", "train.crop=32x40"],
)
SET = Scenes("train", count=5)


def run(*, workers: int = 0, first_step: int = 0) -> list:
    return [
        (batch.images.tolist(), batch.labels.tolist(), batch.names)
        for batch in batches(SET, RECIPE, first_step=first_step, workers=workers)
    ]


def test_the_number_of_workers_changes_nothing():
    alone = run()
    assert len(alone) == 7
    assert run(workers=1) == alone
    assert run(workers=2) == alone


def test_any_step_can_be_the_first():
    assert run(first_step=4) == run()[4:]


def test_the_seed_decides():
    other = perpixel.override(RECIPE, ["train.seed=1"])
    names = [batch.names for batch in batches(SET, other, first_step=0, workers=0)]
    assert names != [names for _, _, names in run()]


def test_every_epoch_shows_every_picture_once():
    stream = [
        place
        for step in range(10)
        for place in places(step=step, images_per_step=3, samples=5, seed=0)
    ]
    for epoch in range(6):
        shown = [place.index for place in stream if place.epoch == epoch]
        assert sorted(shown) == list(range(5))
    orders = {tuple(p.index for p in stream if p.epoch == epoch) for epoch in range(6)}
    assert len(orders) > 1


class Broken:
    classes = Classes(("a", "b"), ((0, 0, 0), (1, 1, 1)))

    def __len__(self):
        return 4

    def name(self, index):
        return f"{index}.png"

    def image(self, index):
        raise PerpixelError(f"{index}.png: damaged")

    def label(self, index):
        raise AssertionError


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_one_readable_error(workers: int):
    with pytest.raises(PerpixelError, match=r"^\d.png: damaged$"):
        next(batches(Broken(), RECIPE, first_step=0, workers=workers))


def test_an_empty_data_set_is_an_error():
    with pytest.raises(PerpixelError, match="no pictures"):
        next(batches(Scenes("train", count=0), RECIPE, first_step=0, workers=0))


def test_a_resize_comes_before_scale_and_crop():
    plain = ["augment.scale=[1, 1]", "augment.flip=0", "augment.photometric=null"]
    small = perpixel.override(RECIPE, ["data.resize=32x40", *plain])
    batch = next(batches(SET, small, first_step=0, workers=0))
    place = places(step=0, images_per_step=3, samples=5, seed=0)[0]
    image, label = SET.image(place.index), SET.label(place.index)
    image, label = resize(image, label, (32, 40))
    assert (batch.images[0].numpy() == image).all()
    assert (batch.labels[0].numpy() == label).all()
