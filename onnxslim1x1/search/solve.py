"""From candidates to factors that keep what was asked for: speed as measured, accuracy on held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from onnxslim1x1.errors import InfeasibleBudget
from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.calibration import Batches
from onnxslim1x1.search.allocate import Amount, saved_macs, saved_params, saved_seconds, total_loss, total_saved
from onnxslim1x1.search.candidates import Candidate
from onnxslim1x1.search.plan import Budget, PlannedLayer, Promise, SkippedLayer
from onnxslim1x1.search.planner import Planner
from onnxslim1x1.search.reconstruction import (
    FitSettings,
    Judge,
    Reconstruction,
    assembled,
    judged,
    reconstruct,
    symmetric,
)
from onnxslim1x1.search.speeds import Chosen, Clock, Speeds
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import ConvFactor, ConvSpec, Factorization
from onnxslim1x1.strategies import by_name

Stage = Callable[[str], Callable[[float], None] | None]

_CLOSE = 0.02  # of the target speed-up: nearer than this is within the noise
_FAR = 0.9  # of the target speed-up: less than this counts as missed
_CORRECTIONS = 8
_AT_ONCE = 4.0  # by which factor a correction changes the time to save at most
_FIRST_LOSS = 2.0  # predicted loss to start from, per unit of the drop that is allowed
_SHRUNK = (0.01, 0.5)  # what is left of the predicted loss in the next, weaker choice, at least and at most
_WEAKER = 2  # choices to try when the first one breaks its promise, before nothing is done at all
_STRONGER = 2  # choices to try when the first one keeps its promise easily
_ROOM = 0.5  # of the drop that is allowed: more is tried only where less than this is lost
_STEP = 3.0  # by which factor the predicted loss grows then


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """Images that nothing was fitted to, and what they are for.

    Attributes:
        loss: of a model, for choosing between fits.
        drop: of a model, for keeping a promise: an upper bound of the accuracy that is lost.
    """

    loss: Judge
    drop: Callable[[Model], float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Solution:
    """What is done to a model.

    Attributes:
        layers: to rewrite.
        skipped: to leave alone.
        factors: by layer name.
        promise: what was asked for, predicted and measured.
    """

    layers: tuple[PlannedLayer, ...]
    skipped: tuple[SkippedLayer, ...]
    factors: Mapping[str, Factorization]
    promise: Promise


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Try:
    """A choice with its factors, and what it loses."""

    chosen: Chosen
    made: Reconstruction
    drop: float | None


Attempt = Callable[[Chosen], _Try]


class Solver:
    """Turns a budget into a solution.

    Args:
        bench: the layers.
        planner: their candidates.
        budget: what is asked for.
        clock: times whole models.
        fitting: images to fit to, or None.
        held_out: images to judge on, or None.
    """

    def __init__(self, bench: Workbench, planner: Planner, budget: Budget, *, clock: Clock,
                 fitting: Batches | None = None, held_out: HeldOut | None = None) -> None:
        self._bench, self._planner, self._budget = bench, planner, budget
        self._clock, self._fitting, self._held_out = clock, fitting, held_out

    @cached_property
    def _speeds(self) -> Speeds:
        return Speeds(self._clock, lambda chosen: assembled(self._bench, placeholders(self._bench, chosen)),
                      explicit=self._planner.explicit)

    def solve(self, settings: FitSettings, stage: Stage) -> Solution:
        """Choose, fit and check; weaker choices until the promise holds, stronger ones where it holds easily.

        At most four choices are fitted. A target gives way to a promise that it would break.

        Raises:
            InfeasibleBudget: the target is out of reach, or explicit ranks alone break the promise.
        """
        def attempt(chosen: Chosen) -> _Try:
            made = self._fit(chosen, replace(settings, progress=stage("reconstruction")))
            drop = self._held_out.drop(assembled(self._bench, made.factors)) if self._held_out else None
            return _Try(chosen=chosen, made=made, drop=drop)

        first = attempt(self._first_choice())
        kept = self._stronger(first, attempt) if self._holds(first) else self._weaker(first, attempt)
        asked, chosen = self._budget, kept.chosen
        promise = Promise(
            max_drop=asked.max_drop, held_out_drop=kept.drop, held_out_loss=kept.made.loss,
            predicted_loss=total_loss(chosen) if self._held_out else None, target_speedup=asked.target_speedup,
            measured_speedup=None if asked.target_speedup is None else self._speeds.measured(chosen))
        return Solution(layers=kept.made.layers, skipped=self._planner.selection(chosen).skipped,
                        factors=kept.made.factors, promise=promise)

    def _first_choice(self) -> Chosen:
        if self._budget.target_speedup is not None:
            return self._as_fast_as(self._budget.target_speedup)
        if self._budget.has_target or self._budget.max_drop is None:
            return self._planner.chosen()
        return self._planner.within(_FIRST_LOSS * self._budget.max_drop, saved_seconds)

    def _holds(self, found: _Try) -> bool:
        limit = self._budget.max_drop
        return limit is None or found.drop is None or found.drop <= limit

    def _weaker(self, found: _Try, attempt: Attempt) -> _Try:
        """The first choice with less loss that keeps the promise; nothing but explicit ranks in the end."""
        explicit = self._planner.explicit
        for left in reversed(range(_WEAKER + 1)):
            if found.chosen == explicit:
                break
            less = self._less(found) if left else explicit
            found = attempt(explicit if less == found.chosen else less)
            if self._holds(found):
                return found
        if explicit:
            raise InfeasibleBudget(f"--max-drop {self._budget.max_drop:g}: the explicit ranks alone may lose "
                                   f"{found.drop:.4f} on held-out images; give them larger ranks, or allow more")
        return found

    def _less(self, found: _Try) -> Chosen:
        assert self._budget.max_drop is not None
        assert found.drop is not None
        less = self._planner.explicit
        for exponent in (2, 1):  # the second one only where the first leaves nothing at all
            shrunk = min(max((self._budget.max_drop / found.drop) ** exponent, _SHRUNK[0]), _SHRUNK[1])
            less = self._planner.within(total_loss(found.chosen) * shrunk, _amount(self._budget))
            if less != self._planner.explicit:
                break
        return less

    def _stronger(self, kept: _Try, attempt: Attempt) -> _Try:
        """The last choice that keeps its promise while the predicted loss grows, as far as there is room for it."""
        limit = self._budget.max_drop
        if limit is None or kept.drop is None or self._budget.has_target:
            return kept
        for number in range(1, _STRONGER + 1):
            if kept.drop is None or kept.drop > _ROOM * limit:
                break
            more = self._planner.within(_FIRST_LOSS * limit * _STEP**number, saved_seconds)
            if more == kept.chosen:
                continue
            found = attempt(more)
            if not self._holds(found):
                break
            kept = found
        return kept

    def _as_fast_as(self, target: float) -> Chosen:
        """The choice whose measured speed-up is nearest to the target, approached from the predicted times."""
        speeds, fixed = self._speeds, total_saved(self._planner.explicit)
        needed = speeds.saved_s(target)
        realised = self._clock.realised
        save, little, much = needed / realised, 0.0, math.inf
        for number in range(_CORRECTIONS):
            if save <= 0:
                break
            try:
                chosen = self._planner.saving(fixed + save, saved_seconds)
            except InfeasibleBudget:
                chosen = self._planner.strongest(saved_seconds)
            most = self._planner.most(saved_seconds) - fixed  # less than before if layers turned out not to pay
            save = min(save, most)
            found = speeds.estimated(chosen, target)
            saved = speeds.saved_s(found)
            realised = max(saved / save, 1 / _AT_ONCE) if save > 0 else realised
            if abs(found / target - 1) < _CLOSE or (found < target and save >= most):
                break
            little, much = (max(little, save), much) if found < target else (little, min(much, save))
            save *= min(max(needed / saved, 1 / _AT_ONCE), _AT_ONCE) if saved > 0 else _AT_ONCE
            if number == _CORRECTIONS // 2 and much == math.inf:
                save = most  # small steps do not get there
            elif not little < save < much:
                save = (little + min(much, most)) / 2
        self._clock.remember(realised)
        best, achieved = speeds.nearest(target, least=target * _FAR)
        if achieved < target * _FAR:
            raise InfeasibleBudget(f"--target-speedup {target:g}: {self._bench.model.where} can become "
                                   f"{achieved:.2f}x as fast, measured; ask for less")
        return best

    def _fit(self, chosen: Chosen, settings: FitSettings) -> Reconstruction:
        layers = self._planner.selection(chosen).layers
        if self._fitting is None or self._held_out is None:
            plain = symmetric(self._bench, layers)
            return Reconstruction(layers=judged(layers, plain), factors=plain)
        return reconstruct(self._bench, layers, self._fitting, self._held_out.loss, settings=settings)


def _amount(budget: Budget) -> Amount:
    """What a budget wants to save; time, unless it says something else."""
    if budget.target_macs is not None:
        return saved_macs
    return saved_seconds if budget.target_params is None else saved_params


def placeholders(bench: Workbench, chosen: Mapping[str, Candidate]) -> dict[str, Factorization]:
    """Factors of the right shapes with random weights: the time of a dense kernel does not depend on them."""
    rng = np.random.default_rng(0)

    def weights(specs: Sequence[ConvSpec]) -> tuple[ConvFactor, ...]:
        return tuple(ConvFactor(role=f"factor{i}", spec=spec, bias=np.zeros(spec.out_channels) if spec.bias else None,
                                weight=rng.standard_normal(spec.weight_shape, dtype=np.float32) / 1000)
                     for i, spec in enumerate(specs))

    return {name: Factorization(strategy=c.strategy, ranks=c.ranks, rel_error=0.0, factors=weights(
        by_name(c.strategy).chain(bench.layers[name].spec, c.ranks))) for name, c in chosen.items()}
