"""Timing several callables by turns: warm-up until steady, rounds in random order, sessions that are made anew.

Every round runs each callable once, in an order that is drawn anew, so whatever the machine does (heat, neighbours,
frequency) hits all alike. How fast a session is also depends on where its memory happens to lie; so the time is divided
into sittings, each with fresh sessions, where making them is cheap enough.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.ratio import FEWEST_GROUPS, Groups, Seconds

Runnable = Callable[[], object]
Clock = Callable[[], float]
Progress = Callable[[float], None]

_PROGRESS_STEP = 0.01  # drawing a bar costs more than a small model: report a percent at a time
_WARM_UP_LIMIT = 5  # a machine that gets faster and faster is waited for so many times `warmup_s`
_STEADY = 0.97  # runs that take this part of the time of those before them are still warming up
_MOST_SITTINGS = 20  # Student's factor is 1.09 then
_RENEWAL_SHARE = 0.5  # part of the time that may go into making sessions
_ROUNDS_PER_SITTING = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkSettings:
    """How to measure.

    Attributes:
        budget_s: seconds for the measured rounds, fresh sessions for later sittings included (loading and warming up
            come on top).
        min_rounds: rounds that are done even beyond the budget.
        max_rounds: rounds after which the budget is left unused.
        warmup_runs: least number of unmeasured runs of each model.
        warmup_s: least seconds of unmeasured runs of each model; up to five times as long as they still get faster.
        threads: intra-op threads of onnxruntime (0: as many as it chooses).
        provider: execution provider (None: CPU).
        seed: of the order within the rounds and of the bootstrap.

    Raises:
        OptionError: a number makes no sense.
    """

    budget_s: float = 5.0
    min_rounds: int = 15
    max_rounds: int = 500
    warmup_runs: int = 3
    warmup_s: float = 0.2
    threads: int = 0
    provider: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.budget_s >= 0 or not self.warmup_s >= 0 or self.warmup_runs < 0:
            raise OptionError(f"benchmark: budget {self.budget_s} s and warm-up {self.warmup_s} s, "
                              f"{self.warmup_runs} runs must not be negative")
        if not 1 <= self.min_rounds <= self.max_rounds:
            raise OptionError(f"benchmark: {self.min_rounds} to {self.max_rounds} rounds is no range from 1 up")
        if self.threads < 0:
            raise OptionError(f"--threads {self.threads}: must be 0 (onnxruntime chooses) or more")

    def fraction_done(self, rounds: int, elapsed_s: float) -> float:
        """Part of the measurement that is done, in [0, 1]; 1 once the budget or `max_rounds` is used up."""
        spent = elapsed_s / self.budget_s if self.budget_s else 1.0
        return min(1.0, max(rounds / self.max_rounds, min(rounds / self.min_rounds, spent)))

    def sittings(self, *, fresh_s: float, round_s: float) -> int:
        """How often sessions are made, so that this takes at most half of the time; 1 if it were less than 5 times.

        Args:
            fresh_s: seconds for fresh sessions, first runs included.
            round_s: seconds of a round.
        """
        rounds = self.budget_s / round_s if round_s else self.max_rounds
        rounds = min(max(rounds, self.min_rounds), self.max_rounds)
        paid = max(self.budget_s, rounds * round_s) * _RENEWAL_SHARE / fresh_s if fresh_s else _MOST_SITTINGS
        count = int(min(1 + paid, rounds / _ROUNDS_PER_SITTING, _MOST_SITTINGS))
        return count if count >= FEWEST_GROUPS else 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rounds:
    """What was measured.

    Attributes:
        seconds: (rounds, callables) in the order of time.
        sittings: (rounds,), number of the sitting of each round, rising from 0.
    """

    seconds: Seconds
    sittings: Groups


def measure(fresh: Callable[[], Sequence[Runnable]], *, settings: BenchmarkSettings, clock: Clock,
            progress: Progress | None = None, renew: bool = False) -> Rounds:
    """Time callables by turns.

    Args:
        fresh: makes the callables, always as many in the same order, and runs each once.
        settings: rounds, budget, warm-up and seed.
        clock: seconds that never go back.
        progress: is told the fraction done, in (0, 1].
        renew: whether `fresh` may be called more than once.
    """
    begin = clock()
    runs = fresh()
    fresh_s = clock() - begin
    with _no_collection():
        round_s = _warm_up(runs, settings, clock)
        sittings = settings.sittings(fresh_s=fresh_s, round_s=round_s) if renew else 1
        return _sit(fresh, runs, sittings, settings=settings, clock=clock, progress=progress)


def _sit(fresh: Callable[[], Sequence[Runnable]], runs: Sequence[Runnable], sittings: int, *,
         settings: BenchmarkSettings, clock: Clock, progress: Progress | None) -> Rounds:
    rng = np.random.default_rng(settings.seed)
    rounds: list[list[float]] = []
    numbers: list[int] = []
    start, done, shown, sitting = clock(), 0.0, 0.0, 0
    while done < 1.0:
        if done >= (sitting + 1) / sittings:
            sitting += 1
            runs = fresh()  # which runs each once; the machine is warm already
        rounds.append(_round(runs, rng, clock))
        numbers.append(sitting)
        done = settings.fraction_done(len(rounds), clock() - start)
        if progress is not None and (done == 1.0 or done - shown >= _PROGRESS_STEP):
            progress(done)
            shown = done
    return Rounds(seconds=np.asarray(rounds), sittings=np.asarray(numbers))


def _round(runs: Sequence[Runnable], rng: np.random.Generator, clock: Clock) -> list[float]:
    """Seconds of each run, in the order of `runs`."""
    seconds = [0.0] * len(runs)
    for i in rng.permutation(len(runs)).tolist():
        begin = clock()
        runs[i]()
        seconds[i] = clock() - begin
    return seconds


def _run_all(runs: Sequence[Runnable], times: int) -> None:
    for _ in range(times):
        for runnable in runs:
            runnable()


def _warm_up(runs: Sequence[Runnable], settings: BenchmarkSettings, clock: Clock) -> float:
    """Run without measuring until the machine is steady; returns the seconds of a round then, 0 without any."""
    least_s = settings.warmup_s * len(runs)
    start, rounds = clock(), list[float]()
    while True:
        elapsed = clock() - start
        if len(rounds) >= settings.warmup_runs and elapsed >= least_s and (
                elapsed >= _WARM_UP_LIMIT * least_s or is_steady(rounds)):
            return float(np.median(rounds[-max(1, len(rounds) // 3):])) if rounds else 0.0
        begin = clock()
        _run_all(runs, 1)
        rounds.append(clock() - begin)


def is_steady(seconds: Sequence[float]) -> bool:
    """Whether the last third of the runs took about as long as the third before it, or longer, by the median."""
    third = max(1, len(seconds) // 3)
    if len(seconds) < 2 * third:
        return True
    last, before = np.median(seconds[-third:]), np.median(seconds[-2 * third:-third])
    return bool(last >= _STEADY * before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the measured time, and leave it as it was found."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


__all__ = ["BenchmarkSettings", "Clock", "Progress", "Rounds", "Runnable", "is_steady", "measure"]
