"""Parts of a model: the nodes between tensors that are at hand and tensors that are wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from onnxslim1x1.graph.layers import Layer, constants
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.scopes import reads


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segment:
    """Part of a model, as a model of its own.

    Attributes:
        model: reads `inputs` and writes `outputs`; None if there is nothing to run. Where the whole model does not
            declare the type of an input, float32 is assumed.
        inputs: tensors that it reads.
        outputs: tensors that it writes and that are wanted, outputs of the model, or needed by its rest.
        kept: of the tensors that were at hand, those that are wanted, outputs of the model, or needed by its rest.
        written: every tensor that its nodes write.
    """

    model: onnx.ModelProto | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kept: frozenset[str]
    written: frozenset[str]


def segment(model: Model, *, at_hand: Collection[str], done: Collection[str], wanted: Sequence[str]) -> Segment:
    """The nodes that compute `wanted` from what is at hand.

    Args:
        model: the whole model.
        at_hand: tensors whose values are available.
        done: every tensor that was computed before, at hand or not; its node does not run again.
        wanted: tensors to compute, or to keep.

    Raises:
        ModelError: a weight cannot be read.
        ValueError: a wanted tensor cannot be computed from what is at hand.
    """
    fixed = constants(model).keys() | _sparse(model).keys()
    nodes = _between(model.proto.graph, set(at_hand), fixed, set(done), wanted)
    written = {name for node in nodes for name in node.output if name}
    computed = written | set(done) | {""}
    after = [node for node in model.proto.graph.node if not computed.issuperset(node.output)]
    asked = {o.name for o in model.proto.graph.output}  # read from outside
    needed = {name for node in after for name in reads(node)} | asked | set(wanted)
    read = {name for node in nodes for name in reads(node)}
    inputs = tuple(sorted(name for name in at_hand if name in read))
    outputs = tuple(sorted(written & needed))
    proto = _model(model, nodes, read, inputs, outputs)
    return Segment(model=proto if nodes else None, inputs=inputs, outputs=outputs,
                   kept=frozenset(set(at_hand) & needed), written=frozenset(written))


def _between(graph: onnx.GraphProto, at_hand: set[str], fixed: set[str], done: set[str],
             wanted: Sequence[str]) -> list[onnx.NodeProto]:
    outer = {i.name for i in graph.input} | {name for node in graph.node for name in node.output}
    ready = at_hand | fixed | {""}  # an input that is left out has no name
    needed, nodes = set(wanted) - at_hand, []
    for node in reversed(graph.node):
        if needed.intersection(node.output) and not (done | fixed).intersection(node.output):
            nodes.append(node)
            needed |= (reads(node) & outer) - ready  # not what only its sub-graphs know
            needed -= set(node.output)
    if needed:
        raise ValueError(f"tensors {sorted(needed)} cannot be computed from {sorted(at_hand)}")
    return nodes[::-1]


def _model(model: Model, nodes: Sequence[onnx.NodeProto], read: Collection[str], inputs: Sequence[str],
           outputs: Sequence[str]) -> onnx.ModelProto:
    whole = model.proto.graph
    graph = onnx.GraphProto(name="segment", node=nodes)
    types = {v.name: v.type.tensor_type.elem_type for v in (*whole.value_info, *whole.input, *whole.output)}
    for name, tensor in constants(model).items():
        if name in read:
            weight = graph.initializer.add()
            weight.CopyFrom(tensor)
            weight.name = name  # that of a Constant node has any name
    graph.sparse_initializer.extend(tensor for name, tensor in _sparse(model).items() if name in read)
    for name in inputs:
        graph.input.append(helper.make_tensor_value_info(name, types.get(name) or onnx.TensorProto.FLOAT, None))
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    version = max(model.proto.ir_version, 4)  # before, every weight had to be an input
    proto = onnx.ModelProto(ir_version=version, graph=graph)
    proto.opset_import.extend(model.proto.opset_import)
    proto.functions.extend(model.proto.functions)
    return Model(proto=proto, path=None, home=model.home).inlined()  # weights of sub-graphs may be external too


def _sparse(model: Model) -> dict[str, onnx.SparseTensorProto]:
    return {t.values.name: t for t in model.proto.graph.sparse_initializer}


def shortcut_of(model: Model, layer: Layer, readers: dict[str, list[onnx.NodeProto]]) -> str | None:
    """The tensor that is added to the output of a layer, if nothing else reads that output and it is no constant.

    Args:
        model: the model.
        layer: one of its layers.
        readers: by tensor, the nodes that read it (see `readers_of`).
    """
    following = readers.get(layer.output, [])
    if len(following) != 1 or layer.output in {o.name for o in model.proto.graph.output}:
        return None
    addition, = following
    if addition.op_type not in ("Add", "Sum") or len(addition.input) != 2:
        return None
    other = next((name for name in addition.input if name != layer.output), None)
    return None if other in constants(model) or other in _sparse(model) else other


def readers_of(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """By tensor, the nodes that read it."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in reads(node):
            found.setdefault(name, []).append(node)
    return found
