"""The workbench: weights are read from real models, checked, and decomposed once."""

import math

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.errors import ModelError, OptionError, RankError
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.linalg.moments import MomentAccumulator
from onnxslim1x1.search.candidates import rank_grid
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import Ineligible
from onnxslim1x1.strategies import STRATEGIES

REDUCE = STRATEGIES[0]
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 20, 13, 9] x) => (float[1, 12, 6, 7] y) {
  a = Conv <pads = [1, 0, 1, 2]> (x, a_w, a_b)
  b = Conv <group = 2> (a, b_w)
  y = Conv <strides = [2, 1], pads = [0, 1, 1, 0]> (b, c_w)
}"""


def weights():
    rng = np.random.default_rng(21)
    shapes = {"a_w": (24, 20, 3, 3), "a_b": (24,), "b_w": (16, 12, 1, 1), "c_w": (12, 16, 2, 4)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def opened(block=4, moments=None, as_constants=False, **changes):
    model = onnx.parser.parse_model(TEXT)
    tensors = [onnx.numpy_helper.from_array(w, n) for n, w in (weights() | changes).items()]
    if as_constants:
        nodes = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
        nodes += list(model.graph.node)
        model.graph.ClearField("node")
        model.graph.node.extend(nodes)
    else:
        model.graph.initializer.extend(tensors)
    loaded = load(model)
    return Workbench(loaded, find_layers(loaded, infer_shapes(loaded).tensors), block=block, moments=moments)


def composed(factors):
    """Kernel of a 1x1 followed by a KxK."""
    down, up = (np.asarray(f.weight, np.float64) for f in factors)
    return np.einsum("orij,rc->ocij", up, down[:, :, 0, 0])


def test_layers_are_in_graph_order_under_their_names():
    assert list(opened().layers) == ["a", "b", "y"]


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5, 8])
def test_candidates_are_the_grid(block):
    bench = opened(block)
    for name in ("a", "y"):
        layer = bench.layers[name]
        assert [(c.strategy, c.ranks) for c in bench.candidates(layer)] == [
            (s.name, ranks) for s in STRATEGIES if not s.needs_data for ranks in rank_grid(s, layer.spec, block)]
        assert bench.candidates(layer)


def test_layers_that_cannot_be_rewritten_have_no_candidates():
    bench = opened()
    refused = bench.families(bench.layers["b"])
    assert isinstance(refused, Ineligible)
    assert refused.code == "grouped"
    assert bench.candidates(bench.layers["b"]) == ()
    assert opened(block=64).candidates(bench.layers["a"]) == ()


@pytest.mark.parametrize("as_constants", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 9, 15, 20])
def test_errors_are_those_of_the_composed_kernel(rank, as_constants):
    bench = opened(as_constants=as_constants)
    weight = weights()["a_w"].astype(np.float64)
    found = bench.candidate(bench.layers["a"], REDUCE, (rank,))
    factors = bench.factors("a", "reduce", (rank,))
    error = math.sqrt(np.sum((weight - composed(factors.factors)) ** 2) / np.sum(weight**2))
    assert found.error == factors.error == factors.rel_error
    assert found.error == pytest.approx(error, abs=1e-6)  # the square root of a rounding error at full rank
    assert factors.output_rel_error is None


def test_the_bias_comes_along():
    bench = opened()
    np.testing.assert_array_equal(bench.factors("a", "reduce", (3,)).factors[-1].bias, weights()["a_b"])
    np.testing.assert_array_equal(bench.factors("y", "reduce", (3,)).factors[-1].bias, np.zeros(12))


def test_with_statistics_the_error_is_that_of_the_outputs():
    rng = np.random.default_rng(4)
    patches = rng.standard_normal((600, 180)) @ np.diag(np.linspace(2, 0.1, 180)) + 1
    sums = MomentAccumulator(180)
    sums.add(patches)
    bench = opened(moments={"a": sums.result()})
    factors = bench.factors("a", "reduce", (6,))
    assert factors.output_rel_error == bench.candidate(bench.layers["a"], REDUCE, (6,)).error
    # position-major patches: (O, C, *k) -> (O, n*C)
    flat = [np.moveaxis(np.asarray(w, np.float64), 1, -1).reshape(24, -1)
            for w in (weights()["a_w"], composed(factors.factors))]
    centred = patches - patches.mean(axis=0)
    lost, whole = (np.sum((centred @ m.T) ** 2) for m in (flat[0] - flat[1], flat[0]))
    assert factors.output_rel_error == pytest.approx(math.sqrt(lost / whole), rel=0.02)  # the ridge of the fit
    assert bench.factors("y", "reduce", (6,)).output_rel_error is None  # no statistics for this one


def test_a_layer_is_decomposed_once():
    bench = opened()
    first = bench.decomposition(bench.layers["a"], REDUCE)
    bench.candidates(bench.layers["a"])
    bench.factors("a", "reduce", (5,))
    assert bench.decomposition(bench.layers["a"], REDUCE) is first
    assert bench.decomposition(bench.layers["y"], REDUCE) is not first


@pytest.mark.parametrize(("tensor", "values", "count"), [
    ("a_w", {(0, 0, 0, 0): np.nan}, 1), ("a_w", {(23, 19, 2, 2): np.inf}, 1), ("a_w", {(5, 7, 1, 2): -np.inf}, 1),
    ("a_w", {(0, 0, 0, 0): np.nan, (1, 2, 0, 1): np.inf, (3, 3, 2, 0): -np.inf}, 3),
    ("a_b", {(0,): np.nan}, 1), ("a_b", {(7,): np.inf, (23,): np.nan}, 2)])
def test_weights_that_are_not_finite(tensor, values, count):
    broken = weights()[tensor]
    for place, value in values.items():
        broken[place] = value
    bench = opened(**{tensor: broken})
    with pytest.raises(ModelError) as caught:
        bench.candidates(bench.layers["a"])
    message = str(caught.value)
    assert message.startswith(f"model: layer a has {count} NaN or infinite values in {tensor}; ")
    assert "--exclude" in message
    assert "\n" not in message
    assert bench.candidates(bench.layers["y"])  # the others are sound


@pytest.mark.parametrize("rank", [0, -1, 21, 1000])
def test_ranks_out_of_range(rank):
    bench = opened()
    with pytest.raises(RankError, match=r"allows 1\.\.20"):
        bench.candidate(bench.layers["a"], REDUCE, (rank,))
    with pytest.raises(RankError, match=r"allows 1\.\.20"):
        bench.factors("a", "reduce", (rank,))


def test_unknown_family():
    with pytest.raises(OptionError, match="choose from reduce"):
        opened().factors("a", "tucker9", (3,))


def test_half_and_double_precision_are_read():
    for dtype, tolerance in ((np.float16, 2e-3), (np.float64, 1e-7)):
        weight = weights()["a_w"].astype(dtype)
        bench = opened(a_w=weight)
        kernel = composed(bench.factors("a", "reduce", (20,)).factors)
        np.testing.assert_allclose(kernel, weight.astype(np.float64), atol=tolerance)
