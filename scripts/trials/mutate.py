"""Damaging models: seeded mutations of their bytes and of their fields."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError

HUGE = (0, -1, 1, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 65_536, 4_096)
PATHS = ("../../../etc/passwd", "/etc/passwd", "..\\..\\boot.ini", "", ".", "..", "a\0b", "link", "missing.bin",
         "x" * 5_000, "/dev/zero", "/proc/self/mem", "folder", "data.bin/../../secret")
Proto = onnx.ModelProto


def mutated(original: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Name of a mutation, and what it made of a serialized model; up to three follow one another."""
    names, data = [], original
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice(list(MUTATIONS))
        try:
            data = MUTATIONS[name](data, rng)
        except (DecodeError, EncodeError, ValueError, IndexError, TypeError):  # there is nothing of that kind in it
            name = "flip"
            data = _flip(data, rng)
        names.append(name)
    return "+".join(names), data


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[:rng.randrange(len(data) + 1)]


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        # the first and last bytes hold what matters: in between are mostly weights
        place = rng.randrange(len(changed)) if rng.random() < 0.5 else rng.randrange(min(len(changed), 600))
        changed[place if rng.random() < 0.7 else len(changed) - 1 - place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _swap(data: bytes, rng: random.Random) -> bytes:
    length = rng.choice((1, 4, 16, 64))
    first, second = sorted(rng.randrange(len(data) - 2 * length) for _ in range(2))
    second = max(second, first + length)
    return (data[:first] + data[second:second + length] + data[first + length:second] + data[first:first + length]
            + data[second + length:])


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 3, 20))) + data[place:]


def _edited(change: Callable[[Proto, random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def edit(data: bytes, rng: random.Random) -> bytes:
        proto = Proto.FromString(data)
        change(proto, rng)
        changed: bytes = proto.SerializeToString()
        return changed

    return edit


def _dims(proto: Proto, rng: random.Random) -> None:
    """A dimension of a weight, an input, an output or a sparse tensor becomes absurd."""
    graph = proto.graph
    tensors: list[Any] = [t.dims for t in (*graph.initializer, *graph.sparse_initializer) if t.dims]
    values = [d for v in (*graph.input, *graph.output, *graph.value_info) for d in v.type.tensor_type.shape.dim]
    if tensors and (not values or rng.random() < 0.5):
        dims = rng.choice(tensors)
        dims[rng.randrange(len(dims))] = rng.choice(HUGE)
    else:
        rng.choice(values).dim_value = rng.choice(HUGE)


def _attribute(proto: Proto, rng: random.Random) -> None:
    attribute = rng.choice([a for node in _nodes(proto.graph) for a in node.attribute])
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(HUGE)
    elif rng.random() < 0.6:
        attribute.i = rng.choice(HUGE)
    else:
        attribute.type = rng.randrange(15)


def _cycle(proto: Proto, rng: random.Random) -> None:
    nodes = proto.graph.node
    late = rng.randrange(len(nodes))
    early = rng.randrange(late + 1)
    nodes[early].input[rng.randrange(len(nodes[early].input))] = rng.choice(nodes[late].output)


def _duplicate(proto: Proto, rng: random.Random) -> None:
    graph = proto.graph
    fields = [n.output for n in graph.node if n.output]
    if graph.initializer and rng.random() < 0.5:
        rng.choice(graph.initializer).name = rng.choice([o for f in fields for o in f])
    else:
        field = rng.choice(fields)
        field[rng.randrange(len(field))] = rng.choice([i.name for i in graph.input] + [o for f in fields for o in f])


def _dangle(proto: Proto, rng: random.Random) -> None:
    graph = proto.graph
    kind = rng.randrange(4)
    if kind == 0:
        del graph.node[rng.randrange(len(graph.node))]
    elif kind == 1:
        del graph.initializer[rng.randrange(len(graph.initializer))]
    elif kind == 2:
        node = rng.choice(graph.node)
        node.input[rng.randrange(len(node.input))] = rng.choice(("", "nowhere", "\n", "a\0b"))
    else:
        rng.choice(graph.output).name = "nowhere"


def _external(proto: Proto, rng: random.Random) -> None:
    tensor = rng.choice(proto.graph.initializer)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    if rng.random() < 0.7:
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
    for key, value in (("location", rng.choice(PATHS)), ("offset", str(rng.choice(HUGE))),
                       ("length", rng.choice((str(rng.choice(HUGE)), "many", "")))):
        if rng.random() < 0.8:
            tensor.external_data.add(key=key, value=value)


def _type(proto: Proto, rng: random.Random) -> None:
    graph = proto.graph
    if graph.initializer and rng.random() < 0.5:
        rng.choice(graph.initializer).data_type = rng.randrange(30)
    else:
        rng.choice((*graph.input, *graph.output)).type.tensor_type.elem_type = rng.randrange(30)


def _operator(proto: Proto, rng: random.Random) -> None:
    nodes = list(_nodes(proto.graph))
    rng.choice(nodes).op_type = rng.choice(("Conv", "Gemm", "MatMul", "Loop", "Scan", "If", "Nothing", "Constant", "",
                                            "ConvTranspose", "Reshape", "Expand", "Tile", rng.choice(nodes).op_type))


def _arity(proto: Proto, rng: random.Random) -> None:
    node = rng.choice(list(_nodes(proto.graph)))
    field = node.input if rng.random() < 0.6 else node.output
    if field and rng.random() < 0.6:
        del field[rng.randrange(len(field))]
    else:
        field.append(rng.choice(("", "more", *field)))


def _clear(proto: Proto, rng: random.Random) -> None:
    """A field is missing."""
    graph = proto.graph
    messages = [proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output,
                *(a for n in graph.node for a in n.attribute), *(v.type for v in graph.input)]
    message = rng.choice(messages)
    message.ClearField(rng.choice(message.ListFields())[0].name)


def _version(proto: Proto, rng: random.Random) -> None:
    if rng.random() < 0.5:
        proto.ir_version = rng.choice((0, 1, 3, 4, 10, 99, 2**40))
    else:
        rng.choice(proto.opset_import).version = rng.choice((-1, 0, 1, 5, 7, 9, 13, 21, 26, 99))


def _values(proto: Proto, rng: random.Random) -> None:
    """Weights that are not finite, or of a size that contradicts the shape."""
    tensor = rng.choice([t for t in proto.graph.initializer if t.raw_data])
    kind = rng.randrange(3)
    tensor.raw_data = (b"\xff" * len(tensor.raw_data), tensor.raw_data[:-1], tensor.raw_data * 2)[kind]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncate": _truncate, "flip": _flip, "swap": _swap, "insert": _insert, "dims": _edited(_dims),
    "attribute": _edited(_attribute), "cycle": _edited(_cycle), "duplicate": _edited(_duplicate),
    "dangle": _edited(_dangle), "external": _edited(_external), "type": _edited(_type),
    "operator": _edited(_operator), "arity": _edited(_arity), "clear": _edited(_clear), "version": _edited(_version),
    "values": _edited(_values),
}
