"""The same model in other clothes: types, free shapes, external data, functions, and weights in other places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_DOMAIN = "wrapped"


def retyped(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """Every float tensor in another float type, rounded once."""
    copy = _copy(model)
    for tensor in _tensors(copy.graph):
        if tensor.data_type in _FLOATS:
            values = numpy_helper.to_array(tensor).astype(np.float64).astype(helper.tensor_dtype_to_np_dtype(kind))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for info in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if info.type.tensor_type.elem_type in _FLOATS:
            info.type.tensor_type.elem_type = kind
    for attribute in (a for n in copy.graph.node if n.op_type == "Cast" for a in n.attribute):
        attribute.i = kind if attribute.i in _FLOATS else attribute.i
    return copy


def with_free_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """No dimension of an input or output is known but the channels, and no shape is noted in between."""
    copy = _copy(model)
    weights = {t.name for t in copy.graph.initializer}
    for info in (*copy.graph.input, *copy.graph.output):
        if info.name not in weights:
            for axis, dim in enumerate(info.type.tensor_type.shape.dim):
                if axis != 1:
                    dim.dim_param = f"{info.name}_{axis}"
    del copy.graph.value_info[:]
    return copy


def in_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every node with a weight calls a function of its own, which holds that node."""
    copy = _copy(model)
    weights = {t.name for t in copy.graph.initializer}
    opsets = [o for o in copy.opset_import if o.domain != _DOMAIN]
    for number, node in enumerate(copy.graph.node):
        if weights.isdisjoint(node.input):
            continue
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        names = list(dict.fromkeys(name for name in node.input if name))
        copy.functions.append(helper.make_function(_DOMAIN, f"f{number}", names, list(node.output), [inner], opsets))
        node.CopyFrom(helper.make_node(f"f{number}", names, list(node.output), name=f"call{number}", domain=_DOMAIN))
    copy.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    copy.ir_version = max(copy.ir_version, 8)
    return copy


def with_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights are outputs of Constant nodes."""
    copy = _copy(model)
    weights, nodes = list(copy.graph.initializer), list(copy.graph.node)
    names = {t.name for t in weights}
    inputs = [i for i in copy.graph.input if i.name not in names]
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in weights]
    for field, items in (("initializer", []), ("node", [*constants, *nodes]), ("input", inputs)):
        copy.graph.ClearField(field)
        getattr(copy.graph, field).extend(items)
    return copy


def with_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights are graph inputs with a default."""
    copy = _copy(model)
    listed = {i.name for i in copy.graph.input}
    copy.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in copy.graph.initializer
                            if t.name not in listed)
    copy.ir_version = max(copy.ir_version, 4)
    return copy


def write_variants(model: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Write every variant of a model; yields its name and path. External data lies beside its model."""
    whole = onnx.load(model)
    for name, change in VARIANTS.items():
        path = folder / f"{model.stem}.{name}.onnx"
        changed = change(whole)
        if name == "external":
            onnx.save_model(changed, path, save_as_external_data=True, location=f"{path.name}.data",
                            size_threshold=0)
        else:
            path.write_bytes(changed.SerializeToString())
        yield name, path


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _tensors(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    yield from graph.initializer
    yield from (a.t for n in graph.node for a in n.attribute if n.op_type == "Constant" and a.HasField("t"))


VARIANTS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "float16": lambda m: retyped(m, TensorProto.FLOAT16), "bfloat16": lambda m: retyped(m, TensorProto.BFLOAT16),
    "float64": lambda m: retyped(m, TensorProto.DOUBLE), "dynamic": with_free_shapes, "functions": in_functions,
    "constants": with_constants, "inputs": with_inputs, "external": _copy,
}
