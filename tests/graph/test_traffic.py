"""Bytes that a layer must move, against cases that were counted by hand."""

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.graph.traffic import moved_bytes


def bytes_of(text, dtype=np.float32, **weights):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, shape in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, dtype), name))
    loaded = load(model)
    return moved_bytes(loaded, find_layers(loaded, infer_shapes(loaded).tensors))


def test_a_convolution_and_a_dense_layer():
    found = bytes_of("""net (float[2, 24, 15, 11] x) => (float[2, 7] y) {
      a = Conv <pads = [1, 0, 1, 2], strides = [1, 2]> (x, a_w, a_b)
      g = GlobalAveragePool(a)
      f = Flatten(g)
      y = Gemm <transB = 1> (f, y_w)
    }""", a_w=(40, 24, 3, 3), a_b=(40,), y_w=(7, 40))
    # the output of a is 15 high and (11 + 2 - 3) // 2 + 1 = 6 wide
    assert found == {"a": 4 * (2 * 24 * 15 * 11 + 40 * 24 * 9 + 40 + 2 * 40 * 15 * 6),
                     "y": 4 * (2 * 40 + 7 * 40 + 2 * 7)}


@pytest.mark.parametrize(("dtype", "name", "size"), [(np.float16, "float16", 2), (np.float64, "double", 8)])
def test_values_have_the_size_of_their_type(dtype, name, size):
    found = bytes_of(f"""net ({name}[1, 8, 5, 5] x) => ({name}[1, 4, 3, 3] y) {{
      r = Relu(x)
      y = Conv <group = 2> (r, w)
    }}""", dtype, w=(4, 4, 3, 3))
    assert found == {"y": size * (8 * 25 + 4 * 4 * 9 + 4 * 9)}


def test_an_inner_tensor_has_the_type_that_the_model_says():
    found = bytes_of("""net (float16[1, 8, 5, 5] x) => (float[1, 6, 5, 5] z) <float[1, 6, 5, 5] y> {
      y = Conv(x, w)
      z = Relu(y)
    }""", np.float16, w=(6, 8, 1, 1))
    assert found == {"y": 2 * 8 * 25 + 2 * 6 * 8 + 4 * 6 * 25}


def test_a_transposed_convolution_is_counted_by_its_shapes():
    found = bytes_of("""net (float[1, 6, 5, 4] x) => (float[1, 10, 11, 9] y) {
      y = ConvTranspose <strides = [2, 2]> (x, w)
    }""", w=(6, 10, 3, 3))
    assert found == {"y": 4 * (6 * 20 + 6 * 10 * 9 + 10 * 99)}


def test_what_has_no_shape_is_left_out():
    assert bytes_of("""net (float[n, 8, h, w] x, int64[2] s) => (float[a, b, c, d] y) {
      r = Reshape(x, s)
      y = Conv(r, w)
    }""", w=(6, 8, 1, 1)) == {}


def test_a_type_that_nobody_knows_is_as_good_as_none():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 8, 5, 5] x) => (float[1, 6, 5, 5] y) { y = Conv(x, w) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 8, 1, 1), np.float32), "w"))
    proto.graph.output[0].type.tensor_type.elem_type = 29
    model = load(proto)
    layers = find_layers(model, {"x": (1, 8, 5, 5), "y": (1, 6, 5, 5)})
    assert moved_bytes(model, layers) == {"y": 4 * (8 * 25 + 6 * 8 + 6 * 25)}
