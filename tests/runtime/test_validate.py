"""Validation of small real models under onnxruntime; every planted fault must be caught under its own name."""

import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from onnxslim1x1.errors import DataError, ModelError, OptionError, RuntimeFailure
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, Latency, LatencyComparison
from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.preprocess import PRESETS
from onnxslim1x1.runtime.session import create_session, input_specs
from onnxslim1x1.runtime.timing import Wanted
from onnxslim1x1.runtime.validate import (
    Gate,
    Tolerance,
    ValidationSettings,
    as_numbers,
    check_models,
    model_bytes,
    validate_models,
)
from onnxslim1x1.spec import Cost

QUICK = BenchmarkSettings(budget_s=0.0, min_rounds=3, max_rounds=3, warmup_runs=1, warmup_s=0.0, threads=1)
ACCURACY = ValidationSettings(benchmark=QUICK, measure_latency=False)
CLASSES = 7

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[{batch}, 3, 9, 6] image) => (float[{batch}, 7] logits, float[{batch}, 5, A, B] features)
{{
  features = Conv <strides = [2, 1], pads = [1, 0, 2, 1]> (image, conv_w, conv_b)
  active = Relu(features)
  pooled = GlobalAveragePool(active)
  flat = Flatten(pooled)
  logits = Gemm <transB = 1> (flat, head_w, head_b)
}}"""


def weights():
    rng = np.random.default_rng(11)
    shapes = {"conv_w": (5, 3, 3, 2), "conv_b": (5,), "head_w": (CLASSES, 5), "head_b": (CLASSES,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def network(batch="N", text=TEXT, **changes):
    model = onnx.parser.parse_model(text.format(batch=batch))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, n) for n, w in (weights() | changes).items())
    return model


@pytest.fixture
def stored(tmp_path):
    def store(model, name):
        onnx.save(model, tmp_path / name)
        return tmp_path / name
    return store


class Arrays:
    """A data set in memory, as the protocol of validation wants it."""

    name = "27 arrays"

    def __init__(self, images, labels=None):
        self.images, self.labels = images, labels
        self.asked = []

    def __len__(self):
        return len(self.images)

    def batches(self, batch_size):
        self.asked.append(batch_size)
        for start in range(0, len(self.images), batch_size):
            yield {"image": self.images[start:start + batch_size]}


def images(count=27):
    """Random images of different colours, so that the network sees several classes in them."""
    rng = np.random.default_rng(5)
    return (rng.standard_normal((count, 3, 9, 6)) + 2 * rng.standard_normal((count, 3, 1, 1))).astype(np.float32)


def logits(model, data):
    """Scores of the images, each run on its own."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in data])


def other_bias():
    return weights()["head_b"] + np.linspace(1.5, -1.9, CLASSES, dtype=np.float32)


def gates(report):
    return {gate.name: gate for gate in report.gates}


# ---- what passes ----

@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_a_model_passes_against_itself(stored, batch):
    path = stored(network(batch), "net.onnx")
    tolerance = Tolerance(max_drop=0.0, min_agreement=1.0, min_snr_db=90.0, min_speedup=1e-9)
    report = validate_models(path, path, settings=ValidationSettings(benchmark=QUICK, tolerance=tolerance))
    assert report.passed
    assert report.accuracy_passed
    assert report.latency_passed
    assert report.checker.original_ok
    assert report.checker.rewritten_ok
    assert report.checker.message == ""
    assert report.mismatches == ()
    assert [(d.name, d.max_abs, d.snr_db) for d in report.outputs] == [("logits", 0.0, math.inf),
                                                                       ("features", 0.0, math.inf)]
    assert report.classification.agreement == 1.0
    assert report.classification.kl == 0.0
    assert report.latency.original.runs == 3
    assert report.images == 8 * (batch if batch != "N" else 1)
    assert report.data == "random inputs, seed 0"
    assert list(gates(report)) == ["checker", "interface", "finite", "max_drop", "min_agreement", "min_snr_db",
                                   "min_speedup"]


