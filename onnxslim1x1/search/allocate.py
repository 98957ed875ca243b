"""Choosing at most one candidate per layer under a budget of MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import InfeasibleBudget
from onnxslim1x1.search.candidates import Candidate

_STEPS = 10_000  # resolution of the budget; savings are rounded down, so the target is never missed


def allocate(candidates: Mapping[str, Sequence[Candidate]], save_macs: int) -> dict[str, Candidate]:
    """Least total loss while at least `save_macs` are saved: a multiple-choice knapsack.

    Minimises ``sum_l loss_l`` over at most one candidate per layer by dynamic programming over the savings
    (Kellerer, Pferschy and Pisinger, Knapsack Problems, chapter 11), exact but for savings rounded down to
    1/10,000 of the target. Losses of
    different layers add up approximately until the network is near collapse.

    Raises:
        InfeasibleBudget: all layers at their cheapest save less than that.
    """
    if save_macs <= 0:
        return {}
    options = [tuple(found) for found in candidates.values() if found]
    cheapest = [max(found, key=lambda c: c.saved_macs) for found in options]
    most = sum(c.saved_macs for c in cheapest)
    if most < save_macs:
        raise InfeasibleBudget(f"the rewritable layers can save {most:,} MACs at most, {save_macs:,} are asked for")
    least, picks = np.full(_STEPS + 1, np.inf), []
    least[0] = 0.0
    for found in options:
        least, pick = _with_layer(least, found, save_macs)
        picks.append(pick)
    if not np.isfinite(least[_STEPS]):  # only the rounding stands between the target and the cheapest choice
        return {c.layer: c for c in cheapest}
    return _trace(options, picks, save_macs)


def _steps(candidate: Candidate, save_macs: int) -> int:
    return max(0, candidate.saved_macs) * _STEPS // save_macs


def _with_layer(least: NDArray[np.float64], found: Sequence[Candidate],
                save_macs: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Least loss for every saving with one more layer, and which candidate (or -1) reaches it."""
    best, pick = least.copy(), np.full(len(least), -1, dtype=np.int32)
    targets = np.arange(len(least))
    for number, candidate in enumerate(found):
        total = least[np.maximum(targets - _steps(candidate, save_macs), 0)] + candidate.loss
        better = total < best
        best[better], pick[better] = total[better], number
    return best, pick


def _trace(options: Sequence[tuple[Candidate, ...]], picks: Sequence[NDArray[np.int32]],
           save_macs: int) -> dict[str, Candidate]:
    chosen, left = {}, _STEPS
    for found, pick in zip(reversed(options), reversed(picks), strict=True):
        number = int(pick[left])
        if number >= 0:
            chosen[found[number].layer] = found[number]
            left = max(0, left - _steps(found[number], save_macs))
    return chosen
