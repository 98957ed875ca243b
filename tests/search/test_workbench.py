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
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.search.candidates import rank_grid
from onnxslim1x1.search.loss import LossModel
from onnxslim1x1.search.workbench import Row, Workbench
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


# ---- statistics, weightings, tables ----

def statistics(size, seed=4):
    sums = MomentAccumulator(size)
    sums.add(np.random.default_rng(seed).standard_normal((2 * size, size)) * np.linspace(2, 0.1, size))
    return sums.result()


def weighed(weightings=("a",)):
    """A bench with statistics, and with weightings of some layers."""
    bench = opened(moments={"a": statistics(180), "y": statistics(128)})
    made = {n: OutputWeighting(covariance=np.diag(np.linspace(0.01, 1, bench.layers[n].spec.out_channels)))
            for n in weightings}
    return Workbench(bench.model, tuple(bench.layers.values()), block=4, weightings=made,
                     moments={"a": statistics(180), "y": statistics(128)})


def test_with_statistics_only_one_layer_at_a_time_is_decomposed():
    bench = weighed()
    a, y = (bench.layers[n] for n in "ay")
    one, other = (bench.decomposition(a, s) for s in STRATEGIES[:2])
    assert [bench.decomposition(a, s) for s in STRATEGIES[:2]] == [one, other]  # all families of it
    late = bench.decomposition(y, REDUCE)
    assert bench.decomposition(y, REDUCE) is late
    assert bench.decomposition(a, REDUCE) is not one
    assert bench.decomposition(y, REDUCE) is not late


def drafting(bench, **changes):
    return Workbench(bench.model, tuple(bench.layers.values()), block=4, drafts=True, **changes)


def test_drafts_serve_the_tables_of_layers_whose_inputs_are_known():
    moments = {"a": statistics(180)}
    exact, rough = opened(moments=moments), drafting(opened(), moments=moments)
    a, y = (exact.layers[n] for n in "ay")
    assert rough.table(y) == exact.table(y)  # without data nothing is gained
    for have, want in zip(rough.table(a), exact.table(a), strict=True):
        assert (have.strategy, have.ranks) == (want.strategy, want.ranks)
        assert have.error == pytest.approx(want.error, rel=0.01, abs=3e-3)
    assert [r.error for r in rough.table(a)] != [r.error for r in exact.table(a)]
    candidate = rough.candidates(a)[2]
    for made, want, tried in zip(*(f.factors for f in (
            rough.factors("a", candidate.strategy, candidate.ranks),
            exact.factors("a", candidate.strategy, candidate.ranks),
            rough.factors("a", candidate.strategy, candidate.ranks, draft=True))), strict=True):
        np.testing.assert_array_equal(made.weight, want.weight)  # what is written is exact all the same
        assert not np.array_equal(tried.weight, want.weight)
        np.testing.assert_allclose(np.linalg.norm(tried.weight), np.linalg.norm(want.weight), rtol=0.01)


def test_statistics_too_ill_conditioned_for_a_draft_get_the_exact_work(monkeypatch):
    moments = {"a": statistics(180)}
    exact, rough = opened(moments=moments), drafting(opened(), moments=moments)
    plain, asked = rough.decomposition, []

    def failing(layer, strategy, *, draft=False):
        asked.append(draft)
        if draft:
            raise np.linalg.LinAlgError
        return plain(layer, strategy)

    monkeypatch.setattr(rough, "decomposition", failing)
    assert rough.table(rough.layers["a"]) == exact.table(exact.layers["a"])
    assert asked.count(True) == 1  # and it is not tried again


def test_tables_stay_when_decompositions_go(monkeypatch):
    bench = weighed()
    a, y = (bench.layers[n] for n in "ay")
    table, candidates = bench.table(a), bench.candidates(a)
    bench.table(y)
    monkeypatch.setattr(bench, "decomposition", None)
    assert bench.table(a) is table
    assert bench.candidates(a) == candidates
    assert bench.candidate(a, REDUCE, table[0].ranks) == candidates[0]
    assert [(r.strategy, r.ranks, r.error, r.loss) for r in table] == [
        (c.strategy, c.ranks, c.error, c.loss) for c in candidates]


