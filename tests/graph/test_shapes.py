"""Binding free dimensions and inferring all shapes."""

import time

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.errors import ModelError, OptionError
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def model_of(text, *, head=HEAD, **weights):
    """A model with weights of the given shapes."""
    proto = onnx.parser.parse_model(head + text)
    for name, shape in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    return load(proto)


@pytest.fixture
def free():
    return model_of("g (float[N,3,H,W] x) => (float[N,4,P,Q] y) { y = Conv<strides=[2,3], pads=[1,0,2,3]>(x, w) }",
                    w=(4, 3, 3, 5))


def test_free_dimensions_get_usual_sizes_and_a_note_each(free):
    shapes = infer_shapes(free)
    assert shapes.inputs == {"x": (1, 3, 224, 224)}
    assert shapes.tensors["y"] == (1, 4, (224 + 3 - 3) // 2 + 1, (224 + 3 - 5) // 3 + 1)
    assert shapes.notes == tuple(
        f"input x: free dimension {name} set to {size} (change it with --dim {name}=...)"
        for name, size in (("N", 1), ("H", 224), ("W", 224)))


def test_given_shapes_need_no_note(free):
    shapes = infer_shapes(free, input_shapes={"x": (2, 3, 21, 35)})
    assert shapes.inputs == {"x": (2, 3, 21, 35)}
    assert shapes.tensors["y"] == (2, 4, 11, 12)
    assert shapes.notes == ()


def test_given_dimensions(free):
    shapes = infer_shapes(free, dims={"H": 21, "W": 35, "N": 6})
    assert (shapes.inputs["x"], shapes.tensors["y"], shapes.notes) == ((6, 3, 21, 35), (6, 4, 11, 12), ())


def test_a_shape_without_a_name_goes_to_the_only_input(free):
    assert infer_shapes(free, input_shapes={"": (2, 3, 21, 35)}).inputs == {"x": (2, 3, 21, 35)}


def test_a_shape_without_a_name_is_ambiguous_for_two_inputs():
    model = model_of("g (float[N] a, float[N] b) => (float[N] y) { y = Add(a, b) }")
    with pytest.raises(OptionError, match="it has a, b"):
        infer_shapes(model, input_shapes={"": (4,)})


def test_the_model_is_left_as_it_was(free):
    before = free.proto.SerializeToString()
    infer_shapes(free, dims={"H": 9})
    assert free.proto.SerializeToString() == before


@pytest.mark.parametrize(("declared", "shape"), [
    ("N,C,T", (1, 1, 1024)), ("N,3,H,W", (1, 3, 224, 224)), ("N,H,W,3", (1, 224, 224, 3)),
    ("N,H,W,1", (1, 224, 224, 1)), ("N,C,H,W", (1, 1, 224, 224)), ("N,2,D,H,W", (1, 2, 64, 64, 64)),
    ("N,F", (1, 1)), ("N", (1,)), ("5,3,7,W", (5, 3, 7, 224))])
def test_defaults_by_the_layout_of_the_input(declared, shape):
    model = model_of(f"g (float[{declared}] x) => (float[{declared}] y) {{ y = Neg(x) }}")
    assert infer_shapes(model).inputs["x"] == shape


def test_dimensions_without_a_name_are_noted_by_axis():
    shapes = infer_shapes(model_of("g (float[?,3,?,8] x) => (float[?,3,?,8] y) { y = Neg(x) }"))
    assert shapes.inputs["x"] == (1, 3, 224, 8)
    assert shapes.notes[1] == "input x: free dimension axis 2 set to 224 (change it with --input-shape x:...)"


@pytest.mark.parametrize(("size", "bound"), [(0, 0), (-1, 1)])
def test_zero_is_a_size_and_less_is_free(size, bound):
    model = model_of("g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }").proto
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    assert infer_shapes(load(model)).inputs["x"] == (bound, 3)  # onnxruntime insists on 0


@pytest.mark.parametrize(("nodes", "declared", "shape"), [
    ("y = Conv<group = 2>(x, w)", "?,?,?,?", (1, 6, 224, 224)), ("y = Conv(x, w)", "", (1, 3, 224, 224)),
    ("a = Relu(x)  b = Sub(a, m)  y = Conv(b, w)", "?,?,?,?", (1, 3, 224, 224)),
    ("y = ConvTranspose(x, w)", "", (1, 4, 224, 224)), ("y = Gemm<transB = 1>(x, v)", "", (1, 5)),
    ("y = Gemm(x, v)", "N,?", (1, 7)), ("y = Conv(x, w)", "?,2,?,?", (1, 2, 224, 224)),
    ("a = Transpose(x)  y = Conv(a, w)", "?,?,?,?", (1, 1, 224, 224))])
def test_the_first_layer_says_what_the_file_leaves_open(nodes, declared, shape):
    model = model_of(f"g (float[{declared or 1}] x) => (float[1] y) {{ {nodes} }}", w=(4, 3, 3, 5), v=(7, 5), m=(1,))
    if not declared:
        model.proto.graph.input[0].type.tensor_type.ClearField("shape")
    shapes = infer_shapes(model)
    assert shapes.inputs["x"] == shape
    assert any("(change it with --" in note for note in shapes.notes)


def test_inputs_that_are_initializers_are_not_fed():
    model = model_of("g (float[4] x, float[4] w) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }")
    shapes = infer_shapes(model)
    assert shapes.inputs == {"x": (4,)}
    assert shapes.tensors["w"] == (4,)


def test_inputs_that_are_no_tensors_are_left_out():
    model = model_of("g (seq(float[2]) s, float[2] x) => (float[2] y) { y = Neg(x) }")
    assert infer_shapes(model).inputs == {"x": (2,)}


@pytest.mark.parametrize(("shape", "text"), [
    ((1, 4, 9, 9), "1,4,9,9 does not fit the declared [N,3,H,W]"), ((1, 3, 9), "1,3,9 does not fit"),
    ((1, 3, 0, 9), "1,3,0,9 does not fit"), ((1, 3, 9, -1), "does not fit")])
def test_shapes_that_do_not_fit(shape, text, free):
    with pytest.raises(OptionError) as caught:
        infer_shapes(free, input_shapes={"x": shape})
    assert str(caught.value).startswith(f"--input-shape x: {text}" if text[0].isdigit() else "--input-shape x: ")
    assert "\n" not in str(caught.value)


def test_unknown_inputs_and_dimensions(free):
    with pytest.raises(OptionError, match=r"^--input-shape z: model has no such input; it has x$"):
        infer_shapes(free, input_shapes={"z": (1, 3, 9, 9)})
    with pytest.raises(OptionError, match=r"^--dim K: no input of model has .* \(free: H, N, W\)$"):
        infer_shapes(free, dims={"K": 3, "H": 9})


def test_an_input_without_any_shape_must_be_given_one():
    model = model_of("g (float[1] x) => (float[1] y) { y = Neg(x) }").proto
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=r"^model: input x has no shape; give --input-shape x:1,3,224,224$"):
        infer_shapes(load(model))
    shapes = infer_shapes(load(model), input_shapes={"x": (2, 5)})
    assert (shapes.inputs["x"], shapes.tensors["y"]) == ((2, 5), (2, 5))


