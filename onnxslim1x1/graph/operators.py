"""Which operators are convolutions or dense layers, and what their attributes and weights say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxslim1x1.spec import ConvSpec, Ineligible, Ints

ONNX, MICROSOFT = ("", "ai.onnx"), "com.microsoft"

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
QUANTIZED = Ineligible(code="quantized", reason="its weights are integers; rewrite the float model, then quantise it")
_FUSED = Ineligible(code="fused", reason="an optimiser fused its activation into it; rewrite the model from before")

Found = tuple[ConvSpec, Ineligible | None] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What the readers of the operators look up.

    Attributes:
        constants: tensors with known values.
        derived: tensors that are computed from constants alone, with the operator that writes them.
        sparse: shapes of sparse initializers.
        uses: how many nodes read a tensor.
        shapes: what is known of the rest.
    """

    constants: MutableMapping[str, onnx.TensorProto]
    derived: MutableMapping[str, str]
    sparse: MutableMapping[str, Ints]
    uses: Mapping[str, int]
    shapes: Mapping[str, Ints]

    def shape(self, name: str) -> Ints | None:
        """Shape of a tensor, or None if it is unknown."""
        tensor = self.constants.get(name)
        if tensor is not None:
            return tuple(tensor.dims)
        return self.sparse.get(name) or self.shapes.get(name)

    def is_fixed(self, name: str) -> bool:
        """Whether a tensor does not depend on what the graph is fed."""
        return name in self.constants or name in self.derived or name in self.sparse


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """How an operator holds a layer.

    Attributes:
        read: gives the geometry.
        kind: what its layers are called, or empty if that depends on the geometry.
        weight: number of the input that is the kernel.
        bias: number of the input that is the bias, or None if it has none.
        refusal: why its layers are never rewritten, or None.
    """

    read: Callable[[onnx.NodeProto, Operator, Scope], Found]
    weight: int = 1
    bias: int | None = None
    refusal: Ineligible | None = None

    def bias_of(self, node: onnx.NodeProto) -> str | None:
        """Tensor that holds the bias of a node, or None."""
        return self._input(node, self.bias) or None

    def weight_of(self, node: onnx.NodeProto) -> str:
        """Tensor that holds the kernel of a node; empty if there is none."""
        return self._input(node, self.weight)

    @staticmethod
    def _input(node: onnx.NodeProto, number: int | None) -> str:
        return node.input[number] if number is not None and number < len(node.input) else ""


def operator(node: onnx.NodeProto) -> Operator | None:
    """The entry for the operator of a node, or None if it is no layer."""
    return _OPERATORS.get((domain(node), node.op_type))


def domain(node: onnx.NodeProto) -> str:
    """Domain of the operator of a node; empty for that of ONNX, which has two names."""
    return "" if node.domain in ONNX else node.domain


def is_known(node: onnx.NodeProto) -> bool:
    """Whether the installed onnx or this package knows the operator of a node."""
    return operator(node) is not None or onnx.defs.has(node.op_type, domain(node))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _read_conv(node: onnx.NodeProto, op: Operator, scope: Scope) -> Found:
    kernel_shape = scope.shape(op.weight_of(node))
    attributes = _attributes(node)
    if kernel_shape is None or len(kernel_shape) < 3:
        return None
    transposed = node.op_type == "ConvTranspose"
    shape = scope.shapes.get(node.input[0])
    fits = shape is not None and len(shape) == len(kernel_shape)
    try:
        groups = int(attributes.get("group", 1))
        out_channels, in_channels = kernel_shape[0], kernel_shape[1] * groups
        if transposed:
            in_channels, out_channels = kernel_shape[0], kernel_shape[1] * groups
        spec = ConvSpec.make(
            in_channels, out_channels, kernel=kernel_shape[2:], in_size=shape[2:] if shape and fits else None,
            groups=groups, bias=op.bias_of(node) is not None, transposed=transposed,
            batch=max(shape[0], 1) if shape and fits else 1, **_geometry(attributes))
        known = spec.macs is not None
    except (ValueError, TypeError, AttributeError):  # attributes contradict the kernel or their types
        return None  # onnxruntime will say so, we only leave it alone
    return spec, None if known else Ineligible(code="unknown_shape", reason=f"the shape of {node.input[0]} is unknown")


def _geometry(attributes: Mapping[str, Any]) -> dict[str, Any]:
    names = {"strides": "stride", "dilations": "dilation", "pads": "pads"}
    geometry: dict[str, Any] = {names[k]: tuple(v) for k, v in attributes.items() if k in names}
    auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
    return geometry | {"auto_pad": auto_pad or "NOTSET"}


_PLAIN_GEMM = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
_ODD_GEMM = Ineligible(code="dense", reason="a Gemm with transA, alpha, beta or a bias of another shape is not "
                                            "factorised")