def test_without_promises_three_gates_are_judged(stored):
    path = stored(network(), "net.onnx")
    report = validate_models(path, path, settings=ACCURACY)
    assert report.gates == tuple(Gate(name=n, bound=0.0, value=0.0, passed=True, kind="accuracy")
                                 for n in ("checker", "interface", "finite"))
    assert report.latency is None
    assert report.passed


def test_costs_and_sizes_are_noted(stored):
    first, second = stored(network(), "first.onnx"), stored(network(extra=np.zeros(999, np.float32)), "second.onnx")
    costs = Cost(params=10, macs=200), Cost(params=5, macs=120)
    report = validate_models(first, second, settings=ACCURACY, costs=costs)
    assert (report.cost_original, report.cost_rewritten) == costs
    assert report.size_original_bytes == first.stat().st_size
    assert report.size_rewritten_bytes == second.stat().st_size > first.stat().st_size + 999 * 4
    assert validate_models(first, second, settings=ACCURACY).cost_original is None


def test_random_inputs_are_seeded(stored):
    first, second = stored(network(), "first.onnx"), stored(network(head_b=other_bias() * 1.1), "second.onnx")

    def figures(**changes):
        report = validate_models(first, second, settings=replace(ACCURACY, **changes))
        return report.outputs[0].mean_rel, report.images

    assert figures(seed=3) == figures(seed=3)
    assert figures(seed=3)[0] != figures(seed=4)[0]
    assert figures(random_runs=2)[1] == 2
    assert figures(random_runs=1)[0] != figures(random_runs=2)[0]
    assert figures(shapes={"image": (5, 3, 9, 6)})[1] == 40


# ---- figures on a data set ----

@pytest.mark.parametrize(("batch", "asked"), [("N", 16), (1, 1), (8, 8), (32, 32)])
def test_every_image_counts_once_whatever_the_batch(stored, batch, asked):
    data, before, after = images(), network(), network(head_b=other_bias())
    old, new = logits(before, data), logits(after, data)
    labels = np.where(np.arange(27) % 3 == 0, new.argmax(1), old.argmax(1)).astype(np.int64)
    dataset = Arrays(data, labels)
    report = validate_models(stored(network(batch), "a.onnx"), stored(network(batch, head_b=other_bias()), "b.onnx"),
                             dataset=dataset, settings=ACCURACY)
    found = report.classification
    assert dataset.asked[0] == asked
    assert (report.images, found.images, report.data) == (27, 27, "27 arrays")
    assert found.agreement == np.mean(old.argmax(1) == new.argmax(1)) < 0.9
    assert found.top1_original == np.mean(old.argmax(1) == labels)
    assert found.top1_rewritten == np.mean(new.argmax(1) == labels) != found.top1_original
    assert found.top1_drop == pytest.approx(found.top1_original - found.top1_rewritten)
    diff = report.outputs[0]
    assert diff.mean_abs == pytest.approx(np.abs(old - new).mean(dtype=np.float64), rel=1e-5)  # float32 summation order
    assert diff.snr_db == pytest.approx(10 * np.log10((old**2).sum() / ((old - new) ** 2).sum()), rel=1e-5)
    assert report.outputs[1].snr_db == math.inf


def test_a_data_set_of_the_package_serves(stored, tmp_path):
    data, model = images(11), network(4)
    labels = logits(network(), data).argmax(1)
    labels[2] = (labels[2] + 1) % CLASSES
    np.savez(tmp_path / "eleven.npz", images=data, labels=labels)
    path = stored(model, "net.onnx")
    dataset = load_dataset(tmp_path / "eleven.npz", preprocess=PRESETS["raw"], inputs=input_specs(create_session(path)))
    report = validate_models(path, path, dataset=dataset, settings=ACCURACY)
    assert (report.images, report.data, report.classification.top1_original) == (11, "eleven.npz", 10 / 11)


