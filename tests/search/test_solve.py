"""From a budget to a solution: real weights and rewrites, a pretended clock and pretended losses on held-out images."""

import math
import re

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.errors import InfeasibleBudget
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime import calibration
from onnxslim1x1.runtime.loss import HeldOutLoss
from onnxslim1x1.search.allocate import saved_macs, saved_params, saved_seconds
from onnxslim1x1.search.plan import Budget
from onnxslim1x1.search.planner import Planner
from onnxslim1x1.search.reconstruction import FitSettings, assembled, symmetric
from onnxslim1x1.search.solve import HeldOut, Solver, placeholders
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.strategies import by_name
from onnxslim1x1.strategies.base import chain_cost

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 20, 14, 11] x) => (float[1, 7] y) {
  [one] a = Conv <pads = [1, 0, 1, 2]> (x, one_w, one_b)
  r = Relu(a)
  [two] b = Conv <strides = [2, 1], pads = [1, 1, 1, 1]> (r, two_w)
  q = Relu(b)
  [three] c = Conv <pads = [0, 2, 2, 2]> (q, three_w)
  g = GlobalAveragePool(c)
  f = Flatten(g)
  [head] y = Gemm <transB = 1, alpha = 0.5> (f, head_w)
}"""
SHAPES = {"one_w": (30, 20, 3, 3), "one_b": (30,), "two_w": (34, 30, 3, 2), "three_w": (28, 34, 3, 3),
          "head_w": (7, 28)}
SECOND = 1e-9  # per MAC
OVERHEAD = 5e-4  # seconds of everything that is no convolution


@pytest.fixture(scope="module")
def bench():
    """Layers whose energy falls quickly from one input channel to the next, at different rates."""
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(7)
    rates = {"one_w": 0.20, "two_w": 0.12, "three_w": 0.16}
    for name, shape in SHAPES.items():
        weight = rng.standard_normal(shape)
        if name in rates:
            basis, _ = np.linalg.qr(rng.standard_normal((shape[1], shape[1])))
            weight = np.einsum("oc...,cd->od...", weight, np.exp(-rates[name] * np.arange(shape[1]))[:, None] * basis)
        proto.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    model = load(proto)
    return Workbench(model, find_layers(model, infer_shapes(model).tensors), block=2)


def macs_of(model):
    return sum(x.spec.macs for x in find_layers(model, infer_shapes(model).tensors))


def planner_of(bench, budget, *, timed=True):
    """Every chain takes the time of its MACs, as predicted."""
    planner = Planner(bench, budget, measure=lambda spec, chain: spec.macs / chain_cost(chain).macs)
    if timed:
        planner.timed(lambda spec: spec.macs * SECOND)
    return planner


class Clock:
    """A machine on which only part of the time that was predicted is saved (or more than that).

    Args:
        bench: the layers.
        real: seconds saved over seconds predicted.
        folded: speed-up from folding alone.
    """

    def __init__(self, bench, *, real=1.0, folded=1.0):
        self.macs, self.real = macs_of(bench.model), real
        self.start = self.macs * SECOND + OVERHEAD
        self.whole_s, self.prepared = self.start * folded, folded
        self.said, self.realised = [], 1.0

    def remember(self, realised):
        self.realised = realised

    def speed(self, macs):
        return self.whole_s / (self.start - self.real * (self.macs - macs) * SECOND)

    def speedup(self, model):
        self.said.append(self.speed(macs_of(model)))
        return self.said[-1]


class Drops:
    """Held-out images on which models lose what they are told to, in turn; the loss is that of nobody's concern."""

    def __init__(self, *drops):
        self.left, self.models = list(drops), []

    def drop(self, model):
        self.models.append(model)
        return self.left.pop(0)

    def held_out(self):
        return HeldOut(loss=lambda _model: 0.5, drop=self.drop)


def solved(bench, budget, *, clock=None, drops=None, planner=None):
    """The solution, and the stages that it went through."""
    stages = []
    solver = Solver(bench, planner or planner_of(bench, budget), budget, clock=clock or Clock(bench),
                    held_out=drops.held_out() if drops else None)
    found = solver.solve(FitSettings(threads=1), stages.append)
    consistent(bench, found)
    if drops:
        assert len(drops.models) == len(stages) <= 4
    return found


