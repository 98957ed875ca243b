"""From candidates and a budget to a plan of layers."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnxslim1x1.errors import InfeasibleBudget, RankError, UnknownLayerError
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.search.allocate import allocate
from onnxslim1x1.search.candidates import Candidate, cheapest_within
from onnxslim1x1.search.plan import Budget, PlannedLayer, SkippedLayer
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import ConvSpec, Ineligible
from onnxslim1x1.strategies import STRATEGIES, by_name

Measure = Callable[[ConvSpec, tuple[ConvSpec, ...]], float]
Progress = Callable[[float], None]
Options = dict[str, tuple[Candidate, ...]]

LEAST_SPEEDUP = 1.02  # a layer must gain more than the noise of a measurement to be worth any error


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Layers to rewrite and layers to leave, in graph order."""

    layers: tuple[PlannedLayer, ...]
    skipped: tuple[SkippedLayer, ...]


def matching(layers: Iterable[Layer], budget: Budget) -> set[str]:
    """Names of the layers that any `include` pattern of a budget selects (all without one) and no `exclude` pattern.

    Raises:
        UnknownLayerError: a pattern selects nothing.
    """
    names = [layer.name for layer in layers]
    for pattern in (*budget.include, *budget.exclude):
        if not fnmatch.filter(names, pattern):
            raise UnknownLayerError(f"pattern {pattern}: matches no layer{_hint(pattern, names)}")
    chosen = {n for p in budget.include for n in fnmatch.filter(names, p)} if budget.include else set(names)
    return chosen - {n for p in budget.exclude for n in fnmatch.filter(names, p)}


def select(bench: Workbench, budget: Budget, *, measure: Measure | None = None,
           progress: Progress | None = None) -> Selection:
    """Choose layers, families and ranks.

    Explicit ranks are taken as they are. The rest follows ``max_error`` (the largest saving per layer within it) or
    ``target_macs`` (least lost energy in all). With `measure`, a choice that is not measurably faster than the
    original layer is dropped and the rest chosen anew.

    Args:
        bench: the layers.
        budget: what to reach.
        measure: speed-up (old/new) of a chain over a layer.
        progress: is told the fraction of layers that are decomposed.

    Raises:
        UnknownLayerError: an explicit rank or a pattern names no layer.
        RankError: an explicit rank is out of range, or its layer cannot be rewritten.
        InfeasibleBudget: the target cannot be reached.
        ModelError: weights are unreadable or not finite.
    """
    reasons = _refusals(bench, matching(bench.layers.values(), budget))
    fixed = {name: _explicit(bench, name, rank) for name, rank in budget.ranks.items()}
    options: Options = {}
    if not budget.only_explicit:
        free = [layer for name, layer in bench.layers.items() if name not in reasons and name not in fixed]
        for number, layer in enumerate(free):
            options[layer.name] = bench.candidates(layer)
            if progress:
                progress((number + 1) / len(free))
    speedups: dict[Candidate, float] = {}
    while True:
        failure: InfeasibleBudget | None = None
        try:
            chosen = fixed | _choose(bench, budget, options, fixed)
        except InfeasibleBudget as error:
            if measure is None:
                raise
            failure = error
            chosen = _strongest(budget, options)  # what the message says can be reached must be measured, too
        if measure is None:
            break
        speedups |= {c: _speedup(bench, c, measure) for c in chosen.values() if c not in speedups}
        slow = [c for name, c in chosen.items() if name not in fixed and speedups[c] < LEAST_SPEEDUP]
        if failure is not None and not slow:
            raise failure
        if not slow:
            break
        for candidate in slow:
            reasons[candidate.layer] = Ineligible(code="not_faster", reason=(
                f"rank {candidate.ranks[0]} runs at {speedups[candidate]:.2f}x of the original layer, measured"))
            left = options[candidate.layer]
            options[candidate.layer] = tuple(c for c in left if c.strategy != candidate.strategy
                                              or c.saved_macs > candidate.saved_macs)
    return Selection(layers=_planned(bench, chosen, speedups),
                     skipped=_skipped(bench, chosen, reasons, options, budget))