def test_shapes_pass_through_reshapes_of_known_values():
    model = model_of("""g (float[N,3,4,5] x) => (float[A,B] y) <int64[2] to = {0, -1}> {
        s = Shape(x)  r = Reshape(x, to)  y = Relu(r) }""")
    tensors = infer_shapes(model, dims={"N": 2}).tensors
    assert (tensors["r"], tensors["y"], tensors["s"], tensors["to"]) == ((2, 60), (2, 60), (4,), (2,))


def test_failing_inference_is_noted_and_what_is_known_is_kept():
    model = model_of("g (float[1,3,8,9] x) => (float[A,B,C,D] y) { y = Conv(x, w) }", w=(4, 3, 3, 3),
                     head='<ir_version: 8, opset_import: ["mine" : 1]>\n')  # the standard operators have no version
    shapes = infer_shapes(model)
    assert shapes.tensors == {"x": (1, 3, 8, 9), "w": (4, 3, 3, 3)}
    (note,) = shapes.notes
    assert note.startswith("shape inference failed (")
    assert not shapes.assumed
    assert not shapes.advice  # nothing was chosen that could be wrong
    assert "\n" not in note


def test_unknown_operators_leave_their_outputs_unknown():
    model = model_of("g (float[1,3,8,9] x) => (float[A,B] y) { a = mine.Op(x)  b = Neg(x)  y = Relu(a) }",
                     head='<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>\n')
    tensors = infer_shapes(model).tensors
    assert tensors["b"] == (1, 3, 8, 9)
    assert {"a", "y"}.isdisjoint(tensors)


def test_small_external_integers_say_something_about_shapes(tmp_path):
    proto = onnx.parser.parse_model(HEAD + "g (float[2,3,4,5] x) => (float[A,B] y) { y = Reshape(x, to) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([6, -1]), "to"))
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    model = load(path)
    assert infer_shapes(model).tensors["y"] == (6, 20)
    assert model.proto.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL  # a copy was changed
    (tmp_path / "m.data").unlink()
    assert "y" not in infer_shapes(load(path)).tensors


@pytest.mark.parametrize("operator", ["Expand", "Reshape"])
def test_a_shape_of_absurd_length_is_no_shape(operator):
    """Inference would make a tensor of two thousand million axes."""
    model = model_of(f"g (float[1,3,1] x, int64[2147483648] shape) => (float[3,3,3] y) {{ y = {operator}(x, shape) }}")
    shapes = infer_shapes(model)
    assert shapes.inputs["shape"] == (2147483648,)
    assert "shape" not in shapes.tensors


@pytest.mark.parametrize("body", [
    "c = CastLike(x, x)  y = Add(x, c)",
    "zero = Constant<value_int=0>()  step = Constant<value_int=1>()  n = Size(x)  y = Range(zero, n, step)"])
def test_values_of_absurd_number_are_not_computed(body):
    """Inference would write down each element of 2^40; without the values the shapes of the rest are still there."""
    text = f"g (float[1099511627776] x, float[3,4] z) => (float[N] y, float[A,B] r) {{ {body}  r = Relu(z) }}"
    start = time.monotonic()
    assert infer_shapes(model_of(text)).tensors["r"] == (3, 4)
    assert time.monotonic() - start < 5  # without computing them a thousandth of that is enough
