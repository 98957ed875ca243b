"""A copy of a model in which every name says which source node it belongs to.

onnxruntime names what it fuses, casts and reorders after the nodes and tensors that it found. In the copy those are
called ``@i`` (node i of the main graph), ``@i.j`` (its output j) and ``@i/...`` (what its subgraphs or its function
define), so a derived name, like ``InsertedPrecisionFreeCast_@12.0_nchwc`` or ``@12/MatMulAddFusion``, tells its source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableSequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Names = dict[str, str]
Functions = Mapping[tuple[str, str, str], "onnx.FunctionProto"]

_OVERRIDABLE_SINCE = 4  # IR version: from here on a weight that is also a graph input is no constant


@dataclass(frozen=True, kw_only=True, slots=True)
class Canonical:
    """The copy and what is needed to read the names that onnxruntime derives from it.

    Attributes:
        model: the copy; inputs, initializers and the order of the nodes are those of the source.
        mark: the text that introduces a source index; it occurs in no name of the source.
        ops: operator of every source node, then those in its subgraphs or its function.
        producers: for every source node the source nodes that its inputs come from (those that its subgraphs read
            from the main graph included), in the order of the inputs. Nodes that depend on no graph input are left
            out: onnxruntime folds them before it runs anything.
    """

    model: onnx.ModelProto
    mark: str
    ops: tuple[tuple[str, ...], ...]
    producers: tuple[tuple[int, ...], ...]

    def sources(self, text: str) -> tuple[int, ...]:
        """Source nodes that a derived name mentions, in the order of mention."""
        found = (int(m) for m in re.findall(re.escape(self.mark) + r"(\d+)", text))
        return tuple(i for i in found if i < len(self.ops))


def canonical_copy(model: onnx.ModelProto) -> Canonical:
    """Copy `model` and rename nodes and tensors; node i of the copy is node i of ``model.graph``.

    The copy computes the same and takes the same inputs; its outputs keep their order, not their names.
    Documentation, metadata and training information are left out.
    """
    mark = _free_mark(model)
    copy = _bare_copy(model)
    names: Names = {}
    for i, node in enumerate(copy.graph.node):
        node.name = f"{mark}{i}"
        _rename_inputs(node, names, f"{mark}{i}/")
        outputs = {name: f"{mark}{i}.{j}" for j, name in enumerate(node.output) if name}
        _replace(node.output, outputs)
        names |= outputs
    _rename_values((*copy.graph.output, *copy.graph.value_info), names)
    _own_functions(copy)
    functions = _functions(model)
    ops = tuple(tuple(_operators(node, functions)) for node in model.graph.node)
    return Canonical(model=copy, mark=mark, ops=ops, producers=_producers(model))


def outer_names(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads: its inputs, then what its subgraphs take from the scopes around it."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        inside = _defined(graph)
        names += [name for inner in graph.node for name in outer_names(inner) if name not in inside]
        names += [value.name for value in graph.output if value.name not in inside]
    return names


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs among the attributes of a node (the bodies of If, Loop and Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _bare_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy what onnxruntime reads, tensor by tensor: as a whole, a message cannot be copied beyond 2 GiB."""
    import onnx

    copy = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info", "initializer", "sparse_initializer"):
        getattr(copy.graph, field).extend(getattr(model.graph, field))
    return copy


def _free_mark(model: onnx.ModelProto) -> str:
    """The first of ``@``, ``@_``, ``@__``, ... that is part of no name of the model."""
    used = set(_names_of_graph(model.graph))
    for function in model.functions:
        used |= {function.name, *_names_of_nodes(function.node)}
    mark = "@"
    while any(mark in name for name in used):
        mark += "_"
    return mark


def _names_of_graph(graph: onnx.GraphProto) -> Iterator[str]:
    yield from _defined(graph)
    yield from (value.name for value in graph.output)
    yield from _names_of_nodes(graph.node)


def _names_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield node.name
        yield from (*node.input, *node.output)
        for graph in subgraphs(node):
            yield from _names_of_graph(graph)


def _defined(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph gives to values: inputs, initializers and outputs of nodes."""
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    names |= {tensor.values.name for tensor in graph.sparse_initializer}
    return names | {name for node in graph.node for name in node.output}


def _rename_inputs(node: onnx.NodeProto, names: Names, prefix: str) -> None:
    """Rename what a node reads; its subgraphs read by the same names and define theirs under `prefix`."""
    _replace(node.input, names)
    for k, graph in enumerate(subgraphs(node)):
        _rename_subgraph(graph, names, f"{prefix}{k}.")


def _rename_subgraph(graph: onnx.GraphProto, names: Names, prefix: str) -> None:
    """Rename a body in place; what it defines hides an outer value of the same name."""
    scope = names | {name: prefix + name for name in _defined(graph) if name}
    _rename_values((*graph.input, *graph.output, *graph.value_info), scope)
    _rename_values((*graph.initializer, *(tensor.values for tensor in graph.sparse_initializer)), scope)
    for k, node in enumerate(graph.node):
        node.name = f"{prefix}{k}"
        _rename_inputs(node, scope, f"{prefix}{k}/")
        _replace(node.output, scope)


def _rename_values(values: Iterable[onnx.ValueInfoProto | onnx.TensorProto], names: Names) -> None:
    for value in values:
        value.name = names.get(value.name, value.name)


def _replace(fields: MutableSequence[str], names: Names) -> None:
    """Rename the entries of a repeated string field in place."""
    for k, name in enumerate(fields):
        fields[k] = names.get(name, name)


def _functions(model: onnx.ModelProto) -> Functions:
    return {(function.domain, function.name, function.overload): function for function in model.functions}


def _key(node: onnx.NodeProto) -> tuple[str, str, str]:
    """What a node calls, if there is a function of that name."""
    return (node.domain, node.op_type, node.overload)


def _own_functions(model: onnx.ModelProto) -> None:
    """Give every node of the main graph functions of its own: onnxruntime names what it inlines after the function."""
    functions = _functions(model)
    pending = [(node, node.name) for node in model.graph.node]
    made: set[tuple[str, str, str]] = set()
    while pending:
        node, token = pending.pop()
        pending += [(inner, token) for graph in subgraphs(node) for inner in graph.node]
        source = functions.get(_key(node))
        if source is None:
            continue
        node.op_type += token
        own = _key(node)
        if own in made:
            continue
        made.add(own)
        clone = model.functions.add()
        clone.CopyFrom(source)
        clone.name = node.op_type
        for k, inner in enumerate(clone.node):
            inner.name = f"{token}/{k}"
        pending += [(inner, token) for inner in clone.node]


def _operators(node: onnx.NodeProto, functions: Functions) -> Iterator[str]:
    yield node.op_type
    function = functions.get(_key(node))
    called = [] if function is None else function.node
    for inner in (*called, *(n for graph in subgraphs(node) for n in graph.node)):
        yield from _operators(inner, functions)


def _producers(model: onnx.ModelProto) -> tuple[tuple[int, ...], ...]:
    """Producing nodes of every node; see `Canonical.producers`."""
    fixed = {t.name for t in model.graph.initializer} if model.ir_version < _OVERRIDABLE_SINCE else set()
    origin = {value.name: -1 for value in model.graph.input if value.name not in fixed}
    result = []
    for i, node in enumerate(model.graph.node):
        sources = [origin[name] for name in outer_names(node) if name in origin]
        if sources:
            origin |= {name: i for name in node.output if name}
        result.append(tuple(dict.fromkeys(j for j in sources if j >= 0)))
    return tuple(result)
