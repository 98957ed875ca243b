"""The front of speed and loss: what is on it, what is measured of it, and that nothing is measured twice."""

import dataclasses
import itertools
import math

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.errors import OptionError, UnknownLayerError
from onnxslim1x1.graph.layers import constants, find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime import calibration as runtime_calibration
from onnxslim1x1.runtime.loss import HeldOutLoss
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.store import NO_STORE, Store
from onnxslim1x1.runtime.whole_model import WholeModel
from onnxslim1x1.search import front, pipeline
from onnxslim1x1.search.allocate import saved_seconds, total_loss, total_saved
from onnxslim1x1.search.candidates import Candidate
from onnxslim1x1.search.front import Measurement, Times, choices, measure, predicted, spread
from onnxslim1x1.search.pipeline import Groundwork, Subject, total_cost
from onnxslim1x1.search.plan import Budget
from onnxslim1x1.search.planner import LEAST_SPEEDUP, Planner
from onnxslim1x1.search.solve import HeldOut
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import Cost
from onnxslim1x1.strategies.base import chain_cost

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 22, 27] image) => (float[N, 6] scores) {
  stem = Conv <strides = [1, 2], pads = [1, 0, 1, 2]> (image, stem_w)
  r0 = Relu(stem)
  wide = Conv <pads = [2, 1, 2, 1]> (r0, wide_w, wide_b)
  r1 = Relu(wide)
  late = Conv <strides = [2, 1], pads = [0, 2, 1, 1]> (r1, late_w)
  g = GlobalAveragePool(late)
  f = Flatten(g)
  scores = Gemm <transB = 1, alpha = 0.5> (f, head_w)
}"""
SHAPES = {"stem_w": (20, 3, 3, 4), "wide_w": (28, 20, 5, 3), "wide_b": (28,), "late_w": (24, 28, 3, 3),
          "head_w": (6, 24)}
BLOCK = 4
SECONDS_PER_MAC = 1e-9


def network(text=TEXT, seed=3):
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array((rng.standard_normal(s) * 0.3).astype(np.float32), n) for n, s in SHAPES.items())
    return model


def chain_speedup(spec, chain):
    """As if time were proportional to MACs, and every convolution more cost as much as 5 % of the layer."""
    return spec.macs / (chain_cost(chain).macs + 0.05 * spec.macs)


def seconds(spec):
    return SECONDS_PER_MAC * spec.macs


@pytest.fixture(scope="module")
def bench():
    model = load(network())
    return Workbench(model, find_layers(model, infer_shapes(model).tensors), block=BLOCK)


def timed(bench, budget=None, speedup=chain_speedup):
    planner = Planner(bench, budget or Budget(), measure=speedup)
    planner.timed(seconds)
    return planner


@pytest.fixture(scope="module")
def planner(bench):
    return timed(bench)


# ---- what is on the front ----

def everything(planner):
    """Seconds saved and loss of all combinations of candidates."""
    found = [[c for c in combination if c is not None]
             for combination in itertools.product(*((None, *options) for options in planner.options.values()))]
    assert len(found) > 100
    return np.array([sum(map(saved_seconds, c)) for c in found]), np.array([sum(x.loss for x in c) for c in found])


@pytest.mark.parametrize("points", [1, 2, 5, 14, 30])
def test_nothing_beats_the_front_at_any_step(planner, points):
    found, (saved, loss) = choices(planner, points), everything(planner)
    assert len(found) <= points
    for step in range(1, points + 1):
        goal = planner.most(saved_seconds) * step / points * (1 - 1e-6)
        enough = saved >= min(goal * (1 + 3e-4), saved.max())  # savings of 3 layers are rounded to 1/10,000 each
        assert min(total_loss(c) for c in found if total_saved(c) >= goal) <= loss[enough].min() * (1 + 1e-12)


def test_the_front_rises_from_little_to_all_there_is(planner):
    found = choices(planner)
    assert 12 <= len(found) <= front.POINTS == 14
    for earlier, later in itertools.pairwise(found):
        assert total_saved(earlier) < total_saved(later)
        assert total_loss(earlier) < total_loss(later)
    assert total_saved(found[0]) < 0.15 * planner.most(saved_seconds)
    assert found[-1] == {name: max(o, key=saved_seconds) for name, o in planner.options.items() if o}


class Fixed:
    """A planner with given answers."""

    def __init__(self, answers):
        self.answers = iter(answers)

    def most(self, _amount):
        return 1.0

    def saving(self, _save, _amount):
        saved_s, loss = next(self.answers)
        return {"a": Candidate(layer="a", strategy="reduce", ranks=(4,), cost=Cost(params=1, macs=1), saved_macs=1,
                               error=0.1, loss=loss, saved_s=saved_s)}


@pytest.mark.parametrize(("answers", "kept"), [
    ([(1, 1), (2, 2), (3, 3)], [(1, 1), (2, 2), (3, 3)]),
    ([(1, 2), (2, 1), (3, 3)], [(2, 1), (3, 3)]),  # slower and worse
    ([(1, 1), (2, 1), (3, 3)], [(2, 1), (3, 3)]),  # slower and no better
    ([(1, 1), (3, 2), (3, 3)], [(1, 1), (3, 2)]),  # as fast and worse
    ([(2, 2), (2, 2), (2, 2)], [(2, 2)]),
    ([(3, 3), (1, 1), (2, 2)], [(1, 1), (2, 2), (3, 3)]),
    ([(1, 1), (2, math.inf), (3, 3)], [(1, 1), (3, 3)]),
    ([(1, 1), (2, 2), (3, math.inf)], [(1, 1), (2, 2)]),
    ([(1, 0), (2, 0), (3, 0)], [(3, 0)])])
def test_what_is_dominated_or_not_finite_is_left_out(answers, kept):
    found = choices(Fixed(answers), points=3)
    assert [(total_saved(c), total_loss(c)) for c in found] == kept


def test_where_nothing_is_faster_there_is_no_front(bench):
    assert choices(timed(bench, speedup=lambda _spec, _chain: LEAST_SPEEDUP - 0.001)) == []


def test_explicit_ranks_are_part_of_every_choice(bench):
    found = choices(timed(bench, Budget(ranks={"wide": 8}, max_drop=0.01)))
    assert len(found) > 3
    assert {choice["wide"].ranks for choice in found} == {(8,)}
    assert any("late" in choice for choice in found)


# ---- what is predicted ----

def test_a_point_says_what_its_choice_makes_of_the_model(bench, planner):
    before = Cost(params=sum(layer.spec.params for layer in bench.layers.values()),
                  macs=sum(layer.spec.macs for layer in bench.layers.values()))
    whole = 2 * SECONDS_PER_MAC * before.macs
    choice = choices(planner)[-1]
    point = predicted(planner, choice, before=before, times=Times(whole_s=whole, prepared_s=whole))
    saved = sum(bench.layers[n].spec.macs * 0.95 - c.cost.macs for n, c in choice.items()) * SECONDS_PER_MAC
    assert point.speedup == pytest.approx(whole / (whole - saved), rel=1e-9)
    assert point.loss == sum(c.loss for c in choice.values())
    macs = before.macs - sum(bench.layers[n].spec.macs - c.cost.macs for n, c in choice.items())
    params = before.params - sum(bench.layers[n].spec.params - c.cost.params for n, c in choice.items())
    assert (point.macs_kept, point.params_kept) == (macs / before.macs, params / before.params)
    assert [p.layer for p in point.layers] == [n for n in bench.layers if n in choice]
    assert [(p.strategy, p.ranks) for p in point.layers] == [
        (choice[n].strategy, choice[n].ranks) for n in bench.layers if n in choice]
    assert point.measured is None


@pytest.mark.parametrize(("whole", "prepared", "saved", "speedup"), [
    (3.0, 3.0, 0.0, 1.0), (3.0, 3.0, 1.0, 1.5), (3.0, 1.5, 0.5, 3.0), (3.0, 3.0, 2.97, 100.0), (3.0, 3.0, 3.5, 100.0),
    (3.0, 3.0, -1.0, 0.75)])
def test_speedup_from_seconds(whole, prepared, saved, speedup):
    assert Times(whole_s=whole, prepared_s=prepared).speedup(saved) == pytest.approx(speedup, rel=1e-12)


@pytest.mark.parametrize(("count", "picks", "expected"), [
    (14, 4, [3, 6, 10, 13]), (4, 4, [0, 1, 2, 3]), (3, 4, [0, 1, 2]), (2, 4, [0, 1]), (1, 4, [0]), (0, 4, []),
    (10, 1, [9]), (7, 3, [2, 4, 6])])
def test_measured_points_are_spread(count, picks, expected):
    assert spread(count, picks) == expected


# ---- what is measured ----

class Judges:
    """Speed, loss and drop that follow from what a model holds; remembers the models."""

    def __init__(self):
        self.models = []

    def speedup(self, model):
        self.models.append(model)
        return 1e5 / self.weights(model)

    @staticmethod
    def weights(model):
        return sum(math.prod(t.dims) for t in model.proto.graph.initializer)

    def held_out(self):
        return HeldOut(loss=lambda model: self.weights(model) / 1e3, drop=lambda model: self.weights(model) / 1e7)


def ground(bench, planner, judges, data=True):
    return Groundwork(bench=bench, planner=planner, held_out=judges.held_out() if data else None)


def test_every_measurement_is_of_its_own_choice(bench, planner):
    judges, told, chosen = Judges(), [], choices(planner)[2::5]
    found = measure(ground(bench, planner, judges), chosen, clock=judges, progress=told.append)
    assert len(found) == len(chosen) == 3
    whole = sum(math.prod(shape) for shape in SHAPES.values())
    for measurement, choice in zip(found, chosen, strict=True):
        weights = whole - sum(bench.layers[n].spec.params - c.cost.params for n, c in choice.items())
        assert measurement == Measurement(speedup=1e5 / weights, loss=weights / 1e3, drop=weights / 1e7)
    assert told == pytest.approx([1 / 3, 2 / 3, 1])


def test_what_is_judged_has_the_factors_of_the_choice(bench, planner):
    judges, choice = Judges(), choices(planner)[-1]
    measure(ground(bench, planner, judges), [choice], clock=judges)
    (model,) = judges.models
    held = [model.array(tensor) for tensor in constants(model).values()]
    for name, candidate in choice.items():
        for factor in bench.factors(name, candidate.strategy, candidate.ranks).factors:
            assert any(w.shape == factor.weight.shape and np.array_equal(w, factor.weight.astype(np.float32))
                       for w in held), f"{name}: {factor.role}"


def test_without_data_only_speed_is_measured_and_nothing_is_factorised(bench, planner, monkeypatch):
    judges, choice = Judges(), choices(planner)[-1]
    monkeypatch.setattr(bench, "factors", lambda *_args: pytest.fail("factorised"))
    (found,) = measure(ground(bench, planner, judges, data=False), [choice], clock=judges)
    assert (found.loss, found.drop) == (None, None)
    assert found.speedup == 1e5 / judges.weights(judges.models[0])


def test_nothing_is_measured_twice(bench, planner, tmp_path):
    first, second = Judges(), Judges()
    chosen = choices(planner)
    shelf = Store(tmp_path).shelf(model="a")
    found = measure(ground(bench, planner, first), chosen[:3], clock=first, shelf=shelf)
    again = measure(ground(bench, planner, second), chosen[1:4], clock=second, shelf=shelf)
    assert again[:2] == found[1:]
    assert (len(first.models), len(second.models)) == (3, 1)
    measure(ground(bench, planner, second), chosen[:1], clock=second, shelf=Store(tmp_path).shelf(model="b"))
    assert len(second.models) == 2


# ---- all of it ----

@pytest.fixture
def machine(monkeypatch):
    """A machine where time is proportional to MACs; gives what was measured on it."""
    asked = []

    def noting(what, answer):
        def measured(*args, **_options):
            asked.append(what)
            return answer(*args)
        return measured

    real = HeldOutLoss.of
    monkeypatch.setattr(pipeline, "compare_chain", noting("chain", chain_speedup))
    monkeypatch.setattr(pipeline, "time_chain", noting("layer", lambda specs: seconds(specs[0])))
    monkeypatch.setattr(WholeModel, "whole_s", 4e-3)
    monkeypatch.setattr(WholeModel, "speedup", noting("model", lambda _self, _model: 1.25))
    monkeypatch.setattr(HeldOutLoss, "of", noting("loss", real))
    monkeypatch.setattr(pipeline, "channel_block", lambda _provider: BLOCK)
    monkeypatch.setattr(runtime_calibration, "LEAST_ROWS", 900)
    monkeypatch.setattr(runtime_calibration, "ROWS_PER_COLUMN", 2)
    return asked


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(8)
    array = rng.standard_normal((45, 3, 22, 27)) + rng.standard_normal((45, 3, 1, 1))
    np.savez(tmp_path / "images.npz", x=array.astype(np.float32))
    return DataOptions(path=tmp_path / "images.npz")


def explored(budget=None, calibration=None, *, model=None, **options):
    run = RunOptions(**({"threads": 1} | options))
    return front.explore(Subject.of(load(model or network()), run), budget or Budget(), calibration, run)


@pytest.mark.parametrize("data", [False, True], ids=["weights", "images"])
def test_the_whole_way(machine, images, data):
    told = []
    found = explored(calibration=images if data else None, progress=lambda stage, done: told.append((stage, done)))
    assert 6 <= len(found.points) <= front.POINTS
    assert found.before == total_cost(Subject.of(load(network()), RunOptions()).layers)
    assert (found.whole_s, found.opset, found.model.path) == (4e-3, 17, None)
    measured = [p.measured for p in found.points]
    assert [i for i, m in enumerate(measured) if m] == spread(len(found.points))
    assert {m.speedup for m in measured if m} == {1.25}
    assert ("measuring", 1.0) in told
    assert {s.layer: s.code for s in found.never}["scores"] == "dense"
    assert {s.layer for s in found.never}.isdisjoint(p.layer for point in found.points for p in point.layers)
    assert machine.count("model") == front.MEASURED
    if not data:
        assert (found.loss_kind, found.data, found.held_out) == ("weight_error", None, None)
        assert {(m.loss, m.drop) for m in measured if m} == {(None, None)}
        return
    assert (found.loss_kind, found.data.images, found.held_out) == ("kl_divergence", 45, 9)
    losses = [m.loss for m in measured if m]
    assert losses[0] == min(losses) < losses[-1]
    for point in found.points:
        if point.measured:
            assert point.measured.loss / 5 < point.loss < point.measured.loss * 5  # layers add up, roughly


def test_a_second_budget_measures_nothing_anew(machine, images):
    first = explored(calibration=images)
    machine.clear()
    assert explored(calibration=images) == first
    assert set(machine) <= {"chain", "layer"}  # those are kept one level below: see test_microbench
    machine.clear()
    other = explored(Budget(exclude=("late",)), images)
    assert {p.layer for point in other.points for p in point.layers} == {"stem", "wide"}  # not late
    assert machine.count("loss") == machine.count("model") == len(spread(len(other.points)))  # no sensitivities
    machine.clear()
    explored(calibration=images, store=NO_STORE)
    assert machine.count("loss") > machine.count("model") > 0


@pytest.mark.parametrize("changes", [{"threads": 2}, {"seed": 5}, {"dims": {"N": 3}}], ids=str)
@pytest.mark.usefixtures("machine")
def test_kept_figures_are_for_the_same_run_only(machine, changes):
    explored()
    machine.clear()
    explored(**changes)
    assert machine.count("model") == front.MEASURED


@pytest.mark.usefixtures("machine")
def test_weights_that_were_frozen_count_as_a_speedup_of_their_own():
    listed = network()
    listed.graph.input.append(onnx.helper.make_tensor_value_info("late_w", 1, SHAPES["late_w"]))
    plain, frozen = explored(), explored(model=listed)
    for a, b in zip(plain.points, frozen.points, strict=True):
        assert 1 / a.speedup - 1 / b.speedup == pytest.approx(1 - 1 / 1.25, abs=1e-9)


@pytest.mark.parametrize(("text", "kind"), [
    ("(float[N, 6] scores)", "kl_divergence"), ("(float[N, 28, H, W] r1)", "output_error"),
    ("(float[N, 6] scores, float[N, 28, H, W] r1)", "mixed")])
@pytest.mark.usefixtures("machine")
def test_the_unit_of_the_loss_follows_from_the_outputs(images, text, kind):
    few = dataclasses.replace(images, limit=4)
    found = explored(Budget(include=("wide",)), few,
                     model=network(TEXT.replace("(float[N, 6] scores)", text)))
    assert found.loss_kind == kind
    assert found.notes[-1] == ("4 images are too few to hold some out: losses are measured on those that the factors "
                               "are fitted to")


@pytest.mark.usefixtures("machine")
def test_limits_of_the_budget_hold_for_every_point(images):
    found = explored(Budget(max_error=0.5, exclude=("late",)), images)
    assert found.points
    assert max(p.error for point in found.points for p in point.layers) <= 0.5
    assert {s.layer: s.code for s in found.never}["late"] == "excluded"
    fixed = explored(Budget(ranks={"wide": 8}), images)
    assert all(p.ranks == (8,) for point in fixed.points for p in point.layers if p.layer == "wide")
    assert "wide" not in {s.layer for s in fixed.never}
    assert max(len(point.layers) for point in fixed.points) > 1


@pytest.mark.usefixtures("machine")
def test_a_front_may_be_empty():
    found = explored(Budget(exclude=("*",)))
    assert found.points == ()
    assert {s.layer for s in found.never} == {"stem", "wide", "late", "scores"}


@pytest.mark.parametrize(("changes", "message"), [
    ({"target_speedup": 1.5}, r"^--target-speedup 1\.5: contradicts --explore"),
    ({"target_macs": 0.5}, r"^--target-macs 0\.5: contradicts --explore"),
    ({"target_params": 0.25}, r"^--target-params 0\.25: contradicts --explore"),
    ({"max_drop": 0.01}, r"^--max-drop 0\.01: contradicts --explore")])
def test_a_target_is_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        explored(Budget(**changes))


def test_a_pattern_that_selects_nothing_is_found_before_the_work(machine):
    with pytest.raises(UnknownLayerError, match="pattern wode"):
        explored(Budget(include=("wode",)), DataOptions(path="missing"))
    assert machine == []
