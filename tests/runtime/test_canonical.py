"""The canonical copy computes what its source does, and every name in it tells a source node."""

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.runtime.canonical import canonical_copy, outer_names
from onnxslim1x1.runtime.session import create_session

HEAD = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'


def parse(text, *, ir_version=8):
    model = onnx.parser.parse_model(HEAD + text)
    model.ir_version = ir_version
    onnx.checker.check_model(model)
    return model


def outputs(model, **feeds):
    return create_session(model.SerializeToString()).run(None, feeds)


CHAIN = parse("""g (float[2,3] x) => (float[2,3] z, float[2,3] y) <float[3] w = {1, 2, 4}> {
  y = Mul(x, w)
  z = Sub(y, x)
}""")

CONTROL = parse("""g (float[2] x, int64 n, bool c) => (float[2] y, float[2] z) <float[2] w = {3, 5}> {
  t = Add(x, w)
  true = Constant<value = bool {1}>()
  y = Loop(n, true, t) <body = b (int64 i, bool ci, float[2] s) => (bool co, float[2] so) {
    co = Identity(ci)
    q = Mul(s, w)
    so = Sub(q, t)
  }>
  z = If(c) <then_branch = tb () => (float[2] r) {
    r = If(c) <then_branch = ttb () => (float[2] rr) { rr = Div(t, w) },
               else_branch = teb () => (float[2] rr) { rr = Neg(y) }>
  }, else_branch = eb () => (float[2] r) { r = Neg(t) }>
}""")

CALLS = parse("""g (float[2] x) => (float[2] y) {
  a = local.f(x)
  y = local.f(a)
}
<domain: "local", opset_import: ["" : 17, "local" : 1]> f (v) => (r) {
  h = local.h(v)
  k = local.h(h)
  r = Sub(k, v)
}
<domain: "local", opset_import: ["" : 17]> h (v) => (r) { r = Mul(v, v) }""")


def test_nodes_and_tensors_are_named_after_their_index():
    copy = canonical_copy(CHAIN).model
    assert [(n.name, list(n.input), list(n.output)) for n in copy.graph.node] == [
        ("@0", ["x", "w"], ["@0.0"]), ("@1", ["@0.0", "x"], ["@1.0"])]
    assert [o.name for o in copy.graph.output] == ["@1.0", "@0.0"]


def test_the_source_is_left_as_it_was():
    before = CONTROL.SerializeToString(deterministic=True)
    canonical_copy(CONTROL)
    assert CONTROL.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("condition", [True, False])
def test_bodies_of_if_and_loop_still_read_the_main_graph(condition):
    feeds = {"x": np.array([0.5, -2], np.float32), "n": np.array(3), "c": np.array(condition)}
    source, copy = outputs(CONTROL, **feeds), outputs(canonical_copy(CONTROL).model, **feeds)
    for expected, found in zip(source, copy, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_names_inside_a_body_tell_the_node_that_owns_it():
    canonical = canonical_copy(CONTROL)
    loop, branch = canonical.model.graph.node[2:]
    (inner,) = branch.attribute[0].g.node
    inside = [*loop.attribute[0].g.node, inner, *inner.attribute[0].g.node]
    assert [canonical.sources(node.name)[0] for node in inside] == [2, 2, 2, 3, 3]
    assert [canonical.sources(node.output[0])[0] for node in inside] == [2, 2, 2, 3, 3]


def test_an_inner_definition_hides_an_outer_one():
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["a"], ["t"]), onnx.helper.make_node("Abs", ["t"], ["r"])], "b", [],
        [onnx.helper.make_tensor_value_info("r", 1, [2])])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["a"]), onnx.helper.make_node("Exp", ["x"], ["t"]),
         onnx.helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)], "g", [], [])
    copy = canonical_copy(onnx.helper.make_model(graph)).model
    neg, absolute = copy.graph.node[2].attribute[0].g.node
    assert neg.input[0] == "@0.0"
    assert absolute.input[0] == neg.output[0] != "@1.0"


def test_function_bodies_are_named_per_call_and_compute_the_same():
    canonical = canonical_copy(CALLS)
    x = np.array([1.5, -3], np.float32)
    np.testing.assert_array_equal(outputs(canonical.model, x=x)[0], outputs(CALLS, x=x)[0])
    own = {f.name: f for f in canonical.model.functions}
    assert {"f@0", "f@1", "h@0", "h@1"} <= own.keys()
    assert [node.op_type for node in own["f@1"].node] == ["h@1", "h@1", "Sub"]
    assert canonical.ops[0] == ("f", "h", "Mul", "h", "Mul", "Sub")


@pytest.mark.parametrize("taken", ["@3.0", "x@", "@"])
def test_a_mark_that_the_source_uses_is_not_taken(taken):
    text = "g (float[2] x) => (float[2] y) { q = Neg(x)  y = Abs(q) }"
    model = parse(text)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[0] = taken if names[0] == "q" else names[0]
    canonical = canonical_copy(model)
    assert canonical.mark == "@_"
    assert [n.name for n in canonical.model.graph.node] == ["@_0", "@_1"]
    assert canonical.sources(taken) == ()
    x = np.array([2, -7], np.float32)
    np.testing.assert_array_equal(outputs(canonical.model, x=x)[0], np.abs(x))


def test_derived_names_tell_every_source_in_order_and_no_other():
    canonical = canonical_copy(CONTROL)
    assert canonical.sources("InsertedPrecisionFreeCast_@2.0_nchwc") == (2,)
    assert canonical.sources("fused @3/MatMulAddFusion_@0") == (3, 0)
    assert canonical.sources("@17.0") == canonical.sources("ReorderOutput_token_1") == ()


def test_producers_include_what_bodies_read():
    assert canonical_copy(CONTROL).producers == ((), (), (0,), (0, 2))


def test_outer_names_leave_out_what_a_body_defines():
    loop = CONTROL.graph.node[2]
    assert outer_names(loop) == ["n", "true", "t", "w", "t"]


WEIGHTED = """g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {3, 5}> {
  v = Neg(w)
  y = Add(x, v)
}"""


@pytest.mark.parametrize(("ir_version", "expected"), [(3, ((), ())), (8, ((), (0,)))])
def test_what_depends_on_constants_only_is_no_producer(ir_version, expected):
    # from IR version 4 on, a weight that is also an input can be fed, and onnxruntime folds nothing behind it
    assert canonical_copy(parse(WEIGHTED, ir_version=ir_version)).producers == expected


def test_an_input_and_an_initializer_that_are_outputs_keep_their_names():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [onnx.helper.make_tensor_value_info("x", 1, [2])],
        [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in ("x", "w", "y")],
        [onnx.numpy_helper.from_array(np.array([3, 5], np.float32), "w")])
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    copy = canonical_copy(model).model
    assert [o.name for o in copy.graph.output] == ["x", "w", "@0.0"]


def test_optional_inputs_and_outputs_stay_empty():
    node = onnx.helper.make_node("Clip", ["x", "", "m"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [])
    model = onnx.helper.make_model(graph)
    assert list(canonical_copy(model).model.graph.node[0].input) == ["x", "", "m"]
