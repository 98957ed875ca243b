"""Which of the rewritten layers break a gate: the smallest set of them, found by delta debugging on the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from onnxslim1x1.errors import OptionError
from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.verdict import Gate, Tolerance
from onnxslim1x1.search.carrying import Carried
from onnxslim1x1.search.pipeline import rewrite
from onnxslim1x1.search.plan import PlannedLayer

Item = TypeVar("Item")
Judge = Callable[[Model], tuple[Gate, ...]]
Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One subset that was tried.

    Attributes:
        layers: that were rewritten.
        gates: what came of it.
    """

    layers: tuple[str, ...]
    gates: tuple[Gate, ...]

    @property
    def broken(self) -> bool:
        """Whether a gate failed."""
        return not all(gate.passed for gate in self.gates)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bisection:
    """Which layers break a gate.

    Attributes:
        planned: layers of the plan, in graph order.
        breaking: a set that breaks a gate, and of which none can be left out; empty if the whole plan breaks none, or
            if a gate is broken without any rewritten layer.
        whole: the plan as it is.
        smallest: `breaking` alone; None if there is none.
        rest: all layers but `breaking`; None if there is none.
        unchanged: no layer rewritten at all; None unless the whole plan breaks a gate.
        trials: subsets that were tried, in their order.
    """

    planned: tuple[PlannedLayer, ...]
    breaking: tuple[PlannedLayer, ...]
    whole: Attempt
    smallest: Attempt | None = None
    rest: Attempt | None = None
    unchanged: Attempt | None = None
    trials: tuple[Attempt, ...] = ()


def ddmin(items: Sequence[Item], breaks: Callable[[tuple[Item, ...]], bool]) -> tuple[Item, ...]:
    """A subset that breaks something, and none of whose items can be left out (1-minimal).

    Delta debugging, algorithm ddmin of Zeller and Hildebrandt 2002 (Simplifying and Isolating Failure-Inducing Input,
    IEEE TSE 28(2)): halves, then their complements, then finer parts.

    Args:
        items: all of them together break it.
        breaks: whether a subset, in the order of `items`, does; it is asked again for a subset that it knows.

    Returns:
        The subset, in the order of `items`.
    """
    kept, parts = tuple(items), 2
    while len(kept) >= 2:
        chunks = _divided(kept, parts)
        smaller = next((c for c in chunks if breaks(c)), None)
        if smaller is not None:
            kept, parts = smaller, 2
            continue
        others = [tuple(x for x in kept if x not in chunk) for chunk in chunks] if parts > 2 else []  # of 2: the halves
        smaller = next((c for c in others if breaks(c)), None)
        if smaller is not None:
            kept, parts = smaller, max(parts - 1, 2)
        elif parts < len(kept):
            parts = min(2 * parts, len(kept))
        else:
            break
    return kept


def _divided(items: tuple[Item, ...], parts: int) -> list[tuple[Item, ...]]:
    edges = [len(items) * k // parts for k in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(edges)]


def bisect(carried: Carried, judge: Judge, *, progress: Progress | None = None) -> Bisection:
    """Find the layers of a plan that break a gate; the factors stay those of the whole plan.

    Args:
        carried: plan and factors.
        judge: gates of a model.
        progress: is told the fraction that is done, an estimate.

    Raises:
        RuntimeFailure: onnxruntime cannot run a model.
    """
    search = _Search(carried, judge, progress)
    planned = carried.plan.layers
    names = [p.layer for p in planned]
    whole = search.attempt(tuple(names))
    if not whole.broken:
        return search.found(whole)
    unchanged = search.attempt(())
    if unchanged.broken:
        return search.found(whole, unchanged=unchanged)
    # the coarsest approximations in front, so that halves differ as much as they can
    ordered = [p.layer for p in sorted(planned, key=lambda p: -p.error)]
    kept = ddmin(ordered, lambda subset: search.attempt(subset).broken)
    rest = search.attempt(tuple(n for n in names if n not in kept))
    return search.found(whole, breaking=kept, smallest=search.attempt(kept), rest=rest, unchanged=unchanged)


class _Search:
    """Tries subsets of the layers, each one once."""

    def __init__(self, carried: Carried, judge: Judge, progress: Progress | None) -> None:
        self._carried, self._judge, self._progress = carried, judge, progress
        self._known: dict[frozenset[str], Attempt] = {}

    def attempt(self, names: Sequence[str]) -> Attempt:
        """Rewrite these layers only, and judge the result."""
        key = frozenset(names)
        if key not in self._known:
            layers = tuple(p for p in self._carried.plan.layers if p.layer in key)
            part = replace(self._carried.plan, layers=layers)
            made = rewrite(self._carried.subject, part, self._carried.factors)
            self._known[key] = Attempt(layers=tuple(p.layer for p in layers), gates=self._judge(made.model))
            if self._progress is not None:  # nobody knows how many it will be
                self._progress(1.0 - 1.0 / (1.0 + len(self._known) / max(len(self._carried.plan.layers), 1)))
        return self._known[key]

    def found(self, whole: Attempt, *, breaking: Sequence[str] = (), smallest: Attempt | None = None,
              rest: Attempt | None = None, unchanged: Attempt | None = None) -> Bisection:
        """The result; the bar is full now."""
        if self._progress is not None:
            self._progress(1.0)
        planned = self._carried.plan.layers
        return Bisection(planned=planned, breaking=tuple(p for p in planned if p.layer in breaking), whole=whole,
                         smallest=smallest, rest=rest, unchanged=unchanged, trials=tuple(self._known.values()))


def require_gate(tolerance: Tolerance) -> None:
    """See that there is something to break.

    Raises:
        OptionError: no promise about accuracy was made.
    """
    bounds = (tolerance.max_drop, tolerance.min_agreement, tolerance.min_snr_db)
    if bounds == (None, None, None) and not tolerance.figures:
        raise OptionError("bisect: no gate that layers could break; give --max-drop, --min-agreement, --min-snr or "
                          "--gate")
