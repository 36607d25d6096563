import sys

import cv2
import numpy as np
import pytest
import torch

import perpixel
from perpixel.checkpoints.format import Checkpoint
from perpixel.errors import PerpixelError
from perpixel.inference.predictor import Predictor
from perpixel.inference.video import _writer, predict_video
from perpixel.io.images import read_mask
from perpixel.models.normalize import normalize

RECIPE = perpixel.override(perpixel.recipe("camvid/fcn_r18-d8"), ["model.head.channels=8"])


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    weights = perpixel.build(RECIPE, num_classes=2).state_dict()
    return Predictor.from_checkpoint(
        Checkpoint(RECIPE, ("a", "b"), ((255, 0, 0), (0, 0, 255)), weights)
    )


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(30):
        writer.write(noise.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    return path


def test_every_frame_has_a_mask_and_its_place_in_the_overlay(predictor, video, tmp_path):
    seen = []
    predict_video(
        predictor,
        video,
        masks=tmp_path / "m",
        overlay=tmp_path / "o.mp4",
        batch=2,
        progress=lambda *at: seen.append(at),
    )
    assert seen[-1] == (30, 30)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [f"{i:06}.png" for i in range(30)]
    frames = cv2.VideoCapture(str(video))
    for index in range(5):
        frame = cv2.cvtColor(frames.read()[1], cv2.COLOR_BGR2RGB)
        expected = predictor.predict(frame).mask
        assert (read_mask(tmp_path / "m" / f"{index:06}.png") == expected).mean() > 0.99
    drawn = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert int(drawn.get(cv2.CAP_PROP_FRAME_COUNT)) == 30
    assert drawn.get(cv2.CAP_PROP_FPS) == 10


def test_colors_are_the_images_on_the_way_in_and_out(tmp_path):
    """Red frames: their masks are those of red images, and overlays mix red with the palette."""
    path, red = tmp_path / "red.avi", np.full((48, 64, 3), (220, 40, 20), np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(5):
        writer.write(cv2.cvtColor(red, cv2.COLOR_RGB2BGR))
    writer.release()
    model = perpixel.build(RECIPE, num_classes=2).eval()
    with torch.no_grad():  # the class is the one that red images, unlike blue ones, have
        model.head.classifier.weight[1] = -model.head.classifier.weight[0]
        model.head.classifier.bias.zero_()
        logits = [
            model(normalize(torch.from_numpy(image.copy())[None], RECIPE.input)).logits[0, 0].mean()
            for image in (red, red[..., ::-1])
        ]
        model.head.classifier.bias[0] = -sum(logits) / 2
    colors = ((0, 0, 250), (0, 250, 0))
    predictor = Predictor.from_checkpoint(
        Checkpoint(RECIPE, ("a", "b"), colors, model.state_dict())
    )
    expected, other = (predictor.predict(i.copy()).mask for i in (red, red[..., ::-1]))
    assert (expected == other).mean() < 0.5
    predict_video(predictor, path, masks=tmp_path / "m", overlay=tmp_path / "o.mp4")
    for index in range(5):
        assert (read_mask(tmp_path / "m" / f"{index:06}.png") == expected).mean() > 0.95
    frame = cv2.cvtColor(cv2.VideoCapture(str(tmp_path / "o.mp4")).read()[1], cv2.COLOR_BGR2RGB)
    mixed = (red.astype(float) + np.array(colors)[expected]) / 2
    assert np.median(np.abs(frame - mixed), axis=(0, 1)).max() < 12


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on files' sizes there")
def test_an_overlay_that_does_not_fit_on_the_disk_is_an_error(predictor, video, tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(PerpixelError, match=r"o\.mp4: not fully written .* of 30 frames"):
            predict_video(predictor, video, masks=tmp_path / "m", overlay=tmp_path / "o.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "o.mp4").exists()
    assert len(list((tmp_path / "m").iterdir())) == 30


def test_a_file_that_is_no_video_is_named(predictor, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    with pytest.raises(PerpixelError, match=r"x\.mp4: not a video"):
        predict_video(predictor, tmp_path / "x.mp4", masks=tmp_path / "m")


def test_a_cut_video_gives_the_frames_there_are(predictor, video, tmp_path):
    content = video.read_bytes()
    video.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(PerpixelError, match="of 30 only"):
        predict_video(predictor, video, masks=tmp_path / "m")
    assert any((tmp_path / "m").iterdir())


@pytest.mark.parametrize("fps", [23.976, 239.834, 90_000, float("nan"), 0])
def test_a_video_of_any_rate_is_written(tmp_path, fps):
    """MPEG-4 counts in fractions of 16-bit numbers, and OpenCV finds none for some rates."""
    frame = np.zeros((48, 64, 3), np.uint8)
    writer = _writer(tmp_path / "o.mp4", frame, fps)
    writer.write(frame)
    writer.release()
    wanted = fps if 0 < fps < 1000 else 25
    written = cv2.VideoCapture(str(tmp_path / "o.mp4")).get(cv2.CAP_PROP_FPS)
    assert written == pytest.approx(wanted, abs=0.01)
