"""Choosing at most one candidate per layer under a budget of MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxslim1x1.errors import InfeasibleBudget
from onnxslim1x1.search.candidates import Candidate


def allocate(candidates: Mapping[str, Sequence[Candidate]], save_macs: int) -> dict[str, Candidate]:
    """Least total output energy lost while at least `save_macs` are saved: a multiple-choice knapsack.

    Minimises ``sum_l error_l^2`` over at most one candidate per layer, exactly, as an integer program (HiGHS through
    `scipy.optimize.milp`). Squared errors of different layers add up approximately while each is small.

    Raises:
        InfeasibleBudget: all layers at their cheapest save less than that.
    """
    flat = [c for options in candidates.values() for c in options]
    most = sum(max((c.saved_macs for c in options), default=0) for options in candidates.values())
    if most < save_macs:
        raise InfeasibleBudget(f"the rewritable layers can save {most:,} MACs at most, {save_macs:,} are asked for")
    if save_macs <= 0 or not flat:
        return {}
    from scipy.optimize import Bounds, LinearConstraint, milp

    layers = list(candidates)
    membership = np.array([[float(c.layer == name) for c in flat] for name in layers])
    saved = np.array([c.saved_macs for c in flat], dtype=float)
    scale = saved.max()  # keeps the integer program well conditioned
    solution = milp(
        c=np.array([c.error**2 for c in flat]),
        constraints=[LinearConstraint(membership, ub=1.0), LinearConstraint(saved / scale, lb=save_macs / scale)],
        integrality=np.ones(len(flat), dtype=np.int8),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-4, "time_limit": 20.0},
    )
    if solution.x is None:
        raise InfeasibleBudget(f"no choice of ranks saves {save_macs:,} MACs ({solution.message})")
    return {c.layer: c for c, chosen in zip(flat, solution.x, strict=True) if chosen > 0.5}
