"""Latency is tested on a simulated machine with a simulated clock; no test asserts how fast this one is."""

import gc
import itertools
import math
import statistics
from collections import Counter

import numpy as np
import onnx
import pytest
import scipy.stats

from onnxslim1x1.errors import OptionError, RuntimeFailure
from onnxslim1x1.runtime import benchmark
from onnxslim1x1.runtime.benchmark import (
    BenchmarkSettings,
    Latency,
    LatencyComparison,
    compare_latency,
    compare_models,
    relative_speed,
    time_session,
    timing_options,
)
from onnxslim1x1.runtime.benchmark import compared as compared_rounds
from onnxslim1x1.runtime.rounds import Rounds
from onnxslim1x1.runtime.session import create_session

COLD = BenchmarkSettings(warmup_runs=0, warmup_s=0.0)
QUICK = BenchmarkSettings(budget_s=0.0, min_rounds=3, max_rounds=3, warmup_runs=1, warmup_s=0.0, threads=1)


class Machine:
    """A computer whose speed drifts by a factor of 2, with random jitter and rare spikes of ten times the time."""

    def __init__(self, seed=0, *, jitter=0.03, spikes=0.03, drift=1.0, contention=0.0):
        self.now, self.log = 100.0, []
        self._rng = np.random.default_rng(seed)
        self._jitter, self._spikes, self._drift, self._contention = jitter, spikes, drift, contention

    def clock(self):
        return self.now

    def program(self, name, seconds):
        def run():
            took = seconds * (1 + self._drift * (0.5 + 0.5 * math.sin(self.now / 7)))
            took *= math.exp(self._jitter * self._rng.standard_normal())
            took *= 10 if self._rng.random() < self._spikes else 1
            took *= 3 if self._rng.random() < self._contention else 1
            self.log.append((name, took))
            self.now += took
        return run


def compared(machine, original, rewritten, again=None, *, settings=COLD, progress=None):
    return compare_latency(machine.program("A", original), machine.program("B", rewritten),
                           again=machine.program("again", original if again is None else again),
                           settings=settings, clock=machine.clock, progress=progress)


@pytest.mark.parametrize("seed", range(8))
def test_equal_models_show_no_difference_despite_drift_and_spikes(seed):
    found = compared(Machine(seed), 0.010, 0.010)
    assert found.verdict == "no difference shown"
    assert found.speedup == pytest.approx(1.0, abs=0.02)  # jitter of 3 % over some 100 rounds


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_slowdown_of_20_percent_is_found(seed):
    found = compared(Machine(seed), 0.010, 0.012)
    assert found.verdict == "slower"
    assert found.speedup == pytest.approx(1 / 1.2, rel=0.02)
    assert found.speedup_low < found.speedup < found.speedup_high < 1
    assert 0.97 < found.noise_low < found.noise_high < 1.03


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_speedup_of_25_percent_is_found(seed):
    found = compared(Machine(seed), 0.010, 0.008)
    assert found.verdict == "faster"
    assert found.speedup == pytest.approx(1.25, rel=0.02)


def test_run_times_with_two_modes_do_not_upset_the_ratio():
    machine = Machine(3, drift=0.0, spikes=0.0, contention=0.5)
    found = compared(machine, 0.010, 0.010)
    times = {name: statistics.median(t for n, t in machine.log if n == name) for name in "AB"}
    assert abs(math.log(times["A"] / times["B"])) > 0.2  # this is why the ratio is not that of the medians
    assert found.speedup == pytest.approx(1.0, abs=0.02)
    assert found.verdict == "no difference shown"


@pytest.mark.parametrize(("rewritten", "again"), [(0.0098, 0.0096), (0.0098, 0.0104), (0.0102, 0.0096)])
def test_a_difference_within_the_noise_floor_is_not_shown(rewritten, again):
    found = compared(Machine(1, spikes=0.0, jitter=0.005), 0.010, rewritten, again)
    assert not found.speedup_low <= 1 <= found.speedup_high  # the interval alone would have claimed a difference
    assert found.verdict == "no difference shown"


def test_the_same_difference_counts_on_a_quiet_machine():
    assert compared(Machine(1, spikes=0.0, jitter=0.005), 0.010, 0.0098).verdict == "faster"


