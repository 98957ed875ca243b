"""What a model must be fed, and shapes that only a run reveals."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.errors import DataError, RuntimeFailure
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime.inputs import is_excusable, layers_with_shapes, model_inputs
from onnxslim1x1.runtime.session import InputSpec, random_feeds


def model_of(text, *, head='<ir_version: 8, opset_import: ["" : 17]>', **weights):
    proto = onnx.parser.parse_model(f"{head}\n{text}")
    for name, shape in weights.items():
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return load(proto)


def inputs_of(model, **options):
    return model_inputs(model, infer_shapes(model, **options))


def test_names_types_shapes_and_free_axes():
    model = model_of("""g (float[N,3,H,7] image, int64[5] index, float16[?] half, bool flag, double[2] w) =>
        (float[N,3,H,7] y) { y = Neg(image) }""")
    model.proto.graph.initializer.append(numpy_helper.from_array(np.zeros(2), "w"))
    assert inputs_of(model, dims={"N": 2, "H": 9}) == (
        InputSpec(name="image", dtype=np.dtype(np.float32), shape=(2, 3, 9, 7), free_axes=(0, 2)),
        InputSpec(name="index", dtype=np.dtype(np.int64), shape=(5,), free_axes=()),
        InputSpec(name="half", dtype=np.dtype(np.float16), shape=(1,), free_axes=(0,)),
        InputSpec(name="flag", dtype=np.dtype(np.bool_), shape=(), free_axes=()))  # w has a value


def test_all_axes_are_free_where_no_shape_is_declared():
    model = model_of("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    model.proto.graph.input[0].type.tensor_type.ClearField("shape")
    (spec,) = inputs_of(model, input_shapes={"x": (4, 5)})
    assert (spec.shape, spec.free_axes) == ((4, 5), (0, 1))


def test_a_sequence_cannot_be_fed():
    model = model_of("g (float[2] x, seq(float[2]) s) => (float[2] y) { y = Neg(x) }")
    with pytest.raises(DataError, match=r"^model: input s is no tensor; only tensors can be fed$"):
        inputs_of(model)


def test_random_feeds_fit_what_the_model_wants():
    model = model_of("g (float[N,3] x, int64[4] i, bool[5] b) => (float[N,3] y) { y = Neg(x) }")
    feeds = random_feeds(inputs_of(model, dims={"N": 6}), seed=1)
    assert {name: (f.shape, f.dtype.name) for name, f in feeds.items()} == {
        "x": ((6, 3), "float32"), "i": ((4,), "int64"), "b": ((5,), "bool")}
    again = random_feeds(inputs_of(model, dims={"N": 6}), seed=1)
    np.testing.assert_array_equal(feeds["x"], again["x"])
    assert set(np.unique(feeds["i"])) <= {0, 1}


# shapes

def dynamic_model():
    """The second layer sees a width that is counted while running: the number of ones in `mask`."""
    return model_of("""g (float[2,3,8,9] x) => (float[A,B,C,D] y)
        <int64[7] mask = {1, 0, 1, 1, 0, 1, 1}, int64[3] head = {2, 3, 11}, int64[1] one = {1}> {
            found = NonZero(mask)  sizes = Shape(found)  width = Gather(sizes, one)
            shape = Concat<axis = 0>(head, width)  r = Resize<mode = "nearest">(x, , , shape)
            [plain] p = Conv(x, w)
            [hidden] y = Conv<strides = [2,1], pads = [1,0,2,3]>(r, v, b)
        }""", w=(4, 3, 2, 3), v=(5, 3, 3, 2), b=(5,))


def test_without_a_run_hidden_shapes_stay_unknown():
    model = dynamic_model()
    plain, hidden = layers_with_shapes(model, infer_shapes(model), run=False)
    assert plain.spec.in_size == (8, 9)
    assert (hidden.spec.in_size, hidden.ineligible.code) == (None, "unknown_shape")


def test_a_run_reveals_hidden_shapes():
    model = dynamic_model()
    before = model.proto.SerializeToString()
    plain, hidden = layers_with_shapes(model, infer_shapes(model), run=True)
    assert (hidden.in_shape, hidden.spec.in_size, hidden.spec.batch) == ((2, 3, 11, 5), (11, 5), 2)
    assert (hidden.ineligible, hidden.out_shape) == (None, (2, 5, 6, 7))
    assert hidden.spec.macs == 2 * 5 * 6 * 7 * 3 * 3 * 2
    assert plain == layers_with_shapes(model, infer_shapes(model), run=False)[0]
    assert model.proto.SerializeToString() == before


def test_no_run_is_made_where_everything_is_known():
    model = model_of("g (float[1,3,8,9] x) => (float[1,4,P,Q] y) { y = Conv(x, w)  z = mine(y) }", w=(4, 3, 2, 3))
    (layer,) = layers_with_shapes(model, infer_shapes(model), run=True)  # onnxruntime could not run it
    assert layer.out_shape == (1, 4, 7, 7)


def test_what_cannot_run_keeps_the_shapes_that_are_known():
    model = model_of("""g (float[1,3,8,9] x) => (float[A,B,C,D] y) {
        [seen] b = Conv(x, w)  a = mine(b)  [hidden] y = Conv(a, v) }""", w=(4, 3, 2, 3), v=(5, 4, 2, 3))
    seen, hidden = layers_with_shapes(model, infer_shapes(model), run=True)
    assert (seen.spec.in_size, seen.ineligible) == ((8, 9), None)
    assert (hidden.spec.in_size, hidden.ineligible.code) == (None, "unknown_shape")
    assert hidden.spec.params == 5 * 4 * 2 * 3


def test_symbolic_inference_knows_operators_that_onnx_does_not(monkeypatch, tmp_path):
    pytest.importorskip("sympy")
    monkeypatch.chdir(tmp_path)
    model = model_of("""g (float[N,3,8,9] x) => (float[A,B,C,D] y) {
        a = com.microsoft.QuickGelu(x)  unknown = mine.op(x)  [hidden] y = Conv<strides = [2,1]>(a, w) }""",
        w=(4, 3, 2, 3), head='<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "mine" : 1]>')
    shapes = infer_shapes(model, dims={"N": 2})
    assert "a" not in shapes.tensors
    (hidden,) = layers_with_shapes(model, shapes, run=False)
    assert (hidden.spec.in_size, hidden.spec.batch, hidden.ineligible) == ((8, 9), 2, None)
    assert hidden.spec.macs == 2 * 4 * 4 * 7 * 3 * 2 * 3
    assert not list(tmp_path.iterdir())  # its public function would leave a file here


@pytest.mark.parametrize(("operator", "kind", "excusable"), [
    ("Relu", "InvalidGraph", False), ("Relu", "InvalidProtobuf", False), ("Relu", "NotImplemented", True),
    ("Relu", "Fail", True), ("mine", "InvalidGraph", True)])
def test_what_onnxruntime_lacks_is_no_fault_of_the_model(operator, kind, excusable):
    model = model_of(f"g (float[1] x) => (float[1] y) {{ y = {operator}(x) }}")
    error = RuntimeFailure("no")
    error.__cause__ = type(kind, (Exception,), {})()
    assert is_excusable(model, error) is excusable


def test_inputs_of_absurd_size_are_not_made():
    spec = InputSpec(name="x", dtype=np.dtype(np.float32), shape=(2**20, 2**10))
    with pytest.raises(DataError, match=r"^input x: random values of shape 1048576,1024 .* --input-shape$"):
        random_feeds([spec])


@pytest.mark.parametrize("word", ["bfloat16", "double"])
def test_types_that_onnxruntime_does_not_run_are_run_in_float32_for_their_shapes(word):
    kind = {"bfloat16": onnx.TensorProto.BFLOAT16, "double": onnx.TensorProto.DOUBLE}[word]
    model = dynamic_model().proto
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = kind
    loaded = load(model)
    before = model.SerializeToString()
    _, hidden = layers_with_shapes(loaded, infer_shapes(loaded), run=True)
    assert (hidden.spec.in_size, hidden.ineligible) == ((11, 5), None)
    assert model.SerializeToString() == before
