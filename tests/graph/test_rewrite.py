"""Putting a chain in the place of a layer: wiring, names, types and what is refused."""

from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import attributes, replace_layer
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.spec import ConvFactor, ConvSpec

SPEC = ConvSpec.make(4, 3, kernel=(2, 3), stride=(2, 1), dilation=(1, 2), pads=(1, 0, 2, 3), in_size=(9, 11))
RNG = np.random.default_rng(0)


def model_of(text, *, dtype=np.float32, **weights):
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, shape in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal(shape).astype(dtype), name))
    return load(proto)


CONV = "Conv<strides=[2,1], dilations=[1,2], pads=[1,0,2,3]>"


def factors(rank=2):
    """A chain with known weights that leads from 4 to 3 channels."""
    return (
        ConvFactor(role="reduce", spec=ConvSpec.make(4, rank, kernel=(1, 1), in_size=(9, 11), bias=False),
                   weight=RNG.standard_normal((rank, 4, 1, 1))),
        ConvFactor(role="kernel", spec=replace(SPEC, in_channels=rank), weight=RNG.standard_normal((3, rank, 2, 3)),
                   bias=RNG.standard_normal(3)))


def replaced(model, *, name, chain):
    edit = GraphEdit(model)
    (layer,) = (x for x in find_layers(model, infer_shapes(model).tensors) if x.name == name)
    replace_layer(edit, layer, chain)
    proto = edit.result().proto
    onnx.checker.check_model(proto, full_check=True)
    return proto


def test_the_chain_computes_its_factors_one_after_the_other():
    model = model_of(f"g (float[1,4,9,11] x) => (float[1,3,P,Q] y) {{ [c] y = {CONV}(x, w) }}", w=(3, 4, 2, 3))
    first, last = factors()
    proto = replaced(model, name="c", chain=(first, last))
    x = RNG.standard_normal((1, 4, 9, 11)).astype(np.float32)
    (found,) = run(create_session(proto.SerializeToString()), {"x": x})
    reduced = np.einsum("rc,nchw->nrhw", first.weight[:, :, 0, 0], x)
    padded = np.pad(reduced, [(0, 0), (0, 0), (1, 2), (0, 3)])
    windows = np.stack([[padded[:, :, i : i + 11 : 2, j : j + 10] for j in (0, 2, 4)] for i in (0, 1)])
    expected = np.einsum("ijnrhw,orij->nohw", windows, last.weight) + last.bias[:, None, None]
    # float32 rounding of outputs up to about 20
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_chain_stands_where_the_layer_stood():
    model = model_of(f"""g (float[1,4,9,11] x) => (float[1,3,P,Q] z, float[1,3,P,Q] y) {{
        [before] a = Neg(x)  [c] y = {CONV}(a, w, b)  [after] z = Relu(y) }}""", w=(3, 4, 2, 3), b=(3,))
    proto = replaced(model, name="c", chain=factors())
    assert [(n.name, n.op_type, list(n.input), list(n.output)) for n in proto.graph.node] == [
        ("before", "Neg", ["x"], ["a"]),
        ("c/reduce", "Conv", ["a", "c/reduce.weight"], ["y/reduce"]),
        ("c", "Conv", ["y/reduce", "c/kernel.weight", "c/kernel.bias"], ["y"]),
        ("after", "Relu", ["y"], ["z"])]


def test_names_that_are_taken_get_a_number():
    model = model_of(f"""g (float[1,4,9,11] x) => (float[1,3,P,Q] y) {{
        [taken] a = Neg(x)  [c] y = {CONV}(a, w) }}""", w=(3, 4, 2, 3))
    graph = model.proto.graph
    graph.node[0].name = "c/reduce"
    graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "c/kernel.bias"))
    proto = replaced(model, name="c", chain=factors())
    assert proto.graph.node[1].name == "c/reduce_2"
    assert [t.name for t in proto.graph.initializer] == [
        "c/kernel.bias", "c/reduce.weight", "c/kernel.weight", "c/kernel.bias_2"]


