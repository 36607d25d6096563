import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate
from variants import predictor_of

import perpixel
from perpixel.errors import OutOfMemoryError, UsageError
from perpixel.inference.predictor import Predictor
from perpixel.inference.sliding_window import window_starts
from perpixel.inference.tta import iter_scores, predict_masks, predict_streaming
from perpixel.models.build import build
from perpixel.models.normalize import normalize
from perpixel.ops import upsample_argmax
from perpixel.recipes.schema import Input

RECIPE = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"),
    ["model.backbone.base_channels=8", "model.head.channels=8"],
)
IMAGE = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)


@pytest.fixture
def model():
    return build(RECIPE.model, num_classes=4).eval()


def predictor(model, *changes: str) -> Predictor:
    return predictor_of(model, perpixel.override(RECIPE, changes))


def scores(model, *changes: str, image: np.ndarray = IMAGE) -> torch.Tensor:
    bands = iter_scores(predictor(model, *changes), image)
    return torch.cat([values for _, values in bands]).permute(2, 0, 1)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


def plain(model, image: np.ndarray, *, align_corners: bool = False) -> torch.Tensor:
    """Logits at the image's own size, by hand."""
    pixels = torch.from_numpy(image.astype(np.float32))
    mean, std = torch.tensor(RECIPE.input.mean), torch.tensor(RECIPE.input.std)
    fed = ((pixels - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = model(fed).logits
        size = image.shape[:2]
        return interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)[0]


def test_a_whole_image_is_one_pass(model):
    expected = plain(model, IMAGE)
    assert close(scores(model), expected)
    (found,) = predict_masks(predictor_of(model, RECIPE), [IMAGE])
    assert found.dtype == np.uint8
    assert found.shape == (45, 70)
    assert (found == expected.argmax(0).numpy()).mean() > 0.999


def test_scales_and_flips_average_probabilities_or_logits(model):
    passes = []
    for size in ((45, 70), (68, 105)):
        resized = cv2.resize(IMAGE, size[::-1], interpolation=cv2.INTER_LINEAR)
        for flip in (False, True):
            seen = np.ascontiguousarray(resized[:, ::-1]) if flip else resized
            fed = normalize(torch.from_numpy(seen)[None], RECIPE.input)
            with torch.inference_mode():
                logits = interpolate(model(fed).logits, size=(45, 70), mode="bilinear")[0]
            passes.append(logits.flip(2) if flip else logits)
    asked = ["inference.scales=[1, 1.5]", "inference.flip=true"]
    probabilities = torch.stack([logits.softmax(0) for logits in passes]).mean(0)
    assert close(scores(model, *asked), probabilities)
    logits = torch.stack(passes).mean(0)
    assert close(scores(model, *asked, "inference.tta_average=logits"), logits)


def test_one_window_that_covers_the_image_is_the_whole_image(model):
    asked = ["inference.window_size=100x100", "inference.stride=50x50", "inference.mode=slide"]
    assert close(scores(model, *asked), scores(model))


def test_windows_average_where_they_overlap(model):
    found = scores(
        model, "inference.window_size=45x40", "inference.stride=45x30", "inference.mode=slide"
    )
    left, right = plain(model, IMAGE[:, :40]), plain(model, IMAGE[:, 30:])
    assert close(found[:, :, :30], left[:, :, :30])
    assert close(found[:, :, 40:], right[:, :, 10:])
    assert close(found[:, :, 30:40], (left[:, :, 30:] + right[:, :, :10]) / 2)


def test_flipped_windows_are_those_of_the_mirrored_image(model):
    def averaged(image: np.ndarray) -> torch.Tensor:
        total, count = torch.zeros(4, 45, 70), torch.zeros(70)
        for left in (0, 25, 30):
            total[..., left : left + 40] += plain(model, image[:, left : left + 40])
            count[left : left + 40] += 1
        return total / count

    windows = ["inference.window_size=45x40", "inference.stride=45x25", "inference.mode=slide"]
    found = scores(model, *windows, "inference.flip=true", "inference.tta_average=logits")
    mirrored = averaged(np.ascontiguousarray(IMAGE[:, ::-1])).flip(2)
    assert close(found, (averaged(IMAGE) + mirrored) / 2)


def test_blended_windows_are_weighted_by_hanns_window(model):
    found = scores(
        model, "inference.window_size=45x40", "inference.stride=45x30", "inference.mode=blend"
    )
    left, right = plain(model, IMAGE[:, :40]), plain(model, IMAGE[:, 30:])
    weights = torch.from_numpy(np.sin(np.pi * (np.arange(40) + 0.5) / 40) ** 2).float()
    assert close(found[:, :, :30], left[:, :, :30])
    mixed = weights[30:] * left[:, :, 30:] + weights[:10] * right[:, :, :10]
    assert close(found[:, :, 30:40], mixed / (weights[30:] + weights[:10]))


@pytest.mark.parametrize(
    "finish",
    [
        ["augment.crop_size=30x36", "train.final_phase=null"],
        ["augment.crop_size=8x8", 'train.final_phase={"fraction": 0.1, "crop_size": [30, 36]}'],
    ],
)
def test_windows_default_to_the_last_training_crop_two_thirds_apart(model, finish):
    asked = [*finish, "inference.mode=slide"]
    same = ["inference.window_size=30x36", "inference.stride=20x24", "inference.mode=slide"]
    assert (scores(model, *asked) == scores(model, *same)).all()


@pytest.mark.parametrize("windows", ["slide", "blend"])
@pytest.mark.parametrize("flip", ["false", "true"])
def test_any_bands_and_batches_of_windows_give_the_same_map(model, windows, flip, monkeypatch):
    usual = predictor(
        model, "inference.window_size=20x24", f"inference.mode={windows}", f"inference.flip={flip}"
    )
    expected = None
    for values, batch in ((2**21, 1), (70 * 4 * 3, 2), (1, 50)):
        monkeypatch.setitem(upsample_argmax._VALUES, "cpu", values)
        usual.window_batch = batch
        bands = list(iter_scores(usual, IMAGE))
        found = torch.cat([band for _, band in bands])
        assert [top for top, _ in bands] == list(range(0, 45, len(bands[0][1])))
        expected = found if expected is None else expected
        assert close(found, expected)
        parts = predict_streaming(
            usual,
            lambda top, left, tall, wide: IMAGE[top : top + tall, left : left + wide],
            (45, 70),
        )
        whole = np.concatenate([part for _, part in parts])
        best, second = expected.topk(2, dim=2).values.unbind(2)
        sure = (best - second > 1e-5).numpy()
        assert (whole == predict_masks(usual, [IMAGE])[0])[sure].all()
        assert (whole == expected.argmax(2).numpy())[sure].all()


def test_sliding_windows_on_a_resized_image_come_back_to_its_size(model):
    asked = ["inference.base_size=160x96", "inference.resize_logits_twice=true"]
    slide = [*asked, "inference.mode=slide", "inference.window_size=200x200"]
    assert close(scores(model, *slide), scores(model, *asked))


def test_align_corners_holds_for_every_resize(model):
    aligned = "model.align_corners=true"
    assert close(scores(model, aligned), plain(model, IMAGE, align_corners=True))
    windows = ["inference.mode=slide", "inference.window_size=45x40", "inference.stride=45x30"]
    found = scores(model, aligned, *windows)
    left = plain(model, IMAGE[:, :40], align_corners=True)
    assert close(found[:, :, :30], left[:, :, :30])
    assert not close(found[:, :, :30], plain(model, IMAGE[:, :40])[:, :, :30])
    resized = cv2.resize(IMAGE, (149, 96), interpolation=cv2.INTER_LINEAR)
    logits = plain(model, resized, align_corners=True)[None]
    expected = interpolate(logits, size=(45, 70), mode="bilinear", align_corners=True)[0]
    asked = [aligned, "inference.base_size=160x96", "inference.resize_logits_twice=true"]
    assert close(scores(model, *asked), expected)
    one_window = ["inference.mode=slide", "inference.window_size=200x200"]
    assert close(scores(model, *asked, *one_window), expected)


def test_images_of_one_size_share_a_pass(model):
    images = [IMAGE, IMAGE[::-1].copy(), np.zeros_like(IMAGE)]
    for changes in (["inference.flip=true", "inference.scales=[1, 1.5]"], []):
        own = predictor(model, *changes)
        for image, found in zip(images, predict_masks(own, images), strict=True):
            (alone,) = predict_masks(own, [image])
            assert (found == alone).mean() > 0.999


def test_probabilities_sum_to_one(model):
    for changes in (
        [],
        ["inference.flip=true"],
        ["inference.flip=true", "inference.tta_average=logits"],
    ):
        bands = iter_scores(predictor(model, *changes), IMAGE, probabilities=True)
        found = torch.cat([band for _, band in bands])
        assert torch.allclose(found.sum(2), torch.ones(45, 70), atol=1e-5)
        assert found.min() >= 0


def test_padding_to_a_divisor_is_cut_off_again(model):
    found = scores(model, "input.size_divisor=32")
    padded = np.zeros((64, 96, 3), np.float32)
    padded[:] = RECIPE.input.mean
    padded[:45, :70] = IMAGE
    assert close(found, plain(model, padded)[:, :45, :70])


def test_padding_to_a_size_is_black_and_cut_off_again(model):
    padded = np.zeros((60, 80, 3), np.uint8)
    padded[:45, :70] = IMAGE
    expected = plain(model, padded)[:, :45, :70]
    assert close(scores(model, "inference.pad_to=60x80"), expected)
    assert close(scores(model, "inference.pad_to=20x80"), plain(model, padded[:45])[..., :70])
    assert close(scores(model, "inference.pad_to=20x20"), scores(model))
    flipped = scores(model, "inference.pad_to=60x80", "inference.flip=true")
    assert flipped.shape == (4, 45, 70)


def test_a_resized_data_set_still_predicts_at_the_images_size(model):
    resized = cv2.resize(IMAGE, (48, 32), interpolation=cv2.INTER_LINEAR)
    fed = normalize(torch.from_numpy(resized)[None], RECIPE.input)
    with torch.inference_mode():
        expected = interpolate(model(fed).logits, size=(45, 70), mode="bilinear")[0]
    assert close(scores(model, "data.resize=32x48"), expected)
    assert close(scores(model, "data.resize=32x48", image=resized), scores(model, image=resized))


def test_two_resizes_go_by_way_of_the_input_size(model):
    asked = ["inference.base_size=160x96"]
    resized = cv2.resize(IMAGE, (149, 96), interpolation=cv2.INTER_LINEAR)
    once = scores(model, *asked)
    twice = scores(model, *asked, "inference.resize_logits_twice=true")
    expected = interpolate(plain(model, resized)[None], size=(45, 70), mode="bilinear")[0]
    assert close(twice, expected)
    assert not close(once, expected)


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    crop=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    part=st.tuples(st.floats(0.2, 1), st.floats(0.2, 1)),
)
def test_windows_cover_every_pixel_and_stay_inside(size, crop, part):
    stride = (max(1, int(crop[0] * part[0])), max(1, int(crop[1] * part[1])))
    covered = np.zeros(size, bool)
    tops, lefts = (window_starts(*axis) for axis in zip(size, crop, stride, strict=True))
    grid = [(top, left) for top in tops for left in lefts]
    assert len(set(grid)) == len(grid)
    for top, left in grid:
        assert top >= 0
        assert left >= 0
        if crop[0] <= size[0] and crop[1] <= size[1]:
            assert top + crop[0] <= size[0]
            assert left + crop[1] <= size[1]
        covered[top : top + crop[0], left : left + crop[1]] = True
    assert covered.all()