def test_the_loss_model_changes_losses_and_nothing_else():
    bench = weighed()
    a = bench.layers["a"]
    before = bench.candidates(a)
    bench.loss_models["a"] = LossModel(scale=3.0, exponent=1.5)
    after = bench.candidates(a)
    assert [c.loss for c in after] == pytest.approx([3 * c.loss**1.5 for c in before], rel=1e-12)
    assert [(c.ranks, c.error, c.saved_macs) for c in after] == [(c.ranks, c.error, c.saved_macs) for c in before]
    assert bench.candidate(a, REDUCE, (5,)).loss == pytest.approx(3 * bench.decomposition(a, REDUCE).loss((5,))**1.5)


ROWS = (Row(strategy="reduce", ranks=(8,), error=0.25, loss=0.5), Row(strategy="expand", ranks=(4,), error=0.5, loss=1))


def test_an_adopted_table_is_taken_as_it_is(monkeypatch):
    bench = weighed()
    monkeypatch.setattr(bench, "decomposition", None)
    bench.adopt(bench.layers["a"], list(ROWS), weighted=True)
    assert bench.table(bench.layers["a"]) == ROWS
    assert [(c.strategy, c.ranks, c.error, c.loss) for c in bench.candidates(bench.layers["a"])] == [
        ("reduce", (8,), 0.25, 0.5), ("expand", (4,), 0.5, 1)]
    assert bench.is_weighted(bench.layers["a"])


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("decomposed", [True, False])
def test_factors_follow_the_weighting_that_is_adopted(weighted, decomposed):
    bench = weighed()
    if decomposed:
        bench.candidates(bench.layers["a"])
    bench.adopt(bench.layers["a"], ROWS, weighted=weighted)
    assert bench.is_weighted(bench.layers["a"]) == weighted
    assert (bench.weighting(bench.layers["a"]) is not None) == weighted
    expected = weighed(("a",) if weighted else ()).factors("a", "reduce", (5,))
    np.testing.assert_allclose(  # the work that families share may differ in the last digit
        bench.factors("a", "reduce", (5,)).factors[0].weight, expected.factors[0].weight, rtol=1e-12)


def test_a_weighting_is_never_gained_by_adopting():
    bench = weighed(())
    bench.adopt(bench.layers["a"], ROWS, weighted=True)
    assert not bench.is_weighted(bench.layers["a"])


def test_a_weighting_can_be_forgotten_and_restored():
    bench, a = weighed(), weighed().layers["a"]
    strict = bench.candidates(a)
    weighting = bench.forget_weighting(a)
    assert not bench.is_weighted(a)
    plain = bench.candidates(a)
    assert plain == weighed(()).candidates(a) != strict
    with pytest.raises(KeyError):
        bench.forget_weighting(a)
    bench.restore_weighting(a, weighting)
    assert bench.is_weighted(a)
    assert bench.candidates(a) == strict


# the bound


def falling(shape, rate, seed):
    """Weight whose energy falls from one direction to the next, along inputs, outputs and positions alike."""
    rng = np.random.default_rng(seed)
    scales = [np.exp(-rate * np.arange(n)) for n in shape]
    return (rng.standard_normal(shape) * np.einsum("a,b,c,d->abcd", *scales)).astype(np.float32)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_rank_has_a_smaller_error_than_the_bound(rate, seed):
    bench = opened(a_w=falling((24, 20, 3, 3), rate, seed), c_w=falling((12, 16, 2, 4), rate, seed + 10))
    for name in ("a", "y"):
        layer = bench.layers[name]
        least = min(c.error for c in bench.candidates(layer))
        for enough in (0.01, 0.05, 0.2):
            found = bench.least_error(layer, enough=enough)
            assert found <= least
            assert found == 0 or found >= enough
    if rate == 0:
        assert bench.least_error(bench.layers["a"], enough=0.05) > 0


def test_nothing_is_known_of_a_layer_with_data_or_one_that_is_left_alone():
    accumulator = MomentAccumulator(20 * 9)
    accumulator.add(np.random.default_rng(0).standard_normal((400, 180)))
    bench = opened(moments={"a": accumulator.result()})
    assert bench.least_error(bench.layers["a"], enough=0.01) == 0
    assert bench.least_error(bench.layers["b"], enough=0.01) == 0


def test_only_so_many_decompositions_are_held(monkeypatch):
    monkeypatch.setattr("onnxslim1x1.search.workbench._MOST_HELD", 5000)
    bench = opened()
    for name in ("a", "y", "a"):
        bench.candidates(bench.layers[name])
        bench.decomposition(bench.layers[name], REDUCE)
        assert {key[0] for key in bench._decompositions} == {name}