def test_latency_is_measured_on_one_image_unless_the_model_or_the_caller_says_more(stored, monkeypatch):
    seen = []
    monkeypatch.setattr("onnxslim1x1.runtime.validate.compare_models",
                        lambda *_, feeds, **__: seen.append(feeds["image"]))
    free, fixed, data = stored(network(), "free.onnx"), stored(network(4), "fixed.onnx"), images(3)
    settings = ValidationSettings(benchmark=QUICK)
    validate_models(free, free, settings=settings)
    validate_models(free, free, settings=settings, dataset=Arrays(data))
    validate_models(fixed, fixed, settings=settings, dataset=Arrays(data))
    validate_models(free, free, settings=replace(settings, shapes={"image": (5, 3, 9, 6)}), dataset=Arrays(data))
    assert [a.shape[0] for a in seen] == [1, 1, 4, 5]
    np.testing.assert_array_equal(seen[1], data[:1])
    np.testing.assert_array_equal(seen[2], data[[0, 1, 2, 2]])
    assert not np.isin(seen[3], data).any()  # random: the data set may not come in the shape that was asked for


def test_the_worst_of_several_speedups_is_what_is_promised(stored, monkeypatch):
    speedups = iter((1.5, 1.2, 1.9))
    monkeypatch.setattr("onnxslim1x1.runtime.validate.compare_models", lambda *_, **__: faster(next(speedups)))
    path = stored(network(), "net.onnx")
    settings = ValidationSettings(benchmark=QUICK, timed=Wanted(batches=(1, 2, 3)),
                                  tolerance=Tolerance(min_speedup=1.3))
    report = validate_models(path, path, settings=settings)
    gate = gates(report)["min_speedup"]
    assert (gate.value, gate.passed, report.latency_passed) == (1.2, False, False)


def faster(speedup):
    one = Latency(median_s=1.0, p10_s=1.0, p90_s=1.0, runs=9, provider="CPUExecutionProvider", threads=1)
    return LatencyComparison(original=one, rewritten=one, speedup=speedup, speedup_low=speedup, speedup_high=speedup,
                             noise_low=1.0, noise_high=1.0)


def test_latency_for_every_number_of_threads_and_batch_size(stored):
    path, told = stored(network(), "net.onnx"), []
    settings = ValidationSettings(benchmark=QUICK, timed=Wanted(threads=(2, 1), batches=(3, 1)), measure_footprint=True)
    found = validate_models(path, path, settings=settings, progress=lambda stage, done: told.append((stage, done)))
    assert [(one.original.threads, one.batch) for one in found.latencies] == [(2, 3), (2, 1), (1, 3), (1, 1)]
    assert all(one.original.runs == 3 and one.cpus > 0 for one in found.latencies)
    assert [one.file_bytes for one in found.footprints] == [path.stat().st_size] * 2
    assert [done for stage, done in told if stage == "memory"] == [0.5, 1.0]
    of_latency = [done for stage, done in told if stage == "latency"]
    assert of_latency == sorted(of_latency)
    assert {0.25, 0.5, 0.75, 1.0} <= set(of_latency)
    assert validate_models(path, path, settings=ACCURACY).footprints is None


def test_a_batch_size_that_the_model_does_not_take_is_declined_before_anything_runs(stored, monkeypatch):
    monkeypatch.setattr("onnxslim1x1.runtime.validate.create_session", None)
    path = stored(network(4), "fixed.onnx")
    with pytest.raises(OptionError, match=r"^--batch 1: .*fixed\.onnx takes 4 at a time"):
        validate_models(path, path, settings=ValidationSettings(benchmark=QUICK, timed=Wanted(batches=(4, 1))))


def test_progress_of_both_stages_ends_at_one(stored):
    path, told = stored(network(), "net.onnx"), []
    validate_models(path, path, settings=ValidationSettings(benchmark=QUICK), dataset=Arrays(images(40)),
                    progress=lambda stage, done: told.append((stage, done)))
    assert told[:3] == [("accuracy", 16 / 40), ("accuracy", 32 / 40), ("accuracy", 1.0)]
    assert told[3][0] == "latency"
    assert told[-1] == ("latency", 1.0)


# ---- promises about classes, signal and latency ----

