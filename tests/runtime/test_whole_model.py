"""Times of whole models: real ones where they are told, and what is kept for the next search."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.graph.model import load
from onnxslim1x1.runtime import whole_model
from onnxslim1x1.runtime.benchmark import BenchmarkSettings
from onnxslim1x1.runtime.options import RunOptions
from onnxslim1x1.runtime.store import NO_STORE, Store
from onnxslim1x1.runtime.whole_model import WholeModel

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 12, 9] x) => (float[1, 5, 12, 9] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"""


@pytest.fixture(scope="module")
def model():
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(numpy_helper.from_array(
        np.random.default_rng(3).standard_normal((5, 3, 3, 3)).astype(np.float32), "w"))
    return load(proto)


@pytest.fixture
def timed(model, monkeypatch):
    """A clock with a store, and the models that were timed, in order; timings take no time."""
    seen, real = [], whole_model.relative_speed

    def noting(source, rewritten, **options):
        seen.append(rewritten)
        return real(source, rewritten, **options)

    monkeypatch.setattr(whole_model, "relative_speed", noting)
    monkeypatch.setattr(whole_model, "_TIMING", BenchmarkSettings(budget_s=0.0, warmup_s=0.0, min_rounds=2))

    def clock(store, threads=1):
        options = RunOptions(threads=threads, store=store)
        return WholeModel(model, model, options.shapes(model), options)

    return clock, seen


def test_the_start_is_measured_once_and_kept(timed, tmp_path):
    clock, seen = timed
    first = clock(Store(tmp_path))
    start = first.whole_s, first.prepared
    assert all(value > 0 for value in start)
    assert len(seen) == 1
    again = clock(Store(tmp_path))
    assert (again.whole_s, again.prepared) == start
    assert len(seen) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_learned_is_there_for_the_next_search_on_the_same_terms(timed, tmp_path, kept):
    clock, _ = timed
    store = Store(tmp_path) if kept else NO_STORE
    first = clock(store)
    assert first.realised == 1.0
    first.remember(0.61)
    assert clock(store).realised == (0.61 if kept else 1.0)
    assert clock(store, threads=2).realised == 1.0  # another number of threads saves another part


def test_other_models_are_timed_each_time(timed, tmp_path, model):
    clock, seen = timed
    found = clock(Store(tmp_path))
    assert found.speedup(model) > 0
    assert found.speedup(model) > 0
    assert seen == [model.source, model.source]
