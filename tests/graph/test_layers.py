"""Finding layers, their geometry, their MACs against counts by hand, and why the graph forbids to rewrite some."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from onnxslim1x1.graph.layers import constants, find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.spec import ConvSpec

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def model_of(text, *, head=HEAD, **weights):
    """A model with float32 weights of the given shapes."""
    proto = onnx.parser.parse_model(head + text)
    for name, shape in weights.items():
        values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return load(proto)


def layers_of(model):
    return find_layers(model, infer_shapes(model).tensors)


def only(model):
    (layer,) = layers_of(model)
    return layer


def codes(model):
    return {layer.name: layer.ineligible and layer.ineligible.code for layer in layers_of(model)}


# geometry


def test_a_convolution_with_every_attribute():
    layer = only(model_of("""g (float[2,6,13,17] x) => (float[2,10,P,Q] y) {
        [c] y = Conv<group=2, kernel_shape=[3,2], strides=[2,3], dilations=[2,1], pads=[1,0,2,3]>(x, w, b) }""",
        w=(10, 3, 3, 2), b=(10,)))
    assert layer.spec == ConvSpec.make(6, 10, kernel=(3, 2), stride=(2, 3), dilation=(2, 1), pads=(1, 0, 2, 3),
                                       groups=2, bias=True, in_size=(13, 17), batch=2)
    assert (layer.name, layer.op_type, layer.index) == ("c", "Conv", 0)
    assert (layer.input, layer.weight, layer.bias, layer.output) == ("x", "w", "b", "y")
    assert (layer.in_shape, layer.out_shape) == ((2, 6, 13, 17), (2, 10, 6, 7))
    assert layer.ineligible is None
    # 2 images, 10 channels, 6 x 7 positions, 3 x 2 taps of 3 channels
    assert layer.spec.macs == 2 * 10 * 6 * 7 * 3 * 2 * 3
    assert layer.spec.params == 10 * 3 * 3 * 2 + 10


def test_defaults_of_a_convolution_without_attributes():
    layer = only(model_of("g (float[1,3,8,11] x) => (float[1,5,P,Q] y) { y = Conv(x, w) }", w=(5, 3, 2, 4)))
    assert layer.spec == ConvSpec.make(3, 5, kernel=(2, 4), in_size=(8, 11), bias=False)
    assert (layer.name, layer.bias) == ("y", None)


@pytest.mark.parametrize("mode", ["VALID", "SAME_UPPER", "SAME_LOWER"])
def test_automatic_padding(mode):
    layer = only(model_of(f"""g (float[1,3,8,11] x) => (float[1,5,P,Q] y) {{
        y = Conv<auto_pad="{mode}", strides=[2,3]>(x, w) }}""", w=(5, 3, 3, 4)))
    assert layer.spec.auto_pad == mode
    assert layer.out_shape == (1, 5, *layer.spec.out_size)


@pytest.mark.parametrize(("shape", "kernel", "taps"), [("1,3,9", (4,), 6), ("1,3,9,6,7", (4, 2, 3), 6 * 5 * 5)])
def test_one_and_three_spatial_axes(shape, kernel, taps):
    dims = ",".join("PQR"[: len(kernel)])
    layer = only(model_of(f"g (float[{shape}] x) => (float[1,5,{dims}] y) {{ y = Conv(x, w) }}", w=(5, 3, *kernel)))
    assert layer.spec.kernel == kernel
    assert layer.spec.macs == 5 * taps * 3 * int(np.prod(kernel))


def test_a_transposed_convolution():
    layer = only(model_of("""g (float[2,6,5,7] x) => (float[2,4,P,Q] y) {
        y = ConvTranspose<group=2, strides=[2,3], pads=[1,0,0,2], output_padding=[1,2]>(x, w, b) }""",
        w=(6, 2, 3, 4), b=(4,)))
    assert layer.spec == ConvSpec.make(6, 4, kernel=(3, 4), stride=(2, 3), pads=(1, 0, 0, 2), groups=2, bias=True,
                                       in_size=(5, 7), batch=2, transposed=True)
    assert layer.kind == "transposed"
    # every input value of 6 channels meets 2 of 4 output channels at 3 x 4 taps
    assert layer.spec.macs == 2 * 5 * 7 * 6 * 2 * 3 * 4
    assert layer.spec.params == 6 * 2 * 3 * 4 + 4
    assert layer.out_shape == (2, 4, 11, 22)


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm(trans_a, trans_b):
    x = "7,3" if trans_a else "3,7"
    text = f"g (float[{x}] x) => (float[3,5] y) {{ y = Gemm<transA={trans_a}, transB={trans_b}>(x, w, b) }}"
    layer = only(model_of(text, w=(5, 7) if trans_b else (7, 5), b=(5,)))
    assert layer.spec == ConvSpec.make(7, 5, kernel=(), in_size=(), batch=3, bias=True)
    assert (layer.spec.macs, layer.spec.params, layer.kind) == (3 * 7 * 5, 7 * 5 + 5, "dense")


@pytest.mark.parametrize(("call", "weight", "bias", "code"), [
    ("Gemm(x, w, b)", (7, 5), (5,), None), ("Gemm<transB=1, alpha=1.0, beta=1.0>(x, w, b)", (5, 7), (5,), None),
    ("Gemm<transA=1>(x, w, b)", (3, 5), (5,), "dense"), ("Gemm<alpha=0.5>(x, w, b)", (7, 5), (5,), "dense"),
    ("Gemm<beta=2.0>(x, w, b)", (7, 5), (5,), "dense"), ("Gemm(x, w, b)", (7, 5), (3, 5), "dense"),
    ("Gemm(x, w, b)", (7, 5), (1,), "dense")])
def test_only_a_plain_gemm_is_rewritten(call, weight, bias, code):
    rows = 7 if "transA" in call else 3
    layer = only(model_of(f"g (float[3,7] x) => (float[{rows},5] y) {{ y = {call} }}", w=weight, b=bias))
    assert (layer.ineligible and layer.ineligible.code) == code


@pytest.mark.parametrize(("call", "stored"), [
    ("Gemm(x, w)", True), ("Gemm<transB=0>(x, w)", True), ("Gemm<transB=1>(x, w)", False), ("MatMul(x, w)", True)])
def test_dense_weights_may_be_stored_transposed(call, stored):
    layer = only(model_of(f"g (float[3,6] x) => (float[3,6] y) {{ y = {call} }}", w=(6, 6)))
    assert layer.stored_transposed == stored


def test_gemm_without_bias():
    assert not only(model_of("g (float[3,7] x) => (float[3,5] y) { y = Gemm(x, w) }", w=(7, 5))).spec.bias


@pytest.mark.parametrize(("shape", "tokens"), [("2,7", ()), ("2,11,7", (11,)), ("2,3,11,7", (3, 11))])
def test_matmul_runs_over_all_tokens(shape, tokens):
    out = shape[:-1] + "5"
    layer = only(model_of(f"g (float[{shape}] x) => (float[{out}] y) {{ y = MatMul(x, w) }}", w=(7, 5)))
    assert layer.spec == ConvSpec.make(7, 5, kernel=(1,) * len(tokens), in_size=tokens, batch=2, bias=False)
    assert layer.spec.macs == 2 * int(np.prod(tokens, dtype=int)) * 7 * 5
    assert layer.kind == "dense"


def test_products_of_computed_matrices_are_no_layers():
    assert layers_of(model_of("""g (float[2,7] x, float[7,5] a) => (float[2,5] y, float[2,5] z) {
        y = MatMul(x, a)  z = Gemm(x, a) }""")) == ()


def test_a_constant_on_the_left_is_no_layer():
    assert layers_of(model_of("g (float[5,7] x) => (float[4,7] y) { y = MatMul(w, x) }", w=(4, 5))) == ()


def test_stacks_of_matrices_are_no_layers():
    assert layers_of(model_of("g (float[3,4,7] x) => (float[3,4,5] y) { y = MatMul(x, w) }", w=(3, 7, 5))) == ()


@pytest.mark.parametrize(("groups", "weight", "kind"), [
    (6, (12, 1, 3, 3), "depthwise"), (2, (4, 3, 3, 3), "grouped"), (1, (4, 6, 1, 1), "pointwise"),
    (1, (4, 6, 1, 3), "conv")])
def test_kinds(groups, weight, kind):
    layer = only(model_of(f"g (float[1,6,8,9] x) => (float[1,{weight[0]},P,Q] y) {{ y = Conv<group={groups}>(x, w) }}",
                          w=weight))
    assert layer.kind == kind
    assert layer.spec.weight_shape == weight


# where weights come from


def test_weights_of_constant_nodes():
    text = """g (float[1,2,5,6] x) => (float[1,1,P,Q] y) {
        w = Constant<value = float[1,2,1,2] {1, 2, 3, 4}>()  b = Constant<value = float[1] {5}>()
        y = Conv(x, w, b) }"""
    model = model_of(text)
    layer = only(model)
    assert (layer.spec.weight_shape, layer.index, layer.ineligible) == ((1, 2, 1, 2), 2, None)
    np.testing.assert_array_equal(model.array(constants(model)["w"]), [[[[1, 2]], [[3, 4]]]])


def test_weights_that_are_also_graph_inputs():
    model = model_of("g (float[1,2,5,6] x, float[3,2,2,3] w) => (float[1,3,P,Q] y) { y = Conv(x, w) }", w=(3, 2, 2, 3))
    assert codes(model) == {"y": None}


def test_constants_without_a_tensor_value_are_no_weights():
    model = model_of("g (float[1] x) => (float[1] y) { c = Constant<value_float = 2.0>()  y = Mul(x, c) }")
    assert constants(model) == {}


# why a layer is left alone


def test_shared_weights_are_refused_for_every_layer_that_reads_them():
    model = model_of("""g (float[1,2,8,9] x) => (float[1,2,P,Q] z) {
        [a] y = Conv(x, w)  [b] z = Conv(y, w)  [c] u = Conv(x, v) }""", w=(2, 2, 3, 2), v=(2, 2, 3, 2))
    assert codes(model) == {"a": "shared_weight", "b": "shared_weight", "c": None}


def test_a_shared_bias_is_no_obstacle():
    model = model_of("g (float[1,2,8,9] x) => (float[1,2,P,Q] y) { y = Conv(x, w, b)  z = Conv(x, v, b) }",
                     w=(2, 2, 3, 2), v=(2, 2, 3, 2), b=(2,))
    assert codes(model) == {"y": None, "z": None}


def test_computed_weights():
    model = model_of("g (float[1,2,8,9] x) => (float[1,3,P,Q] y) { w = Neg(v)  y = Conv(x, w) }", v=(3, 2, 2, 4))
    layer = only(model)
    assert layer.ineligible.code == "dynamic_weight"
    assert layer.spec.weight_shape == (3, 2, 2, 4)  # still counted


def test_a_computed_bias():
    model = model_of("g (float[1,2,8,9] x, float[3] b) => (float[1,3,P,Q] y) { y = Conv(x, w, b) }", w=(3, 2, 2, 4))
    assert codes(model) == {"y": "dynamic_bias"}


@pytest.mark.parametrize(("dtype", "code"), [
    (onnx.TensorProto.FLOAT16, None), (onnx.TensorProto.DOUBLE, None), (onnx.TensorProto.BFLOAT16, "weight_type")])
def test_weight_types(dtype, code):
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", dtype, [1, 2, 8, 9])],
        [helper.make_tensor_value_info("y", dtype, [None] * 4)],
        [onnx.TensorProto(name="w", data_type=dtype, dims=[3, 2, 2, 4], raw_data=bytes(8 * 48))])
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]))
    assert codes(model) == {"y": code}
    if code:
        assert "bfloat16" in only(model).ineligible.reason


def test_unknown_shapes():
    model = model_of("g (float[1,2,8,9] x, int64[4] s) => (float[A,B,C,D] y) { r = Reshape(x, s)  y = Conv(r, w) }",
                     w=(3, 2, 2, 4))
    layer = only(model)
    assert layer.ineligible.code == "unknown_shape"
    assert (layer.spec.in_size, layer.spec.macs, layer.in_shape, layer.out_shape) == (None, None, None, None)


# names and nodes that are not what they seem


def test_names_of_unnamed_and_of_duplicate_nodes():
    model = model_of("""g (float[1,2,8,9] x) => (float[1,2,P,Q] p) {
        p = Conv(x, u)  [twin] q = Conv(x, v)  [twin] r = Conv(x, w)  [own] s = Conv(x, t) }""",
        t=(2, 2, 1, 1), u=(2, 2, 1, 2), v=(2, 2, 1, 3), w=(2, 2, 1, 4))
    assert [layer.name for layer in layers_of(model)] == ["p", "q", "r", "own"]


def test_a_node_that_is_called_like_another_ones_output():
    model = model_of("g (float[1,2,8,9] x) => (float[1,2,P,Q] p) { p = Conv(x, u)  [p] q = Conv(x, v) }",
                     u=(2, 2, 1, 2), v=(2, 2, 1, 3))
    assert [layer.name for layer in layers_of(model)] == ["p", "p#1"]


def test_operators_of_other_domains_are_no_layers():
    model = model_of("g (float[1,2,8,9] x) => (float[A] y) { y = mine.Conv(x, w) }", w=(2, 2, 1, 2),
                     head='<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>\n')
    assert layers_of(model) == ()


@pytest.mark.parametrize("text", [
    "y = Conv(x)", "y = Conv<strides=[1,1,1]>(x, w)", "y = Conv<strides=[0,1]>(x, w)", "y = Conv<pads=[1]>(x, w)",
    "y = Conv<group=3>(x, w)", "y = Conv(x, v)", "y = Gemm(x, empty)"])
def test_nodes_that_contradict_themselves_are_left_to_onnxruntime(text):
    model = model_of(f"g (float[1,2,8,9] x) => (float[A] y) {{ {text} }}", w=(2, 2, 1, 2), v=(2, 2), empty=(0, 3))
    assert find_layers(model, {"x": (1, 2, 8, 9)}) == ()  # without onnx's inference, whose old versions crash on them


def test_layers_come_in_the_order_of_the_graph_with_their_index():
    model = model_of("""g (float[1,2,8,9] x) => (float[1,5] y) {
        [c] a = Conv(x, w)  p = GlobalAveragePool(a)  f = Flatten(p)  [d] y = Gemm(f, v) }""",
        w=(4, 2, 3, 2), v=(4, 5))
    assert [(layer.name, layer.index) for layer in layers_of(model)] == [("c", 0), ("d", 3)]
