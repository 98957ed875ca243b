"""Latency of one model, and a fair comparison of two: interleaved, with confidence interval and noise floor.

The original A, the rewritten model B and a second session A' of the original run in every round (see
`onnxslim1x1.runtime.rounds`). A against A' shows what the machine makes of two equal models: a difference below that is
not shown to be one. Intervals are those of `onnxslim1x1.runtime.ratio`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.runtime.hardware import usable_cpus
from onnxslim1x1.runtime.ratio import Ratio, ratio
from onnxslim1x1.runtime.rounds import BenchmarkSettings, Clock, Progress, Rounds, Runnable, measure
from onnxslim1x1.runtime.session import CPU, Feeds, create_session, fed, run, session_options

Verdict = Literal["faster", "slower", "no difference shown"]

_LUCK = 0.007  # standard deviation among sessions of one model: twice the 0.2 to 0.4 % of ResNets and a detector here
_SHOWN_ROUNDS = 500  # whose times are kept for plots: more points would not be seen, and reports grow with them

__all__ = ["BenchmarkSettings", "Clock", "Latency", "LatencyComparison", "Progress", "Runnable", "Samples", "Verdict",
           "compare_fresh", "compare_latency", "compare_models", "compared", "relative_speed", "time_session",
           "timing_options"]


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
        batch: images in one run.
        sittings: how often all three sessions were made anew; 1 where loading is too slow for the seconds given.
        cpus: logical processors that the process might use, for the threads of `original`, which are not pinned.
    """

    original: Latency
    rewritten: Latency
    speedup: float
    speedup_low: float
    speedup_high: float
    noise_low: float
    noise_high: float
    samples: Samples | None = None
    batch: int = 1
    sittings: int = 1
    cpus: int = 0

    @property
    def noise_floor(self) -> float:
        """Ratio (>= 1) up to which two equal models were seen to differ, in whichever direction; inf if not known."""
        return max(1.0, self.noise_high, 1.0 / self.noise_low if self.noise_low else math.inf)

    @property
    def verdict(self) -> Verdict:
        """Faster or slower only if the whole interval lies beyond 1 and beyond the noise floor."""
        if self.speedup_low > self.noise_floor:
            return "faster"
        if self.speedup_high < 1.0 / self.noise_floor:
            return "slower"
        return "no difference shown"


def _latency(seconds: NDArray[np.float64], *, provider: str, threads: int) -> Latency:
    p10, median, p90 = np.quantile(seconds, (0.1, 0.5, 0.9)).tolist()
    return Latency(median_s=median, p10_s=p10, p90_s=p90, runs=len(seconds), provider=provider, threads=threads)


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
    found = measure(lambda: (original, rewritten, again), settings=chosen, clock=clock, progress=progress)
    return compared(found, chosen)


def compare_fresh(fresh: Callable[[], Sequence[Runnable]], *, settings: BenchmarkSettings | None = None,
                  clock: Clock = time.perf_counter, progress: Progress | None = None) -> LatencyComparison:
    """The same for callables that `fresh` makes, (A, B, A'), as often as the budget allows.

    What one making brings about (where memory lies) is then part of the noise, and no property of a model.
    """
    chosen = settings or BenchmarkSettings()
    return compared(measure(fresh, settings=chosen, clock=clock, progress=progress, renew=True), chosen, luck=_LUCK)


def compared(found: Rounds, settings: BenchmarkSettings, *, batch: int = 1, luck: float = 0.0) -> LatencyComparison:
    """The comparison that the seconds of A, B and A' (rounds, 3) amount to; `luck` as in `ratio`, for one sitting."""
    speedup, noise = (_over(found, i, luck=luck, seed=settings.seed) for i in (1, 2))
    provider = settings.provider or CPU
    first, second = (_latency(found.seconds[:, i], provider=provider, threads=settings.threads) for i in (0, 1))
    return LatencyComparison(
        original=first, rewritten=second, speedup=speedup.value, speedup_low=speedup.low, speedup_high=speedup.high,
        noise_low=noise.low, noise_high=noise.high, samples=Samples.of(found.seconds),
        sittings=int(found.sittings[-1]) + 1, cpus=usable_cpus(), batch=batch)


