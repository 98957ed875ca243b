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
_STRETCHES = 8  # that the rounds of too few groups are divided into
_RESAMPLES, _LEAST_RESAMPLES = 2000, 400
_MOST_WEIGHTS = 4_000_000  # resamples times rounds: bounds time and memory where there are many
_TAIL = 0.025  # on each side of a 95 % interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Median over the rounds of first / second, with the lower and the upper end of its 95 % interval."""

    value: float
    low: float
    high: float


def ratio(seconds: Seconds, groups: Groups | None = None, *, seed: int = 0) -> Ratio:
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
        seed: of the bootstrap.
    """
    ratios = seconds[:, 0] / seconds[:, 1]
    value, logs = float(np.median(ratios)), np.log(ratios)
    starts = _starts(len(logs), groups)
    if len(starts) < 2:  # a single round: nothing is known about its scatter
        return Ratio(value=value, low=0.0, high=math.inf)
    middle = math.log(value)
    low, high = np.quantile(_medians(logs, starts, seed), (_TAIL, 1 - _TAIL)).tolist()
    factor = _student(len(starts))
    return Ratio(value=value, low=math.exp(middle - factor * (middle - low)),
                 high=math.exp(middle + factor * (high - middle)))


def _starts(rounds: int, groups: Groups | None) -> Groups:
    """First round of each group."""
    if groups is not None:
        starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
        if len(starts) >= FEWEST_GROUPS:
            return starts
    return np.unique(np.linspace(0, rounds, min(rounds, _STRETCHES), endpoint=False).astype(np.int64))


def _medians(logs: Seconds, starts: Groups, seed: int) -> Seconds:
    """Medians of all rounds, weighed by how often their group was drawn: one for each resample."""
    rng = np.random.default_rng(seed)
    count, order = len(starts), np.argsort(logs)
    resamples = max(_LEAST_RESAMPLES, min(_RESAMPLES, _MOST_WEIGHTS // len(logs)))
    drawn = rng.multinomial(count, np.full(count, 1 / count), resamples).astype(np.int32)
    group = np.repeat(np.arange(count), np.diff(starts, append=len(logs)))[order]
    twice = 2 * np.cumsum(drawn[:, group], axis=1)  # (resamples, rounds), twice the rounds up to each, by ratio
    total = twice[:, -1:] // 2
    below, upto = (np.count_nonzero(mask, axis=1) for mask in (twice < total, twice <= total))
    ordered = logs[order]
    return np.asarray((ordered[below] + ordered[upto]) / 2)


def _student(groups: int) -> float:
    """How much wider Student's interval of `groups` means is than the percentiles of their bootstrap."""
    from scipy.special import ndtri, stdtrit  # `scipy.stats` takes half a second to import

    return float(stdtrit(groups - 1, 1 - _TAIL) / ndtri(1 - _TAIL)) * math.sqrt(groups / (groups - 1))
