"""A file of `perpixel export`, run by ONNX Runtime: a predictor without PyTorch's model."""

import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from perpixel.errors import (
    CorruptFileError,
    OutOfMemoryError,
    PerpixelError,
    UsageError,
    needs_extra,
    plural,
)
from perpixel.inference.predictor import ImageLike, Predictor, Result, predict_by_size
from perpixel.io.images import Array, Bands, Palette
from perpixel.recipes.schema import Input

MIN_SIDES = (33, 65)
"""The least side of an image for a file that takes any size: the tracer makes sides of 1 of a
feature map constants. The second is for networks that round sizes down, as ConvNeXt."""

_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory")
"""What ONNX Runtime's errors say, which have no class for this."""


class ExportedPredictor:
    """A file of `perpixel export` ready to predict, in ONNX Runtime on the CPU.

    It predicts what `Predictor` did when the file was exported, and nothing else: no other scales,
    flips or windows, and masks alone. `size` is the (height, width) of the images that it takes;
    None is any size whose sides have `min_side` or more. ONNX Runtime gets as many threads as
    PyTorch has.

    Raises CorruptFileError for a file that ONNX Runtime cannot open, PerpixelError if ONNX Runtime
    is not installed, UsageError for a file that is not of `perpixel export`, or of its `--logits`.
    """

    device = torch.device("cpu")
    replaces_palette = False  # a file holds the colors that `predict` shows

    def __init__(self, path: Path) -> None:
        with needs_extra("an exported file", "export"):
            import_onnxruntime()
        try:
            session = open_session(path)
        except Exception as error:  # its classes have no common base, and are private
            raise CorruptFileError(
                f"{path}: not an ONNX file that ONNX Runtime can open, or a corrupt one "
                f"({str(error).splitlines()[0]})"
            ) from None
        metadata = session.get_modelmeta().custom_metadata_map
        inputs = [entry.name for entry in session.get_inputs()]
        if "class_names" in metadata and inputs == ["pixel_values"]:
            raise UsageError(
                f"{path}: exported with --logits, it gives no masks: export it without --logits"
            )
        try:
            self.class_names = _parse(metadata["class_names"], tuple[str, ...])
            self.palette = _parse(metadata["palette"], Palette)
            self.name = _parse(metadata["recipe"], str)
            self.bands: Bands | None = _parse(metadata["input"], Input).bands
            self.min_side = _parse(metadata.get("min_side", str(MIN_SIDES[0])), int)
            if inputs != ["images"]:
                raise KeyError("images")
        except (KeyError, ValidationError):
            raise UsageError(
                f"{path}: not a file of `perpixel export`, which have inputs called images, and "
                f"class_names, palette, recipe and input in their metadata"
            ) from None
        count, height, width, _ = session.get_inputs()[0].shape  # names where any number will do
        self.size = (height, width) if isinstance(height, int) else None
        self._takes_several = not isinstance(count, int)
        self._session = session
        self.path = path

    def predict(self, image: ImageLike) -> Result:
        """The classes of one image, as `Predictor.predict` takes it.

        Raises PerpixelError for an image of another size than the file takes.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Result]:
        """The classes of several images; those of one size go through the file together.

        One by one in a file of one size. Raises PerpixelError for an image of another size.
        """
        return predict_by_size(
            images,
            self._predict_masks,
            bands=self.bands,
            class_names=self.class_names,
            palette=self.palette,
        )

    def logits(self, image: ImageLike) -> NoReturn:  # noqa: ARG002
        """Raises UsageError: a file gives masks alone."""
        self.require_checkpoint("logits")

    def probabilities(self, image: ImageLike) -> NoReturn:  # noqa: ARG002
        """Raises UsageError: a file gives masks alone."""
        self.require_checkpoint("probabilities")

    def require_checkpoint(self, what: str) -> NoReturn:
        """Raises UsageError, as `what` needs the model that was exported."""
        raise UsageError(
            f"{self.path}: an exported file gives masks of whole images alone. For {what}, name "
            f"the run or checkpoint that it was exported from"
        )

    def _predict_masks(self, images: Sequence[Array]) -> list[Array]:
        height, width = images[0].shape[:2]
        if self.size is not None and self.size != (height, width):
            raise PerpixelError(
                f"an image of {height}x{width}, and the exported file takes {self.size[0]}x"
                f"{self.size[1]} (height x width) alone: export it with --dynamic, or with --size "
                f"{height}x{width}"
            )
        if self.size is None and min(height, width) < self.min_side:
            raise PerpixelError(
                f"an image of {height}x{width}, and the exported file takes sides of "
                f"{self.min_side} pixels or more"
            )
        groups = [images] if self._takes_several else [[image] for image in images]
        masks: list[Array] = []
        for group in groups:
            try:
                masks.extend(self._session.run(["mask"], {"images": np.stack(group)})[0])
            except Exception as error:  # as above, its classes have no common base
                if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
                    raise
                raise OutOfMemoryError(
                    f"{plural(len(group), 'image')} of {height}x{width} pixels at once: too "
                    f"little memory"
                ) from None
        return masks


def import_onnxruntime() -> ModuleType:
    """Imports ONNX Runtime without its telemetry, unless ORT_DISABLE_TELEMETRY says otherwise.

    Since 1.31, or an earlier one, its import alone writes a device id and a database of events
    below ~/.cache/Microsoft.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_module("onnxruntime")


def open_session(file: Path | bytes) -> Any:
    """Opens an ONNX file, or its content, on the CPU with as many threads as PyTorch has."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])


def is_exported(source: str | Path) -> bool:
    """Returns whether `source` is an ONNX file, by its suffix."""
    path = Path(source)
    return path.suffix == ".onnx" and path.is_file()


def open_exported(
    path: Path, *, device: str, precision: str, settings: Iterable[str], compiled: bool
) -> ExportedPredictor:
    """Opens a file of `perpixel export` as `perpixel.load` does.

    Raises UsageError for everything that the file decides itself, and what ExportedPredictor does.
    """
    if settings := list(settings):
        raise UsageError(
            f"{path}: an exported file predicts as it was exported, and cannot change "
            f"{', '.join(settings)}: name the run or checkpoint that it was exported from"
        )
    if device not in ("auto", "cpu"):
        raise UsageError(f"device {device!r}: exported files run on the CPU here; leave it out")
    if precision not in ("auto", "float32"):
        raise UsageError(
            f"precision {precision!r}: {path} has the numbers that it was exported with; leave it "
            f"out"
        )
    if compiled:
        raise UsageError(f"{path}: an exported file is compiled by no torch.compile; leave it out")
    return ExportedPredictor(path)


def require_checkpoint(predictor: Predictor | ExportedPredictor, what: str) -> Predictor:
    """Returns the predictor of a checkpoint; raises UsageError for an exported file.

    `what` is what needs the model itself.
    """
    if isinstance(predictor, ExportedPredictor):
        predictor.require_checkpoint(what)
    return predictor


def _parse(text: str, kind: Any) -> Any:
    """Reads a value of the metadata, JSON, as `kind`; raises ValidationError."""
    return TypeAdapter(kind).validate_json(text)
