"""Folded normalizations give the same numbers under onnxruntime; those that cannot be folded are left alone."""

from functools import partial

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.fold import fold_batch_norm
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.prepare import prepare
from onnxslim1x1.runtime.session import create_session, run, session_options

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
RNG = np.random.default_rng(0)
BOUNDS = {"s": (0.5, 2), "t": (-1, 1), "m": (-2, 2), "v": (0.1, 3)}  # scale, shift, mean, variance
NORM = {name: RNG.uniform(*bounds, 3) for name, bounds in BOUNDS.items()}
WEIGHTS = {"w": RNG.standard_normal((3, 4, 2, 3)), "b": RNG.standard_normal(3), **NORM}
INPUT = RNG.standard_normal((2, 4, 7, 9))


def model_of(body, *, outputs="float[2,3,P,Q] y", head=HEAD, dtype=np.float32, inputs="", **changes):
    """A model with an input x of 2 images, and the initializers that the body names."""
    kind = {np.float32: "float", np.float16: "float16", np.float64: "double"}[dtype]
    text = f"g (float[2,4,7,9] x{inputs}) => ({outputs}) {{ {body} }}".replace("float[", f"{kind}[")
    proto = onnx.parser.parse_model(head + text)
    read = {name for node in proto.graph.node for name in node.input}
    for name, values in (WEIGHTS | changes).items():
        if name in read:
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values).astype(dtype), name))
    return proto


def folded(proto):
    """The folded model and how many normalizations went."""
    edit = GraphEdit(load(proto))
    count = fold_batch_norm(edit)
    result = edit.result().proto
    onnx.checker.check_model(result, full_check=True)
    return result, count


