"""Choosing at most one candidate per layer under a budget of MACs, parameters or seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import InfeasibleBudget
from onnxslim1x1.search.candidates import Candidate

_STEPS = 10_000  # resolution of the budget; savings are rounded down, so the target is never missed


Amount = Callable[[Candidate], float]


def saved_macs(candidate: Candidate) -> float:
    """Multiply-accumulates that a candidate saves."""
    return candidate.saved_macs


def saved_params(candidate: Candidate) -> float:
    """Parameters that a candidate saves."""
    return candidate.saved_params


def saved_seconds(candidate: Candidate) -> float:
    """Seconds that a candidate saves per run; 0 if it was not timed."""
    return candidate.saved_s or 0.0


def total_loss(chosen: Mapping[str, Candidate]) -> float:
    """Sum of the losses of a choice, predicted."""
    return math.fsum(c.loss for c in chosen.values())


def total_saved(chosen: Mapping[str, Candidate]) -> float:
    """Seconds per run that a choice saves, predicted."""
    return math.fsum(map(saved_seconds, chosen.values()))


def allocate(candidates: Mapping[str, Sequence[Candidate]], save: float,
             amount: Amount = saved_macs) -> dict[str, Candidate]:
    """Least total loss while at least `save` is saved: a multiple-choice knapsack.

    Minimises ``sum_l loss_l`` over at most one candidate per layer by dynamic programming over the savings
    (Kellerer, Pferschy and Pisinger, Knapsack Problems, chapter 11), exact but for savings rounded down to
    1/10,000 of the target. Losses of
    different layers add up approximately until the network is near collapse.

    Args:
        candidates: by layer.
        save: what is to be saved in all, in the unit of `amount`.
        amount: what a candidate saves: MACs, parameters or seconds.

    Raises:
        InfeasibleBudget: all layers at their cheapest save less than that.
    """
    if save <= 0:
        return {}
    helpful = (tuple(c for c in found if amount(c) > 0) for found in candidates.values())
    options = [found for found in helpful if found]
    cheapest = [max(found, key=amount) for found in options]
    most = sum(map(amount, cheapest))
    if most < save:
        raise InfeasibleBudget(f"the rewritable layers can save {most:,} at most, {save:,} is asked for")
    least, picks = np.full(_STEPS + 1, np.inf), []
    least[0] = 0.0
    for found in options:
        least, pick = _with_layer(least, found, [_steps(amount(c), save) for c in found])
        picks.append(pick)
    if not np.isfinite(least[_STEPS]):  # only the rounding stands between the target and the cheapest choice
        return {c.layer: c for c in cheapest}
    return _trace(options, picks, lambda c: _steps(amount(c), save))


def _steps(saved: float, save: float) -> int:
    return int(saved * _STEPS // save)


def _with_layer(least: NDArray[np.float64], found: Sequence[Candidate],
                steps: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Least loss for every saving with one more layer, and which candidate (or -1) reaches it."""
    best, pick = least.copy(), np.full(len(least), -1, dtype=np.int32)
    targets = np.arange(len(least))
    for number, (candidate, step) in enumerate(zip(found, steps, strict=True)):
        total = least[np.maximum(targets - step, 0)] + candidate.loss
        better = total < best
        best[better], pick[better] = total[better], number
    return best, pick


def _trace(options: Sequence[tuple[Candidate, ...]], picks: Sequence[NDArray[np.int32]],
           steps: Callable[[Candidate], int]) -> dict[str, Candidate]:
    chosen, left = {}, _STEPS
    for found, pick in zip(reversed(options), reversed(picks), strict=True):
        number = int(pick[left])
        if number >= 0:
            chosen[found[number].layer] = found[number]
            left = max(0, left - steps(found[number]))
    return chosen
