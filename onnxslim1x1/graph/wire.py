"""Reading an ONNX file without its weights.

`skeleton` copies the protobuf message of a model field by field, but leaves the raw bytes of large initializers where
they are: each becomes an external tensor whose location is the model file itself, with offset and length. One lazy
mechanism then serves inline and external weights, and parsing 100 MB costs as much as parsing the nodes.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); the encoding is
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Final

import onnx

Buffer = bytes | mmap.mmap

INLINE_LIMIT: Final = 4096  # bytes; small tensors stay inline: shape inference reads them

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
TENSOR_RAW_DATA = 9
_TENSOR_VALUE_PLACE = (TENSOR_RAW_DATA, 13, 14)  # with external_data and data_location, which may be explicit


class WireError(ValueError):
    """The bytes are no protobuf message, or end in the middle of a field."""


def skeleton(data: Buffer, location: str) -> bytes:
    """Serialized model whose large raw initializers refer to `location` instead of holding their bytes.

    Raises:
        WireError: the file is truncated or no protobuf message.
    """
    parts: list[bytes] = []
    for number, kind, start, payload, end in _fields(data, 0, len(data)):
        if number == MODEL_GRAPH and kind == _BYTES:
            graph = _graph(data, payload, end, location)
            parts += (opened(MODEL_GRAPH, len(graph)), graph)
        else:
            parts.append(data[start:end])
    return b"".join(parts)


def _graph(data: Buffer, begin: int, stop: int, location: str) -> bytes:
    parts: list[bytes] = []
    copied = begin  # everything before it is in `parts`; nodes are copied in one slice between initializers
    for number, kind, start, payload, end in _fields(data, begin, stop):
        if number == GRAPH_INITIALIZER and kind == _BYTES and end - payload > INLINE_LIMIT:
            tensor = _tensor(data, payload, end, location)
            parts += (data[copied:start], opened(GRAPH_INITIALIZER, len(tensor)), tensor)
            copied = end
    parts.append(data[copied:stop])
    return b"".join(parts)


def _tensor(data: Buffer, begin: int, stop: int, location: str) -> bytes:
    """Tensor with a reference in the place of its raw data; small or external tensors stay as they are."""
    fields = list(_fields(data, begin, stop))
    raw = [(payload, end) for number, kind, _, payload, end in fields if (number, kind) == (TENSOR_RAW_DATA, _BYTES)]
    if not raw or raw[-1][1] - raw[-1][0] <= INLINE_LIMIT // 2:
        return data[begin:stop]
    offset, end = raw[-1]  # the last one counts, as in every protobuf parser
    kept = [data[start:stop_] for number, _, start, _, stop_ in fields if number not in _TENSOR_VALUE_PLACE]
    return b"".join((*kept, _reference(location, offset, end - offset)))


def _reference(location: str, offset: int, length: int) -> bytes:
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    serialized: bytes = tensor.SerializeToString()
    return serialized


def halves(message: bytes, number: int) -> tuple[bytes, bytes]:
    """The fields of a serialized message below a number, and those above it, which protobuf writes in this order."""
    fields = _fields(message, 0, len(message))
    border = next((start for found, _, start, _, _ in fields if found > number), len(message))
    return message[:border], message[border:]


def opened(number: int, length: int) -> bytes:
    """What stands before a message or bytes of a length in a field."""
    return _tag(number) + _varint(length)


def _fields(data: Buffer, begin: int, stop: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Fields of one message as (number, wire type, start of tag, start of payload, end)."""
    position = begin
    while position < stop:
        start = position
        tag, position = _read_varint(data, position, stop)
        number, kind = tag >> 3, tag & 7
        payload = position
        if kind == _BYTES:
            length, payload = _read_varint(data, position, stop)
            position = payload + length
        elif kind == _VARINT:
            _, position = _read_varint(data, position, stop)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise WireError(f"byte {start} starts no protobuf field")
        if number == 0 or position > stop:
            raise WireError(f"the field at byte {start} needs {position - stop} more bytes than there are")
        yield number, kind, start, payload, position


def _read_varint(data: Buffer, position: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while position < stop and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise WireError(f"byte {position} is in the middle of a number where the file ends")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _BYTES)
