import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpixel.data import augment as steps
from perpixel.images import scaled_size
from perpixel.recipes.spec import IGNORE, Augment, Input, Photometric

PLAIN = Augment(scale=(1, 1), max_class_share=1, flip=0, photometric=None)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose red channel is its own label, so that both can be seen to move together."""
    label = np.random.default_rng(height * width).integers(0, 5, (height, width), np.uint8)
    image = np.repeat(label[..., None], 3, axis=2) * 40
    return image, label


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    crop=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 2**32),
)
def test_a_training_picture_is_exactly_the_crop(height, width, crop, seed):
    image, label = picture(height, width)
    spec = Augment()
    first = steps.augment(image, label, rng(seed), spec=spec, crop=crop, fed=Input())
    again = steps.augment(image, label, rng(seed), spec=spec, crop=crop, fed=Input())
    assert first[0].shape == (*crop, 3)
    assert first[1].shape == crop
    assert first[0].dtype == first[1].dtype == np.uint8
    assert set(np.unique(first[1])) <= {0, 1, 2, 3, 4, IGNORE}
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_picture_and_label_move_together(flip: float):
    image, label = picture(50, 60)
    spec = PLAIN.model_copy(update={"flip": flip})
    found, moved = steps.augment(image, label, rng(3), spec=spec, crop=(20, 30), fed=Input())
    assert (found[..., 0] == moved * 40).all()
    if flip:  # mirrored somewhere in the mirrored picture
        assert any(
            (label[top : top + 20, ::-1][:, left : left + 30] == moved).all()
            for top in range(31)
            for left in range(31)
        )


def test_the_keep_ratio_sizes_are_mmcvs():
    for size, box, expected in (
        ((375, 500), (2048, 512), (512, 683)),
        ((500, 375), (2048, 512), (683, 512)),
        ((1024, 2048), (2049, 1025), (1025, 2049)),
        ((100, 1000), (2048, 512), (205, 2048)),
        ((1, 5000), (2048, 512), (1, 2048)),
    ):
        assert scaled_size(size, 1.0, box=box) == expected
    assert scaled_size((375, 500), 0.5, box=(2049, 513)) == (256, 341)
    assert scaled_size((5, 9), 0.5, box=None) == (3, 5)


def test_scales_span_the_range():
    image, label = picture(100, 200)
    heights = [
        steps.random_scale(image, label, rng(seed), spec=Augment(scale=(0.5, 2)))[1].shape[0]
        for seed in range(200)
    ]
    assert 50 <= min(heights) < 60
    assert 190 < max(heights) <= 200


def test_one_class_may_not_fill_a_crop():
    label = np.zeros((64, 128), np.uint8)
    label[:, 90:] = 1
    image = np.repeat(label[..., None], 3, axis=2)
    shares = []
    for seed in range(50):
        _, found = steps.random_crop(
            image,
            label,
            rng(seed),
            spec=Augment(max_class_share=0.75, crop_tries=100),
            crop=(64, 32),
        )
        shares.append((found == 0).mean())
    assert max(shares) < 0.75
    assert min(shares) > 0
    last = steps.random_crop(image, np.zeros_like(label), rng(), spec=Augment(), crop=(64, 32))
    assert last[1].shape == (64, 32)  # no window suits: the last draw is taken


def test_void_does_not_count_towards_a_class_share():
    label = np.full((8, 8), IGNORE, np.uint8)
    label[0, 0], label[0, 1] = 0, 1
    assert steps._is_varied(label, 0.75)
    label[0, 1] = IGNORE
    assert not steps._is_varied(label, 0.75)


def test_padding_is_unlabelled_and_where_it_is_asked_for():
    image, label = picture(4, 6)
    padded, unlabelled = steps.pad(image, label, (8, 10), colour=(1, 2, 3))
    assert (padded[:4, :6] == image).all()
    assert (padded[4:] == (1, 2, 3)).all()
    assert (unlabelled[4:] == IGNORE).all()
    assert (unlabelled[:, 6:] == IGNORE).all()
    centred, _ = steps.pad(image, label, (8, 10), colour=(0, 0, 0), centred=True)
    assert (centred[2:6, 2:8] == image).all()


def test_padding_has_the_mean_colour_in_rgb_order():
    image, label = picture(2, 2)
    fed = Input(mean=(103.53, 116.28, 123.675), channel_order="bgr")
    padded, _ = steps.augment(image, label, rng(), spec=PLAIN, crop=(4, 4), fed=fed)
    assert padded[3, 3].tolist() == [124, 116, 104]


def test_colour_distortion_changes_a_copy_and_off_is_off():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    before = image.copy()
    seen = {
        steps.distort_colours(image, rng(seed), spec=Photometric()).tobytes() for seed in range(50)
    }
    assert len(seen) > 30
    assert (image == before).all()
    still = Photometric(brightness=0, contrast=(1, 1), saturation=(1, 1), hue=0)
    assert (steps.distort_colours(image, rng(5), spec=still) == image).all()


def test_hue_turns_by_at_most_what_is_asked():
    image = np.full((4, 4, 3), (200, 40, 40), np.uint8)  # hue 0, saturated
    spec = Photometric(brightness=0, contrast=(1, 1), saturation=(1, 1), hue=18)
    hues = [
        int(
            cv2.cvtColor(steps.distort_colours(image, rng(s), spec=spec), cv2.COLOR_RGB2HSV)[
                0, 0, 0
            ]
        )
        for s in range(400)
    ]
    turns = [hue if hue < 90 else hue - 180 for hue in hues]
    assert -19 <= min(turns) <= -17
    assert 16 <= max(turns) <= 18
    assert turns.count(0) > 100  # half of the pictures keep theirs


@given(st.integers(0, 10_000))
def test_each_linear_step_is_clip_then_truncate(seed):
    values = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    factor, offset = rng(seed).uniform(0.5, 1.5), rng(seed + 1).uniform(-32, 32)
    found = steps._linear(values, factor=factor, offset=offset)
    exact = np.clip(values.astype(np.float32) * np.float32(factor) + np.float32(offset), 0, 255)
    assert np.abs(found.astype(int) - exact.astype(np.uint8).astype(int)).max() <= 1


def test_labels_are_resized_without_mixing():
    _, label = picture(31, 47)
    found = steps.resize(np.repeat(label[..., None], 3, axis=2), label, (62, 90))[1]
    assert set(np.unique(found)) <= set(np.unique(label))
    expected = cv2.resize(label, (90, 62), interpolation=cv2.INTER_NEAREST)
    assert (found == expected).all()
