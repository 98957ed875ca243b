"""Verdicts on a simulated machine with drift, a neighbour, spikes, two modes and sessions of different luck."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "scripts" / "benchmarks"
SAMPLE = ROOT / "sample_models" / "digits_googlenet.onnx"
sys.path.insert(0, str(BENCHMARKS))

import noisy_machine  # noqa: E402  (a script, found on the path that was just set)
import planted  # noqa: E402

from onnxslim1x1.runtime.rounds import BenchmarkSettings  # noqa: E402
from onnxslim1x1.runtime.session import create_session, run  # noqa: E402

SHORT = BenchmarkSettings(budget_s=1.0, max_rounds=5000)
LONG = BenchmarkSettings(budget_s=20.0, max_rounds=5000)


def test_the_machine_is_as_unpleasant_as_it_claims():
    machine = noisy_machine.Machine(3)
    first, second, _ = machine.fresh()
    times = np.array([[took(machine, first), took(machine, second)] for _ in range(3000)])
    one = times[:, 0]
    assert np.quantile(one, 0.95) > 1.8 * np.median(one)  # lost turns and spikes
    slow = one > 1.25 * np.median(one)
    assert np.mean(slow[1:] == slow[:-1]) > np.mean(slow) ** 2 + np.mean(~slow) ** 2 + 0.05  # they come together
    halves = [np.median(half) for half in np.array_split(one, 6)]
    assert max(halves) > 1.05 * min(halves)  # drift


def test_sessions_keep_their_luck():
    machine = noisy_machine.Machine(1, noise=noisy_machine.Noise(jitter=0.0, drift=0.0, load=0.0, lost_turn=0.0,
                                                                 spikes=0.0, luck=0.02))
    sittings = []
    for _ in range(8):
        sessions = machine.fresh()
        for _ in range(20):
            times = [took(machine, one) for one in sessions]
        sittings.append([times[0], times[2]])  # of the original
    lucks = np.log(np.array(sittings[1:]) / 0.005)  # the first sitting has the cold start in it
    assert 0.01 < lucks.std() < 0.03
    assert len(set(lucks.ravel().tolist())) == lucks.size


def took(machine, runnable):
    begin = machine.clock()
    runnable()
    return machine.clock() - begin


@pytest.mark.slow
def test_false_alarms_are_rare():
    """1,000 comparisons of a model with itself, one second each."""
    found = noisy_machine.verdicts(range(1000), SHORT)
    assert found["faster"] + found["slower"] < 10


@pytest.mark.slow
def test_false_alarms_are_rare_where_loading_takes_too_long_for_fresh_sessions():
    found = noisy_machine.verdicts(range(500), SHORT, load_s=0.5)
    assert found["faster"] + found["slower"] < 5


@pytest.mark.parametrize(("slower", "verdict"), [(1.1, "slower"), (1 / 1.1, "faster")])
def test_ten_percent_are_found(slower, verdict):
    found = noisy_machine.verdicts(range(40), LONG, slower=slower)
    assert found[verdict] >= 38


def test_five_percent_are_found():
    found = noisy_machine.verdicts(range(40), LONG, slower=1.05)
    assert found["slower"] >= 36
    assert not found["faster"]


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("load_s", [0.05, 0.5])
def test_false_alarms_are_rare_in_many_comparisons(budget, load_s):
    found = noisy_machine.verdicts(range(4000), BenchmarkSettings(budget_s=budget, max_rounds=5000), load_s=load_s)
    assert found["faster"] + found["slower"] < 40


# ---- the planted slowdown ----

def test_a_planted_convolution_changes_no_result():
    feeds = planted.feeds_of(SAMPLE)
    quick = BenchmarkSettings(budget_s=0.0, min_rounds=3, max_rounds=3, warmup_runs=1, warmup_s=0.0, threads=1)
    made = planted.plant(SAMPLE, 0.05, settings=quick, feeds=feeds)
    before, after = (run(create_session(source), feeds) for source in (SAMPLE, made.model))
    np.testing.assert_array_equal(before[0], after[0])
    nodes = [node.name for node in onnx.load_from_string(made.model).graph.node]
    assert nodes.count("planted") == 1
    assert made.slower == pytest.approx(1 / made.measured.speedup)


@pytest.mark.slow
def test_the_script_writes_what_it_found(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "digits.onnx").write_bytes(SAMPLE.read_bytes())
    command = [sys.executable, str(BENCHMARKS / "verdicts.py"), "--models", str(models), "--runs", "2", "--time", "0.1",
               "--load", "--slowdown", "0.05", "--tries", "1", "--long", "0.5", "--simulate", "3",
               "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=180)
    assert "claims in 2 comparisons" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [row["runs"] for row in found["against_itself"]] == [2]
    assert [row["tries"] for row in found["slowed_down"]] == [1]
    assert sum(found["simulated"][0]["verdicts"].values()) == 3
