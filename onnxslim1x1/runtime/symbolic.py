"""Shapes by onnxruntime's symbolic inference, which knows its own operators and more of how shapes are computed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging

import onnx

from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import Shape, Shapes

_HIGHEST = 2**31 - 1  # larger ends of slices mean "to the end"


def symbolic_shapes(model: Model, shapes: Shapes) -> dict[str, Shape]:
    """Shapes of the tensors that it can tell; none where it fails or sympy, which it needs, is not installed."""
    if importlib.util.find_spec("sympy") is None:
        return {}
    logging.getLogger("onnxruntime.tools.symbolic_shape_infer").disabled = True
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for info in proto.graph.input:
        for dim, size in zip(info.type.tensor_type.shape.dim, shapes.inputs.get(info.name, ()), strict=False):
            dim.dim_value = size
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            engine = SymbolicShapeInference(_HIGHEST, auto_merge=True, guess_output_rank=False, verbose=0)
            engine._preprocess(proto)  # its public function leaves a file behind where it cannot infer everything
            while engine.run_:
                engine._infer_impl()
            engine._update_output_from_vi()
    except Exception:  # assertions and whatever it stumbles over: it is a second opinion
        return {}
    found = {}
    for info in (*engine.out_mp_.graph.value_info, *engine.out_mp_.graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims):
            found[info.name] = tuple(d.dim_value for d in dims)
    return found