@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("slack", "passed"), [(0.001, True), (0.0, True), (-0.001, False)])
def test_max_drop_judges_top_1_with_labels_and_agreement_without(stored, labelled, slack, passed):
    data, before, after = images(), network(), network(head_b=other_bias())
    labels, answers = logits(before, data).argmax(1), logits(after, data).argmax(1)
    won = np.flatnonzero(labels != answers)[0]
    labels[won] = answers[won]  # an image that rewriting set right: accuracy and agreement are two things
    paths, dataset = (stored(before, "a.onnx"), stored(after, "b.onnx")), Arrays(data, labels if labelled else None)
    found = validate_models(*paths, dataset=dataset, settings=ACCURACY).classification
    drop = found.top1_drop if labelled else 1 - found.agreement
    assert drop == pytest.approx((2 if labelled else 4) / 27)
    settings = replace(ACCURACY, tolerance=Tolerance(max_drop=drop + slack))
    report = validate_models(*paths, dataset=dataset, settings=settings)
    gate = gates(report)["max_drop"]
    assert (gate.passed, gate.kind, gate.value, gate.bound) == (passed, "accuracy", drop, drop + slack)
    assert report.accuracy_passed is report.passed is passed


def test_one_image_of_a_hundred_is_a_drop_of_exactly_one_percent(stored):
    data, model = images(100), network()
    labels = logits(model, data).argmax(1)
    first = labels.copy()
    head_b = weights()["head_b"].copy()
    scores = logits(model, data)
    margin = np.sort(scores, axis=1)[:, -1] - np.sort(scores, axis=1)[:, -2]
    closest = margin.argmin()
    second = np.argsort(scores[closest])[-2]
    head_b[second] += 1.0001 * margin[closest]  # tips the image with the smallest margin and no other
    paths = stored(model, "a.onnx"), stored(network(head_b=head_b), "b.onnx")
    for dataset in (Arrays(data, first), Arrays(data)):
        report = validate_models(*paths, dataset=dataset, settings=replace(ACCURACY, tolerance=Tolerance(
            max_drop=0.01, min_agreement=0.99)))
        assert report.classification.agreement == 0.99
        assert report.passed


def test_agreement_and_signal_have_gates_of_their_own(stored):
    paths = stored(network(), "a.onnx"), stored(network(head_b=other_bias()), "b.onnx")
    plain = validate_models(*paths, dataset=Arrays(images()), settings=ACCURACY)
    agreement, snr = plain.classification.agreement, plain.outputs[0].snr_db
    for tolerance, failing in ((Tolerance(min_agreement=agreement, min_snr_db=snr), None),
                               (Tolerance(min_agreement=agreement + 0.01, min_snr_db=snr), "min_agreement"),
                               (Tolerance(min_agreement=agreement, min_snr_db=snr + 0.01), "min_snr_db")):
        report = validate_models(*paths, dataset=Arrays(images()), settings=replace(ACCURACY, tolerance=tolerance))
        assert [g.name for g in report.gates if not g.passed] == ([failing] if failing else [])
        assert gates(report)["min_agreement"].value == agreement
        assert gates(report)["min_snr_db"].value == snr  # of the worst output; the other is identical


@pytest.mark.parametrize(("bound", "passed"), [(1e-9, True), (1e9, False)])
def test_a_missed_speedup_fails_latency_only(stored, bound, passed):
    path = stored(network(), "net.onnx")
    settings = ValidationSettings(benchmark=QUICK, tolerance=Tolerance(min_speedup=bound))
    report = validate_models(path, path, settings=settings)
    gate = gates(report)["min_speedup"]
    assert (gate.kind, gate.value, gate.passed) == ("latency", report.latency.speedup, passed)
    assert (report.latency_passed, report.passed, report.accuracy_passed) == (passed, passed, True)


