import numpy as np
import pytest
from PIL import Image

import perpixel
from perpixel.checkpoints.format import Checkpoint, write_checkpoint
from perpixel.errors import PerpixelError, UsageError
from perpixel.inference.geotiff import predict_geotiff
from perpixel.io.images import is_prediction

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")

RECIPE = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"),
    ["model.backbone.base_channels=8", "model.head.channels=8", "augment.crop_size=48x64"],
)
PLACE = rasterio.transform.from_origin(500_000, 5_600_000, 0.2, 0.2)


@pytest.fixture
def model(tmp_path):
    model = perpixel.build(RECIPE, num_classes=3)
    colors = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, Checkpoint(RECIPE, ("a", "b", "c"), colors, model.state_dict()))
    return path


def tiff(path, *, bands=3, dtype="uint8", size=(130, 170)):
    values = np.random.default_rng(0).integers(0, 256, (bands, *size)).astype(dtype)
    values[3:] = 200  # a fourth band is alpha, and where it is 0 there is no data
    with rasterio.open(
        path, "w", driver="GTiff", dtype=dtype, count=bands, height=size[0], width=size[1],
        crs="EPSG:32632", transform=PLACE,
    ) as file:  # fmt: skip
        file.write(values)
    return np.moveaxis(values, 0, 2)


@pytest.mark.parametrize("flip", [False, True])
def test_a_map_in_windows_is_the_whole_images_and_keeps_its_place(model, tmp_path, flip):
    pixels = tiff(tmp_path / "x.tif", bands=4)[..., :3].copy()
    predictor = perpixel.load(
        model, settings=["inference.mode=blend", f"inference.flip={str(flip).lower()}"]
    )
    rows = []
    predict_geotiff(
        predictor,
        tmp_path / "x.tif",
        tmp_path / "o" / "m.tif",
        progress=lambda *at: rows.append(at),
    )
    with rasterio.open(tmp_path / "o" / "m.tif") as found:
        assert (found.read(1) == predictor.predict(pixels).mask).all()
        assert found.crs.to_epsg() == 32632
        assert found.transform == PLACE
        assert found.colormap(1)[1][:3] == (0, 255, 0)
    assert rows[-1] == (130, 130)
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["m.tif"]


def test_files_and_models_that_cannot_are_named(model, tmp_path):
    sliding = perpixel.load(model, settings=["inference.mode=slide"])
    tiff(tmp_path / "deep.tif", dtype="uint16")
    with pytest.raises(PerpixelError, match=r"deep\.tif: has 3 bands of uint16"):
        predict_geotiff(sliding, tmp_path / "deep.tif", tmp_path / "m.tif")
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(PerpixelError, match=r"broken\.tif"):
        predict_geotiff(sliding, tmp_path / "broken.tif", tmp_path / "m.tif")
    assert not (tmp_path / "m.tif").exists()
    with pytest.raises(UsageError, match="--mode slide or blend"):
        predict_geotiff(perpixel.load(model), tmp_path / "deep.tif", tmp_path / "m.tif")


def test_where_there_is_no_data_there_is_no_class(model, tmp_path):
    tiff(tmp_path / "x.tif")
    with rasterio.open(tmp_path / "x.tif", "r+") as file:
        pixels = file.read()
        pixels[:, :, :40] = 0
        file.write(pixels)
        file.nodata = 0
    predictor = perpixel.load(model, settings=["inference.mode=slide"])
    predict_geotiff(predictor, tmp_path / "x.tif", tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as found:
        assert found.nodata == 255
        assert (found.read(1)[:, :40] == 255).all()
        assert (found.read(1)[:, 40:] == 255).mean() < 0.1


def test_a_palettes_indices_are_refused(model, tmp_path):
    tiff(tmp_path / "x.tif", bands=1)
    with rasterio.open(tmp_path / "x.tif", "r+") as file:
        file.write_colormap(1, {0: (1, 2, 3)})
    sliding = perpixel.load(model, settings=["inference.mode=slide"])
    with pytest.raises(PerpixelError, match="indices of a palette"):
        predict_geotiff(sliding, tmp_path / "x.tif", tmp_path / "m.tif")


def test_several_pages_are_refused(model, tmp_path):
    page = Image.new("RGB", (170, 130))
    page.save(tmp_path / "x.tif", save_all=True, append_images=[page])
    sliding = perpixel.load(model, settings=["inference.mode=slide"])
    with pytest.raises(PerpixelError, match=r"x\.tif: holds 2 pages"):
        predict_geotiff(sliding, tmp_path / "x.tif", tmp_path / "m.tif")


def test_one_band_is_gray(model, tmp_path):
    pixels = tiff(tmp_path / "x.tif", bands=1)
    predictor = perpixel.load(model, settings=["inference.mode=slide"])
    predict_geotiff(predictor, tmp_path / "x.tif", tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as found:
        gray = np.repeat(pixels, 3, axis=2)
        assert (found.read(1) == predictor.predict(gray).mask).all()


def test_the_models_bands_are_read(model, tmp_path):
    pixels = tiff(tmp_path / "x.tif", bands=4)
    predictor = perpixel.load(model, settings=["inference.mode=slide"])
    predictor.recipe = perpixel.override(predictor.recipe, ["input.bands=[2,1,3]"])
    predict_geotiff(predictor, tmp_path / "x.tif", tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as found:
        assert (found.read(1) == predictor.predict(pixels[..., [1, 0, 2]].copy()).mask).all()
    predictor.recipe = perpixel.override(predictor.recipe, ["input.bands=[5,1,3]"])
    with pytest.raises(PerpixelError, match=r"x\.tif: has 4 bands, and .* \[5, 1, 3\]"):
        predict_geotiff(predictor, tmp_path / "x.tif", tmp_path / "m.tif")


def test_control_points_are_kept(model, tmp_path):
    pixels = tiff(tmp_path / "x.tif")
    points = [
        rasterio.control.GroundControlPoint(row, col, 500_000 + col, 5_600_000 - row)
        for row, col in ((0, 0), (0, 170), (130, 0), (130, 170))
    ]
    with rasterio.open(
        tmp_path / "gcps.tif", "w", driver="GTiff", dtype="uint8", count=3, height=130, width=170,
    ) as file:  # fmt: skip
        file.write(np.moveaxis(pixels, 2, 0))
        file.gcps = points, rasterio.crs.CRS.from_epsg(32632)
    sliding = perpixel.load(model, settings=["inference.mode=slide"])
    predict_geotiff(sliding, tmp_path / "gcps.tif", tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as found:
        kept, crs = found.gcps
    assert crs.to_epsg() == 32632
    assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]


def test_its_mask_is_told_from_one_by_hand(model, tmp_path):
    """By which `predict` keeps the latter."""
    tiff(tmp_path / "x.tif", bands=1)
    sliding = perpixel.load(model, settings=["inference.mode=slide"])
    predict_geotiff(sliding, tmp_path / "x.tif", tmp_path / "m.tif")
    assert is_prediction(tmp_path / "m.tif")
    assert not is_prediction(tmp_path / "x.tif")
