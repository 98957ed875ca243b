"""Selecting layers and ranks under a budget; speed comes from fake measurements, everything else is real."""

import math
import re

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.errors import InfeasibleBudget, ModelError, RankError, UnknownLayerError
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.search.plan import Budget
from onnxslim1x1.search.planner import LEAST_SPEEDUP, matching, select
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
    measured = Measured(bench, lambda _name, rank: 1.3 if rank <= fastest else 0.9)
    found = complete(bench, select(bench, budget, measure=measured))
    assert by_layer(found)["body/a"].ranks == (fastest,)
    assert len(measured.chains) == len(set(measured.chains))  # nothing is measured twice
    for kernels in {tuple(f.kernel for f in chain) for chain in measured.chains}:  # of each family
        ranks = [chain[0].out_channels for chain in measured.chains if tuple(f.kernel for f in chain) == kernels]
        assert ranks == sorted(ranks, reverse=True)


def test_what_a_slow_layer_does_not_save_is_taken_from_the_others(bench):
    first = select(bench, Budget(target_macs=0.7))
    assert "body/b" in by_layer(first)
    measured = Measured(bench, lambda name, _rank: 0.8 if name == "body/b" else 1.7)
    found = complete(bench, select(bench, Budget(target_macs=0.7), measure=measured))
    assert codes(found)["body/b"] == "not_faster"
    assert saved(found) >= int(0.3 * total_macs(bench))


def test_a_target_is_infeasible_where_nothing_is_faster(bench):
    with pytest.raises(InfeasibleBudget, match=r"can go down to 1\.000 of its MACs"):
        select(bench, Budget(target_macs=0.7), measure=Measured(bench, lambda _name, _rank: 0.9))


def test_an_error_limit_is_met_by_nothing_where_nothing_is_faster(bench):
    found = complete(bench, select(bench, Budget(max_error=0.6), measure=Measured(bench, lambda _name, _rank: 0.9)))
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