def test_the_published_grid_has_eight_windows():
    assert len(window_starts(1025, 769, 513)) == 2
    assert len(window_starts(2049, 769, 513)) == 4


def test_bgr_networks_are_fed_bgr():
    fed = normalize(
        torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8),
        Input(mean=(3, 2, 0), std=(1, 1, 2), channel_order="bgr"),
    )
    assert fed[0, :, 0, 0].tolist() == [0, 0, 0.5]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3)])
def test_the_smallest_images_work(model, size):
    image = np.zeros((*size, 3), np.uint8)
    assert predict_masks(predictor_of(model, RECIPE), [image])[0].shape == size


def test_gaps_between_windows_are_refused():
    with pytest.raises(UsageError, match="leaves gaps"):
        perpixel.override(
            RECIPE,
            ["inference.window_size=10x10", "inference.stride=11x5", "inference.mode=slide"],
        )


@pytest.mark.parametrize("crop", ["45x70", "100x100"])
def test_windows_are_padded_to_the_divisor_too(model, crop):
    expected = scores(model, "input.size_divisor=32")
    found = scores(
        model, "input.size_divisor=32", "inference.mode=slide", f"inference.window_size={crop}"
    )
    assert close(found, expected)


@pytest.mark.parametrize("way", ["scores", "streamed"])
def test_too_little_memory_is_told_in_bands_too(model, monkeypatch, way):
    monkeypatch.setattr(model, "forward", lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    own = predictor(model, "inference.mode=slide")
    bands = (
        iter_scores(own, IMAGE)
        if way == "scores"
        else predict_streaming(own, lambda *_: IMAGE, (45, 70))
    )
    with pytest.raises(OutOfMemoryError, match="1 image of 45x70 pixels at once: too little"):
        next(bands)
