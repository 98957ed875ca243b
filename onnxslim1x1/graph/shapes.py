"""Concrete shapes for every tensor: bind the free input dimensions, then infer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from onnxslim1x1.errors import ModelError, OptionError
from onnxslim1x1.graph.hints import InputHint, input_hints
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.scopes import bodies

Shape = tuple[int, ...]

_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
_MOST_NUMBERS = 1024  # in a tensor that says something about shapes
_MOST_AXES = 1 << 16
_LONGEST = 1 << 22  # elements along an axis, beyond which values are not computed: each becomes a dimension
_IMAGE_SIDE = 224  # what an image network most often takes
_DEFAULT_SIDES = {3: 1024, 4: _IMAGE_SIDE, 5: 64}  # per rank of the input: sequences, images, volumes


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """Inferred shapes.

    Attributes:
        inputs: concrete shape of every graph input that must be fed.
        tensors: shape of every tensor that is fully known.
        notes: one line for each free dimension that was chosen here, and for what could not be inferred.
        assumed: whether a dimension was chosen here.
    """

    inputs: Mapping[str, Shape]
    tensors: Mapping[str, Shape]
    notes: tuple[str, ...] = field(default=())
    assumed: bool = False

    @property
    def advice(self) -> str:
        """What to do if the model does not run at these shapes: nothing, unless some of them were chosen here."""
        if not self.assumed:
            return ""
        return "; the sizes that were assumed may not suit it, so give those of real inputs with --input-shape or --dim"


def infer_shapes(model: Model, *, input_shapes: Mapping[str, Sequence[int]] | None = None,
                 dims: Mapping[str, int] | None = None) -> Shapes:
    """Bind free dimensions to `input_shapes` and `dims`, else to a default that is noted, and infer all shapes.

    Raises:
        OptionError: a name or a shape in the options does not fit the model.
        ModelError: an input has no shape at all and none was given.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    _read_small(proto.graph, model)
    inputs, notes = _bind(proto, dict(input_shapes or {}), dict(dims or {}), model.where)
    assumed = bool(notes)
    _forget_absurd(proto.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=_countable(proto.graph))
    except Exception as error:  # InferenceError and, for unknown operators, others: shapes stay unknown
        notes.append(f"shape inference failed ({' '.join(str(error).split())[:160]})")
        inferred = proto
    graph = inferred.graph
    tensors = {t.name: tuple(t.dims) for t in graph.initializer}
    for info in (*graph.value_info, *graph.output, *graph.input):
        shape = _concrete(info)
        if shape is not None:
            tensors[info.name] = shape
    return Shapes(inputs=inputs, tensors=_in_bodies(graph) | tensors, notes=tuple(notes), assumed=assumed)


def _read_small(graph: onnx.GraphProto, model: Model) -> None:
    """Put small external integers into the message: inference computes shapes with them."""
    for tensor in graph.initializer:
        small = tensor.data_type in _INTEGERS and 0 < math.prod(tensor.dims) <= _MOST_NUMBERS
        if small and tensor.data_location == onnx.TensorProto.EXTERNAL:
            with contextlib.suppress(ModelError):  # whoever needs the values will say what is wrong
                tensor.CopyFrom(onnx.numpy_helper.from_array(model.array(tensor), tensor.name))


