"""Gradients of the backward graph against central differences, both computed by onnxruntime."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.graph.backward import backward
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime.calibration import with_outputs
from onnxslim1x1.runtime.session import create_session, run

EPSILON = 2e-3
SIZE = (4, 7, 9)  # (C, H, W)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
CONSTANTS = {
    "w": (5, 4, 3, 2), "wide": (4, 4, 3, 3), "grouped": (6, 2, 3, 2), "bias": (6,), "dense": (6, 252), "square": (9, 5),
    "map": (1, 4, 1, 1), "gamma": (4,), "beta": (4,), "mean": (4,),
}
INTS = {"pads": [0, 0, 1, 2, 0, 0, 0, 3], "starts": [5, 1], "ends": [-100, 8], "axes": [2, 3], "steps": [-2, 3],
        "flat": [0, -1], "one": [1]}
# every case reads `h` (N,4,7,9) and writes `y`
CASES = {
    "conv": "y = Conv <pads = [1, 0, 2, 1]> (h, w)",
    "conv with more padding than kernel": "y = Conv <pads = [3, 0, 2, 2]> (h, w)",
    "conv strided": "y = Conv <strides = [2, 3], pads = [1, 0, 0, 1]> (h, w)",
    "conv strided with a rest": "y = Conv <strides = [3, 2]> (h, w)",
    "conv dilated": "y = Conv <dilations = [2, 3], pads = [2, 1, 1, 0]> (h, w)",
    "conv strided and dilated": "y = Conv <strides = [2, 2], dilations = [1, 2], pads = [0, 1, 1, 2]> (h, w)",
    "conv grouped": "y = Conv <group = 2, strides = [1, 2], pads = [1, 1, 0, 0]> (h, grouped, bias)",
    "relu": "y = Relu(h)",
    "leaky relu": "y = LeakyRelu <alpha = 0.2> (h)",
    "clip": "y = Clip(h, low, high)",
    "clip from below": "y = Clip(h, low)",
    "sigmoid": "y = Sigmoid(h)",
    "tanh": "y = Tanh(h)",
    "softmax": "y = Softmax <axis = 1> (h)",
    "softmax of the last axis": "y = Softmax(h)",
    "overlapping max pool": "y = MaxPool <kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 0, 1]> (h)",
    "average pool": "y = AveragePool <kernel_shape = [3, 2], strides = [2, 3]> (h)",
    "overlapping average pool": "y = AveragePool <kernel_shape = [3, 3], strides = [1, 2]> (h)",
    "global average": "y = GlobalAveragePool(h)",
    "add of itself": "y = Add(h, h)",
    "subtract from itself": "t = Tanh(h)\n d = Sub(h, h)\n y = Add(d, t)",
    "add broadcast": "g = GlobalAveragePool(h)\n y = Add(g, h)",
    "subtract broadcast": "g = GlobalAveragePool(h)\n y = Sub(h, g)",
    "squeeze and excite": "g = GlobalAveragePool(h)\n s = Sigmoid(g)\n y = Mul(h, s)",
    "square": "y = Mul(h, h)",
    "times a constant": "y = Mul(h, map)",
    "constant less": "y = Sub(map, h)",
    "concat": "r = Relu(h)\n s = Sigmoid(h)\n y = Concat <axis = 1> (r, h, s, h)",
    "concat from the end": "s = Tanh(h)\n y = Concat <axis = -1> (s, h)",
    "pad": "y = Pad(h, pads)",
    "slice": "y = Slice(h, starts, ends, axes, steps)",
    "batch norm": "y = BatchNormalization <epsilon = 0.1> (h, gamma, beta, mean, variance)",
    "gemm": "f = Flatten(h)\n y = Gemm <transB = 1, alpha = 0.5> (f, dense, bias)",
    "matmul": "y = MatMul(h, square)",
    "reshape": "f = Reshape(h, flat)\n y = Tanh(f)",
    "transpose": "t = Transpose <perm = [0, 2, 3, 1]> (h)\n s = Softmax(t)\n y = Transpose <perm = [0, 3, 1, 2]> (s)",
    "unsqueeze": "u = Unsqueeze(h, one)\n y = Squeeze(u, one)",
    "identity": "i = Identity(h)\n d = Dropout(i)\n y = Tanh(d)",
    "residual block": "a = Conv <pads = [1, 1, 1, 1]> (h, wide)\n b = Relu(a)\n "
                      "c = Conv <pads = [1, 1, 1, 1]> (b, wide)\n s = Add(c, h)\n "
                      "g = GlobalAveragePool(s)\n y = Softmax <axis = 1> (g)",
}


def network(body, *, perturbed):
    """h = x, or with `perturbed` x plus the input `bump`, which finite differences need."""
    more, nodes = (", float[N,4,7,9] bump", "h = Add(x, bump)") if perturbed else ("", "h = Add(x, zero)")
    proto = onnx.parser.parse_model(f"{HEAD} g (float[N,4,7,9] x{more}) => (float[] y) {{ {nodes}\n {body} }}")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(5)
    tensors = {name: 0.5 * rng.standard_normal(shape) for name, shape in CONSTANTS.items()}
    tensors |= {"variance": rng.uniform(0.5, 2, 4), "low": np.array(-1.0), "high": np.array(1.5),
                "zero": np.zeros((1, 1, 1, 1))}
    read = {name for node in proto.graph.node for name in node.input}
    for name, values in tensors.items():
        if name in read:
            proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for name, values in INTS.items():
        if name in read:
            proto.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return load(proto)


def images(count):
    """Values that are a step apart, and half a step from every kink, so that no difference crosses one."""
    rng = np.random.default_rng(9)
    size = int(np.prod(SIZE))
    steps = np.stack([rng.permutation(size) for _ in range(count)]) - size // 2
    return ((steps + 0.5) * 0.02).reshape(count, *SIZE).astype(np.float32)


def shapes_of(model):
    return infer_shapes(model).tensors


def gradients(model, made, feeds, seeds):
    forward = create_session(with_outputs(model, [a for a in made.activations if a not in feeds]))
    inner = [a for a in made.activations if a not in feeds]
    values = dict(feeds) | (dict(zip(inner, run(forward, feeds, outputs=inner), strict=True)) if inner else {})
    reverse = create_session(made.model.SerializeToString())
    known = {a: values[a] for a in made.activations} | {made.seeds[n]: s for n, s in seeds.items()}
    wanted = [i.name for i in reverse.get_inputs()]
    found = run(reverse, {n: known[n] for n in wanted}, outputs=list(made.gradients.values()))
    return dict(zip(made.gradients, found, strict=True))


def differences(body, x, seed):
    """Central differences of sum(seed * y) by every value of h, for every image."""
    session = create_session(network(body, perturbed=True).source)
    size = x[0].size
    bumps = EPSILON * np.eye(size, dtype=np.float32).reshape(size, *SIZE)
    result = []
    for image, weights in zip(x, seed, strict=True):
        same = np.repeat(image[None], size, axis=0)
        up, down = (run(session, {"x": same, "bump": sign * bumps})[0].astype(np.float64) for sign in (1, -1))
        result.append((((up - down) * weights).reshape(size, -1).sum(axis=1) / (2 * EPSILON)).reshape(SIZE))
    return np.stack(result)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_central_differences(case):
    model, x = network(CASES[case], perturbed=False), images(2)
    y = run(create_session(model.source), {"x": x})[0]
    seed = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    made = backward(model, shapes_of(model), outputs=["y"], targets=["h"])
    assert made.unsupported == ()
    onnx.checker.check_model(made.model)
    found = gradients(model, made, {"x": x}, {"y": seed})["h"]
    expected = differences(CASES[case], x, seed)
    assert found.shape == expected.shape
    # float32 outputs of about 1 over a difference of 4e-3
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * max(1.0, np.abs(expected).max()))


def test_several_outputs_and_targets_add_up():
    proto = onnx.parser.parse_model(f"""{HEAD} g (float[N,4,7,9] x) => (float[N,4,7,9] p, float[N,4,7,9] q) {{
        a = Sigmoid(x)
        b = Relu(a)
        p = Mul(b, b)
        q = Tanh(a) }}""")
    model, x = load(proto), images(2)
    made = backward(model, shapes_of(model), outputs=["p", "q"], targets=["a", "b"])
    rng = np.random.default_rng(0)
    seeds = {n: rng.standard_normal(x.shape).astype(np.float32) for n in ("p", "q")}
    found = gradients(model, made, {"x": x}, seeds)
    a = 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(found["b"], 2 * a * seeds["p"], atol=1e-5)
    np.testing.assert_allclose(found["a"], 2 * a * seeds["p"] + (1 - np.tanh(a) ** 2) * seeds["q"], atol=1e-5)


def test_an_operator_without_a_rule_is_reported_and_only_hides_what_is_behind_it():
    proto = onnx.parser.parse_model(f"""{HEAD} g (float[N,4,7,9] x) => (float[N,4,7,9] y) {{
        a = Sigmoid(x)
        e = Erf(a)
        b = Relu(e)
        y = Tanh(b) }}""")
    model = load(proto)
    made = backward(model, shapes_of(model), outputs=["y"], targets=["a", "b", "e"])
    assert made.unsupported == ("Erf",)
    assert set(made.gradients) == {"b", "e"}


@pytest.mark.parametrize("body", [
    "y = Conv <auto_pad = \"SAME_UPPER\"> (h, w)",
    "y = AveragePool <kernel_shape = [3, 2], pads = [1, 0, 1, 1]> (h)",
    "c = Tanh(h)\n y = MatMul(h, c)",
])
def test_forms_of_an_operator_that_the_rule_does_not_know_are_reported(body):
    proto = network(body, perturbed=False) if "MatMul" not in body else load(onnx.parser.parse_model(
        f"{HEAD} g (float[N,4,7,7] x) => (float[N,4,7,7] y) {{ h = Relu(x)\n {body} }}"))
    made = backward(proto, shapes_of(proto), outputs=["y"], targets=["h"])
    assert made.unsupported == (proto.proto.graph.node[-1].op_type,)
    assert made.gradients == {}


def test_what_no_target_depends_on_is_not_differentiated():
    proto = onnx.parser.parse_model(f"""{HEAD} g (float[N,4,7,9] x) => (float[N,4,7,9] y) {{
        e = Erf(x)
        t = Tanh(x)
        y = Add(e, t) }}""")
    model = load(proto)
    made = backward(model, shapes_of(model), outputs=["y"], targets=["t"])
    assert (made.unsupported, set(made.gradients)) == ((), {"t"})
