"""Reads and writes .caffemodel files: Caffe's NetParameter in protobuf's wire format.

Only the fields that hold weights are known here, by their numbers in caffe.proto (BVLC/caffe,
src/caffe/proto): NetParameter.layer 100 of LayerParameter (name 1, type 2, blobs 7), and layers 2
of V1LayerParameter (name 4, blobs 6) in files of 2014; BlobProto's data 5, double_data 8, shape 7
(dim 1), and num, channels, height, width 1 to 4 in files of 2014.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from perpixel.errors import PerpixelError

_VARINT, _BITS_64, _BYTES, _BITS_32 = 0, 1, 2, 5
_PARAMETERS = ("weight", "bias")

Blob = npt.NDArray[np.float32]


def parse_caffemodel(content: bytes) -> dict[str, Blob]:
    """Returns a net's blobs, float32, as {"LAYER.weight", "LAYER.bias"}, in the file's order.

    Raises PerpixelError for bytes that are no such file, or not all of it.
    """
    blobs: dict[str, Blob] = {}
    for number, value in _fields(memoryview(content)):
        if number not in (100, 2) or not isinstance(value, memoryview):
            continue
        name_field, blobs_field = (1, 7) if number == 100 else (4, 6)
        name, layer_blobs = "", []
        for layer_field, part in _fields(value):
            if layer_field == name_field and isinstance(part, memoryview):
                name = bytes(part).decode(errors="replace")
            elif layer_field == blobs_field and isinstance(part, memoryview):
                layer_blobs.append(_parse_blob(part))
        for index, blob in enumerate(layer_blobs):
            kind = _PARAMETERS[index] if index < len(_PARAMETERS) else f"blob{index}"
            blobs[f"{name}.{kind}"] = blob.ravel() if kind == "bias" else blob
    if not blobs:
        raise PerpixelError("no layer with weights in it: not a .caffemodel")
    return blobs


def serialize_caffemodel(name: str, blobs: Mapping[str, Blob]) -> bytes:
    """Returns the file of a net with these blobs, named as `parse_caffemodel` names them."""
    layers: dict[str, list[Blob]] = {}
    for key, blob in blobs.items():
        layers.setdefault(key.rpartition(".")[0], []).append(blob)
    parts = [_message(1, name.encode())]
    for layer, arrays in layers.items():
        content = _message(1, layer.encode()) + _message(2, _type_of(layer).encode())
        for array in arrays:
            dims = b"".join(map(_varint, array.shape))
            data = np.ascontiguousarray(array, "<f4").tobytes()
            content += _message(7, _message(7, _message(1, dims)) + _message(5, data))
        parts.append(_message(100, content))
    return b"".join(parts)


def _type_of(layer: str) -> str:
    if layer.startswith("scale_"):
        return "Scale"
    return "Deconvolution" if layer.startswith("upscore") else "Convolution"


def _parse_blob(content: memoryview) -> Blob:
    data: list[npt.NDArray[np.float32]] = []
    dims: list[int] = []
    legacy = {1: 1, 2: 1, 3: 1, 4: 1}
    for number, value in _fields(content):
        if number in (5, 8) and isinstance(value, memoryview):
            dtype = "<f4" if number == 5 else "<f8"
            if len(value) % np.dtype(dtype).itemsize:
                raise PerpixelError(f"a blob of {len(value)} bytes does not hold whole numbers")
            data.append(np.frombuffer(value, dtype).astype(np.float32))
        elif number == 7 and isinstance(value, memoryview):
            for dim_field, dim in _fields(value):
                if dim_field == 1:
                    dims += [dim] if isinstance(dim, int) else _varints(dim)
        elif number in legacy and isinstance(value, int):
            legacy[number] = value
    if not dims:
        dims = list(legacy.values())
        if dims[:2] == [1, 1]:  # an inner product's matrix, or a bias
            dims = dims[2:]
    values = data[0] if len(data) == 1 else np.concatenate([np.empty(0, np.float32), *data])
    if len(values) != np.prod(dims, dtype=object):
        raise PerpixelError(f"a blob of shape {dims} holds {len(values)} numbers")
    return values.reshape(dims)


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields a message's field numbers with their values: integers, or bytes of any other kind."""
    position = 0
    while position < len(content):
        key, position = _read_varint(content, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _read_varint(content, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _read_varint(content, position)
        elif kind in (_BITS_32, _BITS_64):
            length = 4 if kind == _BITS_32 else 8
        else:
            raise PerpixelError(f"a field of unknown kind {kind}: not a .caffemodel, or corrupt")
        if position + length > len(content):
            raise PerpixelError(
                f"a field of {length} bytes, and {len(content) - position} are left: cut short"
            )
        yield number, content[position : position + length]
        position += length


def _varints(content: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(content):
        value, position = _read_varint(content, position)
        values.append(value)
    return values


def _read_varint(content: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise PerpixelError("ends within a number: cut short")
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise PerpixelError("a number of more than ten bytes: not a .caffemodel, or corrupt")


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    content.append(value)
    return bytes(content)


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
