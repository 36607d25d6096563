"""Compares an exported file with `predict`: image by image, and by mIoU on labeled images."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.acceleration.accelerate import accelerate
from perpixel.data.augment import resize
from perpixel.data.dataset import Dataset, read_pair
from perpixel.evaluation.metrics import confusion, scores
from perpixel.exporting.graph import Graph, LogitsModule, Outputs
from perpixel.inference.exported import open_session
from perpixel.inference.predictor import Predictor
from perpixel.io.images import Array, Size

Runner = Callable[[Tensor], Outputs]


@dataclass(frozen=True)
class Limits:
    """How far a file may be from `predict` on one image.

    `agreement` is the least fraction of the pixels whose class must be the same, `difference` the
    largest error of a logit, as a fraction of the image's largest logit.
    """

    agreement: float
    difference: float


EXACT = Limits(agreement=0.999, difference=1e-3)
"""For the float32 weights of the model."""
HALF = Limits(agreement=0.99, difference=1e-2)
"""For weights that are rounded to float16."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of one image: the largest error of a logit, the largest absolute logit, and the
    fraction of pixels that agree."""

    image: str
    size: Size
    difference: float
    largest: float
    agreement: float

    def agrees(self, limits: Limits) -> bool:
        """Whether pixel agreement and largest error are within limits; NaN fails."""
        max_difference = limits.difference * self.largest
        return self.agreement >= limits.agreement and self.difference <= max_difference


@dataclass(frozen=True)
class MIoU:
    """mIoU of `predict` and of the file on the same labeled images, 0..100."""

    predict: float
    file: float
    images: int

    @property
    def drop(self) -> float:
        """How much less the file's mIoU is; below 0 if it is more."""
        return self.predict - self.file


def onnx_runner(content: bytes, graph: Graph) -> Runner:
    """Returns a function that runs an ONNX file in ONNX Runtime."""
    session = open_session(content)
    return lambda images: tuple(session.run(list(graph.outputs), {graph.input: images.numpy()}))


def program_runner(content: bytes) -> Runner:
    """Returns a function that runs a .pt2 file."""
    return _module_runner(torch.export.load(io.BytesIO(content)).module())


def torch_runner(graph: Graph) -> Runner:
    """Returns a function that runs `graph` in PyTorch, accelerated in place as for `predict`."""
    cpu = torch.device("cpu")
    graph.model = accelerate(graph.model, device=cpu, dtype=torch.float32, training=False)
    return _module_runner(graph)


def _module_runner(module: nn.Module) -> Runner:
    @torch.inference_mode()
    def run(images: Tensor) -> Outputs:
        return tuple(output.numpy() for output in module(images))

    return run


def compare(
    run_file: Runner,
    run_torch: Runner,
    graph: Graph,
    predictor: Predictor,
    *,
    images: Iterable[tuple[str, Array]],
) -> list[Comparison]:
    """Compares the file's logits with PyTorch's, and its masks with those of `predictor`."""
    comparisons = []
    for name, image in images:
        inputs = graph.preprocess(image)
        outputs, expected = run_file(inputs), run_torch(inputs)[-1]
        mask = _file_mask(graph, outputs, image)
        same = mask == predictor.predict(image).mask
        comparisons.append(
            Comparison(
                image=name,
                size=(image.shape[0], image.shape[1]),
                difference=float(np.abs(outputs[-1] - expected).max()),
                largest=float(np.abs(expected).max()),
                agreement=float(same.mean()),
            )
        )
    return comparisons


def compare_miou(
    run_file: Runner,
    graph: Graph,
    predictor: Predictor,
    *,
    dataset: Dataset,
    size: Size | None,
    progress: Callable[[int, int], None],
) -> MIoU:
    """Scores the masks of `predictor` and of the file on every image of `dataset`.

    Images and labels are resized to `size` first; None keeps their own. `progress` is called
    after each image with (done, in all).
    """
    names = predictor.class_names
    matrices = np.zeros((2, len(names), len(names)), np.int64)
    for index in range(len(dataset)):
        image, label = read_pair(dataset, index)
        if size is not None:
            image, label = resize(image, label, size)
        masks = (
            predictor.predict(image).mask,
            _file_mask(graph, run_file(graph.preprocess(image)), image),
        )
        for matrix, mask in zip(matrices, masks, strict=True):
            matrix += confusion(label, mask, num_classes=len(names))
        progress(index + 1, len(dataset))
    predict, file = (scores(matrix, names=names).miou for matrix in matrices)
    return MIoU(predict, file, len(dataset))


def _file_mask(graph: Graph, outputs: Outputs, image: Array) -> Array:
    """Returns the mask, uint8 [H, W]; if the graph gives logits only, they are upsampled first."""
    if isinstance(graph, LogitsModule):
        return np.asarray(graph.mask(torch.from_numpy(outputs[0]), image).numpy())
    return np.asarray(outputs[0][0])