def outputs(proto, dtype=np.float32, **feeds):
    import onnxruntime as ort

    # without optimisations, since onnxruntime folds too
    plain = session_options(graph_optimization_level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    return run(create_session(proto.SerializeToString(), options=plain), {"x": INPUT.astype(dtype), **feeds})


def operators(proto):
    return [node.op_type for node in proto.graph.node]


CONV = "a = Conv<strides=[2,1], pads=[1,0,2,3]>(x, w, b)"
BATCH_NORM = "y = BatchNormalization(a, s, t, m, v)"
FOLDABLE = f"{CONV} {BATCH_NORM}"
TWO_OUTPUTS = "float[2,3,P,Q] y, float[2,3,P,Q] z"


@pytest.mark.parametrize("epsilon", [None, 0.25], ids=["default", "large"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_folding_keeps_the_numbers(bias, epsilon):
    body = FOLDABLE
    body = body if bias else body.replace("(x, w, b)", "(x, w)")
    body = body if epsilon is None else body.replace("BatchNormalization", f"BatchNormalization<epsilon={epsilon}>")
    proto = model_of(body)
    result, count = folded(proto)
    assert (count, operators(result)) == (1, ["Conv"])
    assert result.graph.node[0].output == ["y"]
    assert len(result.graph.initializer) == 2  # nothing of the normalization is left
    # float32 rounding of outputs up to about 30
    np.testing.assert_allclose(outputs(result)[0], outputs(proto)[0], rtol=1e-5, atol=1e-5)


def test_half_precision_is_kept():
    proto = model_of(FOLDABLE, dtype=np.float16)
    result, count = folded(proto)
    assert count == 1
    assert {numpy_helper.to_array(t).dtype for t in result.graph.initializer} == {np.dtype(np.float16)}
    # rounding of weights to 2^-11, of outputs up to about 30
    np.testing.assert_allclose(outputs(result, np.float16)[0], outputs(proto, np.float16)[0], rtol=0, atol=0.03)


def test_a_variance_near_zero_shows_the_epsilon():
    proto = model_of(FOLDABLE, v=np.array([0.0, 1e-6, 1e-4]))
    result, _ = folded(proto)
    expected = outputs(proto)[0]
    # float32 rounding of outputs up to several thousand
    np.testing.assert_allclose(outputs(result)[0], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_several_convolutions_that_share_a_weight():
    proto = model_of("""[p] a = Conv(x, w, b)  y = BatchNormalization(a, s, t, m, v)
                        [q] c = Conv(x, w)  z = BatchNormalization(c, t, s, m, v)""",
                     outputs=TWO_OUTPUTS)
    result, count = folded(proto)
    assert (count, operators(result)) == (2, ["Conv", "Conv"])
    for found, expected in zip(outputs(result), outputs(proto), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # float32 rounding


def test_weights_of_constant_nodes_are_folded_too():
    proto = model_of(FOLDABLE)
    expected = outputs(proto)[0]
    for tensor in list(proto.graph.initializer):
        proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    proto.graph.ClearField("initializer")
    result, count = folded(proto)
    assert (count, operators(result)) == (1, ["Conv"])
    np.testing.assert_allclose(outputs(result)[0], expected, rtol=1e-5, atol=1e-5)  # float32 rounding


def test_a_convolution_of_one_axis():
    proto = onnx.parser.parse_model(HEAD + "g (float[1,4,9] x) => (float[1,3,P] y) {"
                                    "a = Conv<dilations=[3]>(x, w)  y = BatchNormalization(a, s, t, m, v) }")
    for name, values in (NORM | {"w": WEIGHTS["w"][:, :, 0]}).items():
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    result, count = folded(proto)
    assert count == 1
    x = INPUT[:1, :, 0].astype(np.float32)
    np.testing.assert_allclose(outputs(result, x=x)[0], outputs(proto, x=x)[0], rtol=1e-5, atol=1e-5)


LEFT_ALONE = {
    "a second reader": partial(model_of, f"{FOLDABLE} z = Neg(a)", outputs=TWO_OUTPUTS),
    "a reader in a branch": partial(
        model_of, f"""{FOLDABLE} z = If(c) <then_branch = f () => (float[2,3,5,10] r) {{ r = Neg(a) }},
                                                else_branch = e () => (float[2,3,5,10] q) {{ q = Neg(y) }}>""",
        outputs=TWO_OUTPUTS, inputs=", bool c"),
    "a graph output": partial(model_of, FOLDABLE, outputs="float[2,3,P,Q] y, float[2,3,P,Q] a"),
    "training": partial(model_of, f"{CONV} y, o, p = BatchNormalization<training_mode=1>(a, s, t, m, v)"),
    "training mode": partial(model_of, f"{CONV} y = BatchNormalization<training_mode=1>(a, s, t, m, v)"),
    "another operator before it": partial(model_of, f"{CONV} r = Relu(a) y = BatchNormalization(r, s, t, m, v)"),
    "no operator before it": partial(model_of, "y = BatchNormalization(x, s, t, m, v)", outputs="float[2,4,P,Q] y",
                                     **{k: np.ones(4) for k in NORM}),
    "a computed weight": partial(model_of, f"u = Neg(w) {CONV.replace('w,', 'u,')} {BATCH_NORM}"),
    "a computed bias": partial(model_of, f"u = Neg(b) {CONV.replace(' b)', ' u)')} {BATCH_NORM}"),
    "a computed mean": partial(model_of, f"u = Neg(m) {CONV} {BATCH_NORM.replace(' m,', ' u,')}"),
    "a negative variance": partial(model_of, FOLDABLE, v=np.array([1.0, -2.0, 3.0])),
    "an infinite mean": partial(model_of, FOLDABLE, m=np.array([1.0, np.inf, 3.0])),
    "a weight that is not a number": partial(model_of, FOLDABLE, w=np.full((3, 4, 2, 3), np.nan)),
    "an overflow of half precision": partial(model_of, FOLDABLE, dtype=np.float16, w=400 * WEIGHTS["w"],
                                             v=np.full(3, 1e-7)),
    "parameters of another length": partial(model_of, FOLDABLE, s=np.ones(1)),
}


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_what_cannot_be_folded_stays_byte_for_byte(why):
    proto = LEFT_ALONE[why]()
    edit = GraphEdit(load(proto))
    assert fold_batch_norm(edit) == 0
    assert edit.result().proto == proto


def test_operators_of_other_domains_stay():
    head = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>\n'
    for body in (FOLDABLE.replace(op, f"mine.{op}") for op in ("Conv", "BatchNormalization")):
        assert fold_batch_norm(GraphEdit(load(model_of(body, head=head)))) == 0


def test_preparing_says_what_it_did():
    prepared = prepare(load(model_of(FOLDABLE, inputs=", float[3] b")))
    assert (prepared.folded, prepared.frozen) == (1, 1)
    assert [note.split(";")[0] for note in prepared.notes] == [
        "folded 1 BatchNormalization into the convolutions before them",
        "1 weights were also listed as graph inputs"]


def test_preparing_what_needs_nothing_changes_nothing():
    proto = model_of(CONV.replace("a =", "y ="))
    prepared = prepare(load(proto))
    assert (prepared.folded, prepared.frozen, prepared.notes) == (0, 0, ())
    assert prepared.model.proto == proto
