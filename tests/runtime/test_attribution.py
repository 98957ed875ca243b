"""Attribution on made-up sessions: names and graphs as onnxruntime could leave them, one case at a time."""

import onnx
import onnx.parser
import pytest
from onnx import helper

from onnxslim1x1.runtime.attribution import attribute, layer_family
from onnxslim1x1.runtime.canonical import canonical_copy
from onnxslim1x1.runtime.kernels import Kernel

# 0 Pad, 1 Conv, 2 Relu, 3 Conv, 4 Add, 5 Relu, 6 Softmax; 7 and 8 are constant
SOURCE = canonical_copy(onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4,8,8] x) => (float[1,4,8,8] y, float[4] k) <float[4,4,1,1] w, float[4] v> {
  p = Pad(x, pads)
  a = Conv(p, w)
  b = Relu(a)
  c = Conv(x, w)
  s = Add(b, c)
  r = Relu(s)
  y = Softmax(r)
  n = Neg(v)
  k = Exp(n)
}"""))


def node(name, inputs, outputs, op="Op"):
    return helper.make_node(op, inputs, outputs, name=name)


def attributed(kernels, *nodes):
    """Owners and kinds of kernels given as (name, operator), and what was absorbed."""
    found = attribute([Kernel(node=name, op=op, seconds=k + 1.0) for k, (name, op) in enumerate(kernels)], SOURCE,
                      helper.make_graph(list(nodes), "g", [], []))
    assert [share.kernel.seconds for share in found.shares] == [k + 1.0 for k in range(len(kernels))]
    return [share.node for share in found.shares], [share.kind for share in found.shares], dict(found.absorbed)


def test_a_kernel_named_after_the_end_of_its_chain_belongs_to_the_convolution():
    owners, _, absorbed = attributed([("@2.0_nchwc", "Conv"), ("@3", "Conv"), ("@4", "Add"), ("@5", "Relu"),
                                      ("@6", "Softmax")])
    assert owners == [1, 3, 4, 5, 6]
    assert absorbed == {0: 1, 2: 1}


def test_a_fused_shortcut_belongs_to_the_convolution_that_ran_last():
    owners, _, absorbed = attributed([("@2.0_nchwc", "Conv"), ("@3.0_nchwc", "Conv"), ("@6", "Softmax")])
    assert owners == [1, 3, 6]
    assert absorbed == {0: 1, 2: 1, 4: 3, 5: 3}


def test_the_output_in_the_optimised_graph_names_what_was_fused_behind():
    owners, _, absorbed = attributed([("@3", "Conv"), ("fused @1", "FusedConv"), ("@6", "Softmax")],
                                     node("fused @1", ["x"], ["@5.0"]))
    assert owners == [3, 1, 6]
    assert absorbed == {0: 1, 2: 1, 4: 1, 5: 1}


def test_kernels_of_other_kinds_keep_their_time_even_if_a_convolution_has_none():
    owners, _, absorbed = attributed([("@3", "Conv"), ("@4", "Add"), ("@6", "Softmax")])
    assert owners == [3, 4, 6]
    assert absorbed == {2: 4, 5: 6}  # 1 and the 0 before it are hidden behind an Add, which cannot contain a layer


def test_a_kernel_that_may_contain_anything_absorbs_layers():
    owners, _, absorbed = attributed([("@6", "Everything")])
    assert owners == [6]
    assert absorbed == dict.fromkeys(range(6), 6)


def test_constant_branches_are_neither_timed_nor_absorbed():
    _, _, absorbed = attributed([("@6", "Everything")])
    assert not {7, 8} & absorbed.keys()


def test_reorders_belong_to_the_result_that_they_convert_or_to_the_layer_that_they_serve():
    owners, kinds, _ = attributed(
        [("ReorderInput_token_3", "ReorderInput"), ("@2.0_nchwc", "Conv"), ("ReorderOutput", "ReorderOutput"),
         ("@3", "Conv")],
        node("ReorderInput_token_3", ["x"], ["reorder"]), node("@2.0_nchwc", ["reorder", "w"], ["reorder_token_1"]),
        node("ReorderOutput", ["reorder_token_1"], ["@2.0"]))
    assert owners == [1, 1, 1, 3]  # ReorderOutput names the Relu, which ran in the convolution
    assert kinds == ["reorder", "compute", "reorder", "compute"]


@pytest.mark.parametrize(("name", "output"), [("InsertedPrecisionFreeCast_@3.0", "@3.0"), ("token_5", "Inserted_@3.0"),
                                              ("token_5", "between")])
def test_inserted_casts_and_transposes_are_told_by_name_output_or_consumer(name, output):
    for op, kind in (("Cast", "cast"), ("Transpose", "reorder")):
        owners, kinds, _ = attributed([(name, op), ("@3", "Conv")],
                                      node(name, ["x"], [output]), node("far", [output], ["f"]),
                                      node("@3", ["f"], ["g"]))
        assert (owners, kinds) == ([3, 3], [kind, "compute"])


def test_a_kernel_that_nothing_tells_stays_unmapped():
    owners, kinds, _ = attributed([("Mystery_7", "Mystery"), ("lonely", "Cast"), ("@77", "Relu"), ("@3", "Conv")],
                                  node("lonely", ["x"], ["nowhere"]))
    assert owners == [None, None, None, 3]
    assert kinds == ["compute", "cast", "compute", "compute"]


def test_an_inserted_kernel_without_a_telling_name_belongs_to_what_it_serves():
    owners, _, _ = attributed([("Unsqueeze_token_1", "Unsqueeze"), ("@3", "Conv")],
                              node("Unsqueeze_token_1", ["x"], ["u"]), node("@3", ["u"], ["@3.0"]))
    assert owners == [3, 3]


def test_a_graph_with_a_cycle_ends_the_search():
    owners, _, _ = attributed([("a", "ReorderInput")], node("a", ["t"], ["s"]), node("b", ["s"], ["t"]))
    assert owners == [None]


@pytest.mark.parametrize(("op", "family"), [
    ("Conv", "Conv"), ("FusedConv", "Conv"), ("QLinearConv", "Conv"), ("ConvInteger", "Conv"),
    ("ConvTranspose", "ConvTranspose"), ("Gemm", "MatMul"), ("FusedGemm", "MatMul"), ("MatMulNBits", "MatMul"),
    ("Relu", ""), ("MaxPool", "")])
def test_fused_and_quantised_operators_are_of_the_kind_of_their_source(op, family):
    assert layer_family(op) == family
