"""Latency of one model, and a fair comparison of two: interleaved, with confidence interval and noise floor.

The original A, the rewritten model B and a second session A' of the original run in every round, in an order that
is drawn anew each time, so drift of the machine (heat, neighbours, frequency) hits all three alike. A against A'
shows what the machine makes of two equal models: a difference below that is not shown to be one.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.session import CPU, Feeds, create_session, run, session_options

Runnable = Callable[[], object]
Clock = Callable[[], float]
Progress = Callable[[float], None]
Verdict = Literal["faster", "slower", "no difference shown"]

_RESAMPLES = 2000
_INTERVAL = (0.025, 0.975)  # 95 %
_SHOWN_ROUNDS = 500  # whose times are kept for plots: more points would not be seen, and reports grow with them
_PROGRESS_STEP = 0.01  # drawing a bar costs more than a small model: report a percent at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkSettings:
    """How to measure.

    Attributes:
        budget_s: seconds for the measured rounds (loading and warming up come on top).
        min_rounds: rounds that are done even beyond the budget.
        max_rounds: rounds after which the budget is left unused.
        warmup_runs: least number of unmeasured runs of each model.
        warmup_s: least seconds of unmeasured runs of each model.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Seconds of one run: median, 10 % and 90 % quantile over `runs` runs; `threads` 0 is onnxruntime's choice."""

    median_s: float
    p10_s: float
    p90_s: float
    runs: int
    provider: str
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Seconds of single runs, one of each model in every round; of many rounds some, evenly spread over the time.

    Attributes:
        original: of A, in the order of the rounds, as the others.
        rewritten: of B.
        again: of A', the second session of the original.
    """

    original: tuple[float, ...]
    rewritten: tuple[float, ...]
    again: tuple[float, ...]

    @classmethod
    def of(cls, seconds: NDArray[np.float64]) -> Samples:
        """Of the times (rounds, 3) of A, B and A', to six digits."""
        picks = np.linspace(0, len(seconds) - 1, min(len(seconds), _SHOWN_ROUNDS)).round().astype(np.int64)
        kept = (tuple(float(f"{x:.6g}") for x in column) for column in seconds[picks].T.tolist())
        return cls(**dict(zip(("original", "rewritten", "again"), kept, strict=True)))


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyComparison:
    """What rewriting did to the latency.

    Attributes:
        original: latency of A.
        rewritten: latency of B.
        speedup: median over the rounds of A / B; above 1 the rewritten model is faster. On a quiet machine this is
            the ratio of the two medians; on a busy one it is far steadier than that.
        speedup_low: lower end of the 95 % bootstrap interval of `speedup`.
        speedup_high: its upper end.
        noise_low: lower end of the same interval for A / A', two sessions of one model.
        noise_high: its upper end.
        samples: times of single runs, for plots; None where they were not kept.
    """

    original: Latency
    rewritten: Latency
    speedup: float
    speedup_low: float
    speedup_high: float
    noise_low: float
    noise_high: float
    samples: Samples | None = None

    @property
    def noise_floor(self) -> float:
        """Ratio (>= 1) up to which two equal models were seen to differ, in whichever direction."""
        return max(1.0, self.noise_high, 1.0 / self.noise_low)

    @property
    def verdict(self) -> Verdict:
        """Faster or slower only if the whole interval lies beyond 1 and beyond the noise floor."""
        if self.speedup_low > self.noise_floor:
            return "faster"
        if self.speedup_high < 1.0 / self.noise_floor:
            return "slower"
        return "no difference shown"


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


def _warm_up(runs: Sequence[Runnable], settings: BenchmarkSettings, clock: Clock) -> None:
    start, count = clock(), 0
    while count < settings.warmup_runs or clock() - start < settings.warmup_s * len(runs):
        for runnable in runs:
            runnable()
        count += 1


def _measure(runs: Sequence[Runnable], *, settings: BenchmarkSettings, clock: Clock,
             progress: Progress | None) -> NDArray[np.float64]:
    """Seconds of each run, (rounds, len(runs)): every round runs each once, in a seeded random order."""
    rng = np.random.default_rng(settings.seed)
    rounds: list[list[float]] = []
    done = shown = 0.0
    with _no_collection():
        _warm_up(runs, settings, clock)
        start = clock()
        while done < 1.0:
            seconds = [0.0] * len(runs)
            for i in rng.permutation(len(runs)).tolist():
                begin = clock()
                runs[i]()
                seconds[i] = clock() - begin
            rounds.append(seconds)
            done = settings.fraction_done(len(rounds), clock() - start)
            if progress is not None and (done == 1.0 or done - shown >= _PROGRESS_STEP):
                progress(done)
                shown = done
    return np.asarray(rounds)


