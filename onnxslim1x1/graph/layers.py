"""Finding the convolutions and dense layers of a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import Shape
from onnxslim1x1.spec import ConvSpec, Ineligible, Ints

_FLOATS = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.DOUBLE: "float64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One convolution or dense layer.

    Attributes:
        name: unique name to show and to select by: the node's, or its output tensor's where the node has none.
        index: position of the node in the graph.
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

    @property
    def kind(self) -> str:
        """dense, transposed, depthwise, grouped, pointwise or conv."""
        spec = self.spec
        if self.op_type in ("Gemm", "MatMul"):
            return "dense"
        if spec.transposed:
            return "transposed"
        if spec.is_depthwise:
            return "depthwise"
        if spec.groups > 1:
            return "grouped"
        return "pointwise" if spec.is_pointwise else "conv"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Context:
    """What the readers of the operators look up."""

    constants: Mapping[str, onnx.TensorProto]
    uses: Mapping[str, int]
    shapes: Mapping[str, Shape]


def constants(model: Model) -> dict[str, onnx.TensorProto]:
    """Tensors of the main graph with known values: initializers (graph inputs or not) and Constant nodes."""
    found = {t.name: t for t in model.proto.graph.initializer}
    for node in model.proto.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            found[node.output[0]] = node.attribute[0].t
    return found


def find_layers(model: Model, shapes: Mapping[str, Shape]) -> tuple[Layer, ...]:
    """All convolutions and dense layers with constant weights of the main graph, in graph order."""
    graph = model.proto.graph
    uses = Counter(name for node in graph.node for name in node.input)
    context = _Context(constants=constants(model), uses=uses, shapes=shapes)
    names = Counter(node.name for node in graph.node)
    layers: list[Layer] = []
    taken = set[str]()
    for index, node in enumerate(graph.node):
        reader = _READERS.get(node.op_type) if len(node.input) > 1 else None
        found = reader(node, context) if reader and node.domain in ("", "ai.onnx") else None
        if found is None:
            continue
        spec, refusal = found
        name = node.name if node.name and names[node.name] == 1 else node.output[0]
        if name in taken:  # a node may be called like the output of another one
            name = f"{name}#{index}"
        taken.add(name)
        layers.append(Layer(
            name=name, index=index, op_type=node.op_type, spec=spec, input=node.input[0], output=node.output[0],
            weight=node.input[1], bias=node.input[2] if len(node.input) > 2 and node.input[2] else None,
            in_shape=shapes.get(node.input[0]), out_shape=shapes.get(node.output[0]),
            ineligible=refusal or _refusal(node, context), stored_transposed=_is_stored_transposed(node)))
    return tuple(layers)


Found = tuple[ConvSpec, Ineligible | None] | None


def _read_conv(node: onnx.NodeProto, context: _Context) -> Found:
    kernel_shape = _shape_of(node.input[1], context)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if kernel_shape is None or len(kernel_shape) < 3:
        return None
    transposed = node.op_type == "ConvTranspose"
    groups = int(attributes.get("group", 1))
    out_channels, in_channels = kernel_shape[0], kernel_shape[1] * groups
    if transposed:
        in_channels, out_channels = kernel_shape[0], kernel_shape[1] * groups
    shape = context.shapes.get(node.input[0])
    fits = shape is not None and len(shape) == len(kernel_shape)
    try:
        spec = ConvSpec.make(
            in_channels, out_channels, kernel=kernel_shape[2:], in_size=shape[2:] if shape and fits else None,
            groups=groups, bias=len(node.input) > 2 and bool(node.input[2]), transposed=transposed,
            batch=max(shape[0], 1) if shape and fits else 1, **_geometry(attributes))
    except ValueError:  # attributes contradict the kernel: onnxruntime will say so, we only leave it alone
        return None
    refusal = None
    if spec.macs is None:
        refusal = Ineligible(code="unknown_shape", reason=f"the shape of {node.input[0]} is unknown")
    return spec, refusal


def _geometry(attributes: Mapping[str, Any]) -> dict[str, Any]:
    names = {"strides": "stride", "dilations": "dilation", "pads": "pads"}
    geometry: dict[str, Any] = {names[k]: tuple(v) for k, v in attributes.items() if k in names}
    auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
    return geometry | {"auto_pad": auto_pad or "NOTSET"}


_PLAIN_GEMM = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}


def _read_gemm(node: onnx.NodeProto, context: _Context) -> Found:
    weight = _shape_of(node.input[1], context)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.input[1] not in context.constants or weight is None or len(weight) != 2 or not min(weight):
        return None
    columns, rows = weight if attributes.get("transB", 0) else weight[::-1]  # (N, K)
    shape = context.shapes.get(node.input[0])
    batch = (shape[1] if attributes.get("transA", 0) else shape[0]) if shape and len(shape) == 2 else 1
    bias = node.input[2] if len(node.input) > 2 else ""
    plain = {**_PLAIN_GEMM, **attributes, "transB": 0} == _PLAIN_GEMM and (
        not bias or _shape_of(bias, context) == (columns,))
    return ConvSpec.make(rows, columns, kernel=(), in_size=(), batch=max(batch, 1), bias=bool(bias)), (
        None if plain else Ineligible(code="dense", reason="a Gemm with transA, alpha, beta or a bias of another shape "
                                                           "is not factorised"))


def _read_matmul(node: onnx.NodeProto, context: _Context) -> Found:
    weight = _shape_of(node.input[1], context)
    if node.input[1] not in context.constants or weight is None or len(weight) != 2:
        return None
    shape = context.shapes.get(node.input[0])
    tokens = tuple(shape[1:-1]) if shape and len(shape) > 1 else ()
    batch = max(shape[0], 1) if shape and len(shape) > 1 else 1
    if min((*tokens, *weight), default=1) < 1:
        return None
    return ConvSpec.make(weight[0], weight[1], kernel=(1,) * len(tokens), in_size=tokens, batch=batch, bias=False), (
        Ineligible(code="dense", reason="a dense layer over tokens is not factorised") if tokens else None)


def _is_stored_transposed(node: onnx.NodeProto) -> bool:
    """Whether a dense layer has its weight as (C, O)."""
    straight = any(a.name == "transB" and a.i for a in node.attribute)
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not straight)


_READERS: Mapping[str, Callable[[onnx.NodeProto, _Context], Found]] = {
    "Conv": _read_conv, "ConvTranspose": _read_conv, "Gemm": _read_gemm, "MatMul": _read_matmul,
}


def _shape_of(name: str, context: _Context) -> Ints | None:
    tensor = context.constants.get(name)
    return tuple(tensor.dims) if tensor is not None else context.shapes.get(name)


def _refusal(node: onnx.NodeProto, context: _Context) -> Ineligible | None:
    weight = node.input[1]
    tensor = context.constants.get(weight)
    if tensor is None:
        return Ineligible(code="dynamic_weight", reason=f"its weight {weight} is computed while running")
    if context.uses[weight] > 1:
        return Ineligible(code="shared_weight", reason=f"its weight {weight} also feeds another node")
    if tensor.data_type not in _FLOATS:
        name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        return Ineligible(code="weight_type", reason=f"weights of type {name} are not factorised")
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and bias not in context.constants:
        return Ineligible(code="dynamic_bias", reason=f"its bias {bias} is computed while running")
    return None
