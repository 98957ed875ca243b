"""Whitened output-side factorisation with Lagrangian ranks: the recipe of BALF.

Gonzalez Martinez 2025, "BALF: Budgeted activation-aware low-rank factorization for fine-tuning-free model compression"
(arXiv:2509.25136). The kernel as a matrix over im2col patches is whitened by the uncentred second moment of the
patches, truncated by SVD and unwhitened: KxK C->r, then 1x1 r->O, bias unchanged. That is the truncation with the least
output error. Ranks: one Lagrange multiplier for all layers; every layer takes the rank that maximises (share of its
output energy that is kept) - multiplier * MACs, and the multiplier is found by bisection so that the budget is met.
No layer's importance for the network is measured.

With S = L L^T the left singular vectors of W L are the eigenvectors of W S W^T, which `onnxslim1x1.strategies.expand`
takes: equal, and cheaper. The second moment comes from the patches that `slim` samples, too. What a coarse grid of
ranks leaves of the budget is filled greedily, which BALF, with all ranks to choose from, has no need of.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.linalg.moments import Moments
from onnxslim1x1.runtime.calibration import collect_moments
from onnxslim1x1.strategies import Decomposition, by_name
from onnxslim1x1.strategies.base import chain_cost

from .problem import Choice, Factors, Option, Options, Problem, steps
from .search import bisect, fill, require


def choose(problem: Problem, step: int) -> Choice:
    """Ranks by one multiplier.

    Raises:
        InfeasibleBudget: the smallest ranks still cost too much.
    """
    strategy = by_name("expand")
    ranks = {layer.name: steps(strategy, layer.spec, step) for layer in problem.layers}
    require(problem, {layer.name: _unscored(layer, ranks[layer.name][0]) for layer in problem.layers
                      if ranks[layer.name]})  # before the statistics
    served = [layer for layer in problem.layers if ranks[layer.name]]
    moments = collect_moments(problem.model, served, problem.data, seed=problem.run.seed, threads=problem.run.threads)
    options = {layer.name: options_of(layer, decompose(problem, layer, moments[layer.output]), ranks[layer.name])
               for layer in served}
    return fill(problem, by_multiplier(problem, options), options, whole=1.0)


def by_multiplier(problem: Problem, options: Options) -> Choice:
    """BALF's allocation; the level that is searched is the share of the weight that the score has against the MACs.

    Raises:
        InfeasibleBudget: the cheapest options still cost too much.
    """
    own = {layer.name: layer.spec.cost.macs for layer in problem.layers}

    def at(share: float) -> dict[str, Option]:
        chosen = {}
        for name, found in options.items():
            best = max(found, key=lambda o: (share * o.score - (1 - share) * o.macs / problem.cost.macs, -o.macs))
            whole = share - (1 - share) * own[name] / problem.cost.macs
            if share * best.score - (1 - share) * best.macs / problem.cost.macs >= whole:
                chosen[name] = best
        return chosen

    return bisect(problem, 0.0, 1.0, at)


def uncentred(moments: Moments) -> Moments:
    """E[x x^T] in place of the covariance, and a mean of zero: then no bias is corrected."""
    second = moments.covariance + np.outer(moments.mean, moments.mean)
    return Moments(mean=np.zeros_like(moments.mean), covariance=second, count=moments.count)


def decompose(problem: Problem, layer: Layer, moments: Moments) -> Decomposition:
    """All ranks of a layer under the second moment of its patches."""
    return by_name("expand").decompose(layer.spec, problem.weight(layer), problem.bias(layer), uncentred(moments))


def options_of(layer: Layer, decomposed: Decomposition, ranks: tuple[int, ...]) -> list[Option]:
    """All ranks, scored by the share of the output energy that they keep."""
    return [Option(layer=layer.name, what=f"expand {rank}", score=1 - decomposed.spectrum.tail(rank),
                   macs=_macs(layer, rank), build=partial(_truncated, decomposed, rank)) for rank in ranks]


def _macs(layer: Layer, rank: int) -> int:
    return chain_cost(by_name("expand").chain(layer.spec, (rank,))).macs


def _unscored(layer: Layer, rank: int) -> Option:
    return Option(layer=layer.name, what=f"expand {rank}", score=0.0, macs=_macs(layer, rank), build=tuple)


def _truncated(decomposed: Decomposition, rank: int) -> Factors:
    return decomposed.truncate((rank,)).factors
