"""The float32 twin of a model: onnxruntime has no kernels for some types, but shapes do not depend on the type."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def as_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy with every float16, bfloat16 and float64 tensor of the main graph as float32; its weights must be inside.

    Values beyond the range of float32 become infinite.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in _tensors(copy.graph):
        if tensor.data_type in _OTHER_FLOATS:
            with np.errstate(over="ignore"):
                values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for info in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if info.type.tensor_type.elem_type in _OTHER_FLOATS:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    for attribute in (a for node in copy.graph.node if node.op_type == "Cast" for a in node.attribute):
        attribute.i = TensorProto.FLOAT if attribute.i in _OTHER_FLOATS else attribute.i
    return copy


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from (a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.HasField("t"))