@pytest.mark.parametrize("option", ["max_drop", "min_agreement"])
def test_classes_cannot_be_promised_of_a_model_without(stored, option):
    model = network()
    del model.graph.output[0]
    del model.graph.node[1:]
    path = stored(model, "features.onnx")
    with pytest.raises(OptionError, match=rf"--{option.replace('_', '-')}: .*features\.onnx has no output.*--min-snr"):
        validate_models(path, path, settings=replace(ACCURACY, tolerance=Tolerance(**{option: 0.5})))
    report = validate_models(path, path, settings=replace(ACCURACY, tolerance=Tolerance(min_snr_db=60.0)))
    assert report.passed
    assert report.classification is None


@pytest.mark.parametrize(("node", "dtype", "shape"), [
    (onnx.helper.make_node("Reshape", ["scores", "pairs"], ["logits"]), TensorProto.FLOAT, ["M", 5]),
    (onnx.helper.make_node("Cast", ["scores"], ["logits"], to=TensorProto.INT64), TensorProto.INT64, ["N", 7]),
])
def test_rows_that_are_no_images_and_integers_are_no_scores(stored, node, dtype, shape):
    def edit(graph):
        graph.node[-1].output[0] = "scores"
        graph.node.append(node)
        graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("logits", dtype, shape))
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 5], np.int64), "pairs"))

    path = stored(edited(edit), "net.onnx")
    report = validate_models(path, path, dataset=Arrays(images(5)), settings=ACCURACY)
    assert report.classification is None
    assert report.passed


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"random_runs": 0}, {"seed": -1},
                                   {"measure_latency": False, "tolerance": Tolerance(min_speedup=1.1)}])
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(OptionError):
        ValidationSettings(**wrong)


# ---- planted faults ----

def edited(edit):
    model = network()
    edit(model.graph)
    return model


def rename_output(graph):
    graph.node[-1].output[0] = graph.output[0].name = "scores"


def drop_output(graph):
    del graph.output[1]


def add_output(graph):
    graph.output.append(onnx.helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", 5]))


def swap_outputs(graph):
    outputs = list(reversed(graph.output))
    del graph.output[:]
    graph.output.extend(outputs)


def change_dtype(graph):
    graph.node[-1].output[0] = "single"
    graph.node.append(onnx.helper.make_node("Cast", ["single"], ["logits"], to=TensorProto.DOUBLE))
    graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def change_shape(graph):
    graph.node[-1].output[0] = "short"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([2], np.int64), "axes"))
    graph.node.append(onnx.helper.make_node("Unsqueeze", ["short", "axes"], ["logits"]))
    graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1


@pytest.mark.parametrize(("edit", "name", "code", "compared"), [
    (rename_output, "logits", "renamed_output", ["features"]),
    (drop_output, "features", "missing_output", ["logits"]),
    (add_output, "flat", "extra_output", ["logits", "features"]),
    (swap_outputs, "logits", "output_order", ["logits", "features"]),
    (change_dtype, "logits", "changed_dtype", ["features"]),
    (change_shape, "logits", "changed_shape", ["features"]),
])
def test_a_changed_interface_fails_under_its_own_code(stored, edit, name, code, compared):
    paths = stored(network(), "a.onnx"), stored(edited(edit), "b.onnx")
    report = validate_models(*paths, settings=ACCURACY)
    assert [(m.name, m.code) for m in report.mismatches] == [(name, code)]
    assert [g.name for g in report.gates if not g.passed] == ["interface"]
    assert gates(report)["interface"].value == 1.0
    assert not report.accuracy_passed
    assert report.latency_passed
    assert [d.name for d in report.outputs] == compared
    assert all(d.snr_db == math.inf for d in report.outputs)
    assert report.checker.rewritten_ok


def test_a_promise_about_classes_that_are_gone_is_broken(stored):
    paths = stored(network(), "a.onnx"), stored(edited(rename_output), "b.onnx")
    report = validate_models(*paths, settings=replace(ACCURACY, tolerance=Tolerance(max_drop=1.0, min_agreement=0.0)))
    assert report.classification is None
    assert [(g.name, g.value, g.passed) for g in report.gates[-2:]] == [("max_drop", None, False),
                                                                       ("min_agreement", None, False)]


def rename_input(graph):
    graph.input[0].name = graph.node[0].input[0] = "picture"


