"""A model as the pieces of its file: bytes that are at hand, and places in other files to copy from.

Joined, they are what protobuf would serialize, byte by byte, but no weight that lies in a file is ever in memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxslim1x1.graph.model import Model, attribute_tensors
from onnxslim1x1.graph.stored import Place
from onnxslim1x1.graph.wire import GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_RAW_DATA, halves, opened

Piece = bytes | Place

_LEAST_BESIDE = 1024  # bytes of a tensor; smaller ones stay in the message
_PAGE = 4096  # onnxruntime maps what begins at one
_LINE = 64
_LARGE = 1 << 20


def byte_count(pieces: Iterable[Piece]) -> int:
    """Bytes of all pieces."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in pieces)


def whole(model: Model) -> list[Piece]:
    """The file of a model with every weight in it.

    Raises:
        ModelError: external data cannot be read.
    """
    return _message(model, [_whole_tensor(model, tensor) for tensor in model.proto.graph.initializer])


def beside(model: Model, location: str) -> tuple[list[Piece], list[Piece]]:
    """The file of a model whose large weights lie in another one, and that other one.

    Args:
        model: the model.
        location: name of the other file.

    Raises:
        ModelError: external data cannot be read.
    """
    tensors: list[list[Piece]] = []
    data: list[Piece] = []
    end = 0
    for tensor in model.proto.graph.initializer:
        values = _values(model, tensor)
        length = 0 if values is None else byte_count((values,))
        if values is None or length < _LEAST_BESIDE:
            tensors.append(_whole_tensor(model, tensor))
            continue
        gap = -end % (_PAGE if length >= _LARGE else _LINE)
        tensors.append([_reference(tensor, location, end + gap, length)])
        data += (bytes(gap), values)
        end += gap + length
    return _message(model, tensors), data


def _values(model: Model, tensor: onnx.TensorProto) -> Piece | None:
    """Raw values, or None if they are in another field of the message."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return model.place(tensor)
    return tensor.raw_data if tensor.HasField("raw_data") else None


def _whole_tensor(model: Model, tensor: onnx.TensorProto) -> list[Piece]:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return [tensor.SerializeToString()]
    place = model.place(tensor)
    low, high = halves(_without_reference(tensor).SerializeToString(), TENSOR_RAW_DATA)
    return [low + opened(TENSOR_RAW_DATA, place.length), place, high]


def _without_reference(tensor: onnx.TensorProto) -> onnx.TensorProto:
    bare = onnx.TensorProto()
    bare.CopyFrom(tensor)
    for field in ("raw_data", "external_data", "data_location"):
        bare.ClearField(field)
    return bare


def _reference(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> bytes:
    bare = _without_reference(tensor)
    bare.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        bare.external_data.add(key=key, value=value)
    serialized: bytes = bare.SerializeToString()
    return serialized


def _message(model: Model, tensors: Iterable[list[Piece]]) -> list[Piece]:
    """The model with its initializers as they are given."""
    shell, outer = onnx.GraphProto(), onnx.ModelProto()
    shell.CopyFrom(model.proto.graph)
    shell.ClearField("initializer")
    for tensor in _inner(shell):
        tensor.CopyFrom(model.materialized(tensor))  # of Constant nodes and sub-graphs, which are small
    low, high = halves(shell.SerializeToString(), GRAPH_INITIALIZER)
    graph: list[Piece] = [low]
    for pieces in tensors:
        graph += (opened(GRAPH_INITIALIZER, byte_count(pieces)), *pieces)
    graph.append(high)
    outer.CopyFrom(model.proto)
    outer.ClearField("graph")
    before, behind = halves(outer.SerializeToString(), MODEL_GRAPH)
    return [before + opened(MODEL_GRAPH, byte_count(graph)), *graph, behind]


def _inner(shell: onnx.GraphProto) -> list[onnx.TensorProto]:
    found = [tensor for node in shell.node for tensor in attribute_tensors(node.attribute)]
    return [tensor for tensor in found if tensor.data_location == onnx.TensorProto.EXTERNAL]
