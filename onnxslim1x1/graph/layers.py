"""Finding the convolutions and dense layers of a graph."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import onnx

from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.operators import Operator, Scope, is_stored_transposed, operator, refusal
from onnxslim1x1.graph.scopes import bodies, reads
from onnxslim1x1.graph.shapes import Shape
from onnxslim1x1.spec import ConvSpec, Ineligible

_DENSE = ("Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One convolution or dense layer.

    Attributes:
        name: unique name to show and to select by: the node's, or its output tensor's where the node has none. In a
            body of If, Loop or Scan behind the name of that node.
        index: position of the node in the graph, of the outer node for a layer in a body.
        op_type: ONNX operator.
        spec: geometry.
        input: tensor that the layer reads.
        output: tensor that it writes; identifies the layer in the graph.
        weight: tensor that holds the kernel.
        bias: tensor that holds the bias, or None.
        in_shape: shape of the input, or None if unknown.
        out_shape: shape of the output, or None if unknown.
        ineligible: why the graph forbids to rewrite it, or None; families may decline it on top.
        stored_transposed: whether the weight of a dense layer is stored as (C, O).
        in_body: whether it lies in a body of If, Loop or Scan; it counts as if that ran once.
    """

    name: str
    index: int
    op_type: str
    spec: ConvSpec
    input: str
    output: str
    weight: str
    bias: str | None
    in_shape: Shape | None
    out_shape: Shape | None
    ineligible: Ineligible | None
    stored_transposed: bool = False
    in_body: bool = False

    @property
    def kind(self) -> str:
        """dense, transposed, depthwise, grouped, pointwise or conv."""
        spec = self.spec
        if any(name in self.op_type for name in _DENSE):
            return "dense"
        if spec.transposed:
            return "transposed"
        if spec.is_depthwise:
            return "depthwise"
        if spec.groups > 1:
            return "grouped"
        return "pointwise" if spec.is_pointwise else "conv"


def constants(model: Model) -> dict[str, onnx.TensorProto]:
    """Tensors of the main graph with known values: initializers (graph inputs or not) and Constant nodes."""
    return _constants(model.proto.graph)


def find_layers(model: Model, shapes: Mapping[str, Shape]) -> tuple[Layer, ...]:
    """All convolutions and dense layers with constant weights, in graph order, those in bodies included."""
    graph = model.proto.graph
    nothing = Scope(constants={}, derived={}, sparse={}, uses={}, shapes=shapes)
    layers: list[Layer] = []
    taken: set[str] = set()
    for layer in _layers(graph, _scope(graph, nothing, uses=_uses(graph))):
        name = layer.name
        while name in taken:  # a node may be called like the output of another one
            name = f"{name}#{layer.index}"
        taken.add(name)
        layers.append(layer if name == layer.name else replace(layer, name=name))
    return tuple(layers)


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].HasField("t"):
            found[node.output[0]] = node.attribute[0].t
    return found


def _scope(graph: onnx.GraphProto, outer: Scope, *, uses: Mapping[str, int]) -> Scope:
    """What is known in a graph, with what it sees of the graph around it."""
    known = ChainMap(_constants(graph), outer.constants)
    sparse = ChainMap({t.values.name: tuple(t.dims) for t in graph.sparse_initializer}, outer.sparse)
    own: dict[str, str] = {}
    derived = ChainMap(own, outer.derived)
    scope = Scope(constants=known, derived=derived, sparse=sparse, uses=uses, shapes=outer.shapes)
    for node in graph.node:
        if node.op_type == "Constant" or not node.input or not all(map(scope.is_fixed, filter(None, node.input))):
            continue  # most nodes: what their bodies read need not be looked for
        if all(map(scope.is_fixed, filter(None, reads(node)))):
            own |= dict.fromkeys(filter(None, node.output), node.op_type)
    return scope


def _layers(graph: onnx.GraphProto, scope: Scope) -> Iterator[Layer]:
    names = Counter(node.name for node in graph.node)
    for index, node in enumerate(graph.node):
        name = node.name if node.name and names[node.name] == 1 else next(filter(None, node.output), "")
        op = operator(node)
        if op is not None and op.weight_of(node) and name:
            found = op.read(node, op, scope)
            if found is not None:
                yield _layer(node, op, scope, found=found, name=name, index=index)
        for layer in _in_bodies(node, scope):
            yield replace(layer, name=f"{name}/{layer.name}", index=index)


def _layer(node: onnx.NodeProto, op: Operator, scope: Scope, *, found: tuple[ConvSpec, Ineligible | None], name: str,
           index: int) -> Layer:
    spec, why = found
    output = node.output[0]
    return Layer(
        name=name, index=index, op_type=node.op_type, spec=spec, input=node.input[0], output=output,
        weight=op.weight_of(node), bias=op.bias_of(node), in_shape=scope.shapes.get(node.input[0]),
        out_shape=scope.shapes.get(output), ineligible=why or refusal(node, op, scope),
        stored_transposed=is_stored_transposed(node))


def _in_bodies(node: onnx.NodeProto, scope: Scope) -> Iterator[Layer]:
    for body in bodies(node):
        why = Ineligible(code="in_body", reason=f"it lies in a body of {node.op_type}; only layers outside are "
                                                "rewritten")
        for layer in _layers(body, _scope(body, scope, uses=_uses(body))):
            yield replace(layer, ineligible=layer.ineligible or why, in_body=True)


def _uses(graph: onnx.GraphProto) -> Mapping[str, int]:
    """How many inputs of nodes read a tensor; the bodies in a node count as one."""
    return Counter(name for node in graph.node for name in (*node.input, *(reads(node) - set(node.input))))
