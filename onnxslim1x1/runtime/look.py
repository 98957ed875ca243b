"""A first look at a model: what it reads and writes, and what its images seem to want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import fed_inputs, infer_shapes
from onnxslim1x1.runtime.compare import looks_like_classifier

_CHANNELS = (1, 3, 4)
_IMAGENET_SIDES = range(160, 600)  # what classifiers of ImageNet are trained with
_CIFAR_SIDE = 32
_OWN_SCALING = ("Sub", "Mul", "Div", "BatchNormalization", "Cast", "QuantizeLinear")


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """An input or output of a model: name, and type with shape as text."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a first look at a model tells.

    Attributes:
        inputs: what must be fed.
        outputs: what comes out.
        classes: number of classes if the first output holds their scores, else None.
        free: names of free dimensions and the sizes that are chosen for them where nothing else is said.
        preset: preprocessing that seems likely, or None if the model reads no images.
        reason: what makes it likely.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    classes: int | None
    free: Mapping[str, int]
    preset: str | None
    reason: str


def look(model: Model) -> Look:
    """See what a model reads and writes.

    Raises:
        ModelError: an input has no shape at all.
    """
    graph, shapes = model.proto.graph, infer_shapes(model)
    fed = fed_inputs(graph)
    free = {dim.dim_param: size for info in fed if info.name in shapes.inputs
            for dim, size in zip(info.type.tensor_type.shape.dim, shapes.inputs[info.name], strict=True)
            if dim.dim_param}
    scores = shapes.tensors.get(graph.output[0].name) if graph.output else None
    classes = scores[1] if scores is not None and looks_like_classifier(scores) else None
    preset, reason = _guess(graph, fed, {i.name: shapes.inputs[i.name] for i in fed if i.name in shapes.inputs})
    return Look(inputs=tuple(map(_port, fed)), outputs=tuple(map(_port, graph.output)), classes=classes, free=free,
                preset=preset, reason=reason)


def _port(info: onnx.ValueInfoProto) -> Port:
    kind = info.type.tensor_type
    dims = ", ".join(dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?")
                     for dim in kind.shape.dim)
    return Port(name=info.name, text=f"{onnx.TensorProto.DataType.Name(kind.elem_type).lower()} [{dims}]")


def _guess(graph: onnx.GraphProto, fed: Sequence[onnx.ValueInfoProto],
           shapes: Mapping[str, tuple[int, ...]]) -> tuple[str | None, str]:
    """A preset and what speaks for it."""
    for info in fed:
        shape = shapes.get(info.name, ())
        axis = next((a for a in (1, 3) if len(shape) == 4 and shape[a] in _CHANNELS), None)
        if axis is None:
            continue
        side, channels = max(n for a, n in enumerate(shape) if a not in (0, axis)), shape[axis]
        first = next((node.op_type for node in graph.node if info.name in node.input), "")
        if info.type.tensor_type.elem_type in (onnx.TensorProto.UINT8, onnx.TensorProto.INT8):
            return "raw", "the input takes 8-bit pixels"
        if first in _OWN_SCALING:
            return "raw", f"the model begins with {first}, so it seems to scale pixels itself"
        if channels == 3 and side == _CIFAR_SIDE:
            return "cifar10", "the input is that of networks for CIFAR-10, 3 channels and 32 pixels"
        if channels == 3 and side in _IMAGENET_SIDES:
            return "imagenet", f"the input is that of networks for ImageNet, 3 channels and {side} pixels"
        return "unit", f"the input takes images of {channels} channels and {side} pixels, which most often are / 255"
    return None, ""
