"""A first look at a model: what it reads and writes, and what its images seem to want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import fed_inputs, infer_shapes
from onnxslim1x1.runtime.compare import looks_like_classifier

_CHANNELS = (1, 3, 4)
_IMAGENET_SIDE = 224
_IMAGENET_SIDES = range(160, 600)  # what classifiers of ImageNet are trained with
_CROPPED = 0.875  # part of the short side that is left after the usual crop: 224 of 256
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
        sizes: what of resizing and cropping is another than the preset says, by option.
        image: (H, W) of the images if the model fixes it, else None.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    classes: int | None
    free: Mapping[str, int]
    preset: str | None
    reason: str
    sizes: Mapping[str, int]
    image: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Images:
    """An input of images: (H, W), channels, whether the size is fixed, and what kind of numbers it takes."""

    name: str
    size: tuple[int, int]
    channels: int
    fixed: bool
    pixels: bool


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
    images = next(filter(None, (_images(info, shapes.inputs.get(info.name, ())) for info in fed)), None)
    preset, reason = (None, "") if images is None else _guess(graph, images)
    side = images.size[0] if images is not None else 0
    sizes = {"resize": round(side / _CROPPED), "crop": side} if preset == "imagenet" and side != _IMAGENET_SIDE else {}
    return Look(inputs=tuple(map(_port, fed)), outputs=tuple(map(_port, graph.output)), classes=classes, free=free,
                preset=preset, reason=reason, sizes=sizes, image=images.size if images and images.fixed else None)


def _port(info: onnx.ValueInfoProto) -> Port:
    kind = info.type.tensor_type
    dims = ", ".join(dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?")
                     for dim in kind.shape.dim)
    return Port(name=info.name, text=f"{onnx.TensorProto.DataType.Name(kind.elem_type).lower()} [{dims}]")


def _images(info: onnx.ValueInfoProto, shape: Sequence[int]) -> _Images | None:
    axis = next((a for a in (1, 3) if len(shape) == 4 and shape[a] in _CHANNELS), None)
    if axis is None:
        return None
    height, width = (a for a in (1, 2, 3) if a != axis)
    dims = info.type.tensor_type.shape.dim
    return _Images(name=info.name, size=(shape[height], shape[width]), channels=shape[axis],
                   fixed=all(dims[a].HasField("dim_value") for a in (height, width)),
                   pixels=info.type.tensor_type.elem_type in (onnx.TensorProto.UINT8, onnx.TensorProto.INT8))


def _guess(graph: onnx.GraphProto, images: _Images) -> tuple[str, str]:
    """A preset and what speaks for it."""
    (height, width), channels = images.size, images.channels
    first = next((node.op_type for node in graph.node if images.name in node.input), "")
    if images.pixels:
        return "raw", "the input takes 8-bit pixels"
    if first in _OWN_SCALING:
        return "raw", f"the model begins with {first}, so it seems to scale pixels itself"
    if (height, width, channels) == (_CIFAR_SIDE, _CIFAR_SIDE, 3):
        return "cifar10", f"the input is that of networks for CIFAR-10, 3 channels and {height}x{width} pixels"
    if height == width and height in _IMAGENET_SIDES and channels == 3:
        return "imagenet", f"the input is that of networks for ImageNet, 3 channels and {height}x{width} pixels"
    return "unit", f"the input takes images of {channels} x {height} x {width}, which most often are divided by 255"
