"""Promises, and warnings that the figures behind a kept promise may mean nothing."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.benchmark import Latency, LatencyComparison
from onnxslim1x1.runtime.compare import Classification, OutputDiff
from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.evidence import Figure, Footprint
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import create_session, input_specs
from onnxslim1x1.runtime.validate import ValidationSettings, validate_models
from onnxslim1x1.runtime.verdict import Bound, CheckResult, Tolerance, ValidationReport, judge, require_figures

SAMPLES = Path(__file__).parents[2] / "sample_models"


def classified(hits, images, classes):
    """Agreement of two models of which the original gets `hits` images right; None: without labels."""
    top1 = None if hits is None else hits / images
    return Classification(
        output="logits", images=images, classes=classes, agreement=1.0, kl=0.0, top1_original=top1,
        top1_rewritten=top1, top1_drop=None if top1 is None else 0.0, top5_original=None, top5_rewritten=None,
        nonfinite_original=0, nonfinite_rewritten=0)


def difference(name="logits", broken=0):
    return OutputDiff(
        name=name, shape=(1, 7), dtype="float32", max_abs=0.0, mean_abs=0.0, max_rel=0.0, mean_rel=0.0, cosine=1.0,
        snr_db=math.inf, nan_count_original=broken, nan_count_rewritten=broken, nan_count_new=0)


SAME = (difference(),)


def report(classification=None, outputs=SAME, **changes):
    return ValidationReport(
        checker=CheckResult(original_ok=True, rewritten_ok=True, message=""), mismatches=(), outputs=outputs,
        classification=classification, latencies=(), size_original_bytes=2, size_rewritten_bytes=1, images=27,
        data="d", **changes)


@pytest.mark.parametrize("wrong", [
    {"max_drop": -0.01}, {"max_drop": 1.5}, {"max_drop": math.nan}, {"min_agreement": 99.0},
    {"min_snr_db": math.inf}, {"min_speedup": 0.0}, {"min_speedup": math.inf},
])
def test_tolerances_without_sense_are_refused(wrong):
    with pytest.raises(OptionError, match="--m"):
        Tolerance(**wrong)


@pytest.mark.parametrize("text", ["psnr_db", "psnr_db=40", "psnr_db>40", ">=40", "a b>=1", "kl<=", "kl<=nan", "kl<=x",
                                  "kl<=inf"])
def test_bounds_without_sense_are_refused(text):
    with pytest.raises(OptionError, match=f"--gate '{text}': expected the name of a figure, >= or <=, and a number"):
        Bound.parse(text)


def figure(name, value, low=None, high=None, output="y"):
    return Figure(name=name, output=output, unit="", better="higher", original=None, rewritten=None, value=value,
                  low=low, high=high, confidence=0.95, p_value=None, images=9)


FIGURES = (figure("ssim", 0.7, 0.6, 0.8), figure("ssim", 0.9, 0.5, 0.95, "z"), figure("kl", 0.2, 0.1, 0.3),
           figure("mine", 3.0), figure("half", 1.0, 0.9, 1.1), figure("half", 1.0, None, None, "z"))


@pytest.mark.parametrize(("text", "confidence", "value", "passed"), [
    ("ssim>=0.7", None, 0.7, True), ("ssim >= 0.71", None, 0.7, False),  # of two outputs the worst counts
    ("ssim<=0.9", None, 0.9, True), ("ssim<=0.89", None, 0.9, False),
    ("ssim>=0.5", 0.95, 0.5, True), ("ssim>=0.51", 0.95, 0.5, False), ("ssim<=0.94", 0.95, 0.95, False),
    ("kl<=2e-1", None, 0.2, True), ("kl<=0.25", 0.95, 0.3, False), ("mine>=-1", None, 3.0, True),
    ("mine>=-1", 0.95, None, False), ("half>=0.5", 0.95, None, False),  # without an interval nothing is promised
])
def test_any_figure_can_be_a_gate(text, confidence, value, passed):
    bound = Bound.parse(text)
    found = replace(report(), figures=FIGURES)
    *standing, gate = judge(found, Tolerance(figures=(bound,), confidence=confidence))
    assert [g.name for g in standing] == ["checker", "interface", "finite"]
    assert (gate.value, gate.passed, gate.confidence, gate.kind) == (value, passed, confidence, "accuracy")
    assert gate.name == f"{'min' if '>' in text else 'max'}_{bound.figure}"
    assert Bound.parse(str(bound)) == bound


def test_a_figure_that_is_not_there_is_named():
    require_figures(Tolerance(figures=(Bound.parse("kl<=1"), Bound.parse("mine>=0"))), FIGURES)
    with pytest.raises(OptionError, match="--gate 'sim>=0.5': this comparison has no figure sim; did you mean ssim"
                                          r"\? It has ssim, kl, mine, half; "):
        require_figures(Tolerance(figures=(Bound.parse("kl<=1"), Bound.parse("sim>=0.5"))), FIGURES)


def compared(speedup, **changes):
    one = Latency(median_s=1.0, p10_s=1.0, p90_s=1.0, runs=9, provider="CPUExecutionProvider", threads=1)
    return LatencyComparison(original=one, rewritten=one, speedup=speedup, speedup_low=0.9 * speedup,
                             speedup_high=1.1 * speedup, noise_low=0.99, noise_high=1.01, **changes)


@pytest.mark.parametrize(("bound", "passed"), [(1.2, True), (1.21, False)])
def test_the_speedup_is_promised_for_all_threads_and_batch_sizes(bound, passed):
    found = replace(report(), latencies=(compared(1.5), compared(1.2), compared(1.9)))
    gate, = (g for g in judge(found, Tolerance(min_speedup=bound)) if g.name == "min_speedup")
    assert (gate.value, gate.passed, gate.kind) == (1.2, passed, "latency")


def test_a_speedup_that_was_not_measured_is_not_reached():
    gate, = (g for g in judge(report(), Tolerance(min_speedup=1.0)) if g.name == "min_speedup")
    assert (gate.value, gate.passed) == (None, False)


def test_what_may_fool_a_latency_is_warned_of():
    slow, usual = (Footprint(load_s=0.1, arena_bytes=1, resident_bytes=1, file_bytes=1, denormal_slowdown=x)
                   for x in (2.5, 1.0))
    found = replace(report(), latencies=(compared(1.5, cpus=4), ), footprints=(slow, usual))
    line, = found.warnings
    assert line.startswith("denormal numbers make the original model 2.5 times slower")
    crowded = replace(found, footprints=None, latencies=(replace(found.latencies[0], original=replace(
        found.latencies[0].original, threads=8)),))
    line, = crowded.warnings
    assert line.startswith("8 threads share the 4 processors")


# ---- the original against chance ----

def test_two_models_near_chance_keep_their_promise_but_are_warned_of():
    both = report(classified(58, 450, 10))
    assert [g.passed for g in judge(both, Tolerance(max_drop=0.01))] == [True] * 4
    assert both.warnings == ("the original's top-1 of 12.9 % is hardly better than chance (10 %): "
                             "check --preprocess, --channel-order and --labels",)
    assert "top-1 of 0.2 % is hardly better than chance (0.1 %)" in report(classified(1, 500, 1000)).warnings[0]


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("images", [2, 5, 20, 450])
def test_hits_that_a_guesser_would_get_are_no_evidence(images, classes):
    for hits in range(images):
        guessed = binomtest(hits, images, 1 / classes, alternative="greater").pvalue > 0.01
        close = (hits / images - 1 / classes) / (1 - 1 / classes) < 0.1
        assert bool(report(classified(hits, images, classes)).warnings) == (guessed or close), hits


@pytest.mark.parametrize(("hits", "images", "classes", "warned"), [
    (0, 1, 10, True), (0, 10_000, 2, True), (1300, 10_000, 10, True),  # many images prove even a useless 13 %
    (1, 1, 2, False), (5, 5, 2, False), (450, 450, 10, False),  # nothing can be better
    (10, 20, 2, True), (15, 20, 2, True), (16, 20, 2, False),  # P(15 or more of 20) = 2 %, of 16 0.6 %
    (254, 450, 10, False), (5200, 10_000, 2, True), (5600, 10_000, 2, False), (120, 1000, 1000, False),
])
def test_near_chance(hits, images, classes, warned):
    assert bool(report(classified(hits, images, classes)).warnings) is warned


def test_without_labels_or_classes_chance_is_no_matter():
    assert report(classified(None, 20, 10)).warnings == ()
    assert report().warnings == ()


@pytest.mark.parametrize(("changes", "warned"), [
    ({}, False), ({"mean": 0.5}, True), ({"mean": 0.5, "std": 0.25}, True),
])
def test_wrong_preprocessing_of_the_sample_model_is_warned_of(changes, warned):
    model = SAMPLES / "digits_googlenet.onnx"
    data = load_dataset(SAMPLES / "digits_evaluation.npz", preprocess=preprocess("unit", **changes),
                        inputs=input_specs(create_session(model)), limit=90)
    settings = ValidationSettings(measure_latency=False, tolerance=Tolerance(max_drop=0.0))
    found = validate_models(model, model, dataset=data, settings=settings)
    assert found.passed
    assert ["hardly better than chance" in line for line in found.warnings] == [True] * warned


# ---- other doubts ----

def test_values_that_were_left_out_are_warned_of():
    outputs = (difference("a", 3), difference("b"), difference("c", 1))
    assert report(outputs=outputs).warnings == (
        "the original gives NaN or infinite values (a, c), which were left out: "
        "check what it is fed (--data, --preprocess)",)


def test_random_inputs_are_warned_of_where_outputs_were_compared():
    assert report(random_inputs=True).warnings == (
        "outputs were compared on random inputs, which says little about real ones: give --data",)
    assert report(random_inputs=True, outputs=()).warnings == ()
    model = SAMPLES / "digits_googlenet.onnx"
    found = validate_models(model, model, settings=ValidationSettings(measure_latency=False, random_runs=1))
    assert found.random_inputs
    assert len(found.warnings) == 1


def test_doubts_add_up_in_one_line_each():
    found = report(classified(0, 9, 7), (difference(broken=9),), random_inputs=True).warnings
    assert len(found) == 3
    assert not any("\n" in line for line in found)
