"""Figures from per-image values, by hand."""

import math

import numpy as np
import pytest

from onnxslim1x1.runtime.series import (
    Series,
    calibration_error,
    cosine,
    excess,
    figure,
    known_mean,
    mean,
    mean_db,
    ratio_db,
    root_ratio,
)


def hits(rewritten, original=None):
    return Series(name="top1", statistic=mean, hits=True, columns=(np.asarray(rewritten, float),),
                  original=None if original is None else (np.asarray(original, float),))


def test_a_paired_figure_is_rewritten_less_original():
    found = figure(hits([1, 0, 0, 1, 0], original=[1, 1, 0, 1, 1]), confidence=0.9)
    assert (found.original, found.rewritten) == (0.8, 0.4)
    assert found.value == pytest.approx(-0.4)
    assert found.low < found.value < found.high
    assert (found.p_value, found.images, found.confidence) == (0.5, 5, 0.9)  # both of 2 coins the same way


def test_a_comparison_has_no_figure_of_its_own():
    found = figure(hits([1, 1, 1, 0]), confidence=0.95)
    assert (found.original, found.rewritten, found.value, found.p_value) == (None, None, 0.75, None)
    assert found.low < 0.75 < found.high <= 1.0


def test_images_without_a_value_do_not_count():
    series = Series(name="kl", statistic=known_mean, columns=(np.array([1.0, math.nan, 3.0]),))
    assert (figure(series, confidence=0.95).value, figure(series, confidence=0.95).images) == (2.0, 2)


def test_no_images_make_no_figure():
    with pytest.raises(ValueError, match="no images"):
        figure(Series(name="kl", statistic=known_mean, columns=(np.array([math.nan]),)), confidence=0.95)


def test_energies_by_hand():
    signal, noise = np.array([30.0, 70.0]), np.array([0.25, 0.75])
    assert float(ratio_db(signal, noise)) == pytest.approx(20.0)
    assert float(root_ratio(signal, noise)) == pytest.approx(0.1)
    assert float(mean_db(np.array([0.03, 0.17]))) == pytest.approx(10.0)
    assert float(cosine(signal, np.array([4.0, 60.0]), np.array([-20.0, 60.0]))) == pytest.approx(0.5)


def test_nothing_and_no_noise():
    nothing, some = np.zeros(2), np.ones(2)
    assert (float(ratio_db(some, nothing)), float(ratio_db(nothing, some))) == (math.inf, -math.inf)
    assert (float(root_ratio(nothing, nothing)), float(root_ratio(nothing, some))) == (0.0, math.inf)
    assert (float(cosine(nothing, nothing, nothing)), float(cosine(nothing, some, nothing))) == (1.0, 0.0)


def test_calibration_error_by_hand():
    # bins of 1/15: 0.95 twice (one right), 0.5 once (right)
    error = calibration_error(np.array([0.95, 0.95, 0.5]), np.array([1.0, 0.0, 1.0]))
    assert float(error) == pytest.approx((abs(1 - 1.9) + 0.5) / 3)
    assert float(calibration_error(np.array([1.0, 1.0]), np.array([1.0, 1.0]))) == 0.0
    assert float(calibration_error(np.array([0.95, math.nan]), np.array([1.0, 0.0]))) == pytest.approx(0.05)


def test_only_the_last_axis_counts_images():
    with pytest.raises(ValueError, match="not the last"):
        calibration_error(np.zeros((3, 4)), np.zeros((3, 4)), axis=0)


RNG = np.random.default_rng(8)
ORIGINAL = RNG.random(200) < 0.9


def test_a_shift_that_hurts_both_alike_has_no_excess():
    hurt = ORIGINAL & (RNG.random(200) < 0.7)
    found, low, high = excess(hits(ORIGINAL, ORIGINAL), hits(hurt, hurt), confidence=0.95)
    assert (found, low, high) == (0.0, 0.0, 0.0)


def test_a_shift_that_hurts_the_rewritten_model_more_is_seen():
    hurt = ORIGINAL & (RNG.random(200) < 0.7)
    found, low, high = excess(hits(ORIGINAL, ORIGINAL), hits(hurt, ORIGINAL), confidence=0.95)
    assert found == pytest.approx((ORIGINAL.sum() - hurt.sum()) / 200)
    assert 0.1 < low < found < high


def test_excess_is_positive_where_a_figure_that_should_be_low_rises():
    clean, shifted = (Series(name="kl", statistic=mean, better="lower", columns=(values,))
                      for values in (np.full(9, 0.1), np.full(9, 0.4)))
    assert excess(clean, shifted, confidence=0.95) == (pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3))


def test_models_that_stay_identical_have_no_excess():
    same = Series(name="snr_db", statistic=ratio_db, columns=(np.ones(6), np.zeros(6)))
    assert excess(same, same, confidence=0.95) == (0.0, 0.0, 0.0)
