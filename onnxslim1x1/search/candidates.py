"""What could be done to a layer: families and ranks that save work, with their errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from onnxslim1x1.spec import ConvSpec, Cost, Ineligible, Ints
from onnxslim1x1.strategies import STRATEGIES, Strategy
from onnxslim1x1.strategies.base import chain_cost

_MOST_RANKS = 32  # per layer and family; a finer grid hardly moves an optimum
_STEPS = 6  # of each rank where there are several
_RATIO = math.sqrt(0.5)
_WIDEST = 0.55  # of the channels
_MOST_KEPT = 0.45  # of the MACs by chains with several ranks: above it, the families with one are better (ResNet-18)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One way to rewrite one layer.

    Attributes:
        layer: name of the layer.
        strategy: family.
        ranks: one per seam.
        cost: parameters and MACs of the chain.
        saved_macs: MACs of the original less those of the chain.
        error: relative error, of the outputs where data was given, else of the weights.
        loss: what the choice costs the network, as far as is known: see `onnxslim1x1.search.sensitivity`.
        saved_params: parameters of the original less those of the chain.
        saved_s: measured seconds per run of the original less those of the chain, or None if it was not timed.
    """

    layer: str
    strategy: str
    ranks: Ints
    cost: Cost
    saved_macs: int
    error: float
    loss: float
    saved_params: int = 0
    saved_s: float | None = None

    @classmethod
    def make(cls, layer: str, spec: ConvSpec, strategy: Strategy, ranks: Ints, *, error: float,
             loss: float | None = None) -> Candidate:
        """Describe a family at given ranks on a layer."""
        cost = chain_cost(strategy.chain(spec, ranks))
        return cls(layer=layer, strategy=strategy.name, ranks=ranks, cost=cost,
                   saved_macs=spec.cost.macs - cost.macs, saved_params=spec.params - cost.params,
                   error=error, loss=error**2 if loss is None else loss)


def break_even(strategy: Strategy, spec: ConvSpec) -> int:
    """Largest rank of a one-rank family whose chain needs fewer MACs than the original; 0 if none does."""
    low, high = 0, strategy.max_ranks(spec)[0]
    while low < high:  # the cost of a chain grows with its rank
        middle = (low + high + 1) // 2
        if chain_cost(strategy.chain(spec, (middle,))).macs < spec.cost.macs:
            low = middle
        else:
            high = middle - 1
    return low


@lru_cache(maxsize=4096)
def rank_grid(strategy: Strategy, spec: ConvSpec, block: int) -> tuple[Ints, ...]:
    """Ranks worth trying: multiples of the channel block that save MACs, thinned where there are many.

    Ranks between two multiples of the block cost the runtime as much as the larger one. A single rank has at most
    `_MOST_RANKS` values; several have `_STEPS` each, in geometric progression below `_WIDEST` of the channels.
    """
    limits = strategy.max_ranks(spec)
    if len(limits) > 1:
        return tuple(ranks for ranks in product(*(_progression(spec, limit, block) for limit in limits))
                     if _is_sound(strategy.chain(spec, ranks), spec))
    limit = break_even(strategy, spec)
    multiples = list(range(block, limit + 1, block))
    if len(multiples) > _MOST_RANKS:
        step = (len(multiples) - 1) / (_MOST_RANKS - 1)
        multiples = sorted({multiples[round(i * step)] for i in range(_MOST_RANKS)})
    return tuple((rank,) for rank in multiples)


def _progression(spec: ConvSpec, limit: int, block: int) -> list[int]:
    """Multiples of the block near a geometric progression down from `_WIDEST` of the layer's channels."""
    widest = _WIDEST * min(limit, max(spec.in_channels, spec.out_channels))
    nearest = {max(round(widest * _RATIO**step / block), 1) * block for step in range(_STEPS)}
    return sorted(rank for rank in nearest if rank <= limit)


def _is_sound(chain: tuple[ConvSpec, ...], spec: ConvSpec) -> bool:
    """Whether a chain saves enough MACs, and none of its factors has more outputs than it could fill."""
    return (chain_cost(chain).macs <= _MOST_KEPT * spec.cost.macs
            and all(factor.out_channels <= factor.patch for factor in chain[:-1]))


@lru_cache(maxsize=4096)  # asked for several times for each layer, and networks repeat their geometries
def eligible_families(spec: ConvSpec, block: int, *, data: bool = True) -> tuple[Strategy, ...] | Ineligible:
    """Families that have at least one rank worth trying, or why none has; without data only those that need none."""
    refusals = [(strategy, strategy.check(spec)) for strategy in STRATEGIES if data or not strategy.needs_data]
    possible = [strategy for strategy, refusal in refusals if refusal is None]
    if not possible:
        return next(refusal for _, refusal in refusals if refusal is not None)
    useful = tuple(strategy for strategy in possible if rank_grid(strategy, spec, block))
    if not useful:
        limit = max((break_even(s, spec) for s in possible if len(s.max_ranks(spec)) == 1), default=0)
        return Ineligible(code="too_narrow", reason=f"no multiple of the channel block {block} saves MACs "
                                                    f"(break-even rank {limit})")
    return useful


def cheapest_within(candidates: Sequence[Candidate], max_error: float) -> Candidate | None:
    """The candidate that saves most MACs with an error of at most `max_error`, or None."""
    allowed = [c for c in candidates if c.error <= max_error]
    return max(allowed, key=lambda c: c.saved_macs, default=None)
