"""INT8 files: static quantization of an exported network by ONNX Runtime."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from perpixel.exporting.graph import Graph
from perpixel.io.atomic import mute_logger
from perpixel.io.images import Array

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION_IMAGES = 64
"""The most training images that the ranges of the activations are measured on."""
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_QUANTIZED = [*_LAYERS, "Add", "AveragePool", "Clip", "Concat", "MaxPool", "Relu", "Resize"]


def quantize(content: bytes, graph: Graph, images: Iterable[Array]) -> bytes:
    """Returns the ONNX file `content` of `graph` with its network in INT8.

    Weights are int8 with a scale per output channel, activations uint8 between the extremes seen
    on `images`, uint8 RGB [H, W, 3]; QuantizeLinear and DequantizeLinear nodes (QDQ) hold the
    scales. All before and after the network stays as it is, and so do its first and last layers,
    which cost little time and most accuracy.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    model = onnx.load_from_string(content)
    with TemporaryDirectory() as folder, mute_logger("root"):  # it advises to optimize first
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _CalibrationReader(graph, images),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_QUANTIZED,
            nodes_to_exclude=_float_nodes(model),
        )
        quantized = onnx.load(path)
    del quantized.metadata_props[:]  # ONNX Runtime adds notes of its own
    quantized.metadata_props.extend(onnx.load_from_string(content).metadata_props)
    quantized.producer_name = "perpixel"
    result: bytes = quantized.SerializeToString()
    return result


def _float_nodes(model: "ModelProto") -> list[str]:
    """Returns the names of the nodes that stay in float.

    The network is every node from the first layer on whose results the logits are made of.
    """
    after: set[str] = set()
    for node in model.graph.node:  # in topological order
        if node.op_type in _LAYERS or after.intersection(node.input):
            after.update(node.output)
    needed = {"logits"}
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    network = [node for node in model.graph.node if (after & needed).intersection(node.output)]
    layers = [node.name for node in network if node.op_type in _LAYERS]
    quantized = {node.name for node in network} - {layers[0], layers[-1]}
    return [node.name for node in model.graph.node if node.name not in quantized]


class _CalibrationReader:
    """Gives ONNX Runtime the graph's inputs, one image at a time, then None."""

    def __init__(self, graph: Graph, images: Iterable[Array]) -> None:
        self._graph = graph
        self._images: Iterator[Array] = iter(images)

    def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
        image = next(self._images, None)
        if image is None:
            return None
        return {self._graph.input: self._graph.preprocess(image).numpy()}
