"""Figures of whole validations of real models under onnxruntime; gates on the worse end of an interval."""

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime.accuracy import AccuracySettings
from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import create_session, input_specs
from onnxslim1x1.runtime.validate import Tolerance, ValidationSettings, validate_models

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 3, 8, 6] image) => (float[N, 5] logits) {
  features = Conv <pads = [1, 1, 1, 1]> (image, conv_w)
  active = Relu(features)
  pooled = GlobalAveragePool(active)
  flat = Flatten(pooled)
  logits = Gemm <transB = 1> (flat, head_w, head_b)
}"""
PICTURE = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 3, 16, 18] image) => (float[N, 3, 16, 18] styled) {
  styled = Conv <pads = [1, 1, 1, 1]> (image, conv_w)
}"""
SHAPES = {"conv_w": (12, 3, 3, 3), "head_w": (5, 12), "head_b": (5,)}
IMAGES = 90


def model(folder, name, noise=0.0, text=TEXT, **shapes):
    rng, other = np.random.default_rng(2), np.random.default_rng(3)
    proto = onnx.parser.parse_model(text)
    for key, shape in (shapes or SHAPES).items():
        values = rng.standard_normal(shape) + noise * other.standard_normal(shape)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), key))
    onnx.save(proto, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("accuracy")
    model(place, "a.onnx")
    model(place, "b.onnx", noise=0.1)
    images = np.random.default_rng(4).integers(0, 256, (IMAGES, 8, 6, 3), np.uint8)
    images[:, :, :, 0] //= np.arange(1, IMAGES + 1, dtype=np.uint8)[:, None, None] % 7 + 1
    np.savez(place / "plain.npz", images=images)
    data = load(place, "plain.npz")
    scores = create_session(place / "a.onnx").run(None, {"image": np.concatenate(
        [b["image"] for b in data.batches(16)])})[0]
    labels = np.where(np.arange(IMAGES) % 6 == 0, (scores.argmax(axis=1) + 1) % 5, scores.argmax(axis=1))
    np.savez(place / "labelled.npz", images=images, labels=labels)
    return place


def load(place, name, path="a.onnx"):
    return load_dataset(place / name, preprocess=preprocess("unit"), inputs=input_specs(create_session(place / path)))


def validated(folder, name="labelled.npz", rewritten="b.onnx", accuracy=None, **tolerance):
    settings = ValidationSettings(measure_latency=False, tolerance=Tolerance(**tolerance),
                                  accuracy=accuracy or AccuracySettings(worst=3))
    data = None if name is None else load(folder, name)
    return validate_models(folder / "a.onnx", folder / rewritten, dataset=data, settings=settings)


def by_name(report):
    return {one.name: one for one in report.figures}


def gates(report):
    return {gate.name: gate for gate in report.gates}


def test_figures_agree_with_the_classification(folder):
    report = validated(folder)
    found, classes = by_name(report), report.classification
    assert list(found) == ["top1", "ece", "agreement", "kl", "snr_db"]
    assert (report.task, report.task_reason) == ("classification", "output logits has one score for each class")
    assert found["top1"].value == pytest.approx(-classes.top1_drop)
    assert found["agreement"].value == classes.agreement
    assert found["kl"].value == pytest.approx(classes.kl)
    assert found["snr_db"].value == pytest.approx(report.outputs[0].snr_db)
    assert {f.images for f in report.figures} == {IMAGES}
    assert {f.confidence for f in report.figures} == {0.95}
    assert all(f.low < f.high for f in report.figures)


def test_gates_are_judged_by_figures_without_a_confidence(folder):
    report = validated(folder, max_drop=0.5, min_agreement=0.1, min_snr_db=1.0)
    assert gates(report)["max_drop"].value == pytest.approx(report.classification.top1_drop)
    assert {gates(report)[n].confidence for n in ("max_drop", "min_agreement", "min_snr_db")} == {None}


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_gates_are_judged_by_the_worse_end_with_one(folder, confidence):
    report = validated(folder, max_drop=0.5, min_agreement=0.1, min_snr_db=1.0, confidence=confidence)
    found = by_name(report)
    assert gates(report)["max_drop"].value == -found["top1"].low > -found["top1"].value
    assert gates(report)["min_agreement"].value == found["agreement"].low < found["agreement"].value
    assert gates(report)["min_snr_db"].value == found["snr_db"].low < found["snr_db"].value
    assert {gates(report)[n].confidence for n in ("max_drop", "min_agreement", "min_snr_db")} == {confidence}
    assert gates(report)["finite"].confidence is None


def test_a_bound_between_figure_and_end_tells_them_apart(folder):
    top1 = by_name(validated(folder))["top1"]
    bound = (-top1.value - top1.low) / 2
    assert validated(folder, max_drop=bound).passed
    assert not validated(folder, max_drop=bound, confidence=0.95).passed


def test_without_labels_a_drop_is_what_disagrees(folder):
    report = validated(folder, "plain.npz", max_drop=0.5, confidence=0.9)
    assert gates(report)["max_drop"].value == pytest.approx(1.0 - by_name(report)["agreement"].low)
    assert list(by_name(report)) == ["agreement", "kl", "ece_to_original", "snr_db"]


def test_one_image_promises_nothing_with_confidence(folder):
    one = load(folder, "plain.npz").subset([5])
    settings = ValidationSettings(measure_latency=False, tolerance=Tolerance(min_snr_db=-100.0, confidence=0.95))
    report = validate_models(folder / "a.onnx", folder / "b.onnx", dataset=one, settings=settings)
    assert gates(report)["min_snr_db"].value is None
    assert not report.passed


def test_identical_models_keep_every_promise_with_confidence(folder):
    report = validated(folder, rewritten="a.onnx", min_snr_db=200.0, max_drop=0.05, confidence=0.95)
    assert report.passed
    assert gates(report)["min_snr_db"].value == math.inf


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, 95.0])
def test_no_confidence(confidence):
    with pytest.raises(OptionError, match=r"--confidence .*0\.95 is usual"):
        Tolerance(confidence=confidence)


