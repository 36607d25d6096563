"""Smaller files: static quantization of an exported network by ONNX Runtime, float16 weights."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from perpixel.exporting.graph import Graph
from perpixel.io.atomic import mute_logger
from perpixel.io.images import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

CALIBRATION_IMAGES = 64
"""The most training images that the ranges of the activations are measured on."""
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_QUANTIZED = [
    *_LAYERS,
    *("Add", "AveragePool", "Clip", "Concat", "Gather", "MaxPool", "Relu", "Resize", "Transpose"),
]


def quantize(content: bytes, graph: Graph, images: Iterable[Array]) -> bytes:
    """Returns the ONNX file `content` of `graph` with its network in INT8.

    Weights are int8 with a scale per output channel, activations uint8 between the extremes seen
    on `images`, uint8 RGB [H, W, 3]; QuantizeLinear and DequantizeLinear nodes (QDQ) hold the
    scales. All before and after the network stays as it is, and so does its first layer: of three
    channels in, it is slower in INT8.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    model = onnx.load_from_string(content)
    _gather_doublings(model)
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
    quantized.metadata_props.extend(model.metadata_props)
    quantized.producer_name = "perpixel"
    result: bytes = quantized.SerializeToString()
    return result


def halve_weights(content: bytes) -> bytes:
    """Returns the ONNX file `content` with its layers' weights in float16, cast back in the graph.

    Runtimes cast once, when they open the file, and compute in float32 as before. Biases, and
    weights beyond float16's largest number, 65504, stay as they are.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(content)
    weights = {node.input[1] for node in model.graph.node if node.op_type in _LAYERS}
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name in weights and np.abs(values).max() <= np.finfo(np.float16).max:
            name, half = tensor.name, f"{tensor.name}_float16"
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
            casts.append(helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    result: bytes = model.SerializeToString()
    return result


def _gather_doublings(model: "ModelProto") -> None:
    """Puts two Gather nodes in place of every nearest upsampling by 2, channels last.

    ONNX Runtime's 8-bit layers have the channels last, too, so that its optimizer drops the
    Transpose nodes; its Resize takes one value at a time then, Gather all channels of a pixel.
    Where sizes are not known, and where they do not double, Resize stays.
    """
    from onnx import helper, numpy_helper
    from onnxruntime.quantization.onnx_model import ONNXModel

    sizes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim[2:]]
        for value in [*model.graph.input, *model.graph.value_info]
        if len(value.type.tensor_type.shape.dim) == 4
    }
    nodes = []
    for node in model.graph.node:
        if not _doubles(node, sizes):
            nodes.append(node)
            continue
        value, name = node.input[0], f"{node.output[0]}_channels_last"
        nodes.append(helper.make_node("Transpose", [value], [name], name, perm=[0, 2, 3, 1]))
        for axis, side in enumerate(sizes[node.output[0]], start=1):
            value, name = name, f"{name}_{axis}"
            index = numpy_helper.from_array(np.arange(side) // 2, f"{name}_index")
            model.graph.initializer.append(index)
            nodes.append(helper.make_node("Gather", [value, index.name], [name], name, axis=axis))
        nodes.append(
            helper.make_node("Transpose", [name], [node.output[0]], node.name, perm=[0, 3, 1, 2])
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    ONNXModel(model).clean_initializers()  # else ONNX Runtime warns of those of the Resize nodes


def _doubles(node: "NodeProto", sizes: Mapping[str, list[int]]) -> bool:
    """Whether it is nearest upsampling from known sides, both above 0, to twice those."""
    if node.op_type != "Resize" or all(part.s != b"nearest" for part in node.attribute):
        return False
    old, new = sizes.get(node.input[0], [0]), sizes.get(node.output[0], [0])
    return all(old) and new == [2 * side for side in old]


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
    quantized = {node.name for node in network} - {layers[0]}
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
