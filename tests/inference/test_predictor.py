import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import perpixel
from perpixel.checkpoints.format import Checkpoint, model_from_checkpoint, write_checkpoint
from perpixel.errors import OutOfMemoryError, PerpixelError, UsageError
from perpixel.inference.predictor import Predictor, Result

RECIPE = perpixel.override(perpixel.recipe("camvid/fcn_r18-d8"), ["model.head.channels=8"])
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    weights = perpixel.build(RECIPE, num_classes=2).state_dict()
    return Checkpoint(RECIPE, ("a", "b"), ((255, 0, 0), (0, 0, 255)), weights)


@pytest.fixture(scope="module")
def predictor(checkpoint: Checkpoint) -> Predictor:
    return Predictor.from_checkpoint(checkpoint)


def test_paths_arrays_and_pil_images_give_the_same(predictor: Predictor, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "x.png")
    expected = predictor.predict(IMAGE).mask
    assert expected.shape == (40, 50)
    assert expected.dtype == np.uint8
    for given in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(IMAGE)):
        assert (predictor.predict(given).mask == expected).all()


def test_a_batchs_results_come_in_the_images_order():
    """Also where sizes alternate, of which each goes through the model together."""
    model = perpixel.build(RECIPE, num_classes=4)
    torch.nn.init.normal_(model.head.classifier.weight)
    colors = ((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4))
    predictor = Predictor.from_checkpoint(
        Checkpoint(RECIPE, tuple("abcd"), colors, model.state_dict())
    )
    draws = np.random.default_rng(0)
    sizes = ((40, 50), (33, 64), (40, 50), (33, 64), (40, 50))
    images = [draws.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    alone = [predictor.predict(image).mask for image in images]
    assert len({mask.tobytes() for mask in alone}) == len(images)
    for image, expected, found in zip(images, alone, predictor.predict_batch(images), strict=True):
        assert (found.image == image).all()
        assert (found.mask == expected).mean() > 0.999


def test_a_result_prints_its_classes_and_shows_its_overlay():
    mask = np.array([[0, 0, 0, 1], [0, 0, 3, 1]], np.uint8)
    image = np.full((2, 4, 3), 100, np.uint8)
    colors = tuple((10 * index, 0, 200) for index in range(9))
    result = Result(image, mask, tuple("abcdefghi"), colors)
    assert repr(result) == "Result(2x4: a 62.5%, b 25.0%, d 12.5%)"
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert (np.asarray(shown) == result.overlay()).all()
    many = Result(image, np.arange(8, dtype=np.uint8).reshape(2, 4), tuple("abcdefghi"), colors)
    assert repr(many).endswith("e 12.5%, 3 more)")


def test_a_turned_photo_is_turned_however_it_comes(predictor: Predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IMAGE).save(tmp_path / "x.jpg", exif=exif)
    with Image.open(tmp_path / "x.jpg") as opened:
        assert predictor.predict(opened).mask.shape == (50, 40)
    assert predictor.predict(tmp_path / "x.jpg").mask.shape == (50, 40)


def test_a_result_knows_names_shares_and_colors(predictor: Predictor):
    result = predictor.predict(IMAGE)
    assert result.class_names == ("a", "b")
    assert sum(result.class_fractions.values()) == pytest.approx(1)
    assert (result.overlay(opacity=0) == IMAGE).all()
    full = result.overlay(opacity=1)
    assert (full[result.mask == 0] == (255, 0, 0)).all()
    assert (full[result.mask == 1] == (0, 0, 255)).all()


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3), (4, 4, 1)])
def test_other_arrays_are_refused(predictor: Predictor, shape):
    with pytest.raises(UsageError, match="uint8 RGB array"):
        predictor.predict(np.zeros(shape, np.uint8))
    with pytest.raises(UsageError, match="not list"):
        predictor.predict([1])
    with pytest.raises(UsageError, match="float32"):
        predictor.predict(np.zeros((4, 4, 3), np.float32))


def test_a_missing_file_is_named(predictor: Predictor, tmp_path):
    with pytest.raises(PerpixelError, match=r"absent\.png: no such file"):
        predictor.predict(tmp_path / "absent.png")


def test_an_unknown_device_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="'warp': there are auto, cpu, cuda and cuda:N"):
        perpixel.load(tmp_path, device="warp")
    with pytest.raises(UsageError, match="'cuda:77' cannot be used"):
        perpixel.load(tmp_path, device="cuda:77")


def test_only_how_a_model_sees_images_can_be_changed(checkpoint: Checkpoint, tmp_path):
    source = tmp_path / "model.safetensors"
    write_checkpoint(source, checkpoint)
    assert perpixel.load(source, settings="inference.flip=true").recipe.inference.flip
    with pytest.raises(UsageError, match=r"those of inference, as inference\.flip=true"):
        perpixel.load(source, settings=["inference.flip=true", "model.align_corners=true"])
    with pytest.raises(UsageError, match=r"Did you mean inference\.flip"):
        perpixel.load(source, settings=["inferense.flip=true"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_holds_a_fused_model_in_its_own_format(checkpoint: Checkpoint, dtype: torch.dtype):
    """Which sees what the checkpoint's model sees."""
    held = Predictor.from_checkpoint(checkpoint, dtype=dtype)
    kinds = {type(module) for module in held.model.modules()}
    assert torch.nn.BatchNorm2d not in kinds
    assert {tensor.dtype for tensor in held.model.state_dict().values()} == {dtype}
    given = torch.randn(1, 3, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        wanted = model_from_checkpoint(checkpoint)(given).logits.float()
        found = held.model(given).logits.float()
    near = 1e-5 if dtype == torch.float32 else 0.05
    assert (found - wanted).abs().max() < near * wanted.abs().max()
    assert held.predict(IMAGE).mask.shape == (40, 50)


def test_compiling_is_asked_of_the_model(checkpoint: Checkpoint, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match="no-such-compiler"):
        Predictor.from_checkpoint(checkpoint, compiled=True)


@pytest.mark.parametrize("library", ["torch", "NumPy", "OpenCV"])
def test_too_little_memory_is_told_with_the_size(predictor: Predictor, monkeypatch, library: str):
    wants_too_much = {
        "torch": lambda *_: torch.empty(1 << 60, dtype=torch.uint8),
        "NumPy": lambda *_: np.empty(1 << 60, np.uint8),
        "OpenCV": lambda *_: cv2.resize(IMAGE, (1 << 29, 1 << 29)),
    }
    monkeypatch.setattr(predictor.model, "forward", wants_too_much[library])
    with pytest.raises(OutOfMemoryError, match="1 image of 40x50 pixels at once: too little"):
        predictor.predict(IMAGE)


def test_other_errors_of_the_network_keep_their_traceback(predictor: Predictor, monkeypatch):
    monkeypatch.setattr(predictor.model, "forward", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        predictor.predict(IMAGE)
