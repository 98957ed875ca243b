"""What protobuf lets pass in a file of unknown origin: names that are no text, types that there are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.scopes import bodies


def require_text(proto: onnx.ModelProto, where: str) -> None:
    """Look at every name that anything here will read.

    Raises:
        ModelError: one is not valid UTF-8.
    """
    if any(isinstance(name, bytes) for name in _names(proto)):
        raise ModelError(f"{where}: a name is not valid UTF-8; export or copy the model again")


def require_types(proto: onnx.ModelProto, where: str) -> None:
    """Look at the type of elements of every weight of the main graph.

    Raises:
        ModelError: the installed onnx does not know one.
    """
    known = set(onnx.helper.get_all_tensor_dtypes())
    for tensor in proto.graph.initializer:
        if tensor.data_type not in known:
            raise ModelError(f"{where}: tensor {tensor.name} has elements of the unknown type {tensor.data_type}; "
                             "export or copy the model again")


def _names(proto: onnx.ModelProto) -> Iterator[str | bytes]:
    yield from (proto.producer_name, proto.producer_version, proto.domain)
    yield from (entry.domain for entry in proto.opset_import)
    for entry in proto.metadata_props:
        yield from (entry.key, entry.value)
    for function in proto.functions:
        yield from (function.name, function.domain, function.overload, *function.input, *function.output)
        yield from (*function.attribute, *(entry.domain for entry in function.opset_import))
        yield from _of_nodes(function.node)
    yield from _of_graph(proto.graph)


def _of_graph(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    yield graph.name
    for tensor in (*graph.initializer, *(t.values for t in graph.sparse_initializer)):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for info in (*graph.input, *graph.output, *graph.value_info):
        yield info.name
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[str | bytes]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name, attribute.t.name)
        for body in bodies(node):
            yield from _of_graph(body)