def _forget_absurd(graph: onnx.GraphProto) -> None:
    """Leave open how long a row of integers is that cannot be a shape: inference would make a tensor of that rank."""
    for info in (*graph.input, *graph.value_info, *graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.elem_type in _INTEGERS and len(dims) == 1 and dims[0].dim_value > _MOST_AXES:
            dims[0].Clear()


def _countable(graph: onnx.GraphProto) -> bool:
    """Whether inference may compute values: a Range over 2^40 elements it would write down one by one."""
    infos = (*graph.input, *graph.value_info, *graph.output)
    sizes = [d.dim_value for info in infos for d in info.type.tensor_type.shape.dim]
    return max([*sizes, *(size for tensor in graph.initializer for size in tensor.dims)], default=0) <= _LONGEST


def _in_bodies(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Shapes of tensors inside of If, Loop and Scan; not where two bodies use one name for different ones."""
    found: dict[str, Shape | None] = {}
    for body in (body for node in graph.node for body in bodies(node)):
        own = {t.name: tuple(t.dims) for t in body.initializer} | {
            i.name: shape for i in (*body.value_info, *body.output, *body.input) if (shape := _concrete(i)) is not None}
        for name, shape in (own | _in_bodies(body)).items():
            found[name] = shape if found.get(name, shape) == shape else None
    return {name: shape for name, shape in found.items() if shape is not None}


def fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs without those that only give an initializer a name (all of them before IR version 4)."""
    initial = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [i for i in graph.input if i.name not in initial]


def _bind(proto: onnx.ModelProto, given: dict[str, Sequence[int]], dims: dict[str, int],
          where: str) -> tuple[dict[str, Shape], list[str]]:
    inputs, notes, used = {}, list[str](), set[str]()
    wanted, hints = fed_inputs(proto.graph), input_hints(proto.graph)
    if "" in given and len(wanted) == 1:  # a shape without a name, for a model with one input
        given[wanted[0].name] = given.pop("")
    unknown = sorted(set(given) - {i.name for i in wanted})
    if unknown:
        raise OptionError(f"--input-shape {unknown[0]}: {where} has no such input; it has "
                          f"{', '.join(i.name for i in wanted)}")
    for info in wanted:
        if not info.type.HasField("tensor_type"):
            continue
        if info.name in given:
            _replace_shape(info, given[info.name])
        elif not info.type.tensor_type.HasField("shape"):
            if info.name not in hints:
                raise ModelError(f"{where}: input {info.name} has no shape; give --input-shape {info.name}:1,3,224,224")
            for _ in range(hints[info.name].rank):
                info.type.tensor_type.shape.dim.add()
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value >= 0:  # 0 is a size, too: onnxruntime insists on it
                continue
            name = dim.dim_param
            used.add(name)
            dim.dim_value = dims.get(name) or _default(info, axis, hints.get(info.name), notes)
        inputs[info.name] = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
    surplus = sorted(set(dims) - used)
    if surplus:
        free = ", ".join(sorted(n for n in used if n)) or "none"
        raise OptionError(f"--dim {surplus[0]}: no input of {where} has a free dimension of that name (free: {free})")
    return inputs, notes


def _replace_shape(info: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    declared = info.type.tensor_type.shape.dim
    fixed = [d.dim_value or None for d in declared]
    clash = len(fixed) and (len(fixed) != len(shape) or any(f and f != s for f, s in zip(fixed, shape, strict=True)))
    if clash or min(shape, default=1) < 1:
        text = ",".join(str(d.dim_value or d.dim_param or "?") for d in declared)
        raise OptionError(f"--input-shape {info.name}: {','.join(map(str, shape))} does not fit the declared [{text}]")
    del declared[:]
    for size in shape:
        declared.add(dim_value=size)


def _default(info: onnx.ValueInfoProto, axis: int, hint: InputHint | None, notes: list[str]) -> int:
    """Default of one free dimension: 1 for the batch, what the first layer wants, a usual side for the spatial axes."""
    dims = info.type.tensor_type.shape.dim
    name = dims[axis].dim_param or f"axis {axis}"
    if axis == 0:
        value = 1
    elif hint is not None and hint.rank == len(dims) and hint.axis == axis and hint.size > 0:
        value = hint.size
    else:
        channels_last = len(dims) == 4 and dims[3].dim_value in (1, 3, 4)
        spatial = axis in (1, 2) if channels_last else axis >= 2
        value = _DEFAULT_SIDES.get(len(dims), 1) if spatial else 1
    option = f"--dim {dims[axis].dim_param}=..." if dims[axis].dim_param else f"--input-shape {info.name}:..."
    notes.append(f"input {info.name}: free dimension {name} set to {value} (change it with {option})")
    return value


def _concrete(info: onnx.ValueInfoProto) -> Shape | None:
    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        return None
    dims = info.type.tensor_type.shape.dim
    if any(not d.HasField("dim_value") or d.dim_value < 0 for d in dims):
        return None
    return tuple(d.dim_value for d in dims)
