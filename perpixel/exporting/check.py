"""An exported file against PyTorch, image by image."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from perpixel.acceleration.accelerate import accelerate
from perpixel.checkpoints.format import Checkpoint
from perpixel.exporting.graph import Graph, LogitsModule
from perpixel.inference.predictor import Predictor
from perpixel.io.images import Array, Size

Values = npt.NDArray[Any]
Runner = Callable[[Tensor], tuple[Values, ...]]

AGREEMENT = 0.999
"""The least share of pixels of every image that must have PyTorch's class."""
TOLERANCE = 1e-3
"""The most that a logit may differ from PyTorch's, as a share of the image's largest logit."""


@dataclass(frozen=True)
class Comparison:
    """One image: the largest difference and the largest size of a logit; pixels that agree."""

    image: str
    size: Size
    difference: float
    largest: float
    agreement: float

    @property
    def agrees(self) -> bool:
        """Whether the file may be kept, by AGREEMENT and TOLERANCE. What is no number does not."""
        return self.agreement >= AGREEMENT and self.difference <= TOLERANCE * self.largest


def onnx_runner(content: bytes, graph: Graph) -> Runner:
    """Runs an ONNX file in ONNX Runtime, on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    return lambda fed: tuple(session.run(list(graph.outputs), {graph.input: fed.numpy()}))


def program_runner(content: bytes) -> Runner:
    """Runs a .pt2 file."""
    return _in_torch(torch.export.load(io.BytesIO(content)).module())


def torch_runner(graph: Graph) -> Runner:
    """Runs what was exported in PyTorch itself, accelerated as for `predict`."""
    cpu = torch.device("cpu")
    graph.model = accelerate(graph.model, device=cpu, dtype=torch.float32, training=False)
    return _in_torch(graph)


def _in_torch(module: nn.Module) -> Runner:
    @torch.inference_mode()
    def run(fed: Tensor) -> tuple[Values, ...]:
        return tuple(output.numpy() for output in module(fed))

    return run


def compare(
    run: Runner, graph: Graph, checkpoint: Checkpoint, *, images: Iterable[tuple[str, Array]]
) -> list[Comparison]:
    """The file's logits against the model's, its masks against what `predict` gives.

    Of a graph that gives logits only, their best classes are compared, at the head's own stride.
    """
    predictor = Predictor.from_checkpoint(checkpoint)
    ours = torch_runner(graph)
    found = []
    for name, image in images:
        fed = graph.fed(image)
        (*classes, logits), expected = run(fed), ours(fed)[-1]
        if isinstance(graph, LogitsModule):
            wanted, given = expected.argmax(1), logits.argmax(1)
        else:
            wanted, given = predictor.predict(image).mask[None], classes[0]
        found.append(
            Comparison(
                image=name,
                size=(image.shape[0], image.shape[1]),
                difference=float(np.abs(logits - expected).max()),
                largest=float(np.abs(expected).max()),
                agreement=float((wanted == given).mean()),
            )
        )
    return found
