"""From candidates and a budget to a plan of layers."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxslim1x1.errors import InfeasibleBudget, RankError, UnknownLayerError
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.search.allocate import Amount, allocate, saved_macs, saved_params, saved_seconds, total_loss
from onnxslim1x1.search.candidates import Candidate
from onnxslim1x1.search.plan import Budget, PlannedLayer, SkippedLayer
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import ConvSpec, Ineligible
from onnxslim1x1.strategies import STRATEGIES, by_name

Measure = Callable[[ConvSpec, tuple[ConvSpec, ...]], float]
Progress = Callable[[float], None]
Options = dict[str, tuple[Candidate, ...]]

LEAST_SPEEDUP = 1.02  # a layer must gain more than the noise of a measurement to be worth any error
SAME_SPEED = 0.7  # where MACs or parameters are the target: microseconds are mistimed by a quarter when busy
_BISECTIONS = 12
_TIMED = 100  # candidates of all layers that are timed at most, but for
_LEAST_TIMED = 10  # of each: among many layers the knapsack needs no more
_SURELY = 1.01  # how far above the allowed error a bound must lie


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
    """Choose layers, families and ranks for a budget that needs no measurement of the whole model.

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
    planner = Planner(bench, budget, measure=measure, progress=progress)
    return planner.selection(planner.chosen())


