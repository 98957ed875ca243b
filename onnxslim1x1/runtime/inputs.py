"""What a model must be fed, and shapes that only running it reveals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxslim1x1.errors import DataError
from onnxslim1x1.graph.layers import Layer, find_layers
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import Shapes, fed_inputs

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
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        fixed = [d.dim_value > 0 for d in tensor.shape.dim] or [False] * len(shapes.inputs[info.name])
        specs.append(InputSpec(name=info.name, dtype=dtype, shape=tuple(shapes.inputs[info.name]),
                               free_axes=tuple(axis for axis, known in enumerate(fixed) if not known)))
    return tuple(specs)


def layers_with_shapes(model: Model, shapes: Shapes, *, run: bool) -> tuple[Layer, ...]:
    """Layers of a model; shapes that inference left open are taken from one run on random inputs if `run`.

    Raises:
        RuntimeFailure: onnxruntime cannot run the model.
    """
    layers = find_layers(model, shapes.tensors)
    if not run or all(layer.spec.macs is not None for layer in layers):
        return layers
    # most models never come here, and what runs models takes longer to load than all that was done so far
    from onnxslim1x1.runtime.profile import observed_input_shapes
    from onnxslim1x1.runtime.session import random_feeds

    feeds = random_feeds(model_inputs(model, shapes))
    observed = observed_input_shapes(model.inlined(), feeds, where=model.where)
    nodes = model.proto.graph.node
    tensors = dict(shapes.tensors)
    for index, found in observed.items():
        tensors |= dict(zip([name for name in nodes[index].input if name], found, strict=False))
    return tuple(replace(layer, out_shape=layer.out_shape or _out_shape(layer))
                 for layer in find_layers(model, tensors))


def _out_shape(layer: Layer) -> tuple[int, ...] | None:
    size = layer.spec.out_size
    return None if size is None or layer.in_shape is None else (layer.in_shape[0], layer.spec.out_channels, *size)
