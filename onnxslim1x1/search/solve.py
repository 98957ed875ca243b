"""From candidates to factors that keep what was asked for: speed as measured, accuracy on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from onnxslim1x1.errors import InfeasibleBudget
from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.calibration import Batches
from onnxslim1x1.search.allocate import saved_seconds
from onnxslim1x1.search.candidates import Candidate
from onnxslim1x1.search.plan import Budget, PlannedLayer, Promise, SkippedLayer
from onnxslim1x1.search.planner import Planner
from onnxslim1x1.search.reconstruction import FitSettings, Reconstruction, Steps, assembled, reconstruct
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import ConvFactor, ConvSpec, Factorization
from onnxslim1x1.strategies import by_name

Stage = Callable[[str], Callable[[float], None] | None]
Chosen = dict[str, Candidate]

_CLOSE = 0.02  # of the target speed-up: nearer than this is within the noise
_FAR = 0.9  # of the target speed-up: less than this counts as missed
_CORRECTIONS = 3
_FIRST_LOSS = 2.0  # predicted loss to start from, per unit of the drop that is allowed
_TRIES = 4


class Clock(Protocol):
    """What the whole model takes, measured."""

    @property
    def whole_s(self) -> float:
        """Seconds per run of the model as it was given."""
        ...

    def speedup(self, model: Model) -> float:
        """Time of the model as it was given over that of another one."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """Images that nothing was fitted to, and what they are for.

    Attributes:
        loss: of a model, for choosing between fits.
        drop: of a model, for keeping a promise: an upper bound of the accuracy that is lost.
    """

    loss: Callable[[Model], float]
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
        self._achieved: float | None = None
        self._bench, self._planner, self._budget = bench, planner, budget
        self._clock, self._fitting, self._held_out = clock, fitting, held_out

    def solve(self, steps: Steps, settings: FitSettings, stage: Stage) -> Solution:
        """Choose, fit and check; weaker choices until the promise holds.

        Raises:
            InfeasibleBudget: the target is out of reach.
        """
        limit = self._budget.max_drop
        chosen = self._first_choice()
        for attempt in range(_TRIES):
            made = self._fit(chosen, steps, replace(settings, progress=stage("reconstruction")))
            drop = self._held_out.drop(assembled(self._bench, made.factors)) if self._held_out else None
            if limit is None or drop is None or drop <= limit or not chosen:
                break
            chosen = self._weaker(chosen, drop, last=attempt == _TRIES - 2)
        skipped = self._planner.selection(chosen).skipped
        promise = Promise(max_drop=limit, held_out_drop=drop, held_out_loss=made.loss,
                          predicted_loss=sum(c.loss for c in chosen.values()) if self._held_out else None,
                          target_speedup=self._budget.target_speedup, measured_speedup=self._achieved)
        return Solution(layers=made.layers, skipped=skipped, factors=made.factors, promise=promise)

    def _first_choice(self) -> Chosen:
        if self._budget.target_speedup is not None:
            return self._as_fast_as(self._budget.target_speedup)
        if self._budget.has_target or self._budget.max_drop is None:
            return self._planner.chosen()
        return self._planner.within(_FIRST_LOSS * self._budget.max_drop, saved_seconds)

    def _weaker(self, chosen: Chosen, drop: float, *, last: bool) -> Chosen:
        """A choice with less loss; nothing at all if it was the last try."""
        assert self._budget.max_drop is not None
        predicted = sum(c.loss for c in chosen.values())
        shrunk = predicted * min(0.5, (self._budget.max_drop / drop) ** 2)
        return {} if last else self._planner.within(shrunk, saved_seconds)

    def _as_fast_as(self, target: float) -> Chosen:
        """The choice of least loss whose measured speed-up is the target, approached from the predicted times."""
        whole, have = self._clock.whole_s, self._clock.speedup(self._bench.model)
        save, best = whole / have - whole / target, dict[str, Candidate]()
        nearest, achieved = abs(have / target - 1), have
        for _ in range(_CORRECTIONS):
            if save <= 0:
                break
            try:
                chosen = self._planner.saving(save, saved_seconds)
            except InfeasibleBudget:
                if best:
                    break  # a correction asked for more than there is
                chosen = self._planner.saving(self._planner.most(saved_seconds), saved_seconds)
            found = self._clock.speedup(assembled(self._bench, placeholders(self._bench, chosen)))
            if abs(found / target - 1) < nearest:
                nearest, best, achieved = abs(found / target - 1), chosen, found
            if nearest < _CLOSE:
                break
            save += whole / found - whole / target
        self._achieved = achieved
        if achieved < target * _FAR:
            raise InfeasibleBudget(f"--target-speedup {target:g}: {self._bench.model.where} can become "
                                   f"{achieved:.2f}x as fast, measured; ask for less")
        return best

    def _fit(self, chosen: Chosen, steps: Steps, settings: FitSettings) -> Reconstruction:
        layers = self._planner.selection(chosen).layers
        if self._fitting is None or self._held_out is None:
            return Reconstruction(layers=layers, factors={
                p.layer: self._bench.factors(p.layer, p.strategy, p.ranks) for p in layers})
        return reconstruct(self._bench, layers, self._fitting, self._held_out.loss, steps=steps, settings=settings)


def placeholders(bench: Workbench, chosen: Mapping[str, Candidate]) -> dict[str, Factorization]:
    """Factors of the right shapes with random weights: the time of a dense kernel does not depend on them."""
    rng = np.random.default_rng(0)

    def weights(specs: Sequence[ConvSpec]) -> tuple[ConvFactor, ...]:
        return tuple(ConvFactor(role=f"factor{i}", spec=spec, bias=np.zeros(spec.out_channels) if spec.bias else None,
                                weight=rng.standard_normal(spec.weight_shape, dtype=np.float32) / 1000)
                     for i, spec in enumerate(specs))

    return {name: Factorization(strategy=c.strategy, ranks=c.ranks, rel_error=0.0, factors=weights(
        by_name(c.strategy).chain(bench.layers[name].spec, c.ranks))) for name, c in chosen.items()}
