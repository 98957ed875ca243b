"""What an edit does not touch survives byte for byte, and what it makes is well formed."""

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import helper, numpy_helper

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.strategies import by_name

RICH = """<ir_version: 8, opset_import: ["" : 17, "mine" : 3], producer_name: "maker", doc_string: "of the model">
g (float[1,4,9,11] x, bool c, float[N] extra) => (float[1,3,8,9] z, float[1,4,9,11] u, float[1,3,8,9] v) {
    [conv] y = Conv(x, w, b)
    [custom] u = mine.Odd<alpha = 0.5, beta = [1, 2], gamma = "text", delta = float[2] {1, 2}>(x)
    [branch] v = If(c) <
        then_branch = t () => (float[1,3,8,9] r) <float[1] k = {2}> { [in] q = Mul(y, k)  r = Add(q, scale) },
        else_branch = e () => (float[1,3,8,9] s) { s = mine.fun(y) }>
    [last] z = Relu(y)
}
<domain: "mine", opset_import: ["" : 17]> fun (a) => (d) { d = Neg(a) }"""


def rich_model():
    """A model with everything that graphsurgeon's own export would lose or change."""
    proto = onnx.parser.parse_model(RICH)
    rng = np.random.default_rng(0)
    graph = proto.graph
    shapes = {"w": (3, 4, 2, 3), "b": (3,), "scale": (3, 1, 1), "unused": (5,)}
    graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items())
    graph.initializer[2].doc_string = "of the scale"
    graph.initializer[2].data_location = onnx.TensorProto.DEFAULT  # spelled out
    graph.initializer.append(onnx.TensorProto(name="odd", data_type=onnx.TensorProto.BFLOAT16, dims=[2],
                                              raw_data=b"\x80\x3f\x00\x40"))
    graph.doc_string = "of the graph"
    for node in graph.node:
        node.doc_string = f"of {node.name}"
        node.metadata_props.add(key="source", value=f"layer {node.name}")
    graph.node[1].attribute[0].doc_string = "of an attribute"
    graph.node[1].attribute.append(helper.make_attribute("sparse", helper.make_sparse_tensor(
        helper.make_tensor("sv", onnx.TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("si", onnx.TensorProto.INT64, [1], [2]), [4])))
    graph.input[0].doc_string = "of the input"
    graph.output[1].type.denotation = "IMAGE"
    graph.value_info.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 8, 9], "of y"))
    graph.metadata_props.add(key="graph", value="properties")
    proto.metadata_props.add(key="author", value="someone")
    return proto


def replaced(proto, *, rank=2):
    """The model with its layer `conv` rewritten."""
    model = load(proto)
    (layer,) = (x for x in find_layers(model, infer_shapes(model).tensors) if x.name == "conv")
    weight = numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == "w"))
    edit = GraphEdit(model)
    replace_layer(edit, layer, by_name("reduce").decompose(layer.spec, weight).truncate((rank,)).factors)
    return edit.result({"tool": "1", "author": "another"}).proto


def test_an_edit_without_a_change_gives_the_same_bytes():
    proto = rich_model()
    assert GraphEdit(load(proto)).result().proto.SerializeToString() == proto.SerializeToString()


def test_the_source_is_not_touched():
    proto = rich_model()
    before = proto.SerializeToString()
    replaced(proto)
    assert proto.SerializeToString() == before


def test_nodes_that_are_not_edited_survive_byte_for_byte():
    proto = rich_model()
    after = {n.name: n for n in replaced(proto).graph.node}
    for node in proto.graph.node[1:]:  # with metadata, doc strings, unknown attributes and sub-graphs
        assert after[node.name].SerializeToString() == node.SerializeToString()


def test_initializers_that_are_not_edited_survive_byte_for_byte():
    proto = rich_model()
    after = {t.name: t for t in replaced(proto).graph.initializer}
    for tensor in proto.graph.initializer[2:]:  # one is read by a sub-graph only, one by nothing, one is no numpy type
        assert after[tensor.name].SerializeToString() == tensor.SerializeToString()
    assert {"w", "b"}.isdisjoint(after)


def test_all_else_survives_byte_for_byte():
    proto, after = rich_model(), replaced(rich_model())
    assert [e.value for e in after.metadata_props] == ["another", "1"]
    assert [e.key for e in after.metadata_props] == ["author", "tool"]
    for model in (proto, after):
        model.ClearField("metadata_props")
        model.graph.ClearField("node")
        model.graph.ClearField("initializer")
    assert after.SerializeToString() == proto.SerializeToString()  # functions, value infos, graph inputs and so on


def test_the_order_of_nodes_is_kept_around_the_replacement():
    assert [n.name for n in replaced(rich_model()).graph.node] == [
        "conv/reduce", "conv", "custom", "branch", "last"]


def test_a_weight_that_a_branch_reads_too_stays():
    proto = rich_model()
    proto.graph.node[2].attribute[0].g.node[1].input[1] = "w"  # shapes do not matter here
    kept = {t.name: t for t in replaced(proto).graph.initializer}
    assert kept["w"].SerializeToString() == proto.graph.initializer[0].SerializeToString()
    assert "b" not in kept


