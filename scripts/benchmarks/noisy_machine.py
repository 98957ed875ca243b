"""A simulated machine that is as unpleasant as a shared one, with a clock of its own: what verdicts are tested on.

Run times have a slow drift (heat, clock rate), a neighbour who comes and goes (and while he is there makes runs slower
altogether, and many of them twice as long, because they lose their turn), jitter, spikes, a cold start, and luck that
every session keeps for as long as it lives. Nothing here waits: thousands of comparisons take seconds.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxslim1x1.runtime.benchmark import LatencyComparison, compare_fresh
from onnxslim1x1.runtime.rounds import BenchmarkSettings, Runnable


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """How unpleasant it is; every figure is relative to the time of a run, unless it is in seconds.

    Attributes:
        jitter: standard deviation of single runs.
        luck: standard deviation of sessions of one model.
        drift: how far the speed swings.
        load: how much slower everything is while the neighbour is there.
        lost_turn: probability that a run takes twice as long then.
        here_s: mean seconds that he stays.
        gone_s: mean seconds between his visits.
        spikes: probability of a run that takes much longer, up to ten times.
    """

    jitter: float = 0.03
    luck: float = 0.01
    drift: float = 0.2
    load: float = 0.3
    lost_turn: float = 0.4
    here_s: float = 0.5
    gone_s: float = 0.7
    spikes: float = 0.03


class Machine:
    """Runs simulated models; `clock` shows how long they have taken.

    Args:
        seed: of everything that happens.
        seconds: of a run of the original when nobody is there.
        slower: time of the rewritten model over that of the original.
        noise: of the machine.
        load_s: seconds to make three sessions.
    """

    def __init__(self, seed: int, *, seconds: float = 0.005, slower: float = 1.0, noise: Noise | None = None,
                 load_s: float = 0.05) -> None:
        self._rng = np.random.default_rng(seed)
        self._seconds, self._slower, self._noise, self._load_s = seconds, slower, noise or Noise(), load_s
        self.now, self._runs = 0.0, 0
        self._normal, self._uniform = self._draws("standard_normal"), self._draws("random")
        self._period = float(self._rng.uniform(3.0, 40.0))
        self._here, self._until = False, 0.0

    def clock(self) -> float:
        """Seconds since the machine was switched on."""
        return self.now

    def fresh(self) -> tuple[Runnable, ...]:
        """Sessions of the original, the rewritten model and the original again, each with its luck."""
        self.now += self._load_s
        lucks = np.exp(self._noise.luck * self._rng.standard_normal(3)).tolist()
        return tuple(partial(self._run, self._seconds * luck * (self._slower if i == 1 else 1.0))
                     for i, luck in enumerate(lucks))

    def _draws(self, kind: str) -> Iterator[float]:
        while True:
            yield from getattr(self._rng, kind)(4096).tolist()

    def _run(self, seconds: float) -> None:
        noise = self._noise
        seconds *= 1 + noise.drift * math.sin(2 * math.pi * self.now / self._period)
        seconds *= 1 + noise.jitter * abs(next(self._normal)) + 2.0 * math.exp(-self._runs / 3)
        if self._neighbour():
            seconds *= 1 + noise.load + (1.0 if next(self._uniform) < noise.lost_turn else 0.0)
        if next(self._uniform) < noise.spikes:
            seconds *= 1 + 9 * next(self._uniform)
        self._runs += 1
        self.now += seconds

    def _neighbour(self) -> bool:
        while self.now >= self._until:
            self._here = not self._here
            mean = self._noise.here_s if self._here else self._noise.gone_s
            self._until += mean * -math.log(1 - next(self._uniform))
        return self._here


def compared(seed: int, settings: BenchmarkSettings, **machine: float) -> LatencyComparison:
    """One comparison on a machine of its own."""
    place = Machine(seed, **machine)  # type: ignore[arg-type]
    return compare_fresh(place.fresh, settings=settings, clock=place.clock)


def verdicts(seeds: range, settings: BenchmarkSettings, **machine: float) -> Counter[str]:
    """How often each verdict is reached."""
    gc.freeze()  # every comparison collects garbage first: let it not look at everything that tests have loaded
    try:
        return Counter(str(compared(seed, settings, **machine).verdict) for seed in seeds)
    finally:
        gc.unfreeze()
