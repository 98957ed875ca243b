"""What every metric keeps to, and each of them against its definition."""

import math
import sys
import tracemalloc
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest

from onnxslim1x1.runtime.boxes import BoxMetric, Raw, find_raw, iou, matched
from onnxslim1x1.runtime.compare import ClassificationAccumulator, DiffAccumulator
from onnxslim1x1.runtime.custom_metric import CustomMetric
from onnxslim1x1.runtime.image_metrics import ImageMetric, MaskMetric, has_ssim, peak
from onnxslim1x1.runtime.metrics import Batch, ClassMetric, SignalMetric
from onnxslim1x1.runtime.series import figure

RNG = np.random.default_rng(17)
LABELS = RNG.integers(0, 7, 60)


def scores(rng):
    values = rng.standard_normal((60, 7))
    values[np.arange(60), LABELS] += 2.0
    return {"y": values.astype(np.float32)}


def pictures(rng):
    return {"y": rng.random((60, 3, 16, 13)).astype(np.float32)}


def maps(rng):
    return {"y": rng.standard_normal((60, 5, 9, 8)).astype(np.float32)}


def detections(rng):
    low = rng.random((60, 20, 2))
    boxes = np.concatenate([low, low + 0.1 + rng.random((60, 20, 2))], axis=2)
    return {"boxes": boxes.astype(np.float32), "y": rng.random((60, 20, 3)).astype(np.float32)}


def distance(original, rewritten, _labels):
    return np.abs(original["y"] - rewritten["y"]).reshape(len(original["y"]), -1).mean(axis=1)


distance.better = "lower"

METRICS = {
    "classes": (lambda: ClassMetric("y"), scores),
    "signal": (lambda: SignalMetric("y", ("rel_error", "cosine", "si_sdr_db")), pictures),
    "images": (lambda: ImageMetric("y", ssim=has_ssim()), pictures),
    "masks": (lambda: MaskMetric("y"), maps),
    "boxes": (lambda: BoxMetric(Raw(scores="y", boxes="boxes", kind="apart")), detections),
    "custom": (lambda: CustomMetric("mine:distance", distance), pictures),
}
PERFECT = {"top1": 0.0, "top5": 0.0, "ece": 0.0, "agreement": 1.0, "kl": 0.0, "snr_db": math.inf, "rel_error": 0.0,
           "cosine": 1.0, "si_sdr_db": math.inf, "psnr_db": math.inf, "ssim": 1.0, "mask_iou": 1.0,
           "pixel_agreement": 1.0, "topk_box_agreement": 1.0, "box_iou": 1.0, "distance": 0.0}


def changed(outputs, amount):
    """The same noise, more or less of it."""
    rng = np.random.default_rng(23)
    return {n: (v + amount * rng.standard_normal(v.shape)).astype(v.dtype) for n, v in outputs.items()}


def measured(name, original, rewritten, sizes=(60,)):
    """Figures by name when the images come in batches of these sizes."""
    metric = METRICS[name][0]()
    edges = np.cumsum((0, *sizes))
    for a, b in pairwise(edges):
        metric.add(Batch(original={n: v[a:b] for n, v in original.items()},
                         rewritten={n: v[a:b] for n, v in rewritten.items()}, rows=b - a, labels=LABELS[a:b]))
    return {s.name: figure(s, confidence=0.95) for s in metric.series()}


each = pytest.mark.parametrize("name", METRICS)


@each
def test_identical_models_are_perfect(name):
    outputs = METRICS[name][1](np.random.default_rng(1))
    found = measured(name, outputs, outputs)
    assert found
    assert {n: f.value for n, f in found.items()} == {n: pytest.approx(PERFECT[n], abs=1e-12) for n in found}


@each
def test_batches_do_not_matter(name):
    outputs = METRICS[name][1](np.random.default_rng(2))
    one, many = (measured(name, outputs, changed(outputs, 0.3), sizes) for sizes in ((60,), (1, 16, 3, 40)))
    for n, whole in one.items():
        assert many[n].value == pytest.approx(whole.value, rel=1e-9)
        assert (many[n].low, many[n].high) == (pytest.approx(whole.low, rel=1e-9), pytest.approx(whole.high, rel=1e-9))
        assert many[n].images == whole.images == 60