def _choose(bench: Workbench, budget: Budget, options: Options, fixed: Mapping[str, Candidate]) -> dict[str, Candidate]:
    if budget.target_macs is None:
        return _strongest(budget, options)
    if budget.max_error is not None:
        limit = budget.max_error
        options = {name: tuple(c for c in found if c.error <= limit) for name, found in options.items()}
    total = sum(layer.spec.macs or 0 for layer in bench.layers.values())
    already = sum(c.saved_macs for c in fixed.values())
    try:
        return allocate(options, int(total * (1 - budget.target_macs)) - already)
    except InfeasibleBudget as error:
        most = already + sum(max((c.saved_macs for c in found), default=0) for found in options.values())
        bound = "" if budget.max_error is None else f" within --max-error {budget.max_error:g}"
        raise InfeasibleBudget(
            f"--target-macs {budget.target_macs:g}: {bench.model.where} can go down to {1 - most / max(total, 1):.3f} "
            f"of its MACs{bound}; ask for more than that") from error


def _strongest(budget: Budget, options: Options) -> dict[str, Candidate]:
    """Of every layer the candidate that saves most within the error limit, if there is one."""
    limit = 1.0 if budget.max_error is None else budget.max_error
    best = {name: cheapest_within(found, limit) for name, found in options.items()}
    return {name: c for name, c in best.items() if c is not None}


def _refusals(bench: Workbench, allowed: set[str]) -> dict[str, Ineligible]:
    reasons: dict[str, Ineligible] = {}
    for name, layer in bench.layers.items():
        families = bench.families(layer)
        if isinstance(families, Ineligible):
            reasons[name] = families
        elif name not in allowed:
            reasons[name] = Ineligible(code="excluded", reason="left out by --include or --exclude")
    return reasons


def _explicit(bench: Workbench, name: str, rank: int) -> Candidate:
    """Candidate for an explicit rank; it need not be a multiple of the channel block."""
    layer = bench.layers.get(name)
    if layer is None:
        raise UnknownLayerError(f"--rank {name}={rank}: no such layer{_hint(name, list(bench.layers))}")
    strategy = STRATEGIES[0]
    refusal = layer.ineligible or strategy.check(layer.spec)
    if refusal is not None:
        raise RankError(f"--rank {name}={rank}: the layer cannot be rewritten ({refusal.reason})")
    limit = strategy.max_ranks(layer.spec)[0]
    if not 1 <= rank <= limit:
        raise RankError(f"--rank {name}={rank}: out of range; the layer allows 1 to {limit}")
    return bench.candidate(layer, strategy, (rank,))


def _speedup(bench: Workbench, candidate: Candidate, measure: Measure) -> float:
    spec = bench.layers[candidate.layer].spec
    return measure(spec, by_name(candidate.strategy).chain(spec, candidate.ranks))


def _planned(bench: Workbench, chosen: Mapping[str, Candidate],
             speedups: Mapping[Candidate, float]) -> tuple[PlannedLayer, ...]:
    return tuple(
        PlannedLayer(layer=name, strategy=c.strategy, ranks=c.ranks, error=c.error, before=layer.spec.cost,
                     after=c.cost, speedup=speedups.get(c), weighted=bench.is_weighted(layer))
        for name, layer in bench.layers.items() if (c := chosen.get(name)) is not None)


def _skipped(bench: Workbench, chosen: Mapping[str, Candidate], reasons: Mapping[str, Ineligible],
             options: Options, budget: Budget) -> tuple[SkippedLayer, ...]:
    result = []
    for name in bench.layers:
        if name in chosen:
            continue
        why = reasons.get(name) or _unchosen(options.get(name), budget)
        result.append(SkippedLayer(layer=name, code=why.code, reason=why.reason))
    return tuple(result)


def _unchosen(candidates: Sequence[Candidate] | None, budget: Budget) -> Ineligible:
    if candidates is None:
        return Ineligible(code="not_asked", reason="only the layers named with --rank are rewritten")
    best = min((c.error for c in candidates), default=1.0)
    if budget.max_error is not None and best > budget.max_error:
        return Ineligible(code="error", reason=f"the least error that saves MACs is {best:.3f}, above the allowed "
                                               f"{budget.max_error:g}")
    return Ineligible(code="not_needed", reason="the target is met without it")


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"; did you mean {', '.join(close)}?" if close else "; onnxslim1x1 analyze lists the names"
