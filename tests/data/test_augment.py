import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpixel.data import augment as steps
from perpixel.data.window import source_rows
from perpixel.io.images import scaled_size
from perpixel.recipes.base import Size
from perpixel.recipes.schema import IGNORE_INDEX, Augment, Input, Photometric

INPUT = Input()
PLAIN = Augment(scale_range=(1, 1), cat_max_ratio=1, flip_prob=0, photometric=None)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose channels repeat its label, which shows whether both move together."""
    label = np.random.default_rng(height * width).integers(0, 5, (height, width), np.uint8)
    image = np.repeat(label[..., None], 3, axis=2) * 40
    return image, label


def at(spec: Augment, crop_size: Size) -> Augment:
    return spec.model_copy(update={"crop_size": crop_size})


def augmented(
    image: np.ndarray,
    label: np.ndarray,
    seed: int = 0,
    *,
    spec: Augment,
    input_spec=INPUT,
) -> tuple[np.ndarray, np.ndarray]:
    draws = rng(seed)
    window = steps.sample_crop(label, draws, spec=spec)
    return steps.augment(image, label, draws, window=window, spec=spec, input_spec=input_spec)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    crop=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 2**32),
)
def test_a_training_image_is_exactly_the_crop(height, width, crop, seed):
    image, label = sample(height, width)
    spec = Augment()
    first = augmented(image, label, seed, spec=at(spec, crop))
    repeated = augmented(image, label, seed, spec=at(spec, crop))
    assert first[0].shape == (*crop, 3)
    assert first[1].shape == crop
    assert first[0].dtype == first[1].dtype == np.uint8
    assert set(np.unique(first[1])) <= {0, 1, 2, 3, 4, IGNORE_INDEX}
    assert (first[0] == repeated[0]).all()
    assert (first[1] == repeated[1]).all()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_image_and_label_move_together(flip: float):
    image, label = sample(50, 60)
    spec = PLAIN.model_copy(update={"flip_prob": flip})
    cropped, moved = augmented(image, label, 3, spec=at(spec, (20, 30)))
    assert (cropped[..., 0] == moved * 40).all()
    if flip:  # mirrored somewhere in the mirrored image
        assert any(
            (label[top : top + 20, ::-1][:, left : left + 30] == moved).all()
            for top in range(31)
            for left in range(31)
        )


@pytest.mark.parametrize("crop", [(20, 30), (30, 20), (70, 40)])
def test_image_and_label_are_rotated_and_flipped_together(crop: Size):
    image, label = sample(50, 60)
    spec = PLAIN.model_copy(update={"vertical_flip_prob": 1, "rotate90_prob": 1})
    seen = set()
    for seed in range(40):
        window = steps.sample_crop(label, rng(seed), spec=at(spec, crop))
        first, end = source_rows(window, label.shape)
        read = image.copy()
        read[:first], read[end:] = 0, 0  # rows that a file's reader leaves out
        cropped, moved = augmented(read, label, seed, spec=at(spec, crop))
        assert moved.shape == crop
        labeled = moved != IGNORE_INDEX
        assert (cropped[..., 0] == moved * 40)[labeled].all()
        part = moved[: int(labeled.any(1).sum()), : int(labeled.any(0).sum())]
        assert part.size == min(crop[0], (50, 60)[window.quarter_turns % 2]) * min(
            crop[1], (60, 50)[window.quarter_turns % 2]
        )
        flipped = np.rot90(label, window.quarter_turns)[::-1]
        windows = np.lib.stride_tricks.sliding_window_view(flipped, part.shape)
        assert (windows == part).all((2, 3)).any()
        seen.add(window.quarter_turns)
    assert seen == {0, 1, 2, 3}


def test_the_probabilities_of_rotation_and_vertical_flip():
    image, label = sample(8, 8)
    for probability in (0.4, 1.0):
        spec = PLAIN.model_copy(update={"rotate90_prob": probability})
        masks = [augmented(image, label, seed, spec=at(spec, (8, 8)))[1] for seed in range(400)]
        counts = [sum((mask == np.rot90(label, k)).all() for mask in masks) for k in range(4)]
        assert sum(counts) == 400
        for count in counts[1:]:  # a quarter of the rotations, within four deviations
            assert count == pytest.approx(100 * probability, abs=36)
    spec = PLAIN.model_copy(update={"vertical_flip_prob": 0.5})
    masks = [augmented(image, label, seed, spec=at(spec, (8, 8)))[1] for seed in range(400)]
    assert 160 < sum((mask == label[::-1]).all() for mask in masks) < 240


def test_without_rotation_the_random_numbers_are_those_of_earlier_versions():
    """Else old recipes would train on other crops. The order: scale, top, left, flip."""
    _, label = sample(50, 60)
    spec = Augment(scale_range=(0.5, 2), cat_max_ratio=1, photometric=None, crop_size=(20, 30))
    draws, expected = rng(5), rng(5)
    window = steps.sample_crop(label, draws, spec=spec)
    size = scaled_size(label.shape, expected.uniform(0.5, 2), box=None)
    assert window[:3] == (size, expected.integers(size[0] - 19), expected.integers(size[1] - 29))
    image = np.zeros((50, 60, 3), np.uint8)
    steps.augment(image, label, draws, window=window, spec=spec, input_spec=INPUT)
    expected.random()
    assert draws.random() == expected.random()


def test_images_are_flipped_with_the_given_probability():
    image, label = sample(8, 9)
    for probability, low, high in ((0.5, 160, 240), (0.1, 16, 64)):  # of 400: four deviations
        spec = PLAIN.model_copy(update={"flip_prob": probability})
        masks = [augmented(image, label, seed, spec=at(spec, (8, 9)))[1] for seed in range(400)]
        assert all((mask == label).all() or (mask == label[:, ::-1]).all() for mask in masks)
        assert low < sum((mask == label[:, ::-1]).all() for mask in masks) < high


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


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [  # what mmcv 2.1.0's Resize(scale_factor=..., keep_ratio=True) makes of them
        ((83, 62), 0.75, (62, 46)),
        ((83, 62), 1.25, (104, 78)),
        ((83, 62), 1.75, (145, 108)),
        ((67, 197), 0.5, (34, 99)),
        ((67, 197), 0.75, (50, 147)),
        ((131, 97), 1.25, (163, 121)),
        ((375, 500), 1.75, (656, 875)),
    ],
)
def test_a_scaled_size_without_a_box_is_rounded_as_mmcv_does(size, factor, expected):
    assert scaled_size(size, factor, box=None) == expected


def test_scales_span_the_range():
    _, label = sample(100, 200)
    spec = Augment(scale_range=(0.5, 2))
    heights = [
        steps.sample_crop(label, rng(seed), spec=at(spec, (8, 8))).size[0] for seed in range(2000)
    ]
    assert 50 <= min(heights) < 52
    assert 198 < max(heights) <= 200
    assert np.mean(np.array(heights) < 100) == pytest.approx(1 / 3, abs=0.04)


def test_windows_are_sampled_uniformly():
    _, label = sample(60, 100)
    windows = [
        steps.sample_crop(label, rng(seed), spec=at(PLAIN, (40, 70))) for seed in range(2000)
    ]
    for places, last in (({w.top for w in windows}, 20), ({w.left for w in windows}, 30)):
        assert places == set(range(last + 1))
    assert {(w.size, w.height, w.width) for w in windows} == {((60, 100), 40, 70)}
    assert np.mean([w.top for w in windows]) == pytest.approx(10, abs=0.5)
    assert np.mean([w.left for w in windows]) == pytest.approx(15, abs=0.7)


@pytest.mark.parametrize("size", [64, 512])
def test_one_class_may_not_fill_a_crop(size: int):
    label = np.zeros((size, 2 * size), np.uint8)
    label[:, size * 3 // 2 :] = 1
    spec = PLAIN.model_copy(update={"cat_max_ratio": 0.75, "crop_attempts": 100})
    shares = []
    for seed in range(50):
        window = steps.sample_crop(label, rng(seed), spec=at(spec, (size, size // 2)))
        crop = label[:, window.left : window.left + window.width]
        shares.append((crop == 0).mean())
    assert 0.7 < max(shares) < 0.76  # on a grid of at least 128 points a side
    assert min(shares) > 0.24
    single_class = np.zeros_like(label)  # no window is accepted: the last one is used
    last = steps.sample_crop(single_class, rng(), spec=at(spec, (size, size // 2)))
    assert (last.height, last.width) == (size, size // 2)


def test_ignored_pixels_do_not_count_in_cat_max_ratio():
    label = np.full((8, 16), IGNORE_INDEX, np.uint8)
    label[0, 0], label[0, 1] = 0, 1  # in equal parts in the leftmost window alone
    label[:, 8:] = 0
    spec = PLAIN.model_copy(update={"cat_max_ratio": 0.75, "crop_attempts": 200})
    lefts = [steps.sample_crop(label, rng(seed), spec=at(spec, (8, 8))).left for seed in range(9)]
    assert set(lefts) == {0}


def test_padding_is_unlabeled_at_the_given_place():
    image, label = sample(4, 6)
    padded, unlabeled = steps.pad(image, label, (8, 10), color=(1, 2, 3))
    assert (padded[:4, :6] == image).all()
    assert (padded[4:] == (1, 2, 3)).all()
    assert (unlabeled[4:] == IGNORE_INDEX).all()
    assert (unlabeled[:, 6:] == IGNORE_INDEX).all()
    centered, _ = steps.pad(image, label, (8, 10), color=(0, 0, 0), centered=True)
    assert (centered[2:6, 2:8] == image).all()


def test_padding_has_the_mean_color_in_rgb_order():
    image, label = sample(2, 2)
    input_spec = Input(mean=(103.53, 116.28, 123.675), channel_order="bgr")
    padded, _ = augmented(image, label, spec=at(PLAIN, (4, 4)), input_spec=input_spec)
    assert padded[3, 3].tolist() == [124, 116, 104]


def test_color_distortion_changes_a_copy_and_off_is_off():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    before = image.copy()
    seen = {
        steps.distort_colors(image, rng(seed), spec=Photometric()).tobytes() for seed in range(50)
    }
    assert len(seen) > 30
    assert (image == before).all()
    still = Photometric(brightness=0, contrast=(1, 1), saturation=(1, 1), hue=0)
    assert (steps.distort_colors(image, rng(5), spec=still) == image).all()


def test_hue_changes_by_at_most_the_given_value():
    image = np.full((4, 4, 3), (200, 40, 40), np.uint8)  # hue 0, saturated
    spec = Photometric(brightness=0, contrast=(1, 1), saturation=(1, 1), hue=18)
    hues = [
        int(
            cv2.cvtColor(steps.distort_colors(image, rng(s), spec=spec), cv2.COLOR_RGB2HSV)[0, 0, 0]
        )
        for s in range(400)
    ]
    turns = [hue if hue < 90 else hue - 180 for hue in hues]
    assert -19 <= min(turns) <= -17
    assert 16 <= max(turns) <= 18
    assert turns.count(0) > 100  # half of the images keep their hue


@given(st.integers(0, 10_000))
def test_color_steps_are_each_clipped_and_truncated(seed):
    """Against the steps one after another, on floats, as mmsegmentation writes them."""
    image = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    spec, draws = Photometric(), rng(seed)

    def linear(values: np.ndarray, factor: float, offset: float = 0) -> np.ndarray:
        changed = values.astype(np.float32) * factor + offset
        return np.clip(changed, 0, 255).astype(np.uint8)

    expected = image
    if draws.random() < 0.5:
        expected = linear(expected, 1, draws.uniform(-32, 32))
    first = draws.random() < 0.5
    contrast = draws.uniform(0.5, 1.5) if draws.random() < 0.5 else 1
    saturation = draws.uniform(0.5, 1.5) if draws.random() < 0.5 else 1
    hue = int(draws.integers(-18, 18)) if draws.random() < 0.5 else 0
    if first:
        expected = linear(expected, contrast)
    if saturation != 1 or hue:
        hsv = cv2.cvtColor(expected, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = linear(hsv[..., 1], saturation)
        hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
        expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not first:
        expected = linear(expected, contrast)
    assert (steps.distort_colors(image, rng(seed), spec=spec) == expected).all()


def test_labels_are_resized_without_mixing():
    _, label = sample(31, 47)
    resized = steps.resize(np.repeat(label[..., None], 3, axis=2), label, (62, 90))[1]
    assert set(np.unique(resized)) <= set(np.unique(label))
    expected = cv2.resize(label, (90, 62), interpolation=cv2.INTER_NEAREST)
    assert (resized == expected).all()


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    crop=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    base=st.none() | st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 2**32),
)
def test_without_augmentation_an_image_is_the_same_each_time(height, width, crop, base, seed):
    """All of it is there, no larger than the crop, whatever the settings of chance."""
    image, label = sample(height, width)
    spec = Augment(enabled=False, base_size=base, crop_size=crop, rotate90_prob=1, flip_prob=1)
    pixels, mask = augmented(image, label, seed, spec=spec)
    again, _ = augmented(image, label, seed + 1, spec=spec)
    np.testing.assert_array_equal(pixels, again)
    assert pixels.shape == (*crop, 3)
    size = scaled_size((height, width), 1, box=base)
    fit = min(crop[0] / size[0], crop[1] / size[1], 1)
    shown = [max(round(side * fit), 1) for side in size]
    expected = cv2.resize(label, shown[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(mask[: shown[0], : shown[1]], expected)
    assert (mask[shown[0] :] == IGNORE_INDEX).all()
    assert (mask[:, shown[1] :] == IGNORE_INDEX).all()
    np.testing.assert_array_equal(steps.whole_mask(label, spec=spec), mask)


def test_without_augmentation_colors_and_sides_stay():
    image, label = sample(20, 30)
    spec = Augment(enabled=False, crop_size=(24, 32), pad="center", vertical_flip_prob=1)
    pixels, mask = augmented(image, label, spec=spec)
    np.testing.assert_array_equal(pixels[2:22, 1:31], image)
    np.testing.assert_array_equal(mask[2:22, 1:31], label)
    np.testing.assert_array_equal(steps.whole_mask(label, spec=spec), mask)
    whole = spec.model_copy(update={"crop_size": None})
    np.testing.assert_array_equal(augmented(image, label, spec=whole)[0], image)
    np.testing.assert_array_equal(steps.whole_mask(label, spec=whole), label)