def test_layers_without_a_name_are_named_after_their_output():
    model = model_of(f"g (float[1,4,9,11] x) => (float[1,3,P,Q] y) {{ y = {CONV}(x, w) }}", w=(3, 4, 2, 3))
    proto = replaced(model, name="y", chain=factors())
    names = [n.name for n in proto.graph.node]
    assert len(set(names)) == 2
    assert proto.graph.node[-1].output == ["y"]


def test_two_layers_in_one_edit():
    model = model_of(f"""g (float[1,4,9,11] x) => (float[1,3,P,Q] y, float[1,3,P,Q] z) {{
        [c] y = {CONV}(x, w)  [d] z = {CONV}(x, v) }}""", w=(3, 4, 2, 3), v=(3, 4, 2, 3))
    edit = GraphEdit(model)
    for layer in find_layers(model, infer_shapes(model).tensors):
        replace_layer(edit, layer, factors(rank=1 + layer.index))
    proto = edit.result().proto
    onnx.checker.check_model(proto, full_check=True)
    assert [n.name for n in proto.graph.node] == ["c/reduce", "c", "d/reduce", "d"]
    assert [t.dims[0] for t in proto.graph.initializer if t.name.endswith("reduce.weight")] == [1, 2]


def test_a_layer_that_was_replaced_can_be_replaced_again():
    model = model_of(f"g (float[1,4,9,11] x) => (float[1,3,P,Q] y) {{ [c] y = {CONV}(x, w) }}", w=(3, 4, 2, 3))
    once = load(replaced(model, name="c", chain=factors(rank=3)))
    first, last = factors(rank=1)
    narrow = replace(first, spec=replace(first.spec, in_channels=3), weight=first.weight[:, :3])
    twice = replaced(once, name="c", chain=(narrow, last))
    assert [n.name for n in twice.graph.node] == ["c/reduce", "c/reduce_2", "c"]
    assert len(twice.graph.initializer) == 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_have_the_type_of_the_original(dtype):
    kind = {np.float16: "float16", np.float32: "float", np.float64: "double"}[dtype]
    model = model_of(f"g ({kind}[1,4,9,11] x) => ({kind}[1,3,P,Q] y) {{ [c] y = {CONV}(x, w) }}", dtype=dtype,
                     w=(3, 4, 2, 3))
    chain = factors()
    arrays = [numpy_helper.to_array(t) for t in replaced(model, name="c", chain=chain).graph.initializer]
    for found, expected in zip(arrays, (chain[0].weight, chain[1].weight, chain[1].bias), strict=True):
        np.testing.assert_array_equal(found, expected.astype(dtype))
        assert found.dtype == dtype


def test_attributes_spell_out_the_geometry():
    spec = ConvSpec.make(4, 6, kernel=(2, 3), stride=(2, 1), dilation=(1, 2), pads=(1, 0, 2, 3), groups=2)
    assert attributes(spec) == {"kernel_shape": [2, 3], "strides": [2, 1], "dilations": [1, 2], "group": 2,
                                "pads": [1, 0, 2, 3]}


def test_automatic_padding_stays_automatic():
    spec = ConvSpec.make(4, 6, kernel=(2, 3), stride=(2, 1), auto_pad="SAME_LOWER")
    assert attributes(spec) == {"kernel_shape": [2, 3], "strides": [2, 1], "dilations": [1, 1], "group": 1,
                                "auto_pad": "SAME_LOWER"}


# dense layers


DENSE = {
    "gemm": ("y = Gemm(x, w, b)", (4, 3)), "transposed gemm": ("y = Gemm<transB=1>(x, w, b)", (3, 4)),
    "gemm without bias": ("y = Gemm(x, w)", (4, 3)), "matmul": ("y = MatMul(x, w)", (4, 3)),
}


def dense_factors(bias):
    """A chain with known weights that leads from 4 to 3 channels."""
    return (ConvFactor(role="kernel", spec=ConvSpec.make(4, 2, kernel=(), in_size=(), bias=False),
                       weight=RNG.standard_normal((2, 4))),
            ConvFactor(role="expand", spec=ConvSpec.make(2, 3, kernel=(), in_size=()),
                       weight=RNG.standard_normal((3, 2)), bias=np.asarray(bias)))


