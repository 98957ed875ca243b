"""End to end on the sample model: half the work, the same answers, a valid file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxslim1x1 import Budget, Check, DataOptions, RunOptions, ValidationSettings, api
from onnxslim1x1.runtime.benchmark import BenchmarkSettings
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.verdict import Tolerance
from onnxslim1x1.search import pipeline

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "sample_models"
MODEL = FOLDER / "digits_googlenet.onnx"
UNIT = preprocess("unit")
CALIBRATION = DataOptions(path=FOLDER / "digits_calibration.npz", preprocess=UNIT)
EVALUATION = DataOptions(path=FOLDER / "digits_evaluation.npz", preprocess=UNIT)


@pytest.fixture(scope="module")
def slimmed(tmp_path_factory):
    """The sample model at half its work; that every rewritten layer is faster is taken for granted."""
    output = tmp_path_factory.mktemp("slim") / "slim.onnx"
    settings = ValidationSettings(tolerance=Tolerance(max_drop=0.01), measure_latency=False,
                                  benchmark=BenchmarkSettings(budget_s=0.0, min_rounds=3, max_rounds=3))
    digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "compare_chain", lambda *_args, **_options: 2.0)
        result = api.slim(MODEL, output, budget=Budget(target_macs=0.5), calibration=CALIBRATION,
                          run=RunOptions(threads=2), check=Check(data=EVALUATION, settings=settings))
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == digest
    return result


def logits(path):
    with np.load(EVALUATION.path) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": x})[0], labels


def test_half_of_the_work_is_gone(slimmed):
    assert slimmed.unchanged is None
    assert slimmed.before.macs == 111_183_424
    assert slimmed.after.macs <= 0.5 * slimmed.before.macs
    weights = {t.name: tuple(t.dims) for t in onnx.load(slimmed.output).graph.initializer}
    graph = onnx.load(slimmed.output).graph
    shapes = {node.name: weights[node.input[1]] for node in graph.node if node.op_type == "Conv"}
    makers = {node.output[0]: node.name for node in graph.node}
    inputs = {node.name: node.input[0] for node in graph.node}
    for planned in slimmed.plan.layers:
        name = planned.layer
        for rank in reversed(planned.ranks):  # every seam has its rank, from the last factor backwards
            assert shapes[name][1] == rank
            name = makers[inputs[name]]
            assert shapes[name][0] == rank
        assert all(rank % slimmed.plan.environment.block == 0 for rank in planned.ranks)


def test_the_answers_are_as_right_as_before(slimmed):
    (before, labels), (after, _) = logits(MODEL), logits(slimmed.output)
    accuracy = [(scores.argmax(axis=1) == labels).mean() for scores in (before, after)]
    assert accuracy[1] >= accuracy[0] - 0.01
    classes = slimmed.validation.classification
    assert (classes.top1_original, classes.top1_rewritten) == pytest.approx(accuracy, abs=1e-9)
    assert slimmed.validation.images == 450
    assert slimmed.validation.passed


def test_predicted_errors_are_small_and_the_outputs_close(slimmed):
    assert 0 < max(p.error for p in slimmed.plan.layers) < 0.2
    difference, = slimmed.validation.outputs
    assert 10 < difference.snr_db < 100  # changed, and not by much


def test_the_file_is_valid_and_says_where_it_comes_from(slimmed):
    onnx.checker.check_model(str(slimmed.output), full_check=True)
    model, original = onnx.load(slimmed.output), onnx.load(MODEL)
    assert list(model.graph.input) == list(original.graph.input)
    assert list(model.graph.output) == list(original.graph.output)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    found = json.loads({p.key: p.value for p in model.metadata_props}["onnxslim1x1"])
    assert found["source_sha256"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert found["data"] == "digits_calibration.npz"
    assert set(found["layers"]) == {p.layer for p in slimmed.plan.layers}


def test_it_runs_with_another_number_of_images(slimmed):
    session = onnxruntime.InferenceSession(slimmed.output, providers=["CPUExecutionProvider"])
    for count in (1, 3, 17):
        out, = session.run(None, {"images": np.zeros((count, 1, 32, 32), np.float32)})
        assert out.shape == (count, 10)


def test_slimming_again_starts_from_what_is_there(slimmed):
    found = api.analyze(slimmed.output, measure=False)
    assert found.macs == slimmed.after.macs
    assert found.params == slimmed.after.params