def consistent(bench, found):
    """What every solution holds: each layer once, factors of what is planned, and the model that these make."""
    assert sorted([p.layer for p in found.layers] + [s.layer for s in found.skipped]) == sorted(bench.layers)
    assert {p.layer for p in found.layers} == found.factors.keys()
    expected = symmetric(bench, found.layers)
    for planned in found.layers:
        factors = found.factors[planned.layer]
        assert (factors.strategy, factors.ranks) == (planned.strategy, planned.ranks)
        for have, want in zip(factors.factors, expected[planned.layer].factors, strict=True):
            np.testing.assert_array_equal(have.weight, want.weight)


def macs_after(bench, found):
    return macs_of(bench.model) - sum(p.before.macs - p.after.macs for p in found.layers)


def seconds_saved(bench, model):
    return (macs_of(bench.model) - macs_of(model)) * SECOND


# ---- a target of speed ----

@pytest.mark.parametrize(("real", "target"), [
    (real, target) for real, best in ((1.0, 2.4), (1 / 1.2, 2.4), (0.6, 1.7), (0.4, 1.4), (1.2, 2.4), (1.5, 2.0))
    for target in (1.1, 1.25, 1.4, 1.7, 2.0, 2.4) if target <= best])
def test_the_target_is_met_however_wrong_the_predictions_are(bench, real, target):
    clock = Clock(bench, real=real)
    found = solved(bench, Budget(target_speedup=target), clock=clock)
    have = clock.speed(macs_after(bench, found))
    assert have == pytest.approx(target, rel=0.025)  # 0.02 is asked for; there are not always choices between
    assert found.promise.target_speedup == target
    assert found.promise.measured_speedup == pytest.approx(have, rel=1e-12)
    assert len(clock.said) <= 5
    assert len(set(clock.said)) == len(clock.said)  # nothing is measured twice


def test_where_predictions_are_right_one_measurement_is_enough(bench):
    clock = Clock(bench)
    found = solved(bench, Budget(target_speedup=1.6), clock=clock)
    assert len(clock.said) == 1
    assert found.promise.measured_speedup == clock.said[0] >= 1.6


def test_predictions_that_are_20_percent_too_optimistic_are_corrected_at_once(bench):
    clock = Clock(bench, real=1 / 1.2)
    solved(bench, Budget(target_speedup=2.0), clock=clock)
    first, second = clock.said
    assert first < 2.0 * 0.98
    assert second == pytest.approx(2.0, rel=0.02)


