"""Sensitivities from a judge that only pretends to measure; the swaps that it gets to see are real."""

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.runtime.store import NO_STORE, Store
from onnxslim1x1.search.sensitivity import measure_sensitivities
from onnxslim1x1.search.workbench import Workbench

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 16, 9, 11] x) => (float[1, 12, 9, 11] y) {
  [a] a = Conv <pads = [1, 1, 1, 1]> (x, a_w)
  [p] p = Conv <group = 4> (a, p_w)
  [b] y = Conv <pads = [1, 1, 1, 1]> (p, b_w)
}"""


def bench_of(*, weighted=()):
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    for name, shape in {"a_w": (20, 16, 3, 3), "p_w": (16, 5, 1, 1), "b_w": (12, 16, 3, 3)}.items():
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    model = load(proto)
    layers = find_layers(model, infer_shapes(model).tensors)
    weightings = {x.output: OutputWeighting(covariance=np.diag(np.linspace(0.01, 1, x.spec.out_channels)))
                  for x in layers if x.name in weighted}
    return Workbench(model, layers, block=4, weightings=weightings)


class Judge:
    """Answers what it is told to, in turn, and remembers the names of the convolutions of every model."""

    def __init__(self, answers):
        self.answers, self.seen = list(answers), []

    def __call__(self, model, _layer):
        self.seen.append([n.name for n in model.proto.graph.node])
        return self.answers.pop(0)


def test_two_swaps_of_one_layer_at_a_time_fix_its_loss_model():
    bench = bench_of()
    plain = {c: c.loss for n in "ab" for c in bench.candidates(bench.layers[n])}
    judge, told = Judge([0.1, 0.4, 1.0, 2.0]), []
    measure_sensitivities(bench, [bench.layers["a"], bench.layers["b"]], judge, progress=told.append)
    assert told == [0.5, 1.0]
    for swapped, names in zip("aabb", judge.seen, strict=True):
        assert len(names) == 4  # three layers, one of them in two factors
        assert {n.split("/")[0] for n in names if "/" in n} == {swapped}
    assert set(bench.loss_models) == {"a", "b"}
    for old, before in plain.items():
        new = next(c for c in bench.candidates(bench.layers[old.layer])
                   if (c.strategy, c.ranks) == (old.strategy, old.ranks))
        assert new.loss == bench.loss_models[old.layer].predict(before)
        assert new.error == old.error


def test_the_fitted_curve_passes_through_what_was_measured():
    bench = bench_of()
    layer = bench.layers["a"]
    every = bench.candidates(layer)
    mild = min(c.loss for c in every if c.cost.macs <= 0.65 * layer.spec.macs)
    strong = min(c.loss for c in every if c.cost.macs <= 0.35 * layer.spec.macs and c.strategy == "expand")
    assert mild < strong
    measure_sensitivities(bench, [layer], Judge([2 * strong**1.2, 2 * mild**1.2]))
    model = bench.loss_models["a"]
    assert (model.scale, model.exponent) == (pytest.approx(2), pytest.approx(1.2))


def test_layers_without_candidates_are_not_measured():
    bench, told = bench_of(), []
    measure_sensitivities(bench, [bench.layers["p"]], Judge([]), progress=told.append)
    assert bench.loss_models == {}
    assert told == [1.0]


def test_a_weighting_that_predicts_well_is_kept_without_further_swaps():
    bench = bench_of(weighted="a")
    judge = Judge([1e-9, 1e-9])
    measure_sensitivities(bench, [bench.layers["a"]], judge)
    assert bench.is_weighted(bench.layers["a"])
    assert len(judge.seen) == 2


@pytest.mark.parametrize(("without", "weighted"), [(0.999e6, False), (1.001e6, True)])
def test_a_weighting_that_misjudges_stays_only_where_it_is_still_better(without, weighted):
    bench = bench_of(weighted="a")
    layer = bench.layers["a"]
    strict = bench.candidates(layer)
    judge = Judge([1e6, without, 0.3e6])
    measure_sensitivities(bench, [layer], judge)
    assert bench.is_weighted(layer) == weighted
    assert len(judge.seen) == 3
    bench.loss_models.clear()
    assert (bench.candidates(layer) == strict) == weighted  # the decompositions follow
    if not weighted:
        assert bench.candidates(layer) == bench_of().candidates(bench_of().layers["a"])


def test_the_whole_table_is_made_only_with_the_weighting_that_is_kept(monkeypatch):
    bench, made = bench_of(weighted="a"), []
    decomposition = Workbench.decomposition

    def watched(self, layer, strategy, *, draft=False):
        made.append((self.is_weighted(layer), strategy.name))
        return decomposition(self, layer, strategy, draft=draft)

    monkeypatch.setattr(Workbench, "decomposition", watched)
    measure_sensitivities(bench, [bench.layers["a"]], Judge([1e6, 0.9e6, 0.3e6]))
    assert {name for weighted, name in made if weighted} == {"expand"}
    assert {name for weighted, name in made if not weighted} > {"expand", "spatial"}


# ---- what is kept for the next run ----

@pytest.fixture
def shelf(tmp_path):
    return Store(tmp_path).shelf(model="m")


def studied(judge, shelf, *, weighted="ab", layers="ab"):
    """A bench of its own whose layers were measured."""
    bench = bench_of(weighted=weighted)
    measure_sensitivities(bench, [bench.layers[n] for n in layers], judge, shelf=shelf)
    return bench


def same(one, other):
    for name in "ab":
        layers = one.layers[name], other.layers[name]
        assert one.candidates(layers[0]) == other.candidates(layers[1])
        assert one.is_weighted(layers[0]) == other.is_weighted(layers[1])
        ranks = one.candidates(layers[0])[0].ranks
        for have, want in zip(*(b.factors(name, "reduce", ranks).factors for b in (one, other)), strict=True):
            np.testing.assert_array_equal(have.weight, want.weight)
    assert one.loss_models == other.loss_models != {}


@pytest.mark.parametrize(("answers", "kept"), [
    ([1e-9, 2e-9, 1e-9, 3e-9], ["a", "b"]),  # the weightings predict well
    ([1e6, 0.9e6, 0.4e6, 2e-9, 1e-9], ["b"]),  # one is dropped
    ([1e6, 2e6, 0.5e6, 1e6, 2e6, 0.5e6], ["a", "b"]),  # they misjudge, and are still better
    ([1e6, 0.9e6, 0.4e6, 1e6, 0.9e6, 0.3e6], [])])
def test_a_second_run_measures_nothing(shelf, answers, kept):
    judge = Judge(answers)
    first = studied(judge, shelf)
    assert judge.answers == []
    assert [n for n in "ab" if first.is_weighted(first.layers[n])] == kept
    second, told = bench_of(weighted="ab"), []
    measure_sensitivities(second, [second.layers[n] for n in "ab"], Judge([]), shelf=shelf, progress=told.append)
    assert told == [0.5, 1.0]
    same(second, first)


def test_a_second_run_decomposes_nothing(shelf, monkeypatch):
    first = studied(Judge([1e-9] * 4), shelf)
    monkeypatch.setattr(Workbench, "decomposition", None)
    second = studied(Judge([]), shelf)
    assert [second.candidates(second.layers[n]) for n in "ab"] == [first.candidates(first.layers[n]) for n in "ab"]


def test_layers_without_candidates_are_kept_too(shelf):
    for _ in range(2):
        assert studied(Judge([]), shelf, layers="p").loss_models == {}


class Killed(Judge):
    """Ends the run when it has no answers left."""

    def __call__(self, model, layer):
        if not self.answers:
            raise KeyboardInterrupt
        return super().__call__(model, layer)


@pytest.mark.parametrize(("done", "left"), [(0, 4), (1, 4), (2, 2), (3, 2), (4, 0)])
def test_a_run_that_was_killed_goes_on_with_the_next_layer(shelf, done, left):
    answers = [1e-9, 2e-9, 3e-9, 5e-9]
    if done < 4:
        with pytest.raises(KeyboardInterrupt):
            studied(Killed(answers[:done]), shelf)
    else:
        studied(Killed(answers), shelf)
    judge = Judge(answers[4 - left:])
    same(studied(judge, shelf), studied(Judge(answers), None))
    assert (len(judge.seen), judge.answers) == (left, [])


@pytest.mark.parametrize("other", ["model", "weighting", "none"])
def test_what_was_measured_otherwise_is_not_taken(shelf, tmp_path, other):
    studied(Judge([1e-9] * 4), shelf)
    judge = Judge([1e-9] * 4)
    place = {"model": Store(tmp_path).shelf(model="n"), "weighting": shelf, "none": NO_STORE.shelf()}[other]
    studied(judge, place, weighted="" if other == "weighting" else "ab")
    assert judge.answers == []


def test_one_layer_may_be_new(shelf):
    studied(Judge([1e-9, 2e-9]), shelf, layers="a")
    judge = Judge([3e-9, 4e-9])
    studied(judge, shelf)
    assert {n.split("/")[0] for names in judge.seen for n in names if "/" in n} == {"b"}