@pytest.mark.parametrize("bias", [[0.5, -1.5, 2.5], [0.0, 0.0, 0.0]], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", DENSE)
def test_a_dense_layer_becomes_a_chain_of_its_kind(kind, bias):
    text, shape = DENSE[kind]
    biases = {"b": (3,)} if ", b)" in text else {}
    model = model_of(f"g (float[5,4] x) => (float[5,3] z, float[5,3] y) {{ [d] {text}  [after] z = Relu(y) }}",
                     w=shape, **biases)
    first, last = dense_factors(bias)
    proto = replaced(model, name="d", chain=(first, last))
    x = RNG.standard_normal((5, 4)).astype(np.float32)
    found = run(create_session(proto.SerializeToString()), {"x": x}, outputs=["y"])[0]
    # float32 rounding of outputs up to about 10
    np.testing.assert_allclose(found, x @ first.weight.T @ last.weight.T + bias, rtol=1e-5, atol=1e-5)
    op = "MatMul" if kind == "matmul" else "Gemm"
    added = kind == "matmul" and any(bias)
    assert [node.op_type for node in proto.graph.node] == [op, op, *(["Add"] if added else []), "Relu"]
    assert [node.name for node in proto.graph.node] == ["d/kernel", "d", *(["d/bias"] if added else []), "after"]
    assert {t.name for t in proto.graph.initializer} == {"d/kernel.weight", "d/expand.weight"} | (
        {"d/expand.bias"} if added or op == "Gemm" else set())


def wrong_chains():
    first, last = factors()
    return {
        "gap": (replace(first, spec=replace(first.spec, in_channels=5), weight=np.zeros((2, 5, 1, 1))), last),
        "seam": (first, factors(rank=1)[1]),
        "shape": (replace(first, weight=first.weight[:, :, 0]), last),
        "end": (first,),
        "no bias": (first, replace(last, bias=None)),
    }


@pytest.mark.parametrize("why", wrong_chains())
def test_chains_that_do_not_fit_are_refused_before_anything_changes(why):
    model = model_of(f"g (float[1,4,9,11] x) => (float[1,3,P,Q] y) {{ [c] y = {CONV}(x, w) }}", w=(3, 4, 2, 3))
    edit = GraphEdit(model)
    (layer,) = find_layers(model, infer_shapes(model).tensors)
    with pytest.raises(ValueError, match="chain"):
        replace_layer(edit, layer, wrong_chains()[why])
    assert edit.result().proto == model.proto


def test_a_computed_weight_is_refused():
    model = model_of(f"g (float[1,4,9,11] x) => (float[1,3,P,Q] y) {{ w = Neg(v)  [c] y = {CONV}(x, w) }}",
                     v=(3, 4, 2, 3))
    (layer,) = find_layers(model, infer_shapes(model).tensors)
    with pytest.raises(ValueError, match="not constant"):
        replace_layer(GraphEdit(model), layer, factors())


def test_the_last_factor_keeps_readers_inside_of_branches():
    model = model_of(f"""g (float[1,4,9,11] x, bool c) => (float[1,3,6,10] z) {{
        [c] y = {CONV}(x, w)
        z = If(c) <then_branch = t () => (float[1,3,6,10] r) {{ r = Neg(y) }},
                   else_branch = e () => (float[1,3,6,10] s) {{ s = Relu(y) }}> }}""", w=(3, 4, 2, 3))
    proto = replaced(model, name="c", chain=factors())
    feeds = {"x": RNG.standard_normal((1, 4, 9, 11)).astype(np.float32), "c": np.array(True)}
    (negated,) = run(create_session(proto.SerializeToString()), feeds)
    alone = onnx.ModelProto()
    alone.CopyFrom(proto)
    del alone.graph.node[-1], alone.graph.input[-1]
    alone.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("y"))
    (plain,) = run(create_session(alone.SerializeToString()), {"x": feeds["x"]})
    np.testing.assert_array_equal(negated, -plain)
