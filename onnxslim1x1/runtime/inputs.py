"""What a model must be fed, and shapes that only running it reveals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxslim1x1.errors import DataError, RuntimeFailure
from onnxslim1x1.graph.layers import Layer, find_layers
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.operators import is_float, is_known
from onnxslim1x1.graph.shapes import Shape, Shapes, fed_inputs

if TYPE_CHECKING:
    from onnxslim1x1.runtime.session import InputSpec


def model_inputs(model: Model, shapes: Shapes) -> tuple[InputSpec, ...]:
    """Name, type and concrete shape of every input that must be fed.

    Raises:
        DataError: an input is no plain tensor.
    """
    import numpy as np
    import onnx

    from onnxslim1x1.runtime.session import InputSpec

    specs = []
    for info in fed_inputs(model.proto.graph):
        if info.name not in shapes.inputs:
            raise DataError(f"{model.where}: input {info.name} is no tensor; only tensors can be fed")
        tensor = info.type.tensor_type
        if tensor.elem_type not in onnx.helper.get_all_tensor_dtypes():
            raise DataError(f"{model.where}: input {info.name} has no known type of elements; export the model again")
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        unknown = [False] * len(shapes.inputs[info.name])
        fixed = [d.HasField("dim_value") and d.dim_value >= 0 for d in tensor.shape.dim] or unknown
        specs.append(InputSpec(name=info.name, dtype=dtype, shape=tuple(shapes.inputs[info.name]),
                               free_axes=tuple(axis for axis, known in enumerate(fixed) if not known)))
    return tuple(specs)


def is_excusable(model: Model, error: Exception) -> bool:
    """Whether a model did not run for what onnxruntime lacks, or cannot be fed, rather than for being invalid."""
    invalid = type(error.__cause__).__name__ in ("InvalidGraph", "InvalidProtobuf")
    return not invalid or not all(map(is_known, model.proto.graph.node))


def layers_with_shapes(model: Model, shapes: Shapes, *, run: bool) -> tuple[Layer, ...]:
    """Layers of a model; shapes that inference left open are asked of onnxruntime.

    That is its symbolic inference, where that can be had, then one run on random inputs if `run`. Shapes that remain
    unknown (onnxruntime cannot run the model, or a layer does not run) belong to layers that are left alone.
    """
    layers = find_layers(model, shapes.tensors)
    if all(layer.spec.macs is not None for layer in layers):
        return layers
    from onnxslim1x1.runtime.symbolic import symbolic_shapes  # most models never come here

    tensors = dict(shapes.tensors)
    for ask in (symbolic_shapes, _observed) if run else (symbolic_shapes,):
        if all(layer.spec.macs is not None for layer in layers):
            return layers
        tensors |= ask(model, shapes)
        layers = tuple(replace(layer, out_shape=layer.out_shape or _out_shape(layer))
                       for layer in find_layers(model, tensors))
    return layers


def _observed(model: Model, shapes: Shapes) -> dict[str, Shape]:
    """Shapes of what the nodes of the main graph read in one run on random inputs; none if that fails.

    A model of a type that onnxruntime does not run is run in float32: the shapes are the same.
    """
    import numpy as np

    from onnxslim1x1.graph.retype import as_float32
    from onnxslim1x1.runtime.profile import observed_input_shapes  # takes longer to load than costs take to count
    from onnxslim1x1.runtime.session import random_feeds

    try:
        proto = model.inlined()
        feeds = random_feeds(model_inputs(model, shapes))
        try:
            observed = observed_input_shapes(proto, feeds, where=model.where)
        except RuntimeFailure:
            single = {name: values.astype(np.float32) if is_float(values.dtype) else values
                      for name, values in feeds.items()}
            observed = observed_input_shapes(as_float32(proto), single, where=model.where)
    except (DataError, RuntimeFailure):
        return {}
    nodes = model.proto.graph.node
    return {name: shape for index, found in observed.items()
            for name, shape in zip([name for name in nodes[index].input if name], found, strict=False)}


def _out_shape(layer: Layer) -> tuple[int, ...] | None:
    size = layer.spec.out_size
    return None if size is None or layer.in_shape is None else (layer.in_shape[0], layer.spec.out_channels, *size)
