"""Whole models as timed: those whose speed-ups are close together share what they say about the predicted times.

One timing of a whole model is good to two or three per cent, and a choice that is taken because its timing hit a target
is taken for its noise. Between similar choices, though, the time that is saved grows with the time that should be. So
near the target it is estimated by the ratio estimator sum(measured) / sum(predicted) (Cochran, Sampling Techniques,
1977, chapter 6) over all choices that were timed there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from onnxslim1x1.graph.model import Model
from onnxslim1x1.search.allocate import total_saved
from onnxslim1x1.search.candidates import Candidate

Chosen = dict[str, Candidate]

_NEAR = 0.1  # of the target speed-up


class Clock(Protocol):
    """What the whole model takes, measured."""

    @property
    def whole_s(self) -> float:
        """Seconds per run of the model as it was given."""
        ...

    @property
    def prepared(self) -> float:
        """Speed-up of the model before any layer is rewritten."""
        ...

    @property
    def realised(self) -> float:
        """Part of the predicted saving that an earlier search found in the whole model; 1 without one."""
        ...

    def remember(self, realised: float) -> None:
        """Keep that part for the next search."""
        ...

    def speedup(self, model: Model) -> float:
        """Time of the model as it was given over that of another one."""
        ...


class Speeds:
    """Speed-ups of choices, each measured once.

    Args:
        clock: times whole models.
        build: the model of a choice.
        explicit: what every choice contains; savings count from there.
    """

    def __init__(self, clock: Clock, build: Callable[[Chosen], Model], *, explicit: Chosen) -> None:
        self._clock, self._build, self._explicit = clock, build, explicit
        self._known = [] if explicit else [(explicit, clock.prepared)]

    def measured(self, chosen: Chosen) -> float:
        """Speed-up of a choice as it was timed."""
        known = next((speed for other, speed in self._known if other == chosen), None)
        if known is None:
            known = self._clock.speedup(self._build(chosen))
            self._known.append((chosen, known))
        return known

    def saved_s(self, speedup: float) -> float:
        """Seconds that are saved at a speed-up, from the explicit ranks alone on."""
        return self._start_s - self._clock.whole_s / speedup

    def estimated(self, chosen: Chosen, target: float) -> float:
        """Speed-up of a choice: as timed, but near the target by its predicted saving and what all there realise."""
        found, predicted = self.measured(chosen), self._predicted_s(chosen)
        near = [known for known in self._known if _is_near(known[1], target)]
        total = math.fsum(self._predicted_s(other) for other, _ in near)
        if not _is_near(found, target) or total <= 0:
            return found
        saved = predicted * math.fsum(self.saved_s(speed) for _, speed in near) / total
        return self._clock.whole_s / (self._start_s - saved)

    def nearest(self, target: float, *, least: float) -> tuple[Chosen, float]:
        """Of the choices that were timed the one nearest to a speed-up, or the fastest if none reaches the least."""
        known = [(chosen, self.estimated(chosen, target)) for chosen, _ in self._known]
        enough = [one for one in known if one[1] >= least]
        return min(enough or known, key=lambda one: abs(one[1] / target - 1))

    @property
    def _start_s(self) -> float:
        return self._clock.whole_s / self.measured(self._explicit)

    def _predicted_s(self, chosen: Chosen) -> float:
        return total_saved(chosen) - total_saved(self._explicit)


def _is_near(speed: float, target: float) -> bool:
    return abs(speed / target - 1) < _NEAR
