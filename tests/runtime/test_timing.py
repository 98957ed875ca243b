"""Threads and batch sizes: what each comparison is fed, and which batch sizes a model declines."""

import os

import numpy as np
import onnx
import pytest

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, Latency, LatencyComparison
from onnxslim1x1.runtime.timing import Wanted, combinations, require_batches, thread_warnings

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[{first}, 3, 5] x, float[2, 5] scale) => (float[{first}, 3, 5] y)
{{
  whole = ReduceMean <keepdims = 0, axes = [0]> (scale)
  y = Mul(x, whole)
}}"""
SETTINGS = BenchmarkSettings(threads=7, seed=4)


@pytest.fixture
def stored(tmp_path):
    def store(first):
        onnx.save(onnx.parser.parse_model(TEXT.format(first=first)), tmp_path / f"{first}.onnx")
        return tmp_path / f"{first}.onnx"
    return store


FEEDS = {"x": np.arange(15, dtype=np.float32).reshape(1, 3, 5), "scale": np.ones((2, 5), np.float32)}


class Images:
    """Five samples that can be told apart."""

    def batches(self, batch_size):
        for start in range(0, 5, batch_size):
            rows = np.arange(5, dtype=np.float32)[start:start + batch_size]
            yield {"x": np.broadcast_to(rows[:, None, None], (len(rows), 3, 5)), "scale": FEEDS["scale"]}


def test_one_comparison_by_default(stored):
    (feeds, settings), = combinations(Wanted(), FEEDS, SETTINGS, model=stored("N"))
    assert feeds is FEEDS
    assert settings == SETTINGS


def test_every_number_of_threads_with_every_batch_size(stored):
    found = combinations(Wanted(threads=(1, 2), batches=(1, 8)), FEEDS, SETTINGS, model=stored("N"))
    assert [(s.threads, f["x"].shape) for f, s in found] == [
        (1, (1, 3, 5)), (1, (8, 3, 5)), (2, (1, 3, 5)), (2, (8, 3, 5))]
    assert {s.budget_s for _, s in found} == {SETTINGS.budget_s}  # each has all of it
    assert {f["scale"].shape for f, _ in found} == {(2, 5)}  # its first axis is no batch
    assert found[0][0] is FEEDS
    assert {f["x"].dtype for f, _ in found} == {np.dtype(np.float32)}
    assert len(np.unique(found[1][0]["x"])) == 8 * 3 * 5  # random


@pytest.mark.parametrize(("batch", "rows"), [(2, [0, 1]), (8, [0, 1, 2, 3, 4, 4, 4, 4])])
def test_real_inputs_where_there_are_some(stored, batch, rows):
    (feeds, _), = combinations(Wanted(batches=(batch,)), FEEDS, SETTINGS, model=stored("N"), dataset=Images())
    assert feeds["x"][:, 0, 0].tolist() == rows


def test_a_fixed_batch_is_declined_in_one_line(stored):
    path = stored(4)
    assert require_batches(path, (4,)) == {"x": False, "scale": False}
    with pytest.raises(OptionError) as caught:
        require_batches(path, (4, 8))
    assert str(caught.value) == (f"--batch 8: {path} takes 4 at a time (the first axis of input x is fixed); drop "
                                 f"--batch, or export the model with a free first axis")


def test_without_batch_sizes_no_model_is_read(tmp_path):
    assert require_batches(tmp_path / "none.onnx", ()) == {}


@pytest.mark.parametrize(("wanted", "message"), [
    ({"threads": (1, -1)}, "--threads -1: must be 0 or more"), ({"batches": (0,)}, "--batch 0: must be 1 or more"),
    ({"threads": (2, 1, 2)}, "--threads 2,1,2: names a number twice"), ({"batches": (8, 8)}, "--batch 8,8: names")])
def test_numbers_without_sense_are_refused(wanted, message):
    with pytest.raises(OptionError, match=f"^{message}"):
        Wanted(**wanted)


def comparison(threads, cpus):
    one = Latency(median_s=1.0, p10_s=1.0, p90_s=1.0, runs=9, provider="CPUExecutionProvider", threads=threads)
    return LatencyComparison(original=one, rewritten=one, speedup=1.0, speedup_low=0.9, speedup_high=1.1,
                             noise_low=0.9, noise_high=1.1, cpus=cpus)


def test_threads_that_share_processors_are_warned_of(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert thread_warnings([comparison(1, 2), comparison(2, 2), comparison(0, 8)]) == []
    assert thread_warnings([comparison(1, 0)]) == []  # not known
    line, = thread_warnings([comparison(4, 2), comparison(4, 2)])
    assert line.startswith("4 threads share the 2 processors that this process may use")
    line, = thread_warnings([comparison(0, 2)])
    assert line.startswith("this process may use 2 of 8 processors")
    assert line.endswith("give --threads 2")
