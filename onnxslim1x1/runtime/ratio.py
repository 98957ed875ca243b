"""The ratio of two run times with an interval that serial correlation and the luck of single sessions do not fool.

Rounds that follow each other are no independent samples: a neighbour loads the machine for a while, the clock rate
drifts. Nor are two sessions of one model equally fast: where their memory lies decides about a percent, for as long as
they live. So rounds come in groups: each is measured with sessions of its own where loading is cheap enough, else it is
a stretch of time. Groups are what the bootstrap draws, not single rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
Groups = NDArray[np.int64]

FEWEST_GROUPS = 5  # with fewer, Student's factor would make every interval useless
_STRETCHES = 10  # that the rounds of too few groups are divided into
_RESAMPLES = 2000
_TAIL = 0.025  # on each side of a 95 % interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Median over the rounds of first / second, with the lower and the upper end of its 95 % interval."""

    value: float
    low: float
    high: float


def ratio(seconds: Seconds, groups: Groups | None = None, *, luck: float = 0.0, seed: int = 0) -> Ratio:
    """Ratio of the two columns of `seconds`, round by round.

    Pairs within a round, because the ratio of the two medians breaks down on a busy machine, where run times have
    two modes: ResNet-20 against itself gave 0.66 to 1.24 by the ratio of medians, 0.97 to 1.02 by this.

    The interval is that of a block bootstrap (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    sections 3.8 and 8.2.3): whole groups are drawn, with replacement. Percentiles of G groups are too narrow; they are
    widened about the estimate by t(G - 1) / z * sqrt(G / (G - 1)), the factor by which Student's interval of a mean
    exceeds the percentiles of its bootstrap.

    Args:
        seconds: (rounds, 2), in the order of time.
        groups: number of the group of each round, rising; by default, or if there are fewer than five, stretches of
            time of equal length.
        luck: standard deviation of the logarithm of a session's time that the groups do not show, because they were
            measured with the same sessions; widens the interval in quadrature.
        seed: of the bootstrap.
    """
    ratios = seconds[:, 0] / seconds[:, 1]
    value, logs = float(np.median(ratios)), np.log(ratios)
    starts = _starts(len(logs), groups)
    if len(starts) < 2:  # a single round: nothing is known about its scatter
        return Ratio(value=value, low=0.0, high=math.inf)
    middle = math.log(value)
    low, high = np.quantile(_medians(logs, starts, seed), (_TAIL, 1 - _TAIL)).tolist()
    factor, hidden = _student(len(starts)), _z() * math.sqrt(2) * luck
    return Ratio(value=value, low=math.exp(middle - math.hypot(factor * (middle - low), hidden)),
                 high=math.exp(middle + math.hypot(factor * (high - middle), hidden)))


def _starts(rounds: int, groups: Groups | None) -> Groups:
    """First round of each group."""
    if groups is not None:
        starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
        if len(starts) >= FEWEST_GROUPS:
            return starts
    return np.unique(np.linspace(0, rounds, min(rounds, _STRETCHES), endpoint=False).astype(np.int64))


def _medians(logs: Seconds, starts: Groups, seed: int) -> Seconds:
    """Medians of all rounds, each counted as often as its group was drawn: one for each resample."""
    count, order = len(starts), np.argsort(logs)
    sizes = np.diff(starts, append=len(logs))
    picks = np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count, 1))
    drawn = np.count_nonzero(picks == np.arange(count), axis=1)  # how often each group
    group = np.repeat(np.arange(count), sizes)[order]
    smaller = np.cumsum(group[:, None] == np.arange(count), axis=0)  # (rounds, groups): how many up to each ratio
    total, ordered = drawn @ sizes, logs[order]
    lower, upper = (_first(drawn, smaller, wanted) for wanted in ((total + 1) // 2, total // 2 + 1))
    return np.asarray((ordered[lower] + ordered[upper]) / 2)


def _first(drawn: Groups, smaller: Groups, wanted: Groups) -> Groups:
    """First place among the sorted rounds up to which each resample has `wanted` of them, by bisection."""
    low, high = np.zeros_like(wanted), np.full_like(wanted, len(smaller) - 1)
    for _ in range(len(smaller).bit_length()):
        middle = (low + high) // 2
        reached = np.einsum("rg,rg->r", drawn, smaller[middle]) >= wanted
        low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
    return high


def _student(groups: int) -> float:
    """How much wider Student's interval of `groups` means is than the percentiles of their bootstrap."""
    from scipy.special import stdtrit  # `scipy.stats` takes half a second to import

    return float(stdtrit(groups - 1, 1 - _TAIL)) / _z() * math.sqrt(groups / (groups - 1))


def _z() -> float:
    """Standard deviations of the normal distribution within which 95 % lie."""
    from scipy.special import ndtri

    return float(ndtri(1 - _TAIL))