def _latency(seconds: NDArray[np.float64], *, provider: str, threads: int) -> Latency:
    p10, median, p90 = np.quantile(seconds, (0.1, 0.5, 0.9)).tolist()
    return Latency(median_s=median, p10_s=p10, p90_s=p90, runs=len(seconds), provider=provider, threads=threads)


def _ratio(seconds: NDArray[np.float64], seed: int) -> tuple[float, float, float]:
    """Median of first column / second column over the rounds (rounds, 2), and its 95 % interval (low, high).

    Pairs within a round, because the ratio of the two medians breaks down on a busy machine, where run times have
    two modes: ResNet-20 against itself gave 0.66 to 1.24 by the ratio of medians, 0.97 to 1.02 by this.
    The interval is a percentile bootstrap over rounds (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, section 13.3). Not scipy's: importing `scipy.stats` takes half a second.
    """
    ratios = seconds[:, 0] / seconds[:, 1]
    draws = np.random.default_rng(seed).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), _INTERVAL).tolist()
    return float(np.median(ratios)), low, high


def compare_latency(original: Runnable, rewritten: Runnable, *, again: Runnable,
                    settings: BenchmarkSettings | None = None, clock: Clock = time.perf_counter,
                    progress: Progress | None = None) -> LatencyComparison:
    """Time three callables in interleaved rounds and compare the first two.

    Args:
        original: runs the original model once (A).
        rewritten: runs the rewritten model once (B).
        again: runs a second session of the original once (A'), for the noise floor.
        settings: rounds, budget, seed; `provider` and `threads` are only noted in the result.
        clock: seconds that never go back.
        progress: is told the fraction done, in (0, 1].
    """
    chosen = settings or BenchmarkSettings()
    seconds = _measure((original, rewritten, again), settings=chosen, clock=clock, progress=progress)
    speedup, low, high = _ratio(seconds[:, [0, 1]], chosen.seed)
    _, noise_low, noise_high = _ratio(seconds[:, [0, 2]], chosen.seed)
    provider = chosen.provider or CPU
    first, second = (_latency(seconds[:, i], provider=provider, threads=chosen.threads) for i in (0, 1))
    return LatencyComparison(original=first, rewritten=second, speedup=speedup, speedup_low=low, speedup_high=high,
                             noise_low=noise_low, noise_high=noise_high, samples=Samples.of(seconds))


def time_session(session: Any, feeds: Feeds, *, settings: BenchmarkSettings | None = None,
                 clock: Clock = time.perf_counter, progress: Progress | None = None) -> Latency:
    """Time a session on its own; provider and threads of the result are those of the session.

    Raises:
        RuntimeFailure: onnxruntime cannot run the model on `feeds`.
    """
    run(session, feeds)  # the first run fails, if one does, with our message
    inputs = dict(feeds)
    seconds = _measure((lambda: session.run(None, inputs),), settings=settings or BenchmarkSettings(),
                       clock=clock, progress=progress)
    return _latency(seconds[:, 0], provider=session.get_providers()[0],
                    threads=session.get_session_options().intra_op_num_threads)


def timing_options(threads: int = 0) -> Any:
    """Session options for timing several sessions by turns in one process.

    The worker threads of onnxruntime keep spinning for a while after a run. With a single session nobody notices,
    but here they would take the cores from the next session's run: ResNet-18 on 2 cores then takes 51 ms instead of
    the 20 ms it takes alone. So they stop at the end of each run, and spin within it as they do for a user.
    """
    options = session_options(threads=threads)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def compare_models(original: str | Path | bytes, rewritten: str | Path | bytes, *, feeds: Feeds,
                   settings: BenchmarkSettings | None = None, clock: Clock = time.perf_counter,
                   progress: Progress | None = None) -> LatencyComparison:
    """Load the original twice and the rewritten model once, and compare their latencies on `feeds`.

    Raises:
        RuntimeFailure: a model cannot be loaded, or cannot run on `feeds`.
        OptionError: the provider is not offered.
    """
    chosen = settings or BenchmarkSettings()
    inputs = dict(feeds)

    def load(source: str | Path | bytes) -> Any:
        session = create_session(Path(source) if isinstance(source, str) else source,
                                 options=timing_options(chosen.threads), provider=chosen.provider)
        run(session, inputs, where="model" if isinstance(source, bytes) else str(source))
        return session

    first, second, third = (load(source) for source in (original, rewritten, original))
    noted = replace(chosen, provider=first.get_providers()[0])  # onnxruntime may have fallen back to the CPU
    return compare_latency(lambda: first.run(None, inputs), lambda: second.run(None, inputs),
                           again=lambda: third.run(None, inputs), settings=noted, clock=clock, progress=progress)
