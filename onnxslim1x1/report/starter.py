"""A first configuration file, with comments, from a look at a model."""

from __future__ import annotations

import json
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Files that the configuration names, as texts relative to it; None for what is not known yet."""

    model: str | None = None
    rewritten: str | None = None
    calibration: str | None = None
    data: str | None = None
    labels: str | None = None


def starter_text(seen: Look | None, places: Places, *, preset: str | None = None) -> str:
    """The configuration file.

    Args:
        seen: the look at the model, if there is one.
        places: files to name.
        preset: preprocessing that was asked for, instead of a guess.
    """
    blocks = [_head(seen, places), _models(places), _data(places), _pixels(seen, preset), _running(seen),
              _slimming(), _gates(seen, places)]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _head(seen: Look | None, places: Places) -> list[str]:
    lines = ["# Configuration of onnxslim1x1: https://toml.io, written by onnxslim1x1 init.",
             "# Every option of analyze, plan, slim and validate may stand here by its name (onnxslim1x1 slim --help",
             "# lists them): at the top for all commands, in [analyze], [plan], [slim] or [validate] for one.",
             "# The command line overrides this file. Paths are relative to it."]
    if seen is not None:
        lines += ["#", f"# {_said(places.model or 'the model')}",
                  *(f"#   reads  {_said(p.name)}: {_said(p.text)}" for p in seen.inputs),
                  *(f"#   writes {_said(p.name)}: {_said(p.text)}" for p in seen.outputs)]
        if seen.classes is not None:
            lines.append(f"#   scores of {seen.classes} classes, it seems")
    return lines


def _models(places: Places) -> list[str]:
    return ["# Before and after: slim writes `rewritten`, validate compares the two.",
            _line("model", places.model, "model.onnx"), _line("rewritten", places.rewritten, "model-slim.onnx")]


def _data(places: Places) -> list[str]:
    return ["# Images that the weights are fitted to, without labels, a few hundred: a folder, .npy or .npz.",
            _line("calibration", places.calibration, "calibration.npz"),
            "# Other images to compare on; without them, validate draws random inputs, which says little.",
            _line("data", places.data, "evaluation.npz"),
            "# Their labels, if they do not come with them: a CSV with file,label, .npy or .npz.",
            _line("labels", places.labels, "labels.csv")]


def _pixels(seen: Look | None, preset: str | None) -> list[str]:
    if preset is not None:
        return ["# What is done to the pixels.", _line("preprocess", preset, "")]
    choices = "imagenet, cifar10, imagenet-caffe, unit or raw; mean, std, scale, resize, crop override parts of it"
    if seen is None or seen.preset is None:
        return [f"# What is done to pixels: {choices}.", _line("preprocess", None, "imagenet")]
    return [f"# A GUESS, check it against the training: {seen.reason}.", f"# ({choices})",
            _line("preprocess", seen.preset, "")]


def _running(seen: Look | None) -> list[str]:
    lines = ["# Threads within an operator; measure with as many as the model will run with. 0: onnxruntime chooses.",
             "# threads = 1"]
    if seen is not None and seen.free:
        sizes = ", ".join(json.dumps(f"{name}={size}", ensure_ascii=False) for name, size in seen.free.items())
        lines += ["# Sizes of the free dimensions, where these are not what you deploy.", f"# dim = [{_said(sizes)}]"]
    return lines


def _slimming() -> list[str]:
    return ["[slim]", "# What to reach; one target at a time. Without any, at most one point of accuracy is lost (with",
            "# calibration), else every layer keeps its weights within 5 %.",
            "# target-speedup = 1.5", "# target-macs = 0.67", "# max-drop = 0.01",
            '# exclude = ["*/classifier"]']


def _gates(seen: Look | None, places: Places) -> list[str]:
    scores = seen is not None and seen.classes is not None and places.data is not None
    return ["[validate]", "# Gates. If one fails, the exit code is 4 (accuracy) or 5 (latency and size).",
            "max-drop = 0.01" if scores else "# max-drop = 0.01        # top-1, or without labels: changed classes",
            "# min-agreement = 0.98    # part of the images with the same class",
            "# min-snr = 20.0          # of the worst output, in dB" if scores else
            "min-snr = 10.0            # of the worst output, in dB",
            "# min-speedup = 1.1       # measured",
            "# What later exports must not fall behind. Write it with: onnxslim1x1 validate --update-baseline",
            _line("baseline", "baseline.json" if places.model else None, "baseline.json")]


def _line(key: str, value: str | None, example: str) -> str:
    """A key with its value, or an example behind a comment sign."""
    return f"# {key} = {_quoted(example)}" if value is None else f"{key} = {_quoted(value)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _said(text: str) -> str:
    """In a comment: names from a model may hold line breaks."""
    return "".join(c if c.isprintable() else "?" for c in text)
