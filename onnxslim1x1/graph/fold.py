"""Folding BatchNormalization into the convolution before it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.operators import is_float

_EPSILON = float(np.float32(1e-5))  # default of the ONNX operator


def fold_batch_norm(edit: GraphEdit) -> int:
    """Fold every BatchNormalization that follows a Conv and is its only reader; returns how many.

    ``y = g (Wx + b - m) / sqrt(v + eps) + beta`` becomes one convolution with ``W' = s W`` and
    ``b' = s (b - m) + beta``, ``s = g / sqrt(v + eps)`` per output channel (Ioffe and Szegedy 2015).
    The convolution then writes the tensor that the normalization wrote.
    """
    outputs = {t.name for t in edit.graph.outputs}
    foldable = [node for node in edit.graph.nodes if _is(node, "BatchNormalization") and _convolution(node, outputs)]
    return sum(_fold(edit, node) for node in foldable)


def _convolution(norm: Any, outputs: set[str]) -> Any | None:
    """The Conv that a normalization can be folded into, or None."""
    if len(norm.inputs) != 5 or len(norm.outputs) != 1:  # more outputs belong to training
        return None
    tensor = norm.inputs[0]
    alone = len(tensor.inputs) == 1 and len(tensor.outputs) == 1 and tensor.name not in outputs
    inference = not norm.attrs.get("training_mode", 0) and norm.attrs.get("spatial", 1)
    conv = tensor.inputs[0] if alone and inference else None
    return conv if conv is not None and _is(conv, "Conv") and len(conv.inputs) > 1 else None


def _is(node: Any, op: str) -> bool:
    return node.op == op and (node.domain or "ai.onnx") == "ai.onnx"


@np.errstate(all="ignore")  # a negative variance, infinite weights: what comes out is checked
def _fold(edit: GraphEdit, norm: Any) -> bool:
    conv = norm.inputs[0].inputs[0]
    weight = edit.values(conv.inputs[1])
    if weight is None or not is_float(weight.dtype):
        return False
    channels = weight.shape[:1]
    biased = len(conv.inputs) > 2 and conv.inputs[2].name
    vectors = [edit.values(conv.inputs[2]) if biased else np.zeros(channels), *map(edit.values, norm.inputs[1:])]
    if any(v is None or v.shape != channels for v in vectors):
        return False
    bias, *parameters = (np.asarray(v, dtype=np.float64) for v in vectors)
    scale, shift = _affine(parameters, norm)
    folded = (weight.astype(np.float64) * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype)
    offset = (bias * scale + shift).astype(weight.dtype)
    if not all(np.isfinite(values.astype(np.float64)).all() for values in (folded, offset)):
        return False
    name = conv.name or norm.outputs[0].name
    conv.inputs = [conv.inputs[0], edit.constant(f"{name}.folded_weight", folded),
                   edit.constant(f"{name}.folded_bias", offset)]
    conv.outputs = list(norm.outputs)
    edit.splice(norm, [])
    return True


def _affine(parameters: list[NDArray[np.float64]], norm: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale s and shift beta - s*m per channel."""
    gamma, beta, mean, variance = parameters
    scale = gamma / np.sqrt(variance + norm.attrs.get("epsilon", _EPSILON))
    return scale, beta - scale * mean
