"""The allocation against an exhaustive search over all choices."""

import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim1x1.errors import InfeasibleBudget
from onnxslim1x1.search.allocate import allocate, saved_macs, saved_params, saved_seconds
from onnxslim1x1.search.candidates import Candidate
from onnxslim1x1.spec import Cost

DRAWN = settings(derandomize=True, deadline=None, database=None, max_examples=80)
STEPS = 10_000  # savings are rounded down to this part of the target


def candidate(layer, rank, saved, error, loss=None):
    return Candidate(layer=layer, strategy="reduce", ranks=(rank,), cost=Cost(params=rank, macs=1000 - saved),
                     saved_macs=saved, error=error, loss=error**2 if loss is None else loss)


def table(rows):
    """Candidates from pairs of saving and error per layer."""
    return {f"conv{i}": tuple(candidate(f"conv{i}", rank, *pair) for rank, pair in enumerate(row, 1))
            for i, row in enumerate(rows)}


ROWS = st.lists(st.lists(st.tuples(st.integers(1, 60), st.floats(0.001, 1.0)), max_size=4), min_size=1, max_size=5)


def loss(chosen):
    return math.fsum(c.error**2 for c in chosen)


def saved(chosen):
    return sum(c.saved_macs for c in chosen)


def least_loss(candidates, target):
    """Smallest loss of any choice that saves `target`, at most one candidate per layer; inf if none does."""
    choices = itertools.product(*([None, *found] for found in candidates.values()))
    kept = ([c for c in choice if c is not None] for choice in choices)
    return min((loss(choice) for choice in kept if saved(choice) >= target), default=math.inf)


def most(candidates):
    return sum(max((c.saved_macs for c in found), default=0) for found in candidates.values())


def solve(candidates, target):
    """The allocation, checked for what holds whatever the numbers are."""
    chosen = allocate(candidates, target)
    assert all(name == c.layer and c in candidates[name] for name, c in chosen.items())
    assert saved(chosen.values()) >= target
    return loss(chosen.values())


@DRAWN
@given(ROWS, st.sampled_from([1, 2, 4, 5, 8, 10, 16, 20, 25, 40, 50, 80, 100, 125]))
def test_optimal_where_nothing_is_rounded(rows, target):
    candidates = table(rows)
    best = least_loss(candidates, target)
    if math.isinf(best):
        with pytest.raises(InfeasibleBudget):
            allocate(candidates, target)
    else:
        assert solve(candidates, target) == pytest.approx(best, rel=1e-12)  # the order of the sum may differ


@DRAWN
@given(ROWS, st.integers(1, 300))
def test_never_worse_than_the_optimum_for_a_target_that_is_larger_by_the_rounding(rows, target):
    candidates = table(rows)
    if most(candidates) < target:
        with pytest.raises(InfeasibleBudget):
            allocate(candidates, target)
        return
    found = solve(candidates, target)
    assert found >= least_loss(candidates, target) * (1 - 1e-12)
    assert found <= least_loss(candidates, target * (1 + len(rows) / STEPS)) * (1 + 1e-12)


def test_the_obvious_greedy_choice_is_not_taken():
    # By loss per saved MAC conv0 comes first, but for more than 60 another layer is needed in full on top of it.
    candidates = table([[(60, 0.30)], [(100, 0.52)], [(40, 0.45)]])
    found = {target: set(allocate(candidates, target)) for target in (40, 60, 61, 100, 101, 160, 161)}
    assert found == {40: {"conv0"}, 60: {"conv0"}, 61: {"conv1"}, 100: {"conv1"}, 101: {"conv0", "conv1"},
                     160: {"conv0", "conv1"}, 161: {"conv0", "conv1", "conv2"}}


def test_two_small_errors_are_better_than_a_large_one():
    chosen = allocate(table([[(50, 0.1), (100, 0.4)], [(50, 0.2), (100, 0.5)]]), 100)
    assert {name: c.error for name, c in chosen.items()} == {"conv0": 0.1, "conv1": 0.2}


def test_the_loss_decides_and_not_the_error():
    candidates = {"a": (candidate("a", 1, 50, error=0.1, loss=3.0),),
                  "b": (candidate("b", 1, 50, error=0.9, loss=2.0),)}
    assert set(allocate(candidates, 50)) == {"b"}


@pytest.mark.parametrize("target", [3, 6, 7, 9, 11, 13, 17, 19, 21, 23])
def test_a_target_that_takes_everything_is_met_in_spite_of_the_rounding(target):
    candidates = table([[(1, 0.5)]] * target)
    assert len(allocate(candidates, target)) == target
    with pytest.raises(InfeasibleBudget):
        allocate(candidates, target + 1)