def test_constant_nodes_that_nothing_reads_any_more_are_gone():
    values = np.random.default_rng(0).standard_normal((3, 4, 2, 3)).astype(np.float32)
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4,9,11] x) => (float[1,3,8,9] y) { [conv] y = Conv(x, w, b) }""")
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    for name, value in (("b", values[:, 0, 0, 0]), ("idle", values)):
        node = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        proto.graph.node.insert(0, node)
    assert [n.op_type for n in replaced(proto).graph.node] == ["Constant", "Conv", "Conv"]
    assert replaced(proto).graph.node[0].output == ["idle"]  # it was idle before: not ours to remove


def test_constant_nodes_that_others_read_stay():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4,9,11] x) => (float[1,3,8,9] y, float[3] z) {
            b = Constant<value = float[3] {1, 2, 3}>()  [conv] y = Conv(x, w, b)  z = Neg(b) }""")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((3, 4, 2, 3), np.float32), "w"))
    assert replaced(proto).graph.node[0] == proto.graph.node[0]


def test_weights_that_were_graph_inputs_become_constants():
    proto = onnx.parser.parse_model("""<ir_version: 3, opset_import: ["" : 9]>
        g (float[1,4,9,11] x, float[3,4,2,3] w, float[3] b, float[3,1,1] t) => (float[1,3,8,9] z) {
            [conv] y = Conv(x, w, b)  z = Mul(y, t) }""")
    for name, shape in (("w", (3, 4, 2, 3)), ("b", (3,)), ("t", (3, 1, 1))):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    after = replaced(proto)
    assert [i.name for i in after.graph.input] == ["x"]
    assert after.ir_version == 4  # the first one that allows it
    onnx.checker.check_model(after, full_check=True)


def test_newer_ir_versions_are_kept():
    proto = rich_model()
    proto.ir_version = 10
    assert GraphEdit(load(proto)).result().proto.ir_version == 10


# the tools of an edit


def test_unique_names_avoid_nodes_tensors_and_each_other():
    edit = GraphEdit(load(rich_model()))
    assert [edit.unique("new"), edit.unique("new"), edit.unique("new")] == ["new", "new_2", "new_3"]
    assert [edit.unique(name) for name in ("conv", "y", "w", "extra")] == ["conv_2", "y_2", "w_2", "extra_2"]


@pytest.mark.parametrize("name", ["unused", "k", "q", "in", "r"])
def test_unique_names_avoid_idle_tensors_and_those_of_sub_graphs(name):
    """ONNX forbids that a sub-graph reuses a name of the graph around it."""
    assert GraphEdit(load(rich_model())).unique(name) != name


def test_the_node_of_an_output():
    edit = GraphEdit(load(rich_model()))
    assert edit.node_of("v").name == "branch"
    with pytest.raises(KeyError, match="x"):
        edit.node_of("x")  # an input is written by no node


def test_values_of_constants():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) <float[2] w = {3, 5}> {
            c = Constant<value = float[2] {1, 2}>()  d = Constant<value_float = 2.0>()
            s = Mul(x, w)  t = Mul(s, c)  y = Mul(t, d) }""")
    edit = GraphEdit(load(proto))
    tensors = edit.graph.tensors()
    np.testing.assert_array_equal(edit.values(tensors["w"]), [3, 5])
    np.testing.assert_array_equal(edit.values(tensors["c"]), [1, 2])
    assert edit.values(tensors["x"]) is None
    assert edit.values(tensors["s"]) is None
    np.testing.assert_array_equal(edit.values(edit.constant("n", np.array([7.0]))), [7])


def test_values_that_lie_in_the_model_file(tmp_path):
    path = tmp_path / "m.onnx"
    proto = rich_model()
    values = np.random.default_rng(1).standard_normal((3, 4, 20, 30)).astype(np.float32)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    onnx.save_model(proto, path)
    edit = GraphEdit(load(path))
    np.testing.assert_array_equal(edit.values(edit.node_of("y").inputs[1]), values)


def test_what_graphsurgeon_cannot_import_is_an_error_of_the_model():
    proto = rich_model()
    proto.graph.input[2].type.tensor_type.elem_type = 99
    with pytest.raises(ModelError, match=r"^model: cannot be edited \("):
        GraphEdit(load(proto))


def test_a_new_node_that_cannot_be_exported_is_an_error_of_the_model():
    edit = GraphEdit(load(rich_model()))
    edit.splice(edit.node_of("z"), [gs.Node("Relu", name="bad", attrs={"odd": object()}, inputs=[], outputs=[])])
    with pytest.raises(ModelError, match=r"^model: node bad cannot be exported \("):
        edit.result()


def test_replacements_may_be_replaced():
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> '
                                    "g (float[2] x) => (float[2] z) { y = Neg(x)  z = Abs(y) }")
    edit = GraphEdit(load(proto))
    first, last = edit.node_of("y"), edit.node_of("z")
    inputs, outputs = list(first.inputs), list(first.outputs)
    first.inputs.clear()
    first.outputs.clear()
    relu = gs.Node("Relu", name="r", inputs=inputs, outputs=outputs)
    edit.splice(first, [relu])
    assert edit.node_of("y") is relu
    middle = gs.Variable(edit.unique("m"))
    relu.outputs = [middle]
    edit.splice(relu, [relu_again := gs.Node("Relu", name="r2", inputs=inputs, outputs=[middle]),
                       gs.Node("Exp", name="e", inputs=[middle], outputs=outputs)])
    relu.inputs.clear()
    relu.outputs.clear()
    assert [n.op_type for n in edit.result().proto.graph.node] == ["Relu", "Exp", "Abs"]
    assert edit.node_of("z") is last
    assert edit.node_of("y").op == "Exp"
    assert relu_again in edit.graph.nodes
