"""Replacing one layer by a chain of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.spec import EXPLICIT_PADS, ConvFactor, ConvSpec


def replace_layer(edit: GraphEdit, layer: Layer, factors: Sequence[ConvFactor]) -> None:
    """Put a chain in the place of a Conv; in the place of a Gemm or a MatMul a chain of the same kind.

    Needs: the layer is a node of the graph; the factors lead from its input to its output channels.
    Guarantees: the last factor writes the tensor that the layer wrote (same name, same readers) and has an explicit
    bias, so onnxruntime fuses activation and addition as before; names are unique; nothing else changes. A MatMul has
    no bias: an Add follows the last one where it is needed.

    Raises:
        ValueError: the factors do not fit the layer.
    """
    _require_fit(layer.spec, factors)
    node = edit.node_of(layer.output)
    dtype = _weight_dtype(edit, node)
    target, current = node.outputs[0], node.inputs[0]
    node.outputs.clear()
    node.inputs.clear()
    takes_bias = layer.op_type != "MatMul"
    adds_bias = not takes_bias and bool(np.any(factors[-1].bias))
    chain = []
    for number, factor in enumerate(factors):
        last = number == len(factors) - 1
        name = layer.name if last else edit.unique(f"{layer.name}/{factor.role}")
        written = target if last and not adds_bias else gs.Variable(edit.unique(f"{layer.output}/{factor.role}"),
                                                                    dtype=dtype)
        weight = factor.weight.astype(dtype)
        inputs = [current, edit.constant(f"{layer.name}/{factor.role}.weight", weight if takes_bias else weight.T)]
        if factor.bias is not None and takes_bias:
            inputs.append(edit.constant(f"{layer.name}/{factor.role}.bias", factor.bias.astype(dtype)))
        chain.append(gs.Node(layer.op_type, name=name, attrs=_attributes(layer, factor), inputs=inputs,
                             outputs=[written]))
        current = written
    if adds_bias:
        bias = edit.constant(f"{layer.name}/{factors[-1].role}.bias", np.asarray(factors[-1].bias).astype(dtype))
        chain.append(gs.Node("Add", name=edit.unique(f"{layer.name}/bias"), inputs=[current, bias], outputs=[target]))
    edit.splice(node, chain)


def _attributes(layer: Layer, factor: ConvFactor) -> dict[str, Any]:
    if layer.op_type == "Gemm":
        return {"transB": 1}
    return {} if layer.op_type == "MatMul" else attributes(factor.spec)


def attributes(spec: ConvSpec) -> dict[str, Any]:
    """Attributes of the ONNX operator Conv for a geometry."""
    named: dict[str, Any] = {"kernel_shape": list(spec.kernel), "strides": list(spec.stride),
                             "dilations": list(spec.dilation), "group": spec.groups}
    if spec.auto_pad == EXPLICIT_PADS:
        return named | {"pads": list(spec.pads)}
    return named | {"auto_pad": spec.auto_pad}


def _require_fit(spec: ConvSpec, factors: Sequence[ConvFactor]) -> None:
    channels = spec.in_channels
    for factor in factors:
        if factor.spec.in_channels != channels or factor.weight.shape != factor.spec.weight_shape:
            raise ValueError(f"factor {factor.role} {factor.spec} does not continue a chain with {channels} channels")
        channels = factor.spec.out_channels
    if channels != spec.out_channels or factors[-1].bias is None:
        raise ValueError(f"the chain ends with {channels} channels instead of {spec.out_channels}, or without a bias")


def _weight_dtype(edit: GraphEdit, node: Any) -> np.dtype[Any]:
    values = edit.values(node.inputs[1])
    if values is None:
        raise ValueError(f"{node.name}: the weight is not constant")
    return values.dtype