@pytest.mark.parametrize("target", [0, -1, -10**12])
def test_nothing_is_done_for_nothing(target):
    assert allocate(table([[(5, 0.1)], [(7, 0.2)]]), target) == {}


@pytest.mark.parametrize(("rows", "target", "reachable"), [
    ([], 1, "0"), ([[]], 1, "0"), ([[(5, 0.1)]], 6, "5"), ([[(5, 0.1), (9, 0.9)], [], [(3, 0.1)]], 13, "12"),
    ([[(2_000_000, 0.1)], [(500, 0.2)]], 2_000_501, "2,000,500"),
])
def test_infeasible_says_what_is_asked_and_what_is_possible(rows, target, reachable):
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(table(rows), target)
    assert f"save {reachable} at most" in str(caught.value)
    assert f"{target:,}" in str(caught.value)


def test_realistic_numbers_of_layers_and_macs():
    rows = [[(10**6 * (layer + rank), 0.02 * layer + 0.5 / rank) for rank in range(1, 33)] for layer in range(1, 41)]
    candidates = table(rows)
    target = most(candidates) // 3
    chosen = allocate(candidates, target)
    assert target <= saved(chosen.values())
    # Local optimality: no single exchange within a layer does better and still meets the target.
    for name, found in candidates.items():
        for other in (None, *found):
            changed = [c for n, c in chosen.items() if n != name] + ([other] if other else [])
            if saved(changed) >= target * (1 + 40 / STEPS):
                assert loss(changed) >= loss(chosen.values()) - 1e-9


# ---- other amounts than MACs ----

def timed(layer, rank, saved_s, loss, *, saved=1, saved_params=0):
    return dataclasses.replace(candidate(layer, rank, saved, 0.1, loss), saved_s=saved_s, saved_params=saved_params)


@DRAWN
@given(ROWS, st.floats(0.01, 0.95))
def test_seconds_are_saved_at_least_and_at_the_least_loss(rows, share):
    candidates = {name: tuple(dataclasses.replace(c, saved_s=c.saved_macs * 1.7e-4) for c in found)
                  for name, found in table(rows).items()}
    target = share * most(candidates) * 1.7e-4
    if target == 0:
        return
    chosen = allocate(candidates, target, saved_seconds).values()
    assert math.fsum(map(saved_seconds, chosen)) >= target * (1 - 1e-12)  # the order of the sum may differ
    rounded = target / 1.7e-4 * (1 + (len(rows) + 1) / STEPS)
    assert loss(chosen) <= least_loss(table(rows), rounded) * (1 + 1e-12)


def test_what_was_not_timed_saves_no_time():
    candidates = {"a": (candidate("a", 1, 50, 0.1),), "b": (timed("b", 1, 2e-3, 5.0),)}
    assert set(allocate(candidates, 1e-3, saved_seconds)) == {"b"}
    with pytest.raises(InfeasibleBudget):
        allocate(candidates, 2.5e-3, saved_seconds)


def test_the_amount_decides_what_is_chosen():
    candidates = {"a": (timed("a", 1, 1e-3, 1.0, saved=90, saved_params=10),),
                  "b": (timed("b", 1, 4e-3, 2.0, saved=50, saved_params=30),),
                  "c": (timed("c", 1, 2e-3, 3.0, saved=70, saved_params=50),)}
    for amount, target, name in ((saved_macs, 80, "a"), (saved_params, 45, "c"), (saved_seconds, 3e-3, "b")):
        assert set(allocate(candidates, target, amount)) == {name}


def test_candidates_that_save_nothing_of_it_count_for_nothing():
    """A bias that is added costs parameters: what few channels save may be less than that."""
    candidates = {"a": (timed("a", 1, None, 0.0, saved_params=-40), timed("a", 2, None, 0.0, saved_params=-5)),
                  "b": (timed("b", 1, None, 1.0, saved_params=30), timed("b", 2, None, 0.5, saved_params=-1)),
                  "c": (timed("c", 1, None, 1.0, saved_params=1),)}
    for target in (28, 29, 30, 31):
        chosen = allocate(candidates, target, saved_params)
        assert set(chosen) == ({"b"} if target < 31 else {"b", "c"})
    with pytest.raises(InfeasibleBudget, match="can save 31 at most, 32 is asked for"):
        allocate(candidates, 32, saved_params)
