"""Warm-up until steady, and sittings with fresh callables, on a clock that only the callables move."""

from functools import partial

import numpy as np
import pytest

from onnxslim1x1.runtime.rounds import BenchmarkSettings, is_steady, measure


class Workshop:
    """Makes callables of fixed duration; counts how often, and notes what ran."""

    def __init__(self, seconds=(0.010, 0.012, 0.010), fresh_s=0.02, cold=()):
        self.now, self.made, self.log = 0.0, 0, []
        self._seconds, self._fresh_s, self._cold = seconds, fresh_s, list(cold)

    def clock(self):
        return self.now

    def fresh(self):
        self.made += 1
        self.now += self._fresh_s
        return [partial(self._run, self.made, i) for i in range(len(self._seconds))]

    def _run(self, maker, which):
        self.log.append((maker, which))
        self.now += self._seconds[which] * (self._cold.pop(0) if self._cold else 1.0)


def measured(workshop, *, renew=True, **settings):
    return measure(workshop.fresh, settings=BenchmarkSettings(**settings), clock=workshop.clock, renew=renew)


def test_every_sitting_has_callables_of_its_own():
    shop = Workshop()
    found = measured(shop, budget_s=2.0)
    assert shop.made == found.sittings[-1] + 1 == 20
    assert np.array_equal(np.unique(found.sittings), np.arange(20))
    assert np.all(np.diff(found.sittings) >= 0)
    sizes = np.bincount(found.sittings)
    assert sizes.max() <= 2 * sizes.min()
    ran = [maker for maker, _ in shop.log[-3 * len(found.seconds):]]
    assert ran == np.repeat(found.sittings + 1, 3).tolist()  # never one of an earlier sitting
    np.testing.assert_allclose(found.seconds, np.tile([0.010, 0.012, 0.010], (len(found.seconds), 1)))


def test_fresh_callables_are_part_of_the_budget():
    shop = Workshop()
    measured(shop, budget_s=3.0, warmup_s=0.0, warmup_runs=0)
    assert 3.02 <= shop.now < 3.02 + 0.032 + 0.02 + 1e-6  # at most a round and a sitting more


def test_there_is_one_sitting_where_callables_are_dear():
    shop = Workshop(fresh_s=1.0)
    assert measured(shop, budget_s=2.0).sittings.max() == 0
    assert shop.made == 1


def test_there_is_one_sitting_unless_more_are_allowed():
    shop = Workshop()
    assert measured(shop, budget_s=2.0, renew=False).sittings.max() == 0
    assert shop.made == 1


@pytest.mark.parametrize(("budget", "fresh", "round_s", "count"), [
    (1.0, 0.05, 0.005, 11),  # half of the budget pays for 10 more
    (1.0, 0.124, 0.005, 5),
    (1.0, 0.126, 0.005, 1),  # fewer than 5 would say nothing
    (60.0, 0.05, 0.005, 20),  # more would say no more
    (0.0, 0.05, 0.005, 1),
    (1.0, 0.05, 0.1, 5),  # three rounds for each, of the least number of rounds
    (1.0, 0.0, 0.005, 20),
])
def test_the_number_of_sittings(budget, fresh, round_s, count):
    assert BenchmarkSettings(budget_s=budget).sittings(fresh_s=fresh, round_s=round_s) == count


# ---- warm-up ----

@pytest.mark.parametrize(("seconds", "steady"), [
    ([], True), ([1.0], True), ([1.0, 1.0], True), ([1.0, 0.5], False), ([0.5, 1.0], True),
    ([9, 8, 1.0, 1.0, 1.0, 1.0], True), ([9, 8, 3, 3, 1.0, 1.0], False), ([1.0] * 5 + [0.98] * 5, True),
    ([5, 5, 5, 1.0, 7, 1.0, 1.0, 7, 1.0], True),  # spikes do not count
])
def test_steadiness(seconds, steady):
    assert is_steady(seconds) is steady


def runs_before(shop, found):
    return (len(shop.log) - found.seconds.size) // found.seconds.shape[1]


def test_warm_up_lasts_until_runs_get_no_faster():
    quick, slow = Workshop(), Workshop(cold=np.repeat(np.geomspace(4.0, 1.0, 30), 3).tolist())
    settings = {"warmup_runs": 3, "warmup_s": 0.2, "budget_s": 0.0, "min_rounds": 6}
    assert runs_before(quick, measured(quick, **settings)) == 19  # 0.6 s of 0.032 s
    found = measured(slow, **settings)
    assert runs_before(slow, found) > 30
    assert found.seconds.max() < 0.013  # nothing of the cold start is in what was measured


def test_warm_up_ends_where_a_machine_never_becomes_steady():
    shop = Workshop(cold=np.repeat(np.geomspace(1e6, 1e-6, 2000), 3).tolist())
    shop._seconds = (1e-6,) * 3
    found = measured(shop, warmup_runs=2, warmup_s=0.1, budget_s=0.0, min_rounds=6)
    assert runs_before(shop, found) == 2  # two rounds have used the time up