def _over(found: Rounds, other: int, *, luck: float, seed: int) -> Ratio:
    """Time of the first callable over that of another one; `luck` as in `ratio`, for one sitting."""
    hidden = luck if found.sittings[-1] == 0 else 0.0
    return ratio(found.seconds[:, [0, other]], found.sittings, luck=hidden, seed=seed)


def time_session(session: Any, feeds: Feeds, *, settings: BenchmarkSettings | None = None,
                 clock: Clock = time.perf_counter, progress: Progress | None = None) -> Latency:
    """Time a session on its own; provider and threads of the result are those of the session.

    Raises:
        RuntimeFailure: onnxruntime cannot run the model on `feeds`.
    """
    run(session, feeds)  # the first run fails, if one does, with our message
    inputs = fed(feeds)
    found = measure(lambda: (lambda: session.run(None, inputs),), settings=settings or BenchmarkSettings(), clock=clock,
                    progress=progress)
    return _latency(found.seconds[:, 0], provider=session.get_providers()[0],
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
    loaded = _Loaded((original, rewritten, original), feeds=feeds, settings=chosen)
    found = measure(loaded.fresh, settings=chosen, clock=clock, progress=progress, renew=True)
    return compared(found, replace(chosen, provider=loaded.provider), batch=_images(feeds), luck=_LUCK)


def relative_speed(original: str | Path | bytes, rewritten: str | Path | bytes, *, feeds: Feeds,
                   settings: BenchmarkSettings) -> tuple[Latency, Ratio]:
    """Latency of the original, and the speed-up of the rewritten model, for those who need no verdict.

    Without the second session of the original that shows the noise floor, half as many rounds more fit into the time.

    Raises:
        RuntimeFailure: a model cannot be loaded, or cannot run on `feeds`.
        OptionError: the provider is not offered.
    """
    loaded = _Loaded((original, rewritten), feeds=feeds, settings=settings)
    found = measure(loaded.fresh, settings=settings, clock=time.perf_counter, renew=True)
    first = _latency(found.seconds[:, 0], provider=loaded.provider, threads=settings.threads)
    return first, _over(found, 1, luck=_LUCK, seed=settings.seed)


def _images(feeds: Feeds) -> int:
    """Batch size: the first axis of the first input that has one."""
    return next((len(values) for values in feeds.values() if values.ndim), 1)


class _Loaded:
    """Sessions of several models, which can be made anew; the first is the original."""

    def __init__(self, sources: Sequence[str | Path | bytes], *, feeds: Feeds, settings: BenchmarkSettings) -> None:
        self._sources = [Path(s) if isinstance(s, str) else s for s in sources]
        self._feeds, self._fed, self._settings = feeds, fed(feeds), settings
        self._rng = np.random.default_rng(settings.seed)
        self._sessions: dict[int, Any] = {}
        self._runs = tuple(map(self._runnable, range(len(self._sources))))

    @property
    def provider(self) -> str:
        """What the original runs on; onnxruntime may have fallen back to the CPU."""
        return str(self._sessions[0].get_providers()[0])

    def fresh(self) -> tuple[Runnable, ...]:
        """Load all, in random order: a place in memory is taken by whichever comes first."""
        self._sessions.clear()  # never twice as many models in memory
        for i in self._rng.permutation(len(self._sources)).tolist():
            self._sessions[i] = self._load(self._sources[i])
        return self._runs

    def _runnable(self, i: int) -> Runnable:
        return lambda: self._sessions[i].run(None, self._fed)  # not bound to a session: old ones must go away

    def _load(self, source: Path | bytes) -> Any:
        session = create_session(source, options=timing_options(self._settings.threads),
                                 provider=self._settings.provider)
        run(session, self._feeds, where="model" if isinstance(source, bytes) else str(source))
        return session