@pytest.mark.parametrize(("low", "high", "noise_low", "noise_high", "verdict"), [
    (1.05, 1.09, 0.98, 1.04, "faster"),
    (1.05, 1.09, 0.98, 1.06, "no difference shown"),
    (1.05, 1.09, 0.94, 1.00, "no difference shown"),  # noise counts in both directions
    (0.99, 1.09, 0.999, 1.001, "no difference shown"),
    (1.01, 1.02, 1.00, 1.00, "faster"),
    (0.85, 0.95, 0.97, 1.02, "slower"),
    (0.85, 0.95, 0.94, 1.02, "no difference shown"),
    (0.85, 0.95, 0.99, 1.07, "no difference shown"),
])
def test_the_verdict_needs_the_interval_beyond_one_and_beyond_the_noise(low, high, noise_low, noise_high, verdict):
    one = Latency(median_s=1.0, p10_s=0.9, p90_s=1.2, runs=20, provider="CPUExecutionProvider", threads=1)
    found = LatencyComparison(original=one, rewritten=one, speedup=(low + high) / 2, speedup_low=low,
                              speedup_high=high, noise_low=noise_low, noise_high=noise_high)
    assert found.verdict == verdict
    assert found.noise_floor >= 1


def test_every_round_runs_all_three_in_changing_order():
    machine = Machine()
    found = compared(machine, 0.010, 0.012)
    names = [name for name, _ in machine.log]
    rounds = [tuple(names[i:i + 3]) for i in range(0, len(names), 3)]
    assert len(rounds) == found.original.runs == found.rewritten.runs
    assert all(sorted(r) == ["A", "B", "again"] for r in rounds)
    orders = Counter(rounds)
    assert set(orders) == set(itertools.permutations(("A", "B", "again")))
    assert max(orders.values()) < len(rounds) / 3


def test_the_order_is_seeded():
    def order(seed):
        machine = Machine()
        settings = BenchmarkSettings(warmup_runs=0, warmup_s=0.0, min_rounds=20, max_rounds=20, seed=seed)
        compared(machine, 0.010, 0.010, settings=settings)
        return [name for name, _ in machine.log]

    assert order(5) == order(5)
    assert order(5) != order(6)


def test_the_figures_are_those_of_the_simulated_runs():
    machine = Machine(2)
    found = compared(machine, 0.010, 0.012)
    times = {name: np.array([t for n, t in machine.log if n == name]) for name in ("A", "B", "again")}
    for latency, name in ((found.original, "A"), (found.rewritten, "B")):
        want = np.quantile(times[name], (0.5, 0.1, 0.9))
        np.testing.assert_allclose((latency.median_s, latency.p10_s, latency.p90_s), want, rtol=1e-9)
    for interval, other in (((found.speedup_low, found.speedup_high), "B"),
                            ((found.noise_low, found.noise_high), "again")):
        ratios = np.sort(times["A"] / times[other])
        ranks = scipy.stats.binom.ppf((0.025, 0.975), len(ratios), 0.5).astype(int)  # exact interval of a median
        want = ratios[ranks]
        assert interval == pytest.approx(tuple(want), abs=0.3 * (want[1] - want[0]))  # blocks, one rank more
    assert found.speedup == pytest.approx(np.median(times["A"] / times["B"]), rel=1e-9)


@pytest.mark.parametrize(("rounds", "kept"), [(15, 15), (500, 500), (1200, 500)])
def test_the_times_of_single_runs_are_kept_for_plots(rounds, kept):
    machine = Machine(2)
    settings = BenchmarkSettings(warmup_runs=0, warmup_s=0.0, min_rounds=rounds, max_rounds=rounds)
    found = compared(machine, 0.010, 0.012, settings=settings)
    for times, name in ((found.samples.original, "A"), (found.samples.rewritten, "B"), (found.samples.again, "again")):
        measured = [t for n, t in machine.log if n == name]
        assert len(measured) == rounds
        assert len(times) == kept
        picks = [measured[i] for i in np.linspace(0, rounds - 1, kept).round().astype(int)]
        np.testing.assert_allclose(times, picks, rtol=5e-6)  # six digits: a report need not hold more


@pytest.mark.parametrize(("seconds", "budget", "rounds"), [(0.1, 6.1, 21), (0.1, 0.0, 15), (10.0, 5.0, 15),
                                                           (0.0001, 5.0, 500)])
def test_rounds_follow_the_budget_between_their_bounds(seconds, budget, rounds):
    machine = Machine(jitter=0.0, spikes=0.0, drift=0.0)
    settings = BenchmarkSettings(warmup_runs=0, warmup_s=0.0, budget_s=budget)
    assert compared(machine, seconds, seconds, settings=settings).original.runs == rounds