class Planner:
    """Candidates of all layers that a budget lets free, and choices among them.

    Explicit ranks are taken as they are. With `measure`, a choice that is not measurably faster than the original layer
    (with an explicit target of MACs or parameters: that is measurably slower) is dropped and the rest chosen anew.

    Raises:
        As `select`.
    """

    def __init__(self, bench: Workbench, budget: Budget, *, measure: Measure | None = None,
                 progress: Progress | None = None) -> None:
        self._bench, self._budget, self._measure = bench, budget, measure
        self._reasons = _refusals(bench, matching(bench.layers.values(), budget))
        self._fixed = {name: _explicit(bench, name, rank) for name, rank in budget.ranks.items()}
        self._speedups: dict[Candidate, float] = {}
        self._options: Options = {}
        self._least: dict[str, float] = {}
        if not budget.only_explicit:
            free = [layer for name, layer in bench.layers.items()
                    if name not in self._reasons and name not in self._fixed]
            for number, layer in enumerate(free):
                self._options[layer.name] = self._allowed(layer)
                if progress:
                    progress((number + 1) / len(free))

    def _allowed(self, layer: Layer) -> tuple[Candidate, ...]:
        """Candidates within the allowed error; most layers without any are found out by a bound, which is quick."""
        limit = self._budget.max_error
        if limit is None:
            return self._bench.candidates(layer)
        least = self._bench.least_error(layer, enough=_SURELY * limit)
        if least > limit:
            self._least[layer.name] = least
            return ()
        found = self._bench.candidates(layer)
        self._least[layer.name] = min((c.error for c in found), default=1.0)
        return tuple(c for c in found if c.error <= limit)

    @property
    def options(self) -> Options:
        """Candidates by layer, as far as they were not dropped."""
        return self._options

    @property
    def explicit(self) -> dict[str, Candidate]:
        """What the explicit ranks ask for; it is part of every choice."""
        return dict(self._fixed)

    def chosen(self) -> dict[str, Candidate]:
        """The choice for the budget, all of it measured if there is a `measure`.

        Raises:
            InfeasibleBudget: the target cannot be reached.
        """
        if self._budget.target_macs is not None:
            return self.saving(self._share("macs", self._budget.target_macs), saved_macs)
        if self._budget.target_params is not None:
            return self.saving(self._share("params", self._budget.target_params), saved_params)
        return self._worth_it(lambda: _strongest(self._options))

    def saving(self, save: float, amount: Amount) -> dict[str, Candidate]:
        """Least loss while at least `save` is saved, explicit ranks included.

        Raises:
            InfeasibleBudget: that much cannot be saved.
        """
        already = math.fsum(map(amount, self._fixed.values()))
        return self._worth_it(lambda: allocate(self._options, save - already, amount), failing=True)

    def timed(self, seconds: Callable[[ConvSpec], float], progress: Progress | None = None) -> None:
        """Measure every candidate that is not dominated, and keep those that gain time, with the time that they save.

        Args:
            seconds: time of an original layer.
            progress: is told the fraction that is done.

        Raises:
            ValueError: there is nothing to measure with.
        """
        if self._measure is None:
            raise ValueError("the time of a candidate needs a measurement")
        most = max(_TIMED // max(sum(map(bool, self._options.values())), 1), _LEAST_TIMED)
        for number, (name, found) in enumerate(list(self._options.items())):
            before = seconds(self._bench.layers[name].spec)
            kept = []
            for candidate in thinned(undominated(found, saved_macs), saved_macs, most):
                speedup = self._speedup(candidate)
                if speedup >= LEAST_SPEEDUP:
                    timed = replace(candidate, saved_s=before * (1 - 1 / speedup))
                    self._speedups[timed] = speedup
                    kept.append(timed)
            if found and not kept:
                self._reasons[name] = Ineligible(code="not_faster", reason="no family and rank runs faster, measured")
            self._options[name] = undominated(kept, saved_seconds)
            if progress:
                progress((number + 1) / len(self._options))
        for name, candidate in self._fixed.items():
            before = seconds(self._bench.layers[name].spec)
            timed = replace(candidate, saved_s=before * (1 - 1 / self._speedup(candidate)))
            self._speedups[timed] = self._speedup(candidate)
            self._fixed[name] = timed

    def within(self, loss: float, amount: Amount) -> dict[str, Candidate]:
        """The choice that saves most while the predicted losses add up to at most `loss`, explicit ranks included."""
        left = loss - total_loss(self._fixed)
        return self._worth_it(lambda: self._within(left, amount))

    def _within(self, loss: float, amount: Amount) -> dict[str, Candidate]:
        strongest = _strongest(self._options, amount)
        if total_loss(strongest) <= loss:
            return strongest
        most, low, high, best = math.fsum(map(amount, strongest.values())), 0.0, 1.0, dict[str, Candidate]()
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            found = allocate(self._options, most * middle, amount)
            if total_loss(found) <= loss:
                low, best = middle, found
            else:
                high = middle
        return best

    def strongest(self, amount: Amount) -> dict[str, Candidate]:
        """All layers at their cheapest, explicit ranks included."""
        return self._fixed | _strongest(self._options, amount)

    def most(self, amount: Amount) -> float:
        """What all layers at their cheapest save."""
        return math.fsum(map(amount, self.strongest(amount).values()))

    def _share(self, what: str, kept: float) -> float:
        """What has to be saved of the whole model."""
        total = sum((layer.spec.macs or 0) if what == "macs" else layer.spec.params
                    for layer in self._bench.layers.values())
        return int(total * (1 - kept))

    def _worth_it(self, choose: Callable[[], dict[str, Candidate]], *, failing: bool = False) -> dict[str, Candidate]:
        """A choice without layers that do not pay in measured time."""
        least = SAME_SPEED if self._budget.counts_work else LEAST_SPEEDUP
        while True:
            failure: InfeasibleBudget | None = None
            try:
                found = choose()
            except InfeasibleBudget as error:
                if self._measure is None or not failing:
                    raise self._explained(error) from error
                failure, found = error, _strongest(self._options)  # what the message promises must be measured, too
            if self._measure is None:
                return self._fixed | found
            slow = [c for c in found.values() if self._speedup(c) < least]
            if not slow:
                if failure is not None:
                    raise self._explained(failure) from failure
                for candidate in self._fixed.values():
                    self._speedup(candidate)
                return self._fixed | found
            for candidate in slow:
                self._give_up(candidate)

    def _speedup(self, candidate: Candidate) -> float:
        if candidate not in self._speedups:
            spec = self._bench.layers[candidate.layer].spec
            assert self._measure is not None
            self._speedups[candidate] = self._measure(spec, by_name(candidate.strategy).chain(spec, candidate.ranks))
        return self._speedups[candidate]

    def _give_up(self, slow: Candidate) -> None:
        """Drop a candidate, and those of its family that save less."""
        ranks = ",".join(map(str, slow.ranks))
        self._reasons[slow.layer] = Ineligible(code="not_faster", reason=(
            f"rank {ranks} runs at {self._speedups[slow]:.2f}x of the original layer, measured"))
        self._options[slow.layer] = tuple(c for c in self._options[slow.layer] if c.strategy != slow.strategy
                                          or c.saved_macs > slow.saved_macs)

    def _explained(self, error: InfeasibleBudget) -> InfeasibleBudget:
        """The same failure in terms of what the user asked for."""
        budget, where = self._budget, self._bench.model.where
        bound = "" if budget.max_error is None else f" within --max-error {budget.max_error:g}"
        for option, unit, kept, amount in (("--target-macs", "MACs", budget.target_macs, saved_macs),
                                           ("--target-params", "parameters", budget.target_params, saved_params)):
            if kept is not None:
                whole = self._share(unit.lower().replace("parameters", "params"), 0.0)
                least = 1 - self.most(amount) / max(whole, 1)
                return InfeasibleBudget(f"{option} {kept:g}: {where} can go down to {least:.3f} of its {unit}{bound}; "
                                        "ask for more than that")
        return error

    def selection(self, chosen: Mapping[str, Candidate]) -> Selection:
        """Layers to rewrite and layers to leave."""
        return Selection(layers=_planned(self._bench, chosen, self._speedups),
                         skipped=self._skipped(chosen))

    def _skipped(self, chosen: Mapping[str, Candidate]) -> tuple[SkippedLayer, ...]:
        result = []
        for name in self._bench.layers:
            if name not in chosen:
                why = self._reasons.get(name) or _unchosen(
                    self._options.get(name), self._least.get(name, 1.0), self._budget)
                result.append(SkippedLayer(layer=name, code=why.code, reason=why.reason))
        return tuple(result)


def undominated(candidates: Iterable[Candidate], amount: Amount) -> tuple[Candidate, ...]:
    """Candidates that no other one beats both in what it saves and in its loss, least saving first."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-amount(c), c.loss)):
        if not kept or candidate.loss < kept[-1].loss:
            kept.append(candidate)
    return tuple(reversed(kept))


def thinned(front: Sequence[Candidate], amount: Amount, most: int) -> tuple[Candidate, ...]:
    """At most so many (2 or more) of undominated candidates by rising saving, the first and the last one included.

    Over many layers two neighbours stand in for what lies between them. So one candidate after the other is left out,
    whichever loses most against the line through its neighbours, relative to its loss; Visvalingam and Whyatt 1993
    draw coasts like this. On ResNet-18 ten are as good as 20 that are spread evenly.
    """
    points, chosen = [(amount(c), c.loss) for c in front], list(front)
    while len(chosen) > most:
        above = [_above(*points[i:i + 3]) for i in range(len(points) - 2)]
        least = above.index(min(above)) + 1
        del chosen[least], points[least]
    return tuple(chosen)


def _above(before: tuple[float, float], point: tuple[float, float], after: tuple[float, float]) -> float:
    """By how much the line from `before` to `after` lies above a point (amount, loss), relative to its loss."""
    part = (point[0] - before[0]) / (after[0] - before[0])
    line = before[1] + part * (after[1] - before[1])
    return line / point[1] - 1 if point[1] > 0 else math.inf


def _strongest(options: Options, amount: Amount = saved_macs) -> dict[str, Candidate]:
    """Of every layer the candidate that saves most, if one saves anything."""
    best = {name: max(found, key=amount, default=None) for name, found in options.items()}
    return {name: c for name, c in best.items() if c is not None and amount(c) > 0}


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


def _planned(bench: Workbench, chosen: Mapping[str, Candidate],
             speedups: Mapping[Candidate, float]) -> tuple[PlannedLayer, ...]:
    return tuple(
        PlannedLayer(layer=name, strategy=c.strategy, ranks=c.ranks, error=c.error, before=layer.spec.cost,
                     after=c.cost, speedup=speedups.get(c), weighted=bench.is_weighted(layer))
        for name, layer in bench.layers.items() if (c := chosen.get(name)) is not None)


def _unchosen(candidates: Sequence[Candidate] | None, least: float, budget: Budget) -> Ineligible:
    if candidates is None:
        return Ineligible(code="not_asked", reason="only the layers named with --rank are rewritten")
    if budget.max_error is not None and not candidates:
        # rounded down: it may be a bound
        return Ineligible(code="error", reason=f"no rank that saves MACs has an error below "
                                               f"{math.floor(least * 1000) / 1000:.3f}, above the allowed "
                                               f"{budget.max_error:g}")
    if budget.max_drop is not None and not budget.has_target:
        return Ineligible(code="not_needed", reason=f"others gain more within --max-drop {budget.max_drop:g}")
    return Ineligible(code="not_needed", reason="the target is met without it")


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"; did you mean {', '.join(close)}?" if close else "; onnxslim1x1 analyze lists the names"