def test_the_worst_images_have_the_largest_loss(folder):
    report = validated(folder, accuracy=AccuracySettings(worst=IMAGES))
    losses = [one.loss for one in report.worst]
    assert losses == sorted(losses, reverse=True)
    assert float(np.sum(losses)) / IMAGES == pytest.approx(report.classification.kl)
    few = validated(folder, accuracy=AccuracySettings(worst=3)).worst
    assert few == report.worst[:3]
    assert {one.measure for one in few} == {"kl"}
    assert all("labelled" in one.note and "class" in one.note for one in few)


def test_the_worst_images_of_other_outputs(folder):
    report = validated(folder, accuracy=AccuracySettings(worst=2, task="regression"), min_snr_db=3.0)
    assert [one.measure for one in report.worst] == ["rel_error", "rel_error"]
    assert report.classification is None
    assert list(by_name(report)) == ["snr_db", "rel_error"]
    data = load(folder, "labelled.npz")
    feeds = {"image": np.concatenate([b["image"] for b in data.batches(16)])}
    old, new = (create_session(folder / n).run(None, feeds)[0].astype(np.float64) for n in ("a.onnx", "b.onnx"))
    errors = np.linalg.norm(new - old, axis=1) / np.linalg.norm(old, axis=1)
    assert [one.index for one in report.worst] == np.argsort(-errors)[:2].tolist()
    assert report.worst[0].loss == pytest.approx(errors.max(), rel=1e-5)


def test_identical_models_have_no_worst_images(folder):
    assert validated(folder, rewritten="a.onnx").worst == ()


def test_classes_cannot_be_promised_of_what_is_judged_as_numbers(folder):
    with pytest.raises(OptionError, match="--max-drop"):
        validated(folder, accuracy=AccuracySettings(task="regression"), max_drop=0.1)


def test_pictures_are_judged_as_such(tmp_path):
    model(tmp_path, "a.onnx", text=PICTURE, conv_w=(3, 3, 3, 3))
    model(tmp_path, "b.onnx", noise=0.01, text=PICTURE, conv_w=(3, 3, 3, 3))
    np.savez(tmp_path / "d.npz", images=np.random.default_rng(4).integers(0, 256, (9, 16, 18, 3), np.uint8))
    report = validated(tmp_path, "d.npz")
    assert report.task == "image"
    assert by_name(report)["psnr_db"].value > 20
    assert ("ssim" in by_name(report)) != bool(report.notes)


def test_random_inputs_have_figures_too(folder):
    report = validated(folder, None)
    assert by_name(report)["snr_db"].images == 8


def test_metrics_of_the_user_come_last(folder, tmp_path, monkeypatch):
    (tmp_path / "accuracy_test_metrics.py").write_text(
        "import numpy as np\ndef largest(a, b, labels):\n    return np.abs(a['logits'] - b['logits']).max(axis=1)\n")
    monkeypatch.chdir(tmp_path)
    report = validated(folder, accuracy=AccuracySettings(metrics=("accuracy_test_metrics:largest",)))
    assert report.figures[-1].name == "largest"
    assert 0 < report.figures[-1].value <= report.outputs[0].max_abs


@pytest.mark.parametrize("changes", [{"task": "classify"}, {"worst": -1}, {"worst": 10**6}])
def test_settings_that_make_no_sense(changes):
    with pytest.raises(OptionError):
        AccuracySettings(**changes)


def test_labels_outside_of_the_classes_are_no_data(folder):
    data = load(folder, "labelled.npz")
    wrong = replace(data, labels=np.full(IMAGES, 5))
    with pytest.raises(DataError, match="label 5"):
        validate_models(folder / "a.onnx", folder / "b.onnx", dataset=wrong,
                        settings=ValidationSettings(measure_latency=False))