def _read_gemm(node: onnx.NodeProto, op: Operator, scope: Scope) -> Found:
    weight = scope.shape(op.weight_of(node))
    attributes = _attributes(node)
    if not scope.is_fixed(op.weight_of(node)) or weight is None or len(weight) != 2 or min(weight) < 1:
        return None
    columns, rows = weight if attributes.get("transB", 0) else weight[::-1]  # (N, K)
    shape = scope.shapes.get(node.input[0])
    batch = (shape[1] if attributes.get("transA", 0) else shape[0]) if shape and len(shape) == 2 else 1
    bias = op.bias_of(node)
    plain = {**_PLAIN_GEMM, **attributes, "transB": 0} == _PLAIN_GEMM and (not bias or scope.shape(bias) == (columns,))
    return (ConvSpec.make(rows, columns, kernel=(), in_size=(), batch=max(batch, 1), bias=bool(bias)),
            None if plain else _ODD_GEMM)


def _read_matmul(node: onnx.NodeProto, op: Operator, scope: Scope) -> Found:
    weight = scope.shape(op.weight_of(node))
    if not scope.is_fixed(op.weight_of(node)) or weight is None or len(weight) != 2:
        return None
    shape = scope.shapes.get(node.input[0])
    tokens = tuple(shape[1:-1]) if shape and len(shape) > 1 else ()
    batch = max(shape[0], 1) if shape and len(shape) > 1 else 1
    if min((*tokens, *weight), default=1) < 1:
        return None
    return ConvSpec.make(weight[0], weight[1], kernel=(1,) * len(tokens), in_size=tokens, batch=batch, bias=False), (
        Ineligible(code="dense", reason="a dense layer over tokens is not factorised") if tokens else None)


# weights in other places and of integers: https://onnx.ai/onnx/operators and onnxruntime's docs/ContribOperators.md
_OPERATORS: Mapping[tuple[str, str], Operator] = {
    ("", "Conv"): Operator(read=_read_conv, bias=2),
    ("", "ConvTranspose"): Operator(read=_read_conv, bias=2),
    ("", "Gemm"): Operator(read=_read_gemm, bias=2),
    ("", "MatMul"): Operator(read=_read_matmul),
    ("", "QLinearConv"): Operator(read=_read_conv, weight=3, bias=8, refusal=QUANTIZED),
    ("", "ConvInteger"): Operator(read=_read_conv, refusal=QUANTIZED),
    ("", "QLinearMatMul"): Operator(read=_read_matmul, weight=3, refusal=QUANTIZED),
    ("", "MatMulInteger"): Operator(read=_read_matmul, refusal=QUANTIZED),
    (MICROSOFT, "QGemm"): Operator(read=_read_gemm, weight=3, bias=6, refusal=QUANTIZED),
    (MICROSOFT, "MatMulIntegerToFloat"): Operator(read=_read_matmul, bias=6, refusal=QUANTIZED),
    (MICROSOFT, "DynamicQuantizeMatMul"): Operator(read=_read_matmul, bias=4, refusal=QUANTIZED),
    (MICROSOFT, "FusedConv"): Operator(read=_read_conv, bias=2, refusal=_FUSED),
    (MICROSOFT, "FusedGemm"): Operator(read=_read_gemm, bias=2, refusal=_FUSED),
}


def refusal(node: onnx.NodeProto, op: Operator, scope: Scope) -> Ineligible | None:
    """Why the graph forbids to rewrite a layer, or None."""
    weight, bias = op.weight_of(node), op.bias_of(node)
    tensor = scope.constants.get(weight)
    if op.refusal is not None or scope.derived.get(weight) == "DequantizeLinear":
        return op.refusal or QUANTIZED
    if weight in scope.sparse:
        return Ineligible(code="sparse_weight", reason=f"its weight {weight} is sparse; factors would not be")
    if tensor is None:
        return Ineligible(code="dynamic_weight", reason=f"its weight {weight} is computed while running")
    if scope.uses[weight] > 1:
        return Ineligible(code="shared_weight", reason=f"its weight {weight} also feeds another node")
    if tensor.data_type not in _FLOATS:
        return Ineligible(code="weight_type", reason=f"weights of type {type_name(tensor)} are not factorised")
    if bias and bias not in scope.constants:
        return Ineligible(code="dynamic_bias", reason=f"its bias {bias} is computed while running")
    return None


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether weights of a numpy type can be factorised."""
    return helper.np_dtype_to_tensor_dtype(dtype) in _FLOATS


def type_name(tensor: onnx.TensorProto) -> str:
    """Element type of a tensor in lower case; its number if the installed onnx does not know it."""
    try:
        return str(onnx.TensorProto.DataType.Name(tensor.data_type).lower())
    except ValueError:
        return str(tensor.data_type)


def is_stored_transposed(node: onnx.NodeProto) -> bool:
    """Whether a dense layer has its weight as (C, O)."""
    straight = any(a.name == "transB" and a.i for a in node.attribute)
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not straight)
