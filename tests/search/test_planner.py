"""Selecting layers and ranks under a budget; speed comes from fake measurements, everything else is real."""

import dataclasses
import itertools
import math
import re
from collections import Counter

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.errors import InfeasibleBudget, ModelError, RankError, UnknownLayerError
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.search.allocate import allocate, saved_macs, saved_params, saved_seconds, total_loss
from onnxslim1x1.search.candidates import Candidate
from onnxslim1x1.search.plan import Budget
from onnxslim1x1.search.planner import LEAST_SPEEDUP, SAME_SPEED, Planner, matching, select, thinned, undominated
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import Cost
from onnxslim1x1.strategies import by_name
from onnxslim1x1.strategies.base import chain_cost

BLOCK = 4
REWRITABLE = ("stem", "body/a", "body/b")
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 24, 15, 11] x) => (float[1, 7] y) {
  stem = Conv <pads = [1, 0, 1, 2]> (x, stem_w)
  r = Relu(stem)
  a = Conv <strides = [2, 1], pads = [2, 1, 2, 1]> (r, a_w, a_b)
  p = Conv <group = 8> (a, p_w)
  b = Conv <dilations = [1, 2], pads = [0, 2, 2, 2]> (p, b_w)
  g = GlobalAveragePool(b)
  f = Flatten(g)
  y = Gemm <transB = 1, alpha = 0.5> (f, head_w)
}"""
NAMES = {"stem": "stem", "a": "body/a", "p": "body/p", "b": "body/b", "y": "head"}


def decaying(shape, rate, seed):
    """Weight whose energy falls by `rate` from one input direction to the next."""
    rng = np.random.default_rng(seed)
    channels = shape[1]
    basis, _ = np.linalg.qr(rng.standard_normal((channels, channels)))
    scaled = np.exp(-rate * np.arange(channels))[:, None] * basis.T
    return np.einsum("oc...,cd->od...", rng.standard_normal(shape), scaled).astype(np.float32)


def network(**changes):
    weights = {"stem_w": decaying((40, 24, 3, 3), 0.10, 1), "a_w": decaying((56, 40, 5, 3), 0.07, 2),
               "a_b": np.linspace(-1, 2, 56, dtype=np.float32), "p_w": decaying((48, 7, 1, 1), 0.1, 3),
               "b_w": decaying((36, 48, 3, 3), 0.15, 4), "head_w": decaying((7, 36), 0.0, 5)} | changes
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = NAMES.get(node.output[0], "")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, n) for n, w in weights.items())
    return model


def workbench(block=BLOCK, **changes):
    model = load(network(**changes))
    return Workbench(model, find_layers(model, infer_shapes(model).tensors), block=block)


@pytest.fixture(scope="module")
def bench():
    return workbench()


def total_macs(bench):
    return sum(layer.spec.macs for layer in bench.layers.values())


def saved(selection):
    return sum(p.before.macs - p.after.macs for p in selection.layers)


def by_layer(selection):
    return {p.layer: p for p in selection.layers}


def codes(selection):
    return {s.layer: s.code for s in selection.skipped}


def complete(bench, selection):
    """Check what every selection promises: each layer once, in graph order, with the figures of its candidate."""
    order = list(bench.layers)
    for part in (selection.layers, selection.skipped):
        assert [x.layer for x in part] == [n for n in order if n in {x.layer for x in part}]
    assert sorted([x.layer for x in (*selection.layers, *selection.skipped)]) == sorted(order)
    for p in selection.layers:
        layer = bench.layers[p.layer]
        chain = by_name(p.strategy).chain(layer.spec, p.ranks)
        assert (p.before, p.after) == (layer.spec.cost, chain_cost(chain))
        assert p.error == bench.candidate(layer, by_name(p.strategy), p.ranks).error
    assert all(s.reason for s in selection.skipped)
    return selection


class Measured:
    """A measurement that answers from a function of layer name and rank, and remembers what it was asked."""

    def __init__(self, bench, answer):
        self.names = {layer.spec: name for name, layer in bench.layers.items()}
        self.answer, self.asked, self.chains = answer, [], []

    def __call__(self, spec, chain):
        assert chain[0].in_channels == spec.in_channels
        assert chain[-1].out_channels == spec.out_channels
        self.asked.append((self.names[spec], chain[0].out_channels))
        self.chains.append(chain)
        return self.answer(*self.asked[-1])


# ---- by error ----

@pytest.mark.parametrize("limit", [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0])
def test_within_an_error_every_layer_saves_as_much_as_it_can(bench, limit):
    found = by_layer(complete(bench, select(bench, Budget(max_error=limit))))
    for name in REWRITABLE:
        allowed = [c for c in bench.candidates(bench.layers[name]) if c.error <= limit]
        if not allowed:
            assert name not in found
            continue
        assert found[name].error <= limit
        assert found[name].ranks == min(c.ranks for c in allowed)
        assert found[name].ranks[0] % BLOCK == 0


def test_what_is_left_alone_says_why(bench):
    found = select(bench, Budget(max_error=0.001))
    assert found.layers == ()
    assert codes(found) == {"stem": "error", "body/a": "error", "body/p": "grouped", "body/b": "error",
                            "head": "dense"}
    reason = next(s.reason for s in found.skipped if s.layer == "body/a")
    best = min(c.error for c in bench.candidates(bench.layers["body/a"]))
    assert f"{best:.3f}" in reason
    assert "0.001" in reason


# ---- by MACs ----

@pytest.mark.parametrize("target", [0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25])
def test_a_target_is_reached(bench, target):
    found = complete(bench, select(bench, Budget(target_macs=target)))
    kept = total_macs(bench) - saved(found)
    assert kept <= target * total_macs(bench) + 1  # whole MACs


def test_a_target_takes_the_least_error_and_says_what_was_not_needed(bench):
    found = select(bench, Budget(target_macs=0.97))
    assert codes(found) == {"stem": "not_needed", "body/a": "not_needed", "body/p": "grouped", "head": "dense"}
    goal = total_macs(bench) * 0.03
    enough = [c for name in REWRITABLE for c in bench.candidates(bench.layers[name]) if c.saved_macs >= goal]
    assert found.layers[0].error == min(c.error for c in enough)


def test_a_target_and_an_error_hold_together(bench):
    found = complete(bench, select(bench, Budget(target_macs=0.6, max_error=0.4)))
    assert max(p.error for p in found.layers) <= 0.4
    assert saved(found) >= int(0.4 * total_macs(bench))


@pytest.mark.parametrize("bound", [None, 0.5, 0.4, 0.3, 0.2])
def test_infeasible_says_what_can_be_reached(bench, bound):
    with pytest.raises(InfeasibleBudget) as caught:
        select(bench, Budget(target_macs=0.01, max_error=bound))
    message = str(caught.value)
    assert message.startswith("--target-macs 0.01: model can go down to ")
    assert ("--max-error" in message) == (bound is not None)
    reachable = float(re.search(r"down to (\d\.\d{3}) of its MACs", message)[1])
    most = [max((c.saved_macs for c in bench.candidates(bench.layers[n]) if c.error <= (bound or 1)), default=0)
            for n in REWRITABLE]
    assert reachable == pytest.approx(1 - sum(most) / total_macs(bench), abs=0.0005)  # three digits are shown
    select(bench, Budget(target_macs=reachable + 0.001, max_error=bound))
    with pytest.raises(InfeasibleBudget):
        select(bench, Budget(target_macs=reachable - 0.001, max_error=bound))


# ---- explicit ranks ----

@pytest.mark.parametrize("rank", [1, 2, 3, 7, 8, 13, 21, 30, 39, 40])
def test_an_explicit_rank_is_kept_as_it_is(bench, rank):
    slow = Measured(bench, lambda _name, _rank: 0.5)
    found = complete(bench, select(bench, Budget(ranks={"body/a": rank}), measure=slow))
    assert {p.layer: (p.ranks, p.speedup) for p in found.layers} == {"body/a": ((rank,), 0.5)}
    assert codes(found) == {"stem": "not_asked", "body/b": "not_asked", "body/p": "grouped", "head": "dense"}
    assert slow.asked == [("body/a", rank)]


def test_explicit_ranks_next_to_an_error_limit(bench):
    found = by_layer(complete(bench, select(bench, Budget(ranks={"stem": 2}, max_error=0.4))))
    assert found["stem"].ranks == (2,)
    assert found["stem"].error > 0.4
    assert set(found) == set(REWRITABLE)


def test_what_explicit_ranks_save_counts_for_the_target(bench):
    alone = complete(bench, select(bench, Budget(ranks={"body/a": 4})))
    part = saved(alone) / total_macs(bench)
    found = select(bench, Budget(ranks={"body/a": 4}, target_macs=1 - part + 0.01))
    assert by_layer(found).keys() == {"body/a"}
    more = select(bench, Budget(ranks={"body/a": 4}, target_macs=1 - part - 0.02))
    assert by_layer(more)["body/a"].ranks == (4,)
    assert saved(more) >= int((part + 0.02) * total_macs(bench))
    assert len(more.layers) > 1


@pytest.mark.parametrize(("name", "rank", "message"), [
    ("body/a", 0, "out of range; the layer allows 1 to 40"), ("body/a", -3, "out of range; the layer allows 1 to 40"),
    ("body/a", 41, "out of range; the layer allows 1 to 40"), ("stem", 25, "out of range; the layer allows 1 to 24"),
    ("body/b", 10**30, "out of range; the layer allows 1 to 48"), ("body/p", 8, "cannot be rewritten (8 groups"),
    ("head", 3, "cannot be rewritten (a Gemm")])
def test_explicit_ranks_that_are_refused(bench, name, rank, message):
    with pytest.raises(RankError) as caught:
        select(bench, Budget(ranks={name: rank}))
    assert str(caught.value).startswith(f"--rank {name}={rank}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "hint"), [
    ("body/c", "body/"), ("Stem", "stem"), ("bodya", "body/a"), ("heads", "head"), ("stem/", "stem"),
    ("zzzzzzzz", "onnxslim1x1 analyze lists the names"), ("r", "analyze lists the names"), ("", "analyze lists")])
def test_a_rank_for_an_unknown_layer_gets_a_hint(bench, name, hint):
    with pytest.raises(UnknownLayerError) as caught:
        select(bench, Budget(ranks={name: 8}))
    message = str(caught.value)
    assert message.startswith(f"--rank {name}=8: no such layer; ")
    assert hint in message


# ---- patterns ----

@pytest.mark.parametrize(("include", "exclude", "names"), [
    ((), (), {"stem", "body/a", "body/p", "body/b", "head"}),
    (("body/*",), (), {"body/a", "body/p", "body/b"}),
    (("body/?",), ("*p",), {"body/a", "body/b"}),
    ((), ("body/*",), {"stem", "head"}),
    (("stem", "body/b"), (), {"stem", "body/b"}),
    (("*",), ("*",), set()),
    (("body/[ab]",), (), {"body/a", "body/b"}),
    (("[!b]*",), (), {"stem", "head"}),
    (("stem",), ("stem", "head"), set()),
    (("*e*", "body/a"), ("h*",), {"stem", "body/a"}),
])
def test_patterns(bench, include, exclude, names):
    assert matching(bench.layers.values(), Budget(include=include, exclude=exclude)) == names


def test_excluded_layers_are_left_alone_and_say_so(bench):
    found = complete(bench, select(bench, Budget(max_error=0.5, exclude=("body/*",))))
    assert by_layer(found).keys() == {"stem"}
    assert codes(found) == {"body/a": "excluded", "body/b": "excluded", "body/p": "grouped", "head": "dense"}


@pytest.mark.parametrize(("field", "pattern", "hint"), [
    ("include", "body/x", "did you mean body/"), ("exclude", "stm", "did you mean stem"),
    ("include", "conv*", "analyze lists the names"), ("exclude", "BODY/*", "analyze lists the names"),
    ("include", "", "analyze lists the names")])
def test_a_pattern_that_matches_nothing(bench, field, pattern, hint):
    with pytest.raises(UnknownLayerError) as caught:
        select(bench, Budget(max_error=0.5, **{field: ("stem", pattern)}))
    message = str(caught.value)
    assert message.startswith(f"pattern {pattern}: matches no layer; ")
    assert hint in message


# ---- by measured speed ----

@pytest.mark.parametrize(("speedup", "kept"), [
    (0.3, False), (0.99, False), (1.0, False), (LEAST_SPEEDUP - 1e-9, False), (LEAST_SPEEDUP, True), (1.5, True),
    (math.inf, True)])
def test_a_layer_that_is_not_faster_is_dropped(bench, speedup, kept):
    measured = Measured(bench, lambda name, _rank: speedup if name == "body/b" else 2.0)
    found = complete(bench, select(bench, Budget(max_error=0.4), measure=measured))
    assert ("body/b" in by_layer(found)) == kept
    assert {p.speedup for p in found.layers if p.layer != "body/b"} == {2.0}
    if kept:
        assert by_layer(found)["body/b"].speedup == speedup
        return
    dropped = next(s for s in found.skipped if s.layer == "body/b")
    assert dropped.code == "not_faster"
    assert f"{speedup:.2f}x" in dropped.reason


@pytest.mark.parametrize("fastest", [4, 8, 12, 16])
def test_for_a_target_a_slow_rank_gives_way_to_a_smaller_one(bench, fastest):
    budget = Budget(target_macs=0.8, include=("body/a",))
    assert by_layer(select(bench, budget))["body/a"].ranks[0] > fastest
    measured = Measured(bench, lambda _name, rank: 1.3 if rank <= fastest else 0.6)
    found = complete(bench, select(bench, budget, measure=measured))
    assert by_layer(found)["body/a"].ranks == (fastest,)
    assert len(measured.chains) == len(set(measured.chains))  # nothing is measured twice
    for kernels in {tuple(f.kernel for f in chain) for chain in measured.chains}:  # of each family
        ranks = [chain[0].out_channels for chain in measured.chains if tuple(f.kernel for f in chain) == kernels]
        assert ranks == sorted(ranks, reverse=True)


def test_what_a_slow_layer_does_not_save_is_taken_from_the_others(bench):
    first = select(bench, Budget(target_macs=0.7))
    assert "body/b" in by_layer(first)
    measured = Measured(bench, lambda name, _rank: 0.6 if name == "body/b" else 1.7)
    found = complete(bench, select(bench, Budget(target_macs=0.7), measure=measured))
    assert codes(found)["body/b"] == "not_faster"
    assert saved(found) >= int(0.3 * total_macs(bench))


def test_a_target_is_infeasible_where_nothing_is_faster(bench):
    with pytest.raises(InfeasibleBudget, match=r"can go down to 1\.000 of its MACs"):
        select(bench, Budget(target_macs=0.7), measure=Measured(bench, lambda _name, _rank: 0.6))


def test_an_error_limit_is_met_by_nothing_where_nothing_is_faster(bench):
    found = complete(bench, select(bench, Budget(max_error=0.6), measure=Measured(bench, lambda _name, _rank: 0.6)))
    assert found.layers == ()
    assert {codes(found)[name] for name in REWRITABLE} == {"not_faster"}


# ---- the rest ----

def test_without_a_measurement_no_speed_is_claimed(bench):
    assert {p.speedup for p in select(bench, Budget(max_error=0.5)).layers} == {None}


def test_progress_rises_to_one(bench):
    told = []
    select(bench, Budget(max_error=0.5), progress=told.append)
    assert told == [1 / 3, 2 / 3, 1.0]


def test_weights_that_are_not_finite_are_an_error_only_where_they_are_looked_at():
    weight = decaying((36, 48, 3, 3), 0.15, 4)
    weight[3, 5, 1, 2] = np.nan
    with pytest.raises(ModelError, match="body/b"):
        select(workbench(b_w=weight), Budget(max_error=0.5))
    found = select(workbench(b_w=weight), Budget(max_error=0.5, exclude=("body/b",)))
    assert {p.layer for p in found.layers} == {"stem", "body/a"}


def test_a_wide_block_leaves_nothing_but_reasons():
    found = select(workbench(block=128), Budget(max_error=1.0))
    assert found.layers == ()
    assert {codes(found)[name] for name in REWRITABLE} == {"too_narrow"}


def test_costs_are_those_of_the_layer(bench):
    planned = by_layer(select(bench, Budget(ranks={"body/b": 6})))["body/b"]
    # 48 -> 6 on 8x11, then 3x3 from 6 to 36 on 8x11 with a bias that the original lacks
    assert planned.before == Cost(params=36 * 48 * 9, macs=36 * 48 * 9 * 88)
    assert planned.after == Cost(params=48 * 6 + 6 * 36 * 9 + 36, macs=(48 * 6 + 6 * 36 * 9) * 88)


# ---- parameters as the target ----

@pytest.mark.parametrize("target", [0.95, 0.7, 0.5, 0.3])
def test_a_target_of_parameters_is_reached(bench, target):
    found = complete(bench, select(bench, Budget(target_params=target)))
    total = sum(layer.spec.params for layer in bench.layers.values())
    assert total - sum(p.before.params - p.after.params for p in found.layers) <= target * total + 1


def test_infeasible_parameters_say_what_can_be_reached(bench):
    total = sum(layer.spec.params for layer in bench.layers.values())
    most = sum(max((c.saved_params for c in bench.candidates(layer)), default=0) for layer in bench.layers.values())
    with pytest.raises(InfeasibleBudget, match=r"^--target-params 0\.01: model can go down to (\d\.\d{3}) of its para"):
        select(bench, Budget(target_params=0.01))
    select(bench, Budget(target_params=1 - most / total + 0.001))
    with pytest.raises(InfeasibleBudget):
        select(bench, Budget(target_params=1 - most / total - 0.001))


@pytest.mark.parametrize("target", [{"target_macs": 0.97}, {"target_params": 0.97}])
def test_where_work_is_the_target_a_layer_may_be_as_fast_as_before(bench, target):
    budget = Budget(**target, include=("stem",))
    assert select(bench, budget, measure=Measured(bench, lambda *_: SAME_SPEED)).layers[0].speedup == SAME_SPEED
    with pytest.raises(InfeasibleBudget):
        select(bench, budget, measure=Measured(bench, lambda *_: SAME_SPEED - 1e-9))


# ---- candidates with their times ----

def seconds(spec):
    return spec.macs * 1e-9


def proportional(spec, chain):
    """As if time were proportional to MACs, and every convolution more cost as much as 5 % of the layer."""
    return spec.macs / (chain_cost(chain).macs + 0.05 * spec.macs)


def timed(bench, budget=None, speedup=proportional, **options):
    planner = Planner(bench, budget or Budget(), measure=speedup)
    planner.timed(seconds, **options)
    return planner


def test_times_follow_from_the_speed_of_the_chain_and_the_time_of_the_layer(bench):
    planner = timed(bench)
    for name in REWRITABLE:
        spec = bench.layers[name].spec
        found = planner.options[name]
        assert len(found) > 3
        for candidate in found:
            speedup = proportional(spec, by_name(candidate.strategy).chain(spec, candidate.ranks))
            assert speedup >= LEAST_SPEEDUP
            assert candidate.saved_s == pytest.approx(seconds(spec) * (1 - 1 / speedup), rel=1e-12)
        for one, other in itertools.pairwise(found):
            assert (one.saved_s, one.loss) < (other.saved_s, other.loss)
            assert one.loss < other.loss
        assert dataclasses.replace(found[0], saved_s=None) in bench.candidates(bench.layers[name])


@pytest.mark.parametrize(("all_layers", "least", "each"), [(1000, 2, 1000), (9, 2, 3), (14, 2, 4), (9, 5, 5)])
def test_the_fewer_layers_the_more_candidates_of_each_are_timed(bench, monkeypatch, all_layers, least, each):
    monkeypatch.setattr("onnxslim1x1.search.planner._TIMED", all_layers)
    monkeypatch.setattr("onnxslim1x1.search.planner._LEAST_TIMED", least)
    counted = Counter()
    timed(bench, speedup=lambda spec, chain: counted.update([spec]) or proportional(spec, chain))
    for name in REWRITABLE:
        front = undominated(bench.candidates(bench.layers[name]), saved_macs)
        assert len(front) > 5
        assert counted[bench.layers[name].spec] == min(each, len(front))


@pytest.mark.parametrize("name", REWRITABLE)
def test_what_gains_no_time_is_no_candidate(bench, name):
    slow = LEAST_SPEEDUP - 1e-9
    measured = Measured(bench, lambda layer, _rank: slow if layer == name else 1.5)
    planner = timed(bench, speedup=measured)
    assert planner.options[name] == ()
    assert all(planner.options[other] for other in REWRITABLE if other != name)
    reasons = {s.layer: (s.code, s.reason) for s in planner.selection({}).skipped}
    assert reasons[name] == ("not_faster", "no family and rank runs faster, measured")


def test_what_is_faster_than_a_better_one_is_dropped(bench):
    """Where fewer channels are slower, only what is worse and faster stays."""
    measured = Measured(bench, lambda _layer, rank: 1.1 + rank / 100)
    for found in timed(bench, speedup=measured).options.values():
        assert len({c.saved_s for c in found}) == len(found)
        assert sorted(found, key=saved_seconds) == sorted(found, key=lambda c: c.loss) == list(found)


def test_times_need_a_measurement(bench):
    with pytest.raises(ValueError, match="needs a measurement"):
        Planner(bench, Budget()).timed(seconds)


def test_progress_of_the_timing_rises_to_one(bench):
    told = []
    timed(bench, progress=told.append)
    assert told == [1 / 3, 2 / 3, 1.0]


def test_explicit_ranks_are_timed_however_slow_they_are(bench):
    planner = timed(bench, Budget(ranks={"stem": 3}, max_drop=0.1), lambda *_: 0.5)
    assert {name: (c.ranks, c.saved_s) for name, c in planner.explicit.items()} == {
        "stem": ((3,), -seconds(bench.layers["stem"].spec))}
    assert planner.options == {"body/a": (), "body/b": ()}
    for chosen in (planner.within(1e9, saved_seconds), planner.explicit, planner.strongest(saved_seconds)):
        assert {p.layer: (p.ranks, p.speedup) for p in planner.selection(chosen).layers} == {"stem": ((3,), 0.5)}


# ---- choices ----

def everything(planner, amount):
    """Loss and amount of all combinations of candidates."""
    found = [[c for c in combination if c is not None]
             for combination in itertools.product(*((None, *options) for options in planner.options.values()))]
    return np.array([[sum(c.loss for c in x), sum(map(amount, x))] for x in found])


def total(chosen, amount):
    return math.fsum(map(amount, chosen.values()))


@pytest.mark.parametrize("loss", [0.003, 0.02, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("amount", [saved_seconds, saved_macs, saved_params])
def test_within_a_loss_as_much_is_saved_as_possible(bench, loss, amount):
    planner = timed(bench)
    chosen = planner.within(loss, amount)
    assert total(chosen, lambda c: c.loss) <= loss
    losses, amounts = everything(planner, amount).T
    best = amounts[losses <= loss].max()
    step = planner.most(amount) / 2**12 + 3 * best / 10_000  # of the bisection, and of the allocation
    assert best - 2 * step <= total(chosen, amount) <= best * (1 + 1e-12)


def test_within_any_loss_everything_is_done(bench):
    planner = timed(bench)
    most = {name: max(found, key=saved_seconds) for name, found in planner.options.items()}
    loss = math.fsum(c.loss for c in most.values())
    assert planner.within(loss, saved_seconds) == planner.within(9e9, saved_seconds) == most
    assert planner.strongest(saved_seconds) == most
    assert planner.most(saved_seconds) == total(most, saved_seconds)
    assert planner.within(loss * (1 - 1e-9), saved_seconds) != most
    least = min(c.loss for found in planner.options.values() for c in found)
    assert planner.within(least * 0.99, saved_seconds) == planner.within(0, saved_seconds) == {}


def test_losses_of_explicit_ranks_count_within_a_loss(bench):
    planner = timed(bench, Budget(ranks={"stem": 16}, max_drop=0.1))
    own = planner.explicit["stem"].loss
    free = timed(bench, Budget(exclude=("stem",), max_drop=0.1))
    assert own > 0.001
    for left in (0.0, 0.01, 0.3):
        assert planner.within(own + left + 1e-12, saved_seconds) == planner.explicit | free.within(left, saved_seconds)
    assert planner.within(own / 2, saved_seconds) == planner.explicit


def test_within_a_loss_slow_layers_are_dropped_where_they_were_not_timed(bench):
    measured = Measured(bench, lambda name, _rank: 0.6 if name == "body/b" else 1.5)
    planner = Planner(bench, Budget(target_macs=0.9, max_drop=0.1), measure=measured)
    chosen = planner.within(0.5, saved_macs)
    assert chosen.keys() == {"stem", "body/a"}
    assert {s.layer: s.code for s in planner.selection(chosen).skipped}["body/b"] == "not_faster"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("amount", [saved_seconds, saved_macs, saved_params])
def test_saving_takes_the_least_loss(bench, share, amount):
    planner = timed(bench)
    save = share * planner.most(amount) * (1 - 1e-9)
    chosen = planner.saving(save, amount)
    losses, amounts = everything(planner, amount).T
    assert total(chosen, amount) >= save
    enough = amounts >= min(save * (1 + 4e-4), amounts.max())
    assert losses[amounts >= save].min() * (1 - 1e-12) <= total(chosen, lambda c: c.loss)
    assert total(chosen, lambda c: c.loss) <= losses[enough].min() * (1 + 1e-12)


def test_more_than_there_is_cannot_be_saved(bench):
    planner = timed(bench)
    with pytest.raises(InfeasibleBudget):
        planner.saving(planner.most(saved_seconds) * 1.001, saved_seconds)


def test_what_explicit_ranks_save_counts_in_every_amount(bench):
    planner = timed(bench, Budget(ranks={"body/a": 4}, max_drop=0.1))
    for amount in (saved_seconds, saved_macs, saved_params):
        own = total(planner.explicit, amount)
        assert planner.saving(own * 0.999, amount) == planner.explicit
        assert len(planner.saving(own * 1.01, amount)) == 2
        assert planner.most(amount) > own


@pytest.mark.parametrize(("budget", "reason"), [
    (Budget(max_drop=0.02), "others gain more within --max-drop 0.02"),
    (Budget(max_drop=0.02, target_speedup=1.5), "the target is met without it"),
    (Budget(target_macs=0.7), "the target is met without it")])
def test_a_layer_that_is_not_chosen_says_why(bench, budget, reason):
    found = timed(bench, budget).selection({})
    assert {(s.code, s.reason) for s in found.skipped if s.layer in REWRITABLE} == {("not_needed", reason)}


# ---- lists of candidates ----

def listed(*pairs):
    return tuple(Candidate(layer="a", strategy="reduce", ranks=(rank,), cost=Cost(params=1, macs=1), saved_macs=saved,
                           saved_params=-saved, error=0.1, loss=loss) for rank, (saved, loss) in enumerate(pairs, 1))


@pytest.mark.parametrize(("pairs", "kept"), [
    ([], []), ([(5, 1.0)], [1]), ([(5, 1.0), (7, 2.0), (9, 3.0)], [1, 2, 3]),
    ([(9, 3.0), (5, 1.0), (7, 2.0)], [2, 3, 1]),
    ([(5, 2.0), (7, 1.0)], [2]), ([(5, 1.0), (7, 1.0)], [2]), ([(5, 1.0), (5, 2.0)], [1]), ([(5, 2.0), (5, 1.0)], [2]),
    ([(5, 1.0), (6, 3.0), (7, 2.0), (8, 2.5)], [1, 3, 4]), ([(5, 1.0), (5, 1.0)], [1])])
def test_undominated_candidates_by_rising_saving(pairs, kept):
    candidates = listed(*pairs)
    assert [c.ranks[0] for c in undominated(candidates, saved_macs)] == kept


def test_what_is_dominated_depends_on_the_amount():
    candidates = listed((5, 1.0), (7, 2.0))
    assert [c.ranks[0] for c in undominated(candidates, saved_params)] == [1]
    assert [c.ranks[0] for c in undominated(iter(candidates), saved_macs)] == [1, 2]


def test_a_short_front_is_not_thinned():
    assert thinned((), saved_macs, 2) == ()
    for count in (1, 9, 10):
        front = listed(*[(i + 1, float(i + 1) ** 2) for i in range(count)])
        assert thinned(front, saved_macs, 10) == tuple(front)


@pytest.mark.parametrize(("pairs", "most", "kept"), [
    ([(10, 1.0), (20, 2.1), (30, 3.0), (40, 9.0)], 3, [1, 3, 4]),  # above the line between its neighbours
    ([(10, 1.0), (20, 2.1), (30, 3.0), (40, 9.0)], 2, [1, 4]),
    ([(10, 0.01), (20, 2.0), (30, 5.0), (40, 9.0)], 3, [1, 2, 4]),  # 0.5 below the line, of 5 at that
    ([(10, 1.0), (20, 1.5), (30, 2.9), (40, 4.0)], 3, [1, 2, 4]),  # 0.75 below and 0.15 above
    ([(10, 0.0), (20, 1.0), (30, 3.0), (40, 6.0)], 3, [1, 2, 4]),  # each 0.5 below the line
    ([(5, 0.0), (10, 0.0), (20, 3.0), (30, 4.0)], 3, [1, 2, 4])])  # what loses nothing is worth more than any ratio
def test_thinning_leaves_out_what_two_neighbours_make_up_for(pairs, most, kept):
    assert [c.ranks[0] for c in thinned(listed(*pairs), saved_macs, most)] == kept


@pytest.mark.parametrize("seed", range(5))
def test_a_thinned_front_is_hardly_worse_in_a_knapsack(seed):
    """Twenty layers, fronts of 40 candidates with a bit of noise: ten of them lose less than evenly spread ones."""
    rng = np.random.default_rng(seed)
    fronts = {}
    for name in "abcdefghijklmnopqrst":
        saved = np.sort(rng.choice(1000, 40, replace=False)) + 1
        losses = np.sort(np.exp(rng.normal(0, 0.05, 40)) * np.exp(saved / rng.uniform(100, 300)))
        fronts[name] = [dataclasses.replace(c, layer=name) for c in undominated(
            listed(*zip(saved.tolist(), losses.tolist(), strict=True)), saved_macs)]
    few = {name: thinned(front, saved_macs, 10) for name, front in fronts.items()}
    even = {name: [front[round(i)] for i in np.linspace(0, len(front) - 1, 10)] for name, front in fronts.items()}
    for save in (4000, 8000, 12000):
        best, ours, spread = (total_loss(allocate(some, save)) for some in (fronts, few, even))
        assert best <= ours <= 1.06 * best
        assert ours <= spread
    for name, front in fronts.items():
        assert len(few[name]) == 10
        assert (few[name][0], few[name][-1]) == (front[0], front[-1])
