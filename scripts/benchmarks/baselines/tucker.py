"""Tucker-2 with ranks by EVBMF.

Kim et al. 2016, "Compression of deep convolutional neural networks for fast and low power mobile applications": a KxK
convolution becomes 1x1 C->r_in, KxK r_in->r_out, 1x1 r_out->O by higher-order orthogonal iteration (tensorly's
`partial_tucker`); the ranks are those that EVBMF finds in the two unfoldings of the kernel over its channels. A side
with full rank gets no 1x1: it is multiplied into the core. Layers that would cost more than before are left alone.

EVBMF knows no budget. `as_is` takes its ranks unrounded. `scaled` multiplies those of all layers by one factor, as high
as the budget allows, and rounds them to the step; layers whose ranks grow past break-even are left alone. (The linear
weakening towards full rank of Gusak et al. 2019, MUSCO, was tried in its place and did no better on ResNet-20.)
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.spec import ConvFactor, ConvSpec, Cost
from onnxslim1x1.strategies.base import factor

from .evbmf import evbmf_rank
from .problem import Array, Choice, Factors, Option, Problem
from .search import bisect

Ranks = tuple[int, int]  # input side, output side

_ITERATIONS = 10  # of the orthogonal iteration: it starts from the truncated HOSVD and settles within a few


def as_is(problem: Problem, step: int) -> Choice:  # noqa: ARG001  (the interface of all methods)
    """The ranks of EVBMF, whatever they cost."""
    found = {layer.name: option(problem, layer, ranks_of(problem, layer)) for layer in problem.layers}
    return {name: chosen for name, chosen in found.items() if chosen is not None}


def scaled(problem: Problem, step: int) -> Choice:
    """The ranks of EVBMF times one factor.

    Raises:
        InfeasibleBudget: the smallest ranks still cost too much.
    """
    base = {layer.name: ranks_of(problem, layer) for layer in problem.layers}

    def at(scale: float) -> dict[str, Option]:
        found = {layer.name: option(problem, layer, rounded(layer.spec, base[layer.name], scale, step))
                 for layer in problem.layers}
        return {name: chosen for name, chosen in found.items() if chosen is not None}

    return bisect(problem, 0.0, max((max(layer.spec.weight_shape[:2]) for layer in problem.layers), default=1), at)


def ranks_of(problem: Problem, layer: Layer) -> Ranks:
    """EVBMF ranks (input side, output side), at least 1."""
    weight = problem.weight(layer).astype(np.float64)
    by_input = np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)
    return max(1, evbmf_rank(by_input)), max(1, evbmf_rank(weight.reshape(weight.shape[0], -1)))


def rounded(spec: ConvSpec, ranks: Ranks, scale: float, step: int) -> Ranks:
    """Ranks times `scale`, rounded to the nearest multiple of `step`, at least one, at most the channels."""
    full = spec.in_channels, spec.out_channels
    narrow, wide = (min(max(step, round(scale * r / step) * step), m) for r, m in zip(ranks, full, strict=True))
    return narrow, wide


def option(problem: Problem, layer: Layer, ranks: Ranks) -> Option | None:
    """The chain at these ranks, or None if it saves nothing."""
    macs = Cost.total(spec.cost for spec in chain(layer.spec, ranks)).macs
    if macs >= layer.spec.cost.macs:
        return None
    return Option(layer=layer.name, what=f"tucker2 {ranks[0]},{ranks[1]}", macs=macs, score=0.0,
                  build=partial(_built, problem, layer, ranks))


def _built(problem: Problem, layer: Layer, ranks: Ranks) -> Factors:
    return tucker2(layer.spec, problem.weight(layer), problem.bias(layer), ranks)


def chain(spec: ConvSpec, ranks: Ranks) -> tuple[ConvSpec, ...]:
    """Specs of the factors: one to three."""
    narrow, wide = ranks
    reduces, expands = narrow < spec.in_channels, wide < spec.out_channels
    middle = replace(spec, in_channels=narrow, out_channels=wide, bias=not expands)
    first = (spec.pointwise(spec.in_channels, narrow, size=spec.in_size, bias=False),) if reduces else ()
    last = (spec.pointwise(wide, spec.out_channels, size=spec.out_size, bias=True),) if expands else ()
    return (*first, middle, *last)


def tucker2(spec: ConvSpec, weight: Array, bias: Array | None, ranks: Ranks) -> Factors:
    """The chain at these ranks (input side, output side); the bias goes to the last factor."""
    core, up, down = _decomposed(np.asarray(weight, dtype=np.float64), ranks)  # (O, r_out), (C, r_in)
    if ranks[0] == spec.in_channels:
        core = np.moveaxis(np.tensordot(core, down, axes=(1, 1)), -1, 1)
    if ranks[1] == spec.out_channels:
        core = np.tensordot(up, core, axes=(1, 0))
    specs = chain(spec, ranks)
    weights = {"reduce": down.T, "core": core, "expand": up}
    roles = [role for role, there in (("reduce", ranks[0] < spec.in_channels), ("core", True),
                                      ("expand", ranks[1] < spec.out_channels)) if there]
    offset = np.zeros(spec.out_channels) if bias is None else np.asarray(bias, dtype=np.float64)
    found: list[ConvFactor] = []
    for role, part in zip(roles, specs, strict=True):
        found.append(factor(role, part, weights[role], offset if part is specs[-1] else None))
    return tuple(found)


def _decomposed(weight: Array, ranks: Ranks) -> tuple[Any, Any, Any]:
    """Core (r_out, r_in, *k), factors (O, r_out) and (C, r_in)."""
    from tensorly.decomposition import partial_tucker  # type: ignore[import-untyped]

    (core, (up, down)), _ = partial_tucker(weight, rank=[ranks[1], ranks[0]], modes=[0, 1], init="svd",
                                           n_iter_max=_ITERATIONS, random_state=0)
    return core, up, down
