"""Masks of TIFF files larger than memory, with their place on the map (the geo extra)."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from perpixel.errors import PerpixelError, UsageError, needs_extra, plural
from perpixel.inference.predictor import Predictor
from perpixel.inference.tta import predict_streaming
from perpixel.io.atomic import atomic_replace
from perpixel.io.images import SOFTWARE, Array, Bands, palette_table
from perpixel.recipes.schema import IGNORE_INDEX

Progress = Callable[[int, int], None]

_CACHE = 128  # MB of blocks that GDAL may keep


def predict_geotiff(
    predictor: Predictor,
    path: Path,
    out: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Reads a TIFF in windows and writes its mask a few rows at a time, as a tiled palette GeoTIFF.

    The bands, 8 bits each, are the recipe's `input.bands`, or else the first three for red, green
    and blue, a single one for gray.
    Coordinate system, transform, control points and RPCs are kept; what the file marks as without
    data becomes 255, the mask's own mark. `progress` is called with (rows done, rows in all).
    Raises UsageError without rasterio or where the model does not slide windows over the image
    as it is; PerpixelError for a file that cannot be read or written.
    """
    recipe = predictor.recipe
    seen = recipe.inference
    resizes = seen.base_size or seen.resize_to_multiple > 1 or recipe.data.resize
    if seen.mode == "whole" or seen.scales != (1.0,) or resizes:
        raise UsageError(
            "a TIFF is read in windows only at its own size: give --mode slide or blend and "
            "--scales 1, with a model that does not resize its images"
        )
    with needs_extra("--geo", "geo"):
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    try:
        with (
            atomic_replace(out) as part,
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.Env(GDAL_CACHEMAX=_CACHE),
            rasterio.open(path) as file,
        ):
            _require_one_image(path, file, recipe.input.bands)
            _write(predictor, file, part, progress)
    except (RasterioError, OSError) as error:
        reason = error.__cause__ or error
        raise PerpixelError(f"{path}: cannot be read, or {out} written ({reason})") from None


def _require_one_image(path: Path, file: Any, bands: Bands | None) -> None:
    """Raises PerpixelError unless the file has one page, of 8-bit gray or color bands."""
    from rasterio.enums import ColorInterp

    if len(file.subdatasets) > 1:
        raise PerpixelError(
            f"{path}: holds {len(file.subdatasets)} pages, of which only the first would be read; "
            f"split it, as with tiffsplit"
        )
    if bands is not None and max(bands) > file.count:
        raise PerpixelError(
            f"{path}: has {plural(file.count, 'band')}, and the model is for bands {list(bands)}"
        )
    if any(kind != "uint8" for kind in file.dtypes) or (bands is None and file.count == 2):
        raise PerpixelError(
            f"{path}: has {plural(file.count, 'band')} of {'/'.join(sorted(set(file.dtypes)))}; "
            f"one or at least three bands of 8 bits can be read"
        )
    if ColorInterp.palette in file.colorinterp:
        raise PerpixelError(
            f"{path}: holds indices of a palette; write it as red, green and blue first"
        )


def _write(predictor: Predictor, file: Any, out: Path, progress: Progress | None) -> None:
    import rasterio
    from rasterio.windows import Window

    bands = predictor.recipe.input.bands or ((1, 2, 3) if file.count > 2 else (1, 1, 1))

    def read(top: int, left: int, height: int, width: int) -> Array:
        return np.moveaxis(file.read(bands, window=Window(left, top, width, height)), 0, 2)

    size = file.height, file.width
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "height": size[0], "width": size[1],
        "crs": file.crs, "transform": file.transform, "nodata": IGNORE_INDEX, "tiled": True,
        "blockxsize": 256, "blockysize": 256, "compress": "deflate", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(out, "w", **profile) as target:
        colors = palette_table(predictor.palette).tolist()
        if file.gcps[0]:
            target.gcps = file.gcps
        if file.rpcs:
            target.rpcs = file.rpcs
        target.update_tags(TIFFTAG_SOFTWARE=SOFTWARE)
        target.write_colormap(1, {index: tuple(rgb) for index, rgb in enumerate(colors)})
        for top, classes in predict_streaming(predictor, read, size):
            window = Window(0, top, size[1], len(classes))
            classes[file.dataset_mask(window=window) == 0] = IGNORE_INDEX
            target.write(classes, 1, window=window)
            if progress is not None:
                progress(top + len(classes), size[0])