def test_warm_up_is_not_measured():
    machine, calls = Machine(jitter=0.0, spikes=0.0, drift=0.0), Counter()

    def program(name):
        def run():
            calls[name] += 1
            machine.now += 5.0 if calls[name] <= 4 else 0.010
        return run

    settings = BenchmarkSettings(warmup_runs=4, warmup_s=0.0, min_rounds=30, max_rounds=30)
    found = compare_latency(program("A"), program("B"), again=program("again"), settings=settings, clock=machine.clock)
    assert calls == {"A": 34, "B": 34, "again": 34}
    assert found.original.p90_s == found.rewritten.p90_s == pytest.approx(0.010)


def test_warm_up_lasts_its_seconds_for_each_model():
    machine = Machine(jitter=0.0, spikes=0.0, drift=0.0)
    settings = BenchmarkSettings(warmup_runs=1, warmup_s=0.2, min_rounds=1, max_rounds=1)
    compared(machine, 0.01, 0.01, settings=settings)
    assert len(machine.log) in (3 * 20 + 3, 3 * 21 + 3)  # 0.2 s of 0.01 s, up to rounding, and one round


@pytest.mark.parametrize("budget", [5.0, 0.0])
def test_progress_rises_to_one_in_at_most_a_hundred_steps(budget):
    told = []
    settings = BenchmarkSettings(warmup_runs=0, warmup_s=0.0, budget_s=budget)
    compared(Machine(), 0.001, 0.001, settings=settings, progress=told.append)
    assert told == sorted(set(told))
    assert 0 < told[0] < 0.1
    assert told[-1] == 1.0
    assert 10 < len(told) <= 100


def test_garbage_is_not_collected_while_timing():
    seen, machine = [], Machine()
    program = machine.program("A", 0.01)

    def run():
        seen.append(gc.isenabled())
        program()

    assert gc.isenabled()
    compare_latency(run, run, again=run, settings=COLD, clock=machine.clock)
    assert not any(seen)
    assert gc.isenabled()


def test_the_garbage_collector_is_left_as_it_was_found():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compare_latency(fail, fail, again=fail, settings=COLD)
    assert gc.isenabled()
    gc.disable()
    try:
        compared(Machine(), 0.01, 0.01)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_provider_and_threads_are_noted():
    settings = BenchmarkSettings(warmup_runs=0, warmup_s=0.0, threads=3, provider="SomeExecutionProvider")
    found = compared(Machine(), 0.01, 0.01, settings=settings)
    assert {(x.provider, x.threads) for x in (found.original, found.rewritten)} == {("SomeExecutionProvider", 3)}
    assert compared(Machine(), 0.01, 0.01).original.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("wrong", [
    {"budget_s": -1.0}, {"budget_s": math.nan}, {"warmup_s": -0.1}, {"warmup_runs": -1}, {"min_rounds": 0},
    {"min_rounds": 20, "max_rounds": 19}, {"threads": -1},
])
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(OptionError):
        BenchmarkSettings(**wrong)


# ---- with onnxruntime ----

