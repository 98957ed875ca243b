"""Weights of every float type: factored in float64, rounded once, and the model computes what it did."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.runtime.options import RunOptions
from onnxslim1x1.runtime.store import NO_STORE
from onnxslim1x1.search.pipeline import Subject
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.strategies import STRATEGIES, by_name

KINDS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float": TensorProto.FLOAT,
         "double": TensorProto.DOUBLE}
# distance of neighbouring values at 1; sums of some dozen rounded products and a chain of roundings keep 20 of them
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float": 2.0**-23, "double": 2.0**-52}
TEXT = """<ir_version: 10, opset_import: ["" : 22]>
net (KIND[2,5,9,11] x) => (KIND[2,7] y) {
  c = Conv<strides = [1,2], pads = [1,0,2,1]>(x, w, b)
  n = BatchNormalization(c, g, h, m, v)
  r = Relu(n)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  y = Gemm<transB = 1>(f, d, e)
}"""
SHAPES = {"w": (6, 5, 3, 2), "b": (6,), "g": (6,), "h": (6,), "m": (6,), "d": (7, 6), "e": (7,)}


def network(word, values_of=None):
    """The model with weights of a type; `values_of` gives them by name, else they are drawn and rounded."""
    proto = onnx.parser.parse_model(TEXT.replace("KIND", word))
    dtype = helper.tensor_dtype_to_np_dtype(KINDS[word])
    rng = np.random.default_rng(11)
    values = {name: rng.standard_normal(shape) * 0.4 for name, shape in SHAPES.items()}
    values["v"] = rng.uniform(0.5, 2.0, 6)
    for name, array in (values if values_of is None else values_of).items():
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(dtype), name))
    return proto


def in_double(proto):
    """The same model computing in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for info in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        info.type.tensor_type.elem_type = TensorProto.DOUBLE
    return copy


def run(proto):
    x = np.random.default_rng(3).standard_normal((2, 5, 9, 11))
    return ReferenceEvaluator(in_double(proto)).run(None, {"x": x})[0]  # onnxruntime has no Conv for all types


@pytest.fixture(params=KINDS)
def subject(request):
    found = Subject.of(load(network(request.param)), RunOptions(threads=1, store=NO_STORE))
    return request.param, found


def rewritten(subject, family, ranks_of):
    model = subject.prepared.model
    bench, edit, factors = Workbench(model, subject.layers, block=1), GraphEdit(model), {}
    for layer in subject.layers:
        if family.check(layer.spec) is None:
            factors[layer.name] = bench.factors(layer.name, family.name, ranks_of(layer))
            replace_layer(edit, layer, factors[layer.name].factors)
    return edit.result().proto, factors


def test_the_normalization_is_folded_in_every_type(subject):
    word, found = subject
    assert found.prepared.folded == 1
    proto = found.prepared.model.proto
    assert {t.data_type for t in proto.graph.initializer} == {KINDS[word]}
    wanted = run(network(word))
    np.testing.assert_allclose(run(proto), wanted, rtol=0, atol=20 * EPSILON[word] * np.abs(wanted).max())


@pytest.mark.parametrize("family", [s.name for s in STRATEGIES])
def test_full_rank_computes_the_same_in_every_type(subject, family):
    word, found = subject
    proto, factors = rewritten(found, by_name(family), lambda layer: by_name(family).max_ranks(layer.spec))
    assert factors
    onnx.checker.check_model(proto, full_check=True)
    assert {t.data_type for t in proto.graph.initializer} == {KINDS[word]}
    wanted = run(network(word))
    np.testing.assert_allclose(run(proto), wanted, rtol=0, atol=20 * EPSILON[word] * np.abs(wanted).max())


def test_factors_are_rounded_once(subject):
    word, found = subject
    proto, factors = rewritten(found, by_name("expand"), lambda _: (2,))
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    dtype = helper.tensor_dtype_to_np_dtype(KINDS[word])
    for name, found_factors in factors.items():
        for factor in found_factors.factors:
            assert factor.weight.dtype == np.float64
            weight = stored[f"{name}/{factor.role}.weight"]
            assert weight.dtype == dtype
            np.testing.assert_array_equal(weight.astype(np.float64),
                                          factor.weight.astype(dtype).astype(np.float64).reshape(weight.shape))
