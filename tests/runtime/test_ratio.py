"""Intervals of ratios: exact where they can be, honest where rounds hang together, wider with fewer groups."""

import math

import numpy as np
import pytest
import scipy.stats

from onnxslim1x1.runtime.ratio import FEWEST_GROUPS, ratio


def seconds(logs, seed=0):
    """Two columns with these logarithms of their ratio, on a machine that drifts."""
    second = np.exp(np.random.default_rng(seed).normal(0.0, 0.5, len(logs)))
    return np.column_stack([second * np.exp(logs), second])


def test_the_value_is_the_median_over_the_rounds():
    table = seconds(np.random.default_rng(1).normal(0.2, 0.1, 38))
    assert ratio(table).value == pytest.approx(np.median(table[:, 0] / table[:, 1]), rel=1e-12)


def test_the_interval_is_turned_around_with_the_ratio():
    table = seconds(np.random.default_rng(2).normal(0.1, 0.05, 61))
    found, other = ratio(table), ratio(table[:, ::-1])
    assert other.value == pytest.approx(1 / found.value, rel=1e-12)
    assert (other.low, other.high) == pytest.approx((1 / found.high, 1 / found.low), rel=2e-3)  # percentiles of draws


def test_a_single_round_says_nothing():
    found = ratio(np.array([[3.0, 2.0]]))
    assert (found.value, found.low, found.high) == (1.5, 0.0, math.inf)


def test_rounds_that_agree_leave_no_doubt():
    found = ratio(np.tile([3.0, 2.0], (20, 1)))
    assert (found.low, found.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_the_interval_is_that_of_student_where_groups_decide():
    """Groups of many rounds, whose own scatter hardly counts."""
    widths, count = [], 20
    for seed in range(30):
        rng = np.random.default_rng(seed)
        means = rng.normal(0.0, 0.02, count)
        table = seconds(np.repeat(means, 30) + rng.normal(0.0, 0.02, 30 * count))
        found = ratio(table, np.repeat(np.arange(count), 30))
        want = scipy.stats.t.interval(0.95, count - 1, 0.0, scipy.stats.sem(means))
        widths.append(math.log(found.high / found.low) / (want[1] - want[0]))
    assert 1.0 < np.mean(widths) < 1.3  # a median scatters up to sqrt(pi / 2) times as much as a mean


def covered(sample, count=250):
    """Part of the intervals that hold a ratio of 1."""
    hits = 0
    for seed in range(count):
        table, groups = sample(np.random.default_rng(seed))
        found = ratio(table, groups, seed=seed)
        hits += found.low <= 1 <= found.high
    return hits / count


@pytest.mark.slow
def test_the_interval_covers_where_rounds_hang_together():
    """Stretches of 10 rounds share an error as large as that of single rounds: independent rounds would give 60 %."""
    def sample(rng):
        shared = np.repeat(rng.normal(0.0, 0.03, 16), 10)
        return seconds(shared + rng.normal(0.0, 0.03, 160)), None

    def naive(rng):
        table, _ = sample(rng)
        return table, np.arange(len(table))

    assert covered(sample) >= 0.88  # blocks of 16 rounds cut through stretches of 10
    assert covered(naive, 40) < 0.85


def test_the_interval_covers_the_luck_of_sessions():
    def sample(rng):
        luck = np.repeat(rng.normal(0.0, 0.02, 6), 25)
        return seconds(luck + rng.normal(0.0, 0.03, 150)), np.repeat(np.arange(6), 25)

    assert covered(sample) >= 0.91


@pytest.mark.parametrize("rounds", [5, 15, 40])
def test_the_interval_covers_with_few_rounds(rounds):
    assert covered(lambda rng: (seconds(rng.normal(0.0, 0.05, rounds)), None)) >= 0.92


def test_sittings_that_are_too_few_are_divided():
    table = seconds(np.random.default_rng(5).normal(0.0, 0.05, 60))
    few = np.repeat(np.arange(FEWEST_GROUPS - 1), 15)
    assert ratio(table, few) == ratio(table)
    assert ratio(table, np.repeat(np.arange(FEWEST_GROUPS), 12)) != ratio(table)


def test_groups_may_differ_in_size():
    rng = np.random.default_rng(6)
    sizes = (1, 40, 3, 17, 9, 30)
    found = ratio(seconds(rng.normal(0.3, 0.02, sum(sizes))), np.repeat(np.arange(len(sizes)), sizes))
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(math.exp(0.3), rel=0.02)


def test_luck_that_the_groups_do_not_show_widens_in_quadrature():
    table = seconds(np.random.default_rng(7).normal(0.0, 0.05, 60))
    plain, wide = ratio(table), ratio(table, luck=0.02)
    hidden = scipy.stats.norm.ppf(0.975) * math.sqrt(2) * 0.02
    assert math.log(wide.high / wide.value) == pytest.approx(math.hypot(math.log(plain.high / plain.value), hidden))
    assert math.log(wide.value / wide.low) == pytest.approx(math.hypot(math.log(plain.value / plain.low), hidden))


def test_the_bootstrap_is_seeded():
    table = seconds(np.random.default_rng(8).normal(0.0, 0.05, 60))
    assert ratio(table, seed=3) == ratio(table, seed=3)
    assert ratio(table, seed=3) != ratio(table, seed=4)
