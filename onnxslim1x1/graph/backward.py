"""The backward pass of a network as an ONNX graph, so that onnxruntime computes gradients without a training framework.

`backward` walks from the outputs to the outputs of chosen layers and emits, for every operator on the way, the product
of its Jacobian with the incoming gradient (reverse-mode differentiation, Griewank and Walther, 2008). The graph
reads the activations that it needs as inputs; a forward run of the original model provides them, so both
graphs may use different operator sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxslim1x1.graph.layers import constants
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import Shape

_OPSET = 17
_IR_VERSION = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Backward:
    """A backward pass.

    Attributes:
        model: reads `activations` and one gradient per output in `seeds`; writes `gradients`.
        activations: tensors of the original model that it reads, under their own names.
        seeds: output of the original model -> input for the gradient of the loss with respect to it.
        gradients: tensor of the original model -> output with the gradient with respect to it.
        unsupported: operator types without a rule that gradients did not get through.
    """

    model: onnx.ModelProto
    activations: tuple[str, ...]
    seeds: Mapping[str, str]
    gradients: Mapping[str, str]
    unsupported: tuple[str, ...]


@dataclass(slots=True)
class _Tape:
    """The graph while it is written."""

    model: Model
    shapes: Mapping[str, Shape]
    known: Mapping[str, onnx.TensorProto]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    activations: dict[str, None] = field(default_factory=dict)
    count: int = 0

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; returns its output."""
        self.count += 1
        name = f"grad.{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}.{self.count}", **attributes))
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Append an initializer; returns its name."""
        self.count += 1
        name = f"const.{self.count}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def activation(self, name: str) -> str:
        """Declare that an activation of the forward run is read."""
        self.activations[name] = None
        return name

    def value(self, name: str) -> NDArray[Any] | None:
        """Values of a constant tensor, or None."""
        tensor = self.known.get(name)
        return None if tensor is None else self.model.array(tensor)

    def shape(self, name: str) -> Shape:
        """Shape of a tensor.

        Raises:
            _NoRuleError: it is unknown.
        """
        if name not in self.shapes:
            raise _NoRuleError
        return tuple(self.shapes[name])

    def reshaped(self, gradient: str, name: str) -> str:
        """Gradient in the shape of a tensor of the original model, the batch left open."""
        return self.emit("Reshape", gradient, self.constant([-1, *self.shape(name)[1:]], np.int64))


class _NoRuleError(Exception):
    """A node cannot be differentiated."""


Rule = Callable[[_Tape, onnx.NodeProto, str, Mapping[str, Any]], Mapping[str, str]]


def backward(model: Model, shapes: Mapping[str, Shape], *, outputs: Sequence[str],
             targets: Iterable[str]) -> Backward:
    """Graph of the gradients of a loss with respect to inner tensors.

    Args:
        model: the forward model.
        shapes: shapes of its tensors for one image.
        outputs: outputs that the loss depends on.
        targets: tensors to differentiate with respect to; those that no gradient reaches are left out of the result.
    """
    wanted = set(targets)
    tape = _Tape(model=model, shapes=shapes, known=constants(model))
    seeds = {name: f"seed.{number}" for number, name in enumerate(outputs)}
    gradients = dict(seeds)
    relevant = _upstream_of(model.proto.graph.node, wanted)
    missing: dict[str, None] = {}
    for node in reversed(model.proto.graph.node):
        incoming = gradients.get(node.output[0]) if node.output else None
        if incoming is None or not any(name in relevant for name in node.input):
            continue
        try:
            found = _RULES[node.op_type](tape, node, incoming, _attributes(node))
        except (_NoRuleError, KeyError):
            missing[node.op_type] = None
            continue
        for name, gradient in found.items():
            if name in relevant:
                gradients[name] = tape.emit("Add", gradients[name], gradient) if name in gradients else gradient
    reached = {name: f"gradient.{number}" for number, name in enumerate(sorted(wanted & set(gradients)))}
    for name, output in reached.items():
        tape.nodes.append(helper.make_node("Identity", [gradients[name]], [output]))
    return Backward(model=_model(tape, seeds, reached), activations=tuple(tape.activations), seeds=seeds,
                    gradients=reached, unsupported=tuple(missing))


def _upstream_of(nodes: Iterable[onnx.NodeProto], targets: set[str]) -> set[str]:
    """Tensors that depend on a target, the targets included: only through them gradients must flow."""
    found = set(targets)
    for node in nodes:
        if any(name in found for name in node.input):
            found.update(node.output)
    return found


def _model(tape: _Tape, seeds: Mapping[str, str], gradients: Mapping[str, str]) -> onnx.ModelProto:
    def info(name: str, like: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(tape.shape(like)))

    inputs = [info(name, name) for name in tape.activations] + [info(seed, name) for name, seed in seeds.items()]
    outputs = [info(output, name) for name, output in gradients.items()]
    graph = helper.make_graph(tape.nodes, "backward", inputs, outputs, tape.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _conv(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    weight = tape.value(node.input[1])
    size, out = tape.shape(node.input[0])[2:], tape.shape(node.output[0])[2:]
    if weight is None or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise _NoRuleError
    axes = weight.ndim - 2
    stride, dilation = (tuple(attributes.get(k, (1,) * axes)) for k in ("strides", "dilations"))
    pads = tuple(attributes.get("pads", (0,) * 2 * axes))
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if max(stride) == 1 and attributes.get("group", 1) == 1 and all(
            r >= p for r, p in zip((*reach, *reach), pads, strict=True)):
        # a convolution with the mirrored kernel: onnxruntime has a faster kernel for it than for ConvTranspose
        mirrored = np.flip(weight.swapaxes(0, 1), axis=tuple(range(2, weight.ndim)))
        back = [r - p for r, p in zip((*reach, *reach), pads, strict=True)]
        result = tape.emit("Conv", gradient, tape.constant(mirrored), pads=back, dilations=list(dilation))
    else:
        extra = [size[i] - ((out[i] - 1) * stride[i] + reach[i] + 1 - pads[i] - pads[axes + i]) for i in range(axes)]
        result = tape.emit("ConvTranspose", gradient, tape.constant(weight), strides=list(stride), pads=list(pads),
                           dilations=list(dilation), group=attributes.get("group", 1), output_padding=extra)
    return {node.input[0]: result}


def _gemm(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    weight = tape.value(node.input[1])
    if weight is None or attributes.get("transA", 0):
        raise _NoRuleError
    back = weight if attributes.get("transB", 0) else weight.T  # (N, K)
    return {node.input[0]: tape.emit("MatMul", gradient, tape.constant(back * attributes.get("alpha", 1.0)))}


def _matmul(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    return _gemm(tape, node, gradient, {**attributes, "transB": 0, "alpha": 1.0})


def _relu(tape: _Tape, node: onnx.NodeProto, gradient: str, _: Mapping[str, Any]) -> Mapping[str, str]:
    return {node.input[0]: tape.emit("Mul", gradient, tape.emit("Sign", tape.activation(node.output[0])))}


def _leaky_relu(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    positive = tape.emit("Greater", tape.activation(node.output[0]), tape.constant(0.0))
    slope = tape.constant(attributes.get("alpha", 0.01))
    return {node.input[0]: tape.emit("Mul", gradient, tape.emit("Where", positive, tape.constant(1.0), slope))}


def _clip(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    bounds = [tape.value(n) for n in node.input[1:3]] if len(node.input) > 1 else [
        attributes.get("min"), attributes.get("max")]
    x = tape.activation(node.input[0])
    result = gradient
    for bound, op in zip(bounds, ("Greater", "Less"), strict=False):
        if bound is not None:
            inside = tape.emit("Cast", tape.emit(op, x, tape.constant(bound)), to=TensorProto.FLOAT)
            result = tape.emit("Mul", result, inside)
    return {node.input[0]: result}


def _sigmoid(tape: _Tape, node: onnx.NodeProto, gradient: str, _: Mapping[str, Any]) -> Mapping[str, str]:
    y = tape.activation(node.output[0])
    slope = tape.emit("Mul", y, tape.emit("Sub", tape.constant(1.0), y))
    return {node.input[0]: tape.emit("Mul", gradient, slope)}


def _tanh(tape: _Tape, node: onnx.NodeProto, gradient: str, _: Mapping[str, Any]) -> Mapping[str, str]:
    y = tape.activation(node.output[0])
    slope = tape.emit("Sub", tape.constant(1.0), tape.emit("Mul", y, y))
    return {node.input[0]: tape.emit("Mul", gradient, slope)}


def _softmax(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    y = tape.activation(node.output[0])
    axis = attributes.get("axis", 1 if tape.model.opset < 13 else -1)
    shape = tape.shape(node.output[0])
    axes = range(axis % len(shape), len(shape)) if tape.model.opset < 13 else [axis]  # the older one flattens the rest
    product = tape.emit("Mul", gradient, y)
    total = tape.emit("ReduceSum", product, tape.constant(list(axes), np.int64), keepdims=1)
    return {node.input[0]: tape.emit("Mul", y, tape.emit("Sub", gradient, total))}


def _add(tape: _Tape, node: onnx.NodeProto, gradient: str, _: Mapping[str, Any]) -> Mapping[str, str]:
    return _summed(tape, [(name, _unbroadcast(tape, gradient, name, node.output[0])) for name in node.input
                          if name not in tape.known])


def _sub(tape: _Tape, node: onnx.NodeProto, gradient: str, _: Mapping[str, Any]) -> Mapping[str, str]:
    first, second = node.input
    parts = [(first, _unbroadcast(tape, gradient, first, node.output[0]))]
    if second not in tape.known:
        parts.append((second, _unbroadcast(tape, tape.emit("Neg", gradient), second, node.output[0])))
    return _summed(tape, parts)


def _mul(tape: _Tape, node: onnx.NodeProto, gradient: str, _: Mapping[str, Any]) -> Mapping[str, str]:
    first, second = node.input
    parts = []
    for name, other in ((first, second), (second, first)):
        if name not in tape.known:
            values = tape.value(other)
            factor = tape.activation(other) if values is None else tape.constant(values)
            parts.append((name, _unbroadcast(tape, tape.emit("Mul", gradient, factor), name, node.output[0])))
    return _summed(tape, parts)


def _summed(tape: _Tape, parts: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Gradient by tensor; the parts of a tensor that a node reads twice add up."""
    result: dict[str, str] = {}
    for name, gradient in parts:
        result[name] = tape.emit("Add", result[name], gradient) if name in result else gradient
    return result


