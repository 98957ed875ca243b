"""Findings as sentences: the direction of a change, its interval, and what is no number."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim1x1.report.words import (
    excess_words,
    figure_words,
    gate_words,
    growth_words,
    interval_text,
    known,
    label,
    setting,
    snr,
)
from onnxslim1x1.runtime.compare import OutputDiff
from onnxslim1x1.runtime.evidence import Figure, LayerError, Shifted
from onnxslim1x1.runtime.verdict import Gate

DRAWN = settings(derandomize=True, deadline=None, database=None, max_examples=100)


def figure(name="top1", value=-0.004, low=-0.007, high=-0.001, **changes):
    values = {"name": name, "output": "y", "unit": "", "better": "higher", "original": 0.8, "rewritten": 0.8 + value,
              "value": value, "low": low, "high": high, "confidence": 0.95, "p_value": None, "images": 4000}
    return Figure(**(values | changes))


@pytest.mark.parametrize(("found", "words"), [
    (figure(), "drop 0.40 points, 95 % interval 0.10 to 0.70, 4,000 images"),
    (figure(p_value=0.00931), "drop 0.40 points, 95 % interval 0.10 to 0.70, 4,000 images, p = 0.0093"),
    (figure(value=0.002, low=-0.001, high=0.005), "gain 0.20 points, 95 % interval -0.10 to 0.50, 4,000 images"),
    (figure(value=0.0, low=-0.001, high=0.002), "drop 0.00 points, 95 % interval -0.20 to 0.10, 4,000 images"),
    (figure(low=None, high=None, images=1), "drop 0.40 points, 1 image"),
    (figure(low=-math.inf), "drop 0.40 points, 4,000 images"),
    (figure(confidence=0.9), "drop 0.40 points, 90 % interval 0.10 to 0.70, 4,000 images"),
    (figure("ece", 0.003, -0.001, 0.007, better="lower"),
     "rise 0.30 points, 95 % interval -0.10 to 0.70, 4,000 images"),
    (figure("ece", -0.003, -0.007, 0.001, better="lower"),
     "fall 0.30 points, 95 % interval -0.10 to 0.70, 4,000 images"),
    (figure("agreement", 0.961, 0.954, 0.967, original=None, rewritten=None),
     "96.10%, 95 % interval 95.40 to 96.70, 4,000 images"),
    (figure("kl", 0.04912, 0.0442, 0.0549, original=None, rewritten=None, unit="nats", better="lower"),
     "0.04912 nats, 95 % interval 0.0442 to 0.0549, 4,000 images"),
    (figure("psnr_db", -0.5, -0.75, -0.25, unit="dB"), "drop 0.50 dB, 95 % interval 0.25 to 0.75, 4,000 images"),
    (figure("psnr_db", math.inf, None, None, unit="dB", original=None, rewritten=None), "not finite, 4,000 images"),
    (figure("mine", 37.25, 36.5, 38.0, original=None), "37.25, 95 % interval 36.5 to 38, 4,000 images")])
def test_a_figure_says_in_which_direction_it_moved(found, words):
    assert figure_words(found) == words


@DRAWN
@given(st.sampled_from(["higher", "lower"]), st.floats(-0.5, 0.5).map(lambda x: round(x, 4)), st.floats(0, 0.1),
       st.floats(0, 0.1))
def test_the_interval_holds_what_it_is_of_in_either_direction(better, value, below, above):
    words = figure_words(figure(value=value, low=value - below, high=value + above, better=better, original=0.5))
    move, interval, _ = words.split(", ")
    amount = float(move.split()[1])
    first, last = (float(x) for x in interval.removeprefix("95 % interval ").split(" to "))
    assert amount == pytest.approx(100 * abs(value), abs=0.0051)
    assert first - 0.011 <= amount <= last + 0.011
    assert last - first == pytest.approx(100 * (below + above), abs=0.011)
    is_worse = value < 0 if better == "higher" else value > 0
    assert move.split()[0] in ({"drop", "rise"} if is_worse or not value else {"gain", "fall"})


@pytest.mark.parametrize(("excess", "low", "high", "words"), [
    (0.0062, 0.0015, 0.0108, "0.62 points more, 0.15 to 1.08"),
    (-0.0007, -0.004, 0.0026, "0.07 points less, -0.26 to 0.40"),
    (0.0, None, None, "0.00 points more"), (math.nan, None, None, "not finite")])
def test_how_much_more_was_lost(excess, low, high, words):
    assert excess_words(Shifted(shift="blur", strength="1", figure=figure(), clean=figure(), excess=excess, low=low,
                                high=high)) == words


@pytest.mark.parametrize(("error", "growth", "words"), [
    (0.0, None, "-"), (0.03, math.inf, "enters here"), (0.03, None, "enters here"), (0.03, 1.041, "1.04x")])
def test_growth(error, growth, words):
    layer = LayerError(tensor="y", counterpart="y", node="n", op_type="Conv", snr_db=30.0, rel_error=error,
                       growth=growth, rewritten=True)
    assert growth_words(layer) == words


def test_what_is_infinite_is_told_apart():
    output = OutputDiff(name="y", shape=(1,), dtype="float32", max_abs=0.0, mean_abs=0.0, max_rel=0.0, mean_rel=0.0,
                        cosine=1.0, snr_db=math.inf, nan_count_original=0, nan_count_rewritten=0, nan_count_new=0)
    assert snr(output) == "identical"
    assert snr(replace(output, snr_db=-math.inf, max_abs=math.inf)) == "not finite"
    assert snr(replace(output, snr_db=23.456, max_abs=0.1)) == "23.5 dB"
    assert [known(x) for x in (None, math.nan, math.inf, -math.inf, 0.0)] == [None, None, None, None, 0.0]


def test_figures_of_identical_outputs():
    endless = figure("psnr_db", math.inf, None, None, unit="dB", original=None, rewritten=None)
    assert figure_words(endless, exact=True) == "identical, 4,000 images"
    assert figure_words(figure(), exact=True).startswith("drop 0.40 points")


def test_gates_on_the_end_of_an_interval():
    gate = Gate(name="max_drop", bound=0.01, value=0.007, passed=True, kind="accuracy", confidence=0.95)
    assert gate_words(gate) == "max_drop: passed (0.007 at 95 % confidence, bound 0.01)"


def test_gates_without_a_number():
    gate = Gate(name="min_snr_db", bound=30.0, value=None, passed=False, kind="accuracy")
    assert gate_words(gate) == "min_snr_db: FAILED (-, bound 30)"
    assert gate_words(replace(gate, passed=True)) == "min_snr_db: passed (inf, bound 30)"  # JSON has no infinity
    assert gate_words(replace(gate, passed=True, value=math.inf)) == "min_snr_db: passed (inf, bound 30)"


def test_names_for_people(judged):
    assert [label(n) for n in ("top1", "psnr_db", "my_metric")] == ["top-1", "PSNR", "my metric"]
    assert interval_text(figure()) == "-0.70 to -0.10"
    assert interval_text(figure(low=None)) == ""
    assert [setting(x) for x in judged.latencies] == ["1 thread", "2 threads", "2 threads, batch 8"]
    unset = replace(judged.latencies[0], original=replace(judged.latencies[0].original, threads=0))
    assert setting(unset) == "automatic threads"