def change_input_dtype(graph):
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    graph.node.insert(0, onnx.helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.FLOAT))
    graph.node[1].input[0] = "wide"


def fix_batch(graph):
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(("edit", "codes"), [
    (rename_input, [("image", "missing_input"), ("picture", "extra_input")]),
    (change_input_dtype, [("image", "changed_input_dtype")]),
    (fix_batch, [("image", "changed_input_shape")]),
])
def test_a_model_that_takes_other_inputs_fails_without_being_run(stored, edit, codes):
    tolerance = Tolerance(max_drop=0.5, min_snr_db=10.0, min_speedup=1.0)
    report = validate_models(stored(network(), "a.onnx"), stored(edited(edit), "b.onnx"),
                             settings=ValidationSettings(benchmark=QUICK, tolerance=tolerance))
    assert [(m.name, m.code) for m in report.mismatches] == codes
    assert (report.outputs, report.classification, report.latency, report.images) == ((), None, None, 0)
    assert [g.name for g in report.gates if not g.passed] == ["interface", "max_drop", "min_snr_db", "min_speedup"]
    assert not report.accuracy_passed
    assert not report.latency_passed


def test_a_batch_axis_that_became_free_is_no_fault(stored):
    report = validate_models(stored(network(4), "a.onnx"), stored(network(), "b.onnx"), settings=ACCURACY)
    assert report.passed
    assert report.images == 32


def test_a_wrong_bias_shows_in_every_output_after_it(stored):
    bias = weights()["conv_b"].copy()
    bias[3] += 0.5
    paths = stored(network(), "a.onnx"), stored(network(conv_b=bias), "b.onnx")
    tolerance = Tolerance(min_snr_db=40.0)
    report = validate_models(*paths, dataset=Arrays(images()), settings=replace(ACCURACY, tolerance=tolerance))
    found, features = report.outputs
    assert features.max_abs == pytest.approx(0.5, abs=1e-5)  # float32 sums near 10
    assert features.mean_abs == pytest.approx(0.5 / 5, abs=1e-5)  # 1 of 5 channels
    assert 0 < found.snr_db < 40
    assert found.mean_abs > 0.01
    assert [g.name for g in report.gates if not g.passed] == ["min_snr_db"]
    assert report.mismatches == ()


def test_new_nan_fails_although_nothing_was_promised(stored):
    bias = weights()["head_b"].copy()
    bias[2] = np.nan
    report = validate_models(stored(network(), "a.onnx"), stored(network(head_b=bias), "b.onnx"),
                             dataset=Arrays(images()), settings=ACCURACY)
    assert gates(report)["finite"].value == 27.0
    assert [g.name for g in report.gates if not g.passed] == ["finite"]
    assert report.outputs[0].nan_count_new == report.classification.nonfinite_rewritten == 27
    assert report.outputs[0].snr_db == -math.inf


def test_nan_that_the_original_has_too_is_no_new_fault(stored):
    bias = weights()["head_b"].copy()
    bias[2] = np.nan
    path = stored(network(head_b=bias), "a.onnx")
    report = validate_models(path, path, settings=ACCURACY)
    assert report.passed
    assert report.outputs[0].nan_count_original == report.outputs[0].nan_count_rewritten == 8


def test_a_model_that_only_the_checker_refuses_fails(stored):
    nameless = edited(lambda graph: graph.ClearField("name"))  # onnxruntime does not mind
    good, bad = stored(network(), "a.onnx"), stored(nameless, "b.onnx")
    report = validate_models(good, bad, settings=ACCURACY)
    assert (report.checker.original_ok, report.checker.rewritten_ok) == (True, False)
    assert report.checker.message.startswith("rewritten: ")
    assert "name" in report.checker.message
    assert [g.name for g in report.gates if not g.passed] == ["checker"]
    both = validate_models(bad, bad, settings=ACCURACY)
    assert not both.checker.original_ok
    assert both.passed  # it was not rewriting that broke it
    assert validate_models(bad, good, settings=ACCURACY).passed