def model_bytes(bias):
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 17]>
        tiny (float[N, 3] x) => (float[N, 3] y)
        <float[3] b = {{{bias}, -1.5, 0.25}}> {{ y = Add(x, b) }}""")
    return model.SerializeToString()


FEEDS = {"x": np.array([[1.0, -2.0, 3.5], [0.5, 0.0, -4.0]], np.float32)}


def test_time_session_takes_provider_and_threads_from_the_session():
    session = create_session(model_bytes(2.0), options=timing_options(2))
    told = []
    found = time_session(session, FEEDS, settings=QUICK, progress=told.append)
    assert (found.provider, found.threads, found.runs) == ("CPUExecutionProvider", 2, 3)
    assert 0 < found.p10_s <= found.median_s <= found.p90_s
    assert told[-1] == 1.0


def test_time_session_says_why_it_cannot_run():
    with pytest.raises(RuntimeFailure, match="cannot run"):
        time_session(create_session(model_bytes(2.0)), {"other": FEEDS["x"]}, settings=QUICK)


def test_compare_models_times_files_and_bytes(tmp_path):
    path = tmp_path / "original.onnx"
    path.write_bytes(model_bytes(2.0))
    for source in (path, str(path), path.read_bytes()):
        found = compare_models(source, model_bytes(-3.0), feeds=FEEDS, settings=QUICK)
        assert found.original.runs == found.rewritten.runs == 3
        assert found.original.provider == "CPUExecutionProvider"
        assert found.original.threads == found.rewritten.threads == 1
        assert 0 < found.speedup_low <= found.speedup <= found.speedup_high


def test_relative_speed_times_two_sessions_by_turns(tmp_path, monkeypatch):
    loaded, real = [], benchmark.create_session
    monkeypatch.setattr(benchmark, "create_session", lambda source, **options: loaded.append(source) or real(
        source, **options))
    path = tmp_path / "original.onnx"
    path.write_bytes(model_bytes(2.0))
    original, speedup = relative_speed(path, model_bytes(-3.0), feeds=FEEDS, settings=QUICK)
    assert Counter(loaded) == {path: 1, model_bytes(-3.0): 1}
    assert (original.runs, original.provider, original.threads) == (3, "CPUExecutionProvider", 1)
    assert 0 < speedup.low <= speedup.value <= speedup.high


def test_relative_speed_is_the_time_of_the_original_over_that_of_the_other(monkeypatch):
    def told(fresh, **_):
        fresh()  # as the rounds do
        return Rounds(seconds=np.array([[0.03, 0.02], [0.06, 0.04], [0.09, 0.06]]), sittings=np.zeros(3, np.int64))

    monkeypatch.setattr(benchmark, "measure", told)
    original, speedup = relative_speed(model_bytes(2.0), model_bytes(-3.0), feeds=FEEDS, settings=QUICK)
    assert (original.median_s, speedup.value) == (0.06, pytest.approx(1.5))
    assert speedup.low < 1.49  # a single sitting hides what sessions differ by
    assert speedup.high > 1.51


def test_compare_models_says_which_model_fails(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(RuntimeFailure, match=r"broken\.onnx"):
        compare_models(model_bytes(1.0), path, feeds=FEEDS, settings=QUICK)
    with pytest.raises(OptionError, match="--provider nowhere"):
        compare_models(model_bytes(1.0), model_bytes(1.0), feeds=FEEDS,
                       settings=BenchmarkSettings(provider="nowhere"))


def test_sessions_stop_spinning_between_runs_and_keep_denormals():
    options = timing_options(3)
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    with pytest.raises(RuntimeError):
        options.get_session_config_entry("session.set_denormal_as_zero")


def test_sessions_are_made_anew_while_the_time_lasts(monkeypatch):
    loaded, real = [], benchmark.create_session
    monkeypatch.setattr(benchmark, "create_session", lambda source, **options: loaded.append(source) or real(
        source, **options))
    settings = BenchmarkSettings(budget_s=0.5, max_rounds=5000, warmup_s=0.01, threads=1)
    found = compare_models(model_bytes(2.0), model_bytes(-3.0), feeds=FEEDS, settings=settings)
    assert found.sittings > 4
    assert Counter(loaded) == {model_bytes(2.0): 2 * found.sittings, model_bytes(-3.0): found.sittings}
    orders = {tuple(loaded[i:i + 3]) for i in range(0, len(loaded), 3)}
    assert len(orders) == 3  # whichever is loaded first has its choice of places in memory


def test_what_a_single_sitting_hides_is_part_of_the_interval():
    seconds = np.exp(np.random.default_rng(3).normal(0.0, 0.02, (60, 3)))
    rounds = Rounds(seconds=seconds, sittings=np.zeros(60, np.int64))
    many = Rounds(seconds=rounds.seconds, sittings=np.repeat(np.arange(6), 10))
    plain, wide = compared_rounds(rounds, COLD), compared_rounds(rounds, COLD, luck=0.03)
    assert wide.speedup_low < 0.95 < plain.speedup_low < plain.speedup_high < 1.05 < wide.speedup_high
    assert wide.noise_low < 0.95 < plain.noise_low < plain.noise_high < 1.05 < wide.noise_high
    assert compared_rounds(many, COLD, luck=0.03) == compared_rounds(many, COLD)
    assert (wide.sittings, compared_rounds(many, COLD).sittings) == (1, 6)


def test_the_batch_size_is_that_of_the_feeds():
    assert compare_models(model_bytes(2.0), model_bytes(-3.0), feeds=FEEDS, settings=QUICK).batch == 2
