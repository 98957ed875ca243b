"""How many bytes a layer must move."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx
from onnx.helper import get_all_tensor_dtypes, tensor_dtype_to_np_dtype

from onnxslim1x1.graph.layers import Layer, constants
from onnxslim1x1.graph.model import Model

_FLOAT32 = 4


def moved_bytes(model: Model, layers: Iterable[Layer]) -> dict[str, int]:
    """Bytes that the inputs, the weights and the outputs of each layer have, by its name.

    ``prod(in_shape) * size(in) + params * size(weight) + prod(out_shape) * size(out)``, where params counts the biases
    too, and size is the bytes of a value of the type that the model gives the tensor; a tensor that it gives none has
    the type of the weight. Each tensor counts once, as if caches held all that is used again, and what onnxruntime adds
    (padded channels, casts) does not count: no implementation moves less. Layers of unknown shape are left out.
    """
    sizes = _sizes(model)
    found = {}
    for layer in layers:
        if layer.in_shape is None or layer.out_shape is None:
            continue
        weight = sizes.get(layer.weight, _FLOAT32)
        found[layer.name] = (math.prod(layer.in_shape) * sizes.get(layer.input, weight)
                             + layer.spec.params * weight
                             + math.prod(layer.out_shape) * sizes.get(layer.output, weight))
    return found


def _sizes(model: Model) -> Mapping[str, int]:
    """Bytes of a value of every tensor whose type the model tells."""
    graph = model.proto.graph
    types = {name: tensor.data_type for name, tensor in constants(model).items()}
    values = (*graph.value_info, *graph.input, *graph.output)
    types |= {value.name: value.type.tensor_type.elem_type for value in values}
    sized = set(get_all_tensor_dtypes()) - {onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING}
    return {name: tensor_dtype_to_np_dtype(kind).itemsize for name, kind in types.items() if kind in sized}
