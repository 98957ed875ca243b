"""Intervals against published examples and by simulation: they cover what they promise to."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from onnxslim1x1.runtime.intervals import bootstrap, mcnemar, paired_difference, wilson
from onnxslim1x1.runtime.series import calibration_error, mean, ratio_db


def pairs(both, only_first, only_second, neither):
    first = np.repeat([True, True, False, False], (both, only_first, only_second, neither))
    second = np.repeat([True, False, True, False], (both, only_first, only_second, neither))
    return first, second


@pytest.mark.parametrize(("table", "low", "high"), [
    ((36, 2, 12, 0), 0.0569, 0.3404),  # Newcombe 1998, Statistics in Medicine 17:2635, method 10
    ((20, 2, 12, 16), 0.0562, 0.3292),
])
def test_published_examples_of_paired_differences(table, low, high):
    assert paired_difference(*pairs(*table), 0.95) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_the_interval_of_a_difference_turns_with_the_models():
    first, second = pairs(31, 4, 9, 6)
    low, high = paired_difference(first, second, 0.9)
    assert paired_difference(second, first, 0.9) == (pytest.approx(-high), pytest.approx(-low))


@pytest.mark.parametrize("table", [(10, 0, 0, 0), (0, 10, 0, 0), (0, 0, 0, 10), (7, 0, 3, 0), (1, 0, 0, 0)])
def test_extreme_tables_have_an_interval_around_the_difference(table):
    first, second = pairs(*table)
    low, high = paired_difference(first, second, 0.95)
    assert -1.0 <= low <= second.mean() - first.mean() <= high <= 1.0


@pytest.mark.parametrize(("hits", "images"), [(0, 1), (1, 1), (0, 20), (20, 20), (43, 50), (3990, 4000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_is_that_of_scipy(hits, images, confidence):
    expected = binomtest(hits, images).proportion_ci(confidence, method="wilson")
    assert wilson(hits, images, confidence) == (pytest.approx(expected.low, abs=1e-12),
                                                pytest.approx(expected.high, abs=1e-12))


def test_mcnemar_counts_only_what_the_models_differ_in():
    assert mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 2**9)  # P(at most 1 of 9 heads), twice
    assert mcnemar(8, 1) == mcnemar(1, 8)
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize(("first", "second"), [(0, 3), (4, 4), (17, 30), (5, 6), (200, 150)])
def test_mcnemar_is_the_binomial_test_of_scipy(first, second):
    assert mcnemar(first, second) == pytest.approx(binomtest(first, first + second).pvalue, abs=1e-12)


@pytest.mark.parametrize(("images", "better"), [(60, 0.02), (400, 0.005), (400, 0.0)])
def test_intervals_of_paired_differences_cover(images, better):
    """Hits of two models that agree on most images, as before and after a rewrite."""
    rng = np.random.default_rng(3)
    covered, runs = 0, 600
    for _ in range(runs):
        draws = rng.random(images)
        first = draws < 0.80 + better  # both right below 0.78, the first alone up to 0.80 + better
        second = (draws < 0.78) | (draws > 0.98)  # and the second alone above 0.98
        low, high = paired_difference(first, second, 0.95)
        covered += low <= -better <= high
    assert 0.93 <= covered / runs <= 0.995


@pytest.mark.parametrize("images", [60, 300])
def test_bootstrapped_intervals_cover(images):
    """Skewed values as those of a KL divergence: most near 0, a few large."""
    rng = np.random.default_rng(5)
    hits, runs = 0, 300
    for run in range(runs):
        low, high = bootstrap((rng.gamma(0.8, 0.05, images),), mean, confidence=0.95, seed=run)
        hits += low <= 0.04 <= high
    assert 0.89 <= hits / runs <= 0.99  # the percentile interval is a little short for skewed values


def test_higher_confidence_gives_a_wider_interval():
    values = (np.random.default_rng(1).exponential(size=80),)
    narrow, wide = (bootstrap(values, mean, confidence=c) for c in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_columns_are_resampled_together():
    signal = np.random.default_rng(2).exponential(size=50)
    low, high = bootstrap((signal, signal / 100), ratio_db, confidence=0.95)
    assert (low, high) == (pytest.approx(20.0), pytest.approx(20.0))


def test_the_same_seed_gives_the_same_interval():
    values = (np.random.default_rng(4).random(30),)
    assert bootstrap(values, mean, confidence=0.95, seed=7) == bootstrap(values, mean, confidence=0.95, seed=7)
    assert bootstrap(values, mean, confidence=0.95, seed=7) != bootstrap(values, mean, confidence=0.95, seed=8)


@pytest.mark.parametrize(("confidence", "images"), [(0.95, 6), (0.9, 5), (0.99, 8)])
def test_a_few_images_say_nothing_about_others(confidence, images):
    values = np.random.default_rng(9).random(images)
    assert bootstrap((values,), mean, confidence=confidence) is not None
    assert bootstrap((values[1:],), mean, confidence=confidence) is None


def test_identical_and_broken_outputs_have_sharp_ends():
    signal = np.arange(1.0, 8.0)
    assert bootstrap((signal, np.zeros(7)), ratio_db, confidence=0.95) == (math.inf, math.inf)
    assert bootstrap((signal, np.full(7, math.inf)), ratio_db, confidence=0.95) == (-math.inf, -math.inf)


def test_a_single_identical_image_does_not_make_an_interval_of_nan():
    signal, noise = np.ones(6), np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.1])
    low, high = bootstrap((signal, noise), ratio_db, confidence=0.95)
    assert low == pytest.approx(10 * math.log10(6 / 0.3))  # three of six draws are the one that differs
    assert high == math.inf  # some resamples hold identical images only


def test_statistics_of_many_resamples_are_those_of_each():
    rng = np.random.default_rng(6)
    confidence, correct = rng.random((4, 40)), rng.integers(0, 2, (4, 40)).astype(float)
    whole = calibration_error(confidence, correct)
    assert whole == pytest.approx([float(calibration_error(a, b)) for a, b in zip(confidence, correct, strict=True)])
