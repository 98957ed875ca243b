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


@pytest.mark.parametrize("shape", [(0, 5), (7, 0), (-(1 << 63), 5), (7, -3)])
def test_a_gemm_whose_weights_have_no_size_is_no_layer(shape):
    model = model_of("g (float[3,7] x) => (float[3,5] y) { y = Gemm(x, w) }", w=(7, 5))
    model.proto.graph.initializer[0].dims[:] = shape
    assert find_layers(model, {"x": (3, 7), "w": shape}) == ()


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
    (onnx.TensorProto.FLOAT16, None), (onnx.TensorProto.DOUBLE, None), (onnx.TensorProto.BFLOAT16, None),
    (onnx.TensorProto.INT32, "weight_type")])
def test_weight_types(dtype, code):
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", dtype, [1, 2, 8, 9])],
        [helper.make_tensor_value_info("y", dtype, [None] * 4)],
        [onnx.TensorProto(name="w", data_type=dtype, dims=[3, 2, 2, 4], raw_data=bytes(8 * 48))])
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]))
    assert codes(model) == {"y": code}
    if code:
        assert "int32" in only(model).ineligible.reason


def test_unknown_shapes():
    model = model_of("g (float[1,2,8,9] x, int64[4] s) => (float[A,B,C,D] y) { r = Reshape(x, s)  y = Conv(r, w) }",
                     w=(3, 2, 2, 4))
    layer = only(model)
    assert layer.ineligible.code == "unknown_shape"
    assert (layer.spec.in_size, layer.spec.macs, layer.in_shape, layer.out_shape) == (None, None, None, None)


# operators for integers, of onnxruntime, and weights in other places

EXTENDED = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
SCALES = "<float s = {0.1}, uint8 z = {0}>"


@pytest.mark.parametrize(("text", "spec", "code"), [
    (f"g (uint8[1,2,8,9] x) => (uint8[1,3,P,Q] y) {SCALES} {{ "
     "y = QLinearConv<strides = [2,1]>(x, s, z, w, s, z, s, z, b) }",
     ConvSpec.make(2, 3, kernel=(2, 4), stride=(2, 1), in_size=(8, 9), bias=True), "quantized"),
    ("g (uint8[1,2,8,9] x) => (int32[1,3,P,Q] y) { y = ConvInteger<pads = [1,0,2,3]>(x, w) }",
     ConvSpec.make(2, 3, kernel=(2, 4), pads=(1, 0, 2, 3), in_size=(8, 9), bias=False), "quantized"),
    (f"g (uint8[6,5] x) => (uint8[6,7] y) {SCALES} {{ y = QLinearMatMul(x, s, z, m, s, z, s, z) }}",
     ConvSpec.make(5, 7, kernel=(), in_size=(), batch=6, bias=False), "quantized"),
    ("g (uint8[6,5] x) => (int32[6,7] y) { y = MatMulInteger(x, m) }",
     ConvSpec.make(5, 7, kernel=(), in_size=(), batch=6, bias=False), "quantized"),
    (f"g (uint8[6,5] x) => (float[6,7] y) {SCALES} {{ y = com.microsoft.QGemm(x, s, z, m, s, z, c) }}",
     ConvSpec.make(5, 7, kernel=(), in_size=(), batch=6, bias=True), "quantized"),
    (f"g (float[1,2,8,9] x) => (float[1,3,P,Q] y) {SCALES} {{ v = DequantizeLinear(w, s, z) y = Conv(x, v) }}",
     ConvSpec.make(2, 3, kernel=(2, 4), in_size=(8, 9), bias=False), "quantized"),
    (f"g (float[6,5] x) => (float[6,7] y) {SCALES} {{ v = DequantizeLinear(m, s, z) y = MatMul(x, v) }}",
     ConvSpec.make(5, 7, kernel=(), in_size=(), batch=6, bias=False), "quantized"),
    ("g (float[1,2,8,9] x) => (float[1,3,P,Q] y) { "
     "y = com.microsoft.FusedConv<activation = \"Relu\", group = 1>(x, f, e) }",
     ConvSpec.make(2, 3, kernel=(2, 4), in_size=(8, 9), bias=True), "fused"),
    ("g (float[6,5] x) => (float[6,7] y) { v = Transpose(t)  y = MatMul(x, v) }",
     ConvSpec.make(5, 7, kernel=(), in_size=(), batch=6, bias=False), "dynamic_weight"),
])
def test_layers_that_are_counted_and_left_alone(text, spec, code):
    proto = onnx.parser.parse_model(EXTENDED + text)
    for name, shape, dtype in (("w", (3, 2, 2, 4), np.uint8), ("m", (5, 7), np.uint8), ("b", (3,), np.int32),
                               ("c", (7,), np.int32), ("f", (3, 2, 2, 4), np.float32), ("e", (3,), np.float32),
                               ("t", (7, 5), np.float32)):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, dtype), name))
    layer = only(load(proto))
    assert (layer.spec, layer.ineligible.code) == (spec, code)
    assert layer.spec.macs == spec.macs > 0