def _unbroadcast(tape: _Tape, gradient: str, name: str, output: str) -> str:
    """Sum over the axes along which `name` was broadcast to `output`."""
    shape, full = tape.shape(name), tape.shape(output)
    if shape == full:
        return gradient
    if len(shape) != len(full):
        raise _NoRuleError
    axes = [i for i, (a, b) in enumerate(zip(shape, full, strict=True)) if a != b]
    return tape.emit("ReduceSum", gradient, tape.constant(axes, np.int64), keepdims=1)


def _batch_norm(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    scale, variance = tape.value(node.input[1]), tape.value(node.input[4])
    if scale is None or variance is None:
        raise _NoRuleError
    slope = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    axes = len(tape.shape(node.input[0])) - 2
    return {node.input[0]: tape.emit("Mul", gradient, tape.constant(slope.reshape(1, -1, *[1] * axes)))}


def _global_average(tape: _Tape, node: onnx.NodeProto, gradient: str, _: Mapping[str, Any]) -> Mapping[str, str]:
    size = tape.shape(node.input[0])[2:]
    share = np.full((1, 1, *size), 1.0 / np.prod(size))
    return {node.input[0]: tape.emit("Mul", gradient, tape.constant(share))}


def _average_pool(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    shape, out = tape.shape(node.input[0]), tape.shape(node.output[0])[2:]
    kernel, axes = tuple(attributes["kernel_shape"]), len(shape) - 2
    pads, stride = tuple(attributes.get("pads", (0,) * 2 * axes)), tuple(attributes.get("strides", (1,) * axes))
    if any(pads) or attributes.get("ceil_mode", 0) or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise _NoRuleError
    extra = [shape[2 + i] - ((out[i] - 1) * stride[i] + kernel[i]) for i in range(axes)]
    weight = np.full((shape[1], 1, *kernel), 1.0 / np.prod(kernel))
    return {node.input[0]: tape.emit("ConvTranspose", gradient, tape.constant(weight), strides=list(stride),
                                     group=shape[1], output_padding=extra)}


def _max_pool(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    """Send every gradient to the position of its maximum; overlapping windows add up (ScatterElements, add)."""
    x = tape.activation(node.input[0])
    tape.count += 1
    pooled, indices = f"pooled.{tape.count}", f"indices.{tape.count}"
    kept = {k: v for k, v in attributes.items() if k != "storage_order"}
    tape.nodes.append(helper.make_node("MaxPool", [x], [pooled, indices], **kept))
    flat = tape.constant([-1], np.int64)
    zeros = tape.emit("Mul", tape.emit("Reshape", x, flat), tape.constant([0.0]))
    scattered = tape.emit("ScatterElements", zeros, tape.emit("Reshape", indices, flat),
                          tape.emit("Reshape", gradient, flat), axis=0, reduction="add")
    return {node.input[0]: tape.reshaped(scattered, node.input[0])}


def _concat(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    axis, start, parts = attributes["axis"], 0, []
    for name in node.input:
        size = tape.shape(name)[axis]
        part = tape.emit("Slice", gradient, *(tape.constant([v], np.int64) for v in (start, start + size, axis)))
        parts.append((name, part))
        start += size
    return _summed(tape, parts)


def _pad(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    pads = tape.value(node.input[1]) if len(node.input) > 1 else np.asarray(attributes.get("pads", ()))
    if pads is None or attributes.get("mode", b"constant") != b"constant" or len(node.input) > 3:
        raise _NoRuleError
    shape = tape.shape(node.input[0])
    begins = [int(p) for p in pads[: len(shape)]]
    ends = [b + s for b, s in zip(begins, shape, strict=True)]
    axes = range(1, len(shape))  # the batch stays as it is
    result = tape.emit("Slice", gradient, *(tape.constant([v[a] for a in axes], np.int64)
                                            for v in (begins, ends, list(range(len(shape))))))
    return {node.input[0]: result}


def _slice(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    """Scatter the gradient back with a one-hot matrix per sliced axis, which any step allows."""
    if len(node.input) > 1:
        found = [tape.value(n) for n in node.input[1:]]
        if any(v is None for v in found):
            raise _NoRuleError
        starts, ends, *more = [[int(x) for x in np.asarray(v).ravel()] for v in found]
    else:
        starts, ends, more = list(attributes["starts"]), list(attributes["ends"]), [list(attributes.get("axes", ()))]
    shape = tape.shape(node.input[0])
    axes = more[0] if more and more[0] else list(range(len(starts)))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    result = gradient
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        picked = range(shape[axis])[slice(start, end, step)]
        spread = np.zeros((len(picked), shape[axis]))
        spread[np.arange(len(picked)), list(picked)] = 1.0
        order = list(range(len(shape)))
        order[axis], order[-1] = order[-1], order[axis]
        moved = tape.emit("MatMul", tape.emit("Transpose", result, perm=order), tape.constant(spread))
        result = tape.emit("Transpose", moved, perm=order)
    return {node.input[0]: result}


def _reshape(tape: _Tape, node: onnx.NodeProto, gradient: str, _: Mapping[str, Any]) -> Mapping[str, str]:
    return {node.input[0]: tape.reshaped(gradient, node.input[0])}


def _transpose(tape: _Tape, node: onnx.NodeProto, gradient: str, attributes: Mapping[str, Any]) -> Mapping[str, str]:
    perm = attributes.get("perm") or list(range(len(tape.shape(node.input[0]))))[::-1]
    return {node.input[0]: tape.emit("Transpose", gradient, perm=[int(i) for i in np.argsort(perm)])}


def _identity(_: _Tape, node: onnx.NodeProto, gradient: str, __: Mapping[str, Any]) -> Mapping[str, str]:
    return {node.input[0]: gradient}


_RULES: Mapping[str, Rule] = {
    "Add": _add, "AveragePool": _average_pool, "BatchNormalization": _batch_norm, "Clip": _clip, "Concat": _concat,
    "Conv": _conv, "Dropout": _identity, "Flatten": _reshape, "Gemm": _gemm, "GlobalAveragePool": _global_average,
    "Identity": _identity, "LeakyRelu": _leaky_relu, "MatMul": _matmul, "MaxPool": _max_pool, "Mul": _mul,
    "Pad": _pad, "Relu": _relu, "Reshape": _reshape, "Sigmoid": _sigmoid, "Slice": _slice, "Softmax": _softmax,
    "Squeeze": _reshape, "Sub": _sub, "Tanh": _tanh, "Transpose": _transpose, "Unsqueeze": _reshape,
}