@each
def test_more_noise_is_worse(name):
    outputs = METRICS[name][1](np.random.default_rng(3))
    little, much = (measured(name, outputs, changed(outputs, amount)) for amount in (0.05, 0.8))
    assert little.keys() == much.keys() <= PERFECT.keys()
    for n, before in little.items():
        worse = before.value - much[n].value
        if n not in ("ece", "top1", "top5"):  # noise may help with a label, and make a network better calibrated
            assert (worse if before.better == "higher" else -worse) > 0, n


@each
def test_intervals_hold_their_figure(name):
    outputs = METRICS[name][1](np.random.default_rng(4))
    for found in measured(name, outputs, changed(outputs, 0.3)).values():
        assert found.low <= found.value <= found.high or found.name in ("ece", "ece_to_original")


@each
def test_a_broken_image_makes_figures_worse_and_raises_nothing(name):
    outputs = METRICS[name][1](np.random.default_rng(5))
    fine, broken = changed(outputs, 0.02), changed(outputs, 0.02)
    broken["y"][7] = math.nan
    if name == "custom":  # the function of a user must give numbers
        return
    before, after = measured(name, outputs, fine), measured(name, outputs, broken)
    for n in before.keys() - {"kl", "ece", "box_iou"}:
        worse = before[n].value - after[n].value
        assert (worse if before[n].better == "higher" else -worse) >= 0, n
    assert any(before[n].value != after[n].value for n in before.keys() - {"kl", "ece"})


@each
def test_an_output_that_is_gone_has_no_figures(name):
    if name == "custom":
        return
    metric = METRICS[name][0]()
    metric.add(Batch(original=METRICS[name][1](RNG), rewritten={}, rows=60))
    assert metric.series() == ()


@each
def test_memory_does_not_hold_the_outputs(name):
    outputs = METRICS[name][1](np.random.default_rng(6))
    other, metric = changed(outputs, 0.3), METRICS[name][0]()
    batch = Batch(original=outputs, rewritten=other, rows=60, labels=LABELS)
    metric.add(batch)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            metric.add(batch)
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept / 20 < 60 * 8 * 12 + 4000  # a dozen numbers per image


# classes


def test_classes_agree_with_the_sums():
    original, rewritten = scores(np.random.default_rng(7)), changed(scores(np.random.default_rng(7)), 0.7)
    sums = ClassificationAccumulator("y")
    sums.add(original["y"], rewritten["y"], LABELS)
    expected, found = sums.result(), measured("classes", original, rewritten)
    assert found["top1"].value == pytest.approx(-expected.top1_drop)
    assert (found["top1"].original, found["top1"].rewritten) == (expected.top1_original, expected.top1_rewritten)
    assert (found["top5"].original, found["top5"].rewritten) == (expected.top5_original, expected.top5_rewritten)
    assert found["agreement"].value == expected.agreement
    assert found["kl"].value == pytest.approx(expected.kl)
    assert found["top1"].p_value is not None
    assert found["agreement"].p_value is None


def test_without_labels_the_original_is_the_reference():
    metric = ClassMetric("y")
    metric.add(Batch(original=scores(RNG), rewritten=scores(RNG), rows=60))
    assert [s.name for s in metric.series()] == ["agreement", "kl", "ece_to_original"]


