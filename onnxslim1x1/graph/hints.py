"""What the weights say about the shape of an input that the file leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

_SAME_SHAPE = {"Cast", "Identity", "Relu", "Clip", "Sub", "Add", "Mul", "Div", "Pad", "QuantizeLinear",
               "DequantizeLinear", "Dropout"}


@dataclass(frozen=True, kw_only=True, slots=True)
class InputHint:
    """Number of axes of an input, and the size of the axis that the first layer mixes: its channels."""

    rank: int
    axis: int
    size: int


def input_hints(graph: onnx.GraphProto) -> Mapping[str, InputHint]:
    """By graph input, what the first layer behind it wants, seen through operators that keep the shape."""
    weights = {t.name: t for t in graph.initializer}
    origin = {i.name: i.name for i in graph.input if i.name not in weights}
    found: dict[str, InputHint] = {}
    for node in graph.node:
        source = next((origin[name] for name in node.input[:1] if name in origin), None)
        if source is None or source in found:
            continue
        hint = _hint(node, weights.get(node.input[1]) if len(node.input) > 1 else None)
        if hint is not None:
            found[source] = hint
        elif node.op_type in _SAME_SHAPE:
            origin |= dict.fromkeys(node.output[:1], source)
    return found


def _hint(node: onnx.NodeProto, weight: onnx.TensorProto | None) -> InputHint | None:
    """What a layer wants of its input; None if it is none, or its weight does not say."""
    attributes = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    if weight is None:
        return None
    dims = tuple(weight.dims)
    if node.op_type == "Conv" and len(dims) > 2:
        return InputHint(rank=len(dims), axis=1, size=dims[1] * attributes.get("group", 1))
    if node.op_type == "ConvTranspose" and len(dims) > 2:
        return InputHint(rank=len(dims), axis=1, size=dims[0])
    if node.op_type == "Gemm" and len(dims) == 2 and not attributes.get("transA", 0):
        return InputHint(rank=2, axis=1, size=dims[1 if attributes.get("transB", 0) else 0])
    return None