def test_a_coarse_choice_takes_what_is_nearest(bench):
    """One layer with four candidates: none of them is near the target."""
    planner = planner_of(bench, Budget(target_speedup=1.3, include=("two",)))
    few = planner.options["two"]
    planner.options["two"] = (few[0], few[len(few) // 2], few[-1])
    speeds = [Clock(bench).speed(macs_of(bench.model) - c.saved_macs) for c in planner.options["two"]]
    middle = speeds[1]
    assert speeds[0] * 1.03 < middle < speeds[2] / 1.03
    for target in (middle * 0.97, middle * 1.025):
        found = solved(bench, Budget(target_speedup=target, include=("two",)), planner=planner)
        assert found.promise.measured_speedup == pytest.approx(middle, rel=1e-12)


@pytest.mark.parametrize("real", [1.0, 0.7, 0.3, 0.05])
def test_an_unreachable_target_says_what_can_be_had(bench, real):
    clock, budget = Clock(bench, real=real), Budget(target_speedup=20.0)
    with pytest.raises(InfeasibleBudget) as caught:
        solved(bench, budget, clock=clock)
    saved = sum(max(c.saved_s for c in found) for found in planner_of(bench, budget).options.values() if found)
    best = clock.whole_s / (clock.whole_s - real * saved)
    message = str(caught.value)
    assert message.startswith("--target-speedup 20: model can become ")
    assert message.endswith("x as fast, measured; ask for less")
    assert float(re.search(r"become (\d+\.\d\d)x", message)[1]) == pytest.approx(best, abs=0.0051)
    near = solved(bench, Budget(target_speedup=best * 1.05), clock=Clock(bench, real=real))  # near enough to be tried
    assert near.promise.measured_speedup == pytest.approx(best, rel=1e-9)
    with pytest.raises(InfeasibleBudget):
        solved(bench, Budget(target_speedup=best * 1.15), clock=Clock(bench, real=real))


def test_where_nothing_is_faster_a_target_is_out_of_reach(bench):
    budget = Budget(target_speedup=1.2)
    planner = Planner(bench, budget, measure=lambda _spec, _chain: 0.9)
    planner.timed(lambda spec: spec.macs * SECOND)
    with pytest.raises(InfeasibleBudget, match=r"model can become 1\.00x as fast"):
        solved(bench, budget, planner=planner)


@pytest.mark.parametrize(("folded", "target"), [(1.5, 1.2), (1.5, 1.5), (1.2, 1.15)])
def test_what_folding_gives_counts(bench, folded, target):
    clock = Clock(bench, folded=folded)
    found = solved(bench, Budget(target_speedup=target), clock=clock)
    assert (found.layers, dict(found.factors)) == ((), {})
    assert found.promise.measured_speedup == folded
    assert clock.said == []


@pytest.mark.parametrize("real", [0.4, 1.6])
def test_what_one_search_learns_about_the_machine_shortens_the_next(bench, real):
    clock = Clock(bench, real=real)
    for target, timings in ((1.3, 2), (1.2, 1)):
        before = len(clock.said)
        found = solved(bench, Budget(target_speedup=target), clock=clock)
        assert found.promise.measured_speedup == pytest.approx(target, rel=0.02)
        assert len(clock.said) - before == timings


class Noisy(Clock):
    """Whose timings are wrong by what it is told, in turn."""

    def __init__(self, bench, *factors):
        super().__init__(bench)
        self.factors = iter(factors)

    def speedup(self, model):
        self.said.append(super().speed(macs_of(model)) * next(self.factors))
        return self.said[-1]


@pytest.mark.parametrize("target", [1.3, 1.5, 1.6, 1.8, 2.0])
@pytest.mark.parametrize("off", [0.028, -0.028, 0.035, -0.035])
def test_timings_that_contradict_each_other_meet_in_the_middle(bench, target, off):
    clock = Noisy(bench, 1 + off, 1 - off, 1.0)
    found = solved(bench, Budget(target_speedup=target), clock=clock)
    assert len(clock.said) <= 3
    assert clock.speed(macs_after(bench, found)) == pytest.approx(target, rel=0.01)


@pytest.mark.parametrize("target", [1.015, 1.03])
def test_a_small_target_is_not_nothing(bench, target):
    found = solved(bench, Budget(target_speedup=target))
    assert found.layers
    assert found.promise.measured_speedup == pytest.approx(target, rel=0.02)


def test_less_has_to_be_saved_where_folding_gives_some(bench):
    budget = Budget(target_speedup=1.8)
    with_folding, without = (solved(bench, budget, clock=Clock(bench, folded=f)) for f in (1.4, 1.0))
    assert with_folding.promise.measured_speedup == pytest.approx(1.8, rel=0.02)
    assert macs_after(bench, with_folding) > 1.1 * macs_after(bench, without)


def test_explicit_ranks_count_for_the_target_and_stay(bench):
    clock = Clock(bench)
    alone = clock.speed(macs_of(bench.model) - bench.layers["two"].spec.macs + chain_cost(
        by_name("reduce").chain(bench.layers["two"].spec, (3,))).macs)
    for target in (alone * 0.9, alone, alone * 1.2):
        found = solved(bench, Budget(ranks={"two": 3}, target_speedup=target))
        planned = {p.layer: p for p in found.layers}
        assert planned["two"].ranks == (3,)
        assert planned["two"].speedup is not None
        assert (len(planned) > 1) == (target > alone)
        assert found.promise.measured_speedup == pytest.approx(max(target, alone), rel=0.02)


def test_the_loss_of_a_target_is_as_small_as_it_can_be(bench):
    budget = Budget(target_speedup=1.5)
    found = solved(bench, budget)
    planner = planner_of(bench, budget)
    whole = Clock(bench).whole_s
    best = planner.saving(whole - whole / 1.5, saved_seconds)
    assert {p.layer: (p.strategy, p.ranks) for p in found.layers} == {n: (c.strategy, c.ranks) for n, c in best.items()}


# ---- a promise of accuracy ----

LIMIT = 0.01


def losses(found, planner):
    options = {(c.layer, c.strategy, c.ranks): c.loss for o in planner.options.values() for c in o}
    return math.fsum(options[p.layer, p.strategy, p.ranks] for p in found.layers)


@pytest.mark.parametrize("drop", [0.5 * LIMIT + 1e-9, 0.8 * LIMIT, LIMIT])
def test_a_promise_that_holds_is_left_at_that(bench, drop):
    budget, drops = Budget(max_drop=LIMIT), Drops(drop)
    found, planner = solved(bench, budget, drops=drops), planner_of(bench, budget)
    first = planner.within(2 * LIMIT, saved_seconds)
    assert {p.layer: p.ranks for p in found.layers} == {n: c.ranks for n, c in first.items()}
    promise = found.promise
    assert (promise.max_drop, promise.held_out_drop, promise.held_out_loss) == (LIMIT, drop, None)
    assert promise.predicted_loss == losses(found, planner) <= 2 * LIMIT
    assert (promise.target_speedup, promise.measured_speedup) == (None, None)


@pytest.mark.parametrize(("drops", "kept"), [
    ((0.011, 0.01), 1), ((0.05, 0.02, 0.009), 2), ((math.inf, 0.0), 1), ((0.011, 0.011, 0.011, 0.0), 3)])
def test_weaker_choices_until_the_promise_holds(bench, drops, kept):
    said = Drops(*drops)
    found = solved(bench, Budget(max_drop=LIMIT), drops=said)
    assert said.left == []
    assert len(said.models) == kept + 1
    saved = [seconds_saved(bench, m) for m in said.models]
    assert saved == sorted(set(saved), reverse=True)  # each saves less than the one before
    assert macs_after(bench, found) == macs_of(said.models[-1])
    assert found.promise.held_out_drop == drops[-1]
    assert (found.layers == ()) == (kept == 3)


@pytest.mark.parametrize("drop", [0.02, 0.1, 3.0])
def test_the_more_is_lost_the_less_is_tried_next(bench, drop):
    budget, said = Budget(max_drop=LIMIT), Drops(drop, 0.0)
    found, planner = solved(bench, budget, drops=said), planner_of(bench, budget)
    first = math.fsum(c.loss for c in planner.within(2 * LIMIT, saved_seconds).values())
    allowed = first * max((LIMIT / drop) ** 2, 0.01)
    assert found.promise.predicted_loss == losses(found, planner) <= allowed
    assert math.fsum(map(saved_seconds, planner.within(allowed, saved_seconds).values())) == pytest.approx(
        seconds_saved(bench, said.models[-1]))


def test_nothing_is_done_where_nothing_keeps_the_promise(bench):
    found = solved(bench, Budget(max_drop=LIMIT), drops=Drops(0.02, 0.02, 0.02, 0.0))
    assert (found.layers, found.promise.held_out_drop, found.promise.predicted_loss) == ((), 0.0, 0.0)
    assert {s.code for s in found.skipped if s.layer != "head"} == {"not_needed"}
    assert {s.reason for s in found.skipped if s.layer != "head"} == {"others gain more within --max-drop 0.01"}


def test_a_choice_that_cannot_become_weaker_is_not_fitted_again(bench):
    planner = planner_of(bench, Budget(max_drop=LIMIT, include=("two",)))
    planner.options["two"] = planner.options["two"][:1]
    assert planner.options["two"][0].loss < 2 * LIMIT
    said = Drops(0.02, 0.0)
    found = solved(bench, Budget(max_drop=LIMIT, include=("two",)), drops=said, planner=planner)
    assert found.layers == ()


@pytest.mark.parametrize(("drops", "kept"), [
    ((0.001, 0.002, 0.004), 2), ((0.0, 0.0, 0.0), 2), ((0.005, 0.0051), 1), ((0.001, 0.02), 0), ((0.001, math.nan), 0),
    ((0.001, 0.003, 0.0101), 1), ((0.001, 0.003, 0.01), 2)])
def test_stronger_choices_where_there_is_much_room(bench, drops, kept):
    budget, said = Budget(max_drop=LIMIT), Drops(*drops)
    found, planner = solved(bench, budget, drops=said), planner_of(bench, budget)
    assert said.left == []
    saved = [seconds_saved(bench, m) for m in said.models]
    assert saved == sorted(set(saved))
    assert found.promise.held_out_drop == drops[kept]
    assert macs_after(bench, found) == macs_of(said.models[kept])
    best = planner.within(2 * LIMIT * 3**kept, saved_seconds)
    assert {p.layer: p.ranks for p in found.layers} == {n: c.ranks for n, c in best.items()}


def test_where_everything_is_done_already_nothing_stronger_is_tried(bench):
    budget = Budget(max_drop=0.5, include=("two",))
    found, planner = solved(bench, budget, drops=Drops(0.0)), planner_of(bench, budget)
    assert {p.layer: p.ranks for p in found.layers} == {n: c.ranks for n, c in
                                                        planner.strongest(saved_seconds).items()}


def test_a_first_choice_of_nothing_may_still_grow(bench):
    """No candidate is mild enough for the first allowance."""
    planner = planner_of(bench, Budget(max_drop=LIMIT))
    for name, found in planner.options.items():
        planner.options[name] = tuple(c for c in found if 0.03 < c.loss < 0.17)
    assert any(planner.options.values())
    said = Drops(0.0, 0.004, 0.004)
    found = solved(bench, Budget(max_drop=LIMIT), drops=said, planner=planner)
    assert found.layers
    assert seconds_saved(bench, said.models[0]) == 0


def test_without_images_no_promise_is_made(bench):
    found = solved(bench, Budget(max_error=0.3))
    promise = found.promise
    assert (promise.held_out_drop, promise.held_out_loss, promise.predicted_loss, promise.max_drop) == (None,) * 4
    assert found.layers


def test_a_drop_is_measured_where_none_is_limited(bench):
    said = Drops(0.25)
    found = solved(bench, Budget(max_error=0.3), drops=said, planner=planner_of(bench, Budget(max_error=0.3)))
    assert (found.promise.max_drop, found.promise.held_out_drop) == (None, 0.25)
    assert found.layers
    assert found.promise.predicted_loss > 0


@pytest.mark.parametrize(("rank", "drops"), [(2, (0.3,)), (22, (0.02, 0.015, 0.012))])
def test_explicit_ranks_that_break_the_promise_are_said_to(bench, rank, drops):
    said = Drops(*drops)
    with pytest.raises(InfeasibleBudget) as caught:
        solved(bench, Budget(ranks={"two": rank}, max_drop=LIMIT), drops=said)
    assert str(caught.value) == (f"--max-drop 0.01: the explicit ranks alone may lose {drops[-1]:.4f} on held-out "
                                 "images; give them larger ranks, or allow more")
    last = {x.name for x in find_layers(said.models[-1], {}) if "/" in x.name}
    assert {name.split("/")[0] for name in last} == {"two"}


def test_explicit_ranks_outlive_every_other_choice(bench):
    found = solved(bench, Budget(ranks={"two": 22}, max_drop=LIMIT), drops=Drops(0.02, 0.015, 0.009))
    assert {p.layer: p.ranks for p in found.layers} == {"two": (22,)}
    assert found.promise.held_out_drop == 0.009


class Images:
    """A dozen seeded images as a data set."""

    def __init__(self):
        self.values = np.random.default_rng(3).standard_normal((12, 20, 14, 11)).astype(np.float32)

    def __len__(self):
        return len(self.values)

    def batches(self, _size):  # the model insists on one at a time
        for image in self.values:
            yield {"x": image[None]}


def test_with_images_the_factors_are_fitted_and_judged(bench, monkeypatch):
    monkeypatch.setattr(calibration, "LEAST_ROWS", 500)
    monkeypatch.setattr(calibration, "ROWS_PER_COLUMN", 1)
    budget, judge, drops = Budget(max_drop=LIMIT), HeldOutLoss(bench.model, Images(), threads=1), Drops(0.02, 0.009)
    solver = Solver(bench, planner_of(bench, budget), budget, clock=Clock(bench), fitting=Images(),
                    held_out=HeldOut(loss=judge, drop=drops.drop))
    found = solver.solve(FitSettings(threads=1), lambda _stage: None)
    assert any(p.refit for p in found.layers)
    assert found.promise.held_out_loss == judge(drops.models[-1]) == judge(assembled(bench, found.factors))
    assert found.promise.held_out_loss < judge(assembled(bench, symmetric(bench, found.layers)))


class Busy(Clock):
    """A machine that others use: it measures what it is told to, in turn."""

    def __init__(self, bench, *speeds):
        super().__init__(bench)
        self.left = list(speeds)

    def speedup(self, _model):
        self.said.append(self.left.pop(0))
        return self.said[-1]


@pytest.mark.parametrize("speeds", [(5.0, 1.2, 1.3, 1.49), (1.1, 5.0, 1.15, 3.0, 1.2, 1.51)])
def test_a_choice_that_is_much_too_fast_is_not_the_nearest_for_want_of_trying(bench, speeds):
    clock = Busy(bench, *speeds)
    found = solved(bench, Budget(target_speedup=1.5), clock=clock)
    assert found.promise.measured_speedup == speeds[-1]
    assert clock.left == []


# ---- both ----

def test_a_target_that_keeps_the_promise_is_not_exceeded(bench):
    found = solved(bench, Budget(target_speedup=1.4, max_drop=LIMIT), drops=Drops(0.0))
    assert found.promise.measured_speedup == pytest.approx(1.4, rel=0.02)
    assert (found.promise.target_speedup, found.promise.held_out_drop, found.promise.max_drop) == (1.4, 0.0, LIMIT)


def test_a_target_gives_way_to_the_promise_and_that_is_said(bench):
    clock, said = Clock(bench, real=0.9), Drops(0.03, 0.012, 0.007)
    found = solved(bench, Budget(target_speedup=1.8, max_drop=LIMIT), clock=clock, drops=said)
    assert found.promise.target_speedup == 1.8
    assert found.promise.measured_speedup == pytest.approx(clock.speed(macs_after(bench, found)), rel=1e-12)
    assert 1 < found.promise.measured_speedup < 1.75
    assert found.promise.held_out_drop == 0.007


def test_a_target_that_breaks_every_promise_ends_in_nothing(bench):
    clock = Clock(bench)
    found = solved(bench, Budget(target_speedup=1.8, max_drop=LIMIT), clock=clock, drops=Drops(*[0.03] * 3, 0.0))
    assert (found.layers, found.promise.measured_speedup) == ((), 1.0)


@pytest.mark.parametrize(("option", "amount"), [("target_macs", saved_macs), ("target_params", saved_params)])
def test_work_stays_the_aim_where_it_was_the_target(bench, option, amount):
    budget = Budget(**{option: 0.5, "max_drop": LIMIT})
    planner = planner_of(bench, budget, timed=False)
    said = Drops(0.02, 0.0)
    found = solved(bench, budget, drops=said, planner=planner)
    first = math.fsum(c.loss for c in planner.chosen().values())
    best = planner.within(first * 0.25, amount)
    assert {p.layer: (p.strategy, p.ranks) for p in found.layers} == {n: (c.strategy, c.ranks) for n, c in best.items()}
    assert found.layers
    assert found.promise.measured_speedup is None


def test_a_target_of_work_that_keeps_the_promise_is_met(bench):
    budget = Budget(target_macs=0.5, max_drop=LIMIT)
    found = solved(bench, budget, drops=Drops(0.0), planner=planner_of(bench, budget, timed=False))
    assert macs_after(bench, found) <= 0.5 * macs_of(bench.model) + 1


# ---- stand-ins ----

def test_placeholders_have_the_shapes_of_the_factors(bench):
    chosen = planner_of(bench, Budget(max_error=0.3)).chosen()
    stand_ins = placeholders(bench, chosen)
    real = {n: bench.factors(n, c.strategy, c.ranks) for n, c in chosen.items()}
    assert stand_ins.keys() == real.keys() != set()
    for name, found in stand_ins.items():
        assert (found.strategy, found.ranks) == (real[name].strategy, real[name].ranks)
        for have, want in zip(found.factors, real[name].factors, strict=True):
            assert (have.spec, have.weight.shape) == (want.spec, want.weight.shape)
            assert (have.bias is None) == (want.bias is None)
            assert 0 < np.abs(have.weight).max() < 0.01  # neither denormal nor able to overflow