def test_calibration_error_with_labels_is_that_of_each_model():
    sure = np.array([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
    metric = ClassMetric("y")
    metric.add(Batch(original={"y": sure}, rewritten={"y": sure / 9 * math.log(3)}, rows=4,
                     labels=np.array([0, 0, 0, 1])))
    found = {s.name: figure(s, confidence=0.95) for s in metric.series()}
    assert "top5" not in found
    assert found["ece"].original == pytest.approx(1 / (1 + math.exp(-9)) - 0.75)
    assert found["ece"].rewritten == pytest.approx(0.0, abs=1e-12)  # 3 : 1, and right 3 times of 4


# signals


def test_signals_agree_with_the_differences():
    original, rewritten = pictures(np.random.default_rng(8)), changed(pictures(np.random.default_rng(8)), 0.2)
    sums = DiffAccumulator("y")
    sums.add(original["y"], rewritten["y"])
    found = measured("signal", original, rewritten)
    assert found["snr_db"].value == pytest.approx(sums.result().snr_db)
    assert found["cosine"].value == pytest.approx(sums.result().cosine)
    assert found["rel_error"].value == pytest.approx(10 ** (-sums.result().snr_db / 20))


def test_a_louder_sound_is_the_same_sound():
    sound = RNG.standard_normal((5, 2000))
    metric = SignalMetric("y", ("si_sdr_db",))
    metric.add(Batch(original={"y": sound}, rewritten={"y": 1.7 * sound}, rows=5))
    snr, scaled = metric.series()
    assert figure(snr, confidence=0.95).value == pytest.approx(-20 * math.log10(0.7))
    assert figure(scaled, confidence=0.95).value == math.inf


def test_scale_invariant_distortion_by_hand():
    metric = SignalMetric("y", ("si_sdr_db",))  # y' = 2 y + e, e orthogonal to y
    metric.add(Batch(original={"y": np.array([[3.0, 4.0], [3.0, 4.0]])},
                     rewritten={"y": np.array([[6.0 - 0.8, 8.0 + 0.6], [6.0 + 0.8, 8.0 - 0.6]])}, rows=2))
    assert figure(metric.series()[1], confidence=0.95).value == pytest.approx(10 * math.log10(100 / 1))


def test_what_the_original_lacks_is_left_out_of_a_signal():
    metric = SignalMetric("y")
    metric.add(Batch(original={"y": np.array([[3.0, math.nan, 4.0]])},
                     rewritten={"y": np.array([[3.0, 1.0, 4.5]])}, rows=1))
    assert figure(metric.series()[0], confidence=0.95).value == pytest.approx(20.0)


def test_an_output_without_images_is_one_sample_per_run():
    metric = SignalMetric("y")
    for _ in range(3):
        metric.add(Batch(original={"y": np.array([1.0, 2.0])}, rewritten={"y": np.array([1.0, 2.2])}, rows=16))
    assert figure(metric.series()[0], confidence=0.95).images == 3


# pictures


@pytest.mark.parametrize(("low", "high", "span"), [(0.0, 1.0, 1.0), (-0.1, 1.2, 1.0), (-0.9, 0.9, 2.0),
                                                   (0.0, 255.0, 255.0), (-31.0, 290.0, 255.0), (-900.0, 900.0, 1800.0)])
def test_the_peak_is_that_of_the_kind_of_picture(low, high, span):
    assert peak(np.array([low, high, math.nan])) == span


@pytest.mark.parametrize("axis", [1, 3])
def test_pictures_agree_with_scikit_image(axis):
    metrics = pytest.importorskip("skimage.metrics")
    old = 255 * RNG.random((3, 24, 17, 3))
    new = old + 9 * RNG.standard_normal(old.shape)
    metric, (a, b) = ImageMetric("y", ssim=True), (np.moveaxis(x, 3, axis) for x in (old, new))
    metric.add(Batch(original={"y": a}, rewritten={"y": b}, rows=3))
    psnr, ssim = (figure(s, confidence=0.95).value for s in metric.series())
    assert psnr == pytest.approx(metrics.peak_signal_noise_ratio(old, new, data_range=255))
    assert ssim == pytest.approx(np.mean([metrics.structural_similarity(
        x, y, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for x, y in zip(old, new, strict=True)]))


def test_small_pictures_have_no_similarity():
    small = {"y": RNG.random((2, 3, 10, 30))}
    metric = ImageMetric("y", ssim=has_ssim())
    metric.add(Batch(original=small, rewritten=small, rows=2))
    assert [s.name for s in metric.series()] == ["psnr_db"]


def masked(old, new):
    metric = MaskMetric("y")
    metric.add(Batch(original={"y": np.asarray(old)}, rewritten={"y": np.asarray(new)}, rows=len(old)))
    return {s.name: figure(s, confidence=0.95).value for s in metric.series()}


def test_overlap_of_masks_by_hand():
    # classes 0, 1 and 2; class 5 in neither
    found = masked([[[0, 0, 1], [2, 2, 1]]], [[[0, 1, 1], [2, 2, 1]]])
    assert found == {"mask_iou": pytest.approx((1 / 2 + 2 / 3 + 1) / 3), "pixel_agreement": pytest.approx(5 / 6)}


@pytest.mark.parametrize(("low", "high"), [(-3.0, 2.0), (0.1, 0.7)])
def test_a_single_channel_is_a_mask_by_its_sign_or_by_half(low, high):
    old = np.where([[[[True, True, False, False]]]], high, low)
    new = np.where([[[[True, False, True, False]]]], high, low)
    assert masked(old, new) == {"mask_iou": pytest.approx(1 / 3), "pixel_agreement": 0.5}


def test_two_empty_masks_are_the_same():
    assert masked(np.full((1, 1, 3, 3), -1.0), np.full((1, 1, 3, 3), -2.0))["mask_iou"] == 1.0


# boxes


def test_overlap_of_boxes_by_hand():
    found = iou(np.array([[0, 0, 2, 2.0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]),
                np.array([[1, 0, 3, 2.0], [2, 2, 3, 3], [math.nan, 0, 1, 1], [0, 0, 0, 0]]))
    assert found == pytest.approx([1 / 3, 0, 0, 0])


def test_each_box_belongs_to_one_at_most():
    assert matched(np.array([[True, True], [True, False], [True, False]])) == 2


def test_the_background_is_no_box():
    """Ultra-light face detectors: two classes, the first of which means nothing is there."""
    face = np.linspace(0.01, 0.99, 40)
    face[:25] = 0.01
    places = np.stack([np.stack([1 - face, face], axis=1)])
    corners = np.concatenate([np.arange(80.0).reshape(40, 2), np.arange(80.0).reshape(40, 2) + 5], axis=1)[None]
    other = places.copy()
    other[0, 30:, 1] = 0.0  # the ten best are lost; five worse ones are left
    other[0, 30:, 0] = 0.98
    metric = BoxMetric(Raw(scores="s", boxes="b", kind="apart"))
    metric.add(Batch(original={"s": places, "b": corners}, rewritten={"s": other, "b": corners}, rows=1))
    agreement, overlap = (figure(s, confidence=0.95).value for s in metric.series())
    assert agreement < 0.5
    assert overlap == 1.0  # the boxes themselves did not move


@pytest.mark.parametrize("kind", ["apart", "rows", "columns"])
def test_formats_of_detectors_are_the_same_boxes(kind):
    rng = np.random.default_rng(9)
    centre, size = rng.random((1, 105, 2)) * 500, np.full((1, 105, 2), 4.0)
    classes = rng.random((1, 105, 3))
    boxes, moved = (np.concatenate([centre + by, size], axis=2) for by in (0.0, 1.0))

    def outputs(where):
        if kind == "apart":
            return {"s": classes, "b": where}
        if kind == "rows":
            return {"o": np.concatenate([where, np.ones((1, 105, 1)), classes], axis=2)}
        return {"o": np.concatenate([where, classes], axis=2).transpose(0, 2, 1)}

    raw = find_raw({n: v.shape for n, v in outputs(boxes).items()})
    assert raw is not None
    assert raw.kind == kind
    metric = BoxMetric(raw)
    metric.add(Batch(original=outputs(boxes), rewritten=outputs(moved), rows=1))
    agreement, overlap = (figure(s, confidence=0.95).value for s in metric.series())
    assert overlap == pytest.approx(9 / 23)  # 3 x 3 of two 4 x 4
    assert agreement == pytest.approx(0.0, abs=0.3)  # below a half, save where another box lies there


# of the user


@pytest.fixture
def module(monkeypatch):
    made = ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", made)
    return made


def test_a_pair_of_arrays_is_a_figure_of_each_model():
    metric = CustomMetric("mine:hits", lambda a, b, labels: (a["y"] == labels, b["y"] == labels))
    metric.add(Batch(original={"y": np.array([1, 2, 3])}, rewritten={"y": np.array([1, 2, 4])}, rows=3,
                     labels=np.array([1, 2, 3])))
    found = figure(metric.series()[0], confidence=0.95)
    assert (found.name, found.original, found.better) == ("hits", 1.0, "higher")
    assert found.value == pytest.approx(-1 / 3)