def test_the_checker_infers_shapes(stored):
    wrong = network()
    wrong.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES + 1
    found = check_models(stored(network(), "a.onnx"), stored(wrong, "b.onnx"))
    assert (found.original_ok, found.rewritten_ok) == (True, False)


def test_what_the_checker_prints_does_not_reach_standard_output(stored, capfd):
    old = onnx.parser.parse_model("""
        <ir_version: 3, opset_import: ["" : 7]>
        old (float[1, 3, 4, 5] x) => (float[1, 3, 4, 5] y) { y = ImageScaler <scale = 2.0, bias = [1.0, 2.0, 3.0]> (x) }
    """)
    path = stored(old, "old.onnx")
    check_models(path, path)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "experimental" in captured.err


# ---- what cannot be judged ----

def test_files_that_are_no_models(stored, tmp_path):
    good, broken = stored(network(), "a.onnx"), tmp_path / "broken.onnx"
    broken.write_bytes(b"\x00no model")
    for paths, match in (((good, broken), r"broken\.onnx"), ((tmp_path / "none.onnx", good), r"none\.onnx")):
        with pytest.raises(ModelError, match=match):
            validate_models(*paths, settings=ACCURACY)


def test_a_model_that_onnxruntime_cannot_load(stored):
    unknown = edited(lambda graph: graph.node[1].CopyFrom(
        onnx.helper.make_node("Whatever", ["features"], ["active"], domain="nowhere")))
    unknown.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    with pytest.raises(RuntimeFailure, match=r"b\.onnx: onnxruntime cannot load"):
        validate_models(stored(network(), "a.onnx"), stored(unknown, "b.onnx"), settings=ACCURACY)


@pytest.mark.parametrize(("dataset", "match"), [
    (Arrays(images(0)), "no samples"),
    (Arrays(images(3), np.array([1, 2])), "2 labels for 3 samples"),
    (Arrays(images(3), np.array([1, CLASSES, 2])), f"label {CLASSES}"),
])
def test_data_that_does_not_fit(stored, dataset, match):
    path = stored(network(), "a.onnx")
    with pytest.raises(DataError, match=match):
        validate_models(path, path, dataset=dataset, settings=ACCURACY)


OTHERS = """<ir_version: 9, opset_import: ["" : 17]>
    others (float[2, 3] x) => (string[2, 3] words, seq(float[2, 3]) parts, seq(float[2, 3]) none)
    <float bias = {BIAS}> {
        b = Add(x, bias)  words = Cast <to = 8> (b)  parts = SequenceConstruct(x, b)  none = SequenceEmpty() }"""


@pytest.mark.parametrize(("bias", "changed"), [("0", set()), ("0.5", {"words", "parts"})])
def test_sequences_and_texts_are_compared_too(stored, bias, changed):
    paths = [stored(onnx.parser.parse_model(OTHERS.replace("BIAS", b)), f"{k}.onnx") for k, b in enumerate(("0", bias))]
    report = validate_models(*paths, settings=ACCURACY)
    assert not report.mismatches
    assert {d.name for d in report.outputs} == {"words", "parts", "none"}
    assert {d.name for d in report.outputs if d.max_abs > 0} == changed


def test_every_kind_of_output_as_numbers():
    assert as_numbers(None).shape == (0,)
    np.testing.assert_array_equal(as_numbers([np.ones((2, 2)), [np.zeros(1)], None]), [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(as_numbers({2: 0.5, 1: 0.25}), [1, 0.25, 2, 0.5])  # key, value, key, value
    same, other = as_numbers(np.array(["a", "b"], object)), as_numbers(np.array(["a", "c"], object))
    assert same[0] == other[0]
    assert same[1] != other[1]


# ---- sizes ----

def test_external_data_counts_for_the_size(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save_model(network(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    data = tmp_path / "net.data"
    assert data.stat().st_size > 0
    assert model_bytes(path) == path.stat().st_size + data.stat().st_size
    assert validate_models(path, path, settings=ACCURACY).size_rewritten_bytes == model_bytes(path)
    data.unlink()
    with pytest.raises(ModelError, match=r"net\.data"):
        model_bytes(path)