def test_a_sparse_weight_is_counted_whole():
    model = onnx.parser.parse_model(HEAD + "g (float[1,2,8,9] x) => (float[1,3,P,Q] y) { y = Conv(x, w) }")
    values = numpy_helper.from_array(np.ones(2, np.float32), "w")
    model.graph.sparse_initializer.add(values=values, dims=[3, 2, 2, 4],
                                       indices=numpy_helper.from_array(np.array([5, 9])))
    layer = only(load(model))
    assert layer.spec == ConvSpec.make(2, 3, kernel=(2, 4), in_size=(8, 9), bias=False)
    assert layer.ineligible.code == "sparse_weight"


def test_a_weight_that_a_body_reads_is_shared():
    model = model_of("""g (float[1,2,8,9] x, bool c) => (float[1,3,P,Q] y, float[3,2,2,4] z) {
        y = Conv(x, w)
        z = If(c) <then_branch = g1 () => (float[3,2,2,4] t) { t = Neg(w) },
                   else_branch = g2 () => (float[3,2,2,4] e) { e = Abs(w) }> }""", w=(3, 2, 2, 4))
    assert codes(model) == {"y": "shared_weight"}


# bodies and functions

BRANCHES = """g (bool c, float[1,2,8,9] x) => (float[1,3,P,Q] y) {{
    r = Relu(x)
    [choice] y = If(c) <
        then_branch = a () => (float[1,3,P,Q] t) {{ [first] u = Conv(r, w)  t = Relu(u) }},
        else_branch = b () => (float[1,3,P,Q] e) {{ {other} }}> }}"""


def test_layers_in_bodies_are_counted_and_left_alone():
    other = "v = AveragePool<kernel_shape = [1, 2], strides = [1, 2]>(r)  [second] e = Conv<pads=[0,4,0,3]>(v, w)"
    model = model_of(BRANCHES.format(other=other), w=(3, 2, 2, 4))
    first, second = layers_of(model)
    assert [(x.name, x.index, x.in_body) for x in (first, second)] == [
        ("choice/first", 1, True), ("choice/second", 1, True)]
    assert (first.spec.in_size, second.spec.in_size) == ((8, 9), (8, 4))
    assert {x.ineligible.code for x in (first, second)} == {"in_body"}
    assert "If" in first.ineligible.reason


def test_bodies_that_use_one_name_for_two_shapes():
    other = "u = AveragePool<kernel_shape = [1, 2]>(r)  z = Conv(u, w)  e = Pad(z, p)"
    model = model_of(BRANCHES.format(other=other), w=(3, 2, 2, 4), p=(8,))
    assert "u" not in infer_shapes(model).tensors
    assert [layer.spec.macs is None for layer in layers_of(model)] == [False, True]


def test_a_body_may_have_weights_of_its_own():
    model = model_of("""g (bool c, float[1,2,8,9] x) => (float[1,3,8,9] y) {
        y = If(c) <then_branch = a () => (float[1,3,8,9] t)
                       <float[3,2,1,1] v = {1, 2, 3, 4, 5, 6}> { t = Conv(x, v) },
                   else_branch = b () => (float[1,3,8,9] e) { e = Conv(x, w) }> }""", w=(3, 2, 1, 1))
    assert [layer.spec.macs for layer in layers_of(model)] == [3 * 2 * 8 * 9] * 2


FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
g (float[1,2,8,9] x) => (float[1,3,P,Q] y) { [call] r = mine.Block(x, w)  z = mine.Plain(r)  y = Identity(z) }
<opset_import: ["" : 17, "mine" : 1], domain: "mine"> Block (x, w) => (y) { y = mine.Inner(x, w) }
<opset_import: ["" : 17], domain: "mine"> Inner (x, w) => (y) { [conv] c = Conv(x, w)  y = Relu(c) }
<opset_import: ["" : 17], domain: "mine"> Plain (x) => (y) { y = Neg(x) }"""


def test_layers_in_functions_are_layers_like_others():
    model = model_of("", head=FUNCTION, w=(3, 2, 2, 4))
    layer = only(model)
    assert (layer.name, layer.weight, layer.ineligible, layer.spec.in_size) == ("conv", "w", None, (8, 9))
    assert [f.name for f in model.proto.functions] == ["Plain"]  # without a layer: it stays as it is


def test_names_of_layers_in_functions_stay_unique():
    twice = FUNCTION.replace("z = mine.Plain(r)", "z = mine.Block(x, w)")
    assert len({layer.name for layer in layers_of(model_of("", head=twice, w=(3, 2, 2, 4)))}) == 2


def test_a_function_that_cannot_be_inlined_is_left_to_onnxruntime():
    endless = FUNCTION.replace("y = mine.Inner(x, w)", "c = Conv(x, w)  y = mine.Block(c, w)")
    assert model_of("", head=endless, w=(3, 2, 2, 4)).proto.graph.node[0].op_type == "Block"


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
