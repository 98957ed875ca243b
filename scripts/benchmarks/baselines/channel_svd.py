"""Data-free channel SVD with one energy threshold for all layers.

The kernel is unfolded over its input channels (1x1, then KxK) and over its output channels (KxK, then 1x1), the two
schemes of Zhang et al. 2016 ("Accelerating very deep convolutional networks", section 3) and of weight SVD in
Qualcomm AIMET, each truncated by SVD of the weights alone. A layer takes whichever of the two costs fewer MACs at the
energy that is to be kept, sum_{i<=r} s_i^2 / sum_i s_i^2 (Denton et al. 2014; the usual rule of thumb); the threshold
is as high as the budget allows.
"""

from __future__ import annotations

from functools import partial

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.strategies import Decomposition, by_name
from onnxslim1x1.strategies.base import chain_cost

from .problem import Choice, Factors, Option, Problem, steps
from .search import cheapest, highest

_FAMILIES = ("reduce", "expand")


def choose(problem: Problem, step: int) -> Choice:
    """Ranks by one threshold.

    Raises:
        InfeasibleBudget: the smallest ranks still cost too much.
    """
    options = {layer.name: options_of(problem, layer, step) for layer in problem.layers}

    def at(energy: float) -> dict[str, Option]:
        picks = {name: cheapest(found, energy) for name, found in options.items()}
        return {name: option for name, option in picks.items() if option is not None}

    return highest(problem, [0.0, *(o.score for found in options.values() for o in found)], at)


def options_of(problem: Problem, layer: Layer, step: int) -> list[Option]:
    """Both families at all ranks of the grid, scored by the energy of the weights that they keep."""
    found = []
    for family in _FAMILIES:
        strategy = by_name(family)
        if strategy.check(layer.spec) is not None:
            continue
        decomposed = strategy.decompose(layer.spec, problem.weight(layer), problem.bias(layer))
        for rank in steps(strategy, layer.spec, step):
            found.append(Option(
                layer=layer.name, what=f"{family} {rank}", macs=chain_cost(strategy.chain(layer.spec, (rank,))).macs,
                score=1 - decomposed.spectrum.tail(rank), build=partial(_truncated, decomposed, rank)))
    return found


def _truncated(decomposed: Decomposition, rank: int) -> Factors:
    return decomposed.truncate((rank,)).factors
