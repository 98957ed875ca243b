"""The map from predicted to measured losses."""

import math

import pytest

from onnxslim1x1.search.loss import LossModel


@pytest.mark.parametrize(("scale", "exponent"), [(3.0, 1.0), (0.2, 0.8), (40.0, 1.5)])
def test_two_points_on_a_power_law_give_it_back(scale, exponent):
    points = [(p, scale * p**exponent) for p in (0.02, 0.3)]
    model = LossModel.fit(points)
    assert (model.scale, model.exponent) == (pytest.approx(scale), pytest.approx(exponent))
    assert model.predict(0.1) == pytest.approx(scale * 0.1**exponent)


@pytest.mark.parametrize(("true", "kept"), [(0.1, 0.7), (-1.0, 0.7), (4.0, 1.6)])
def test_the_exponent_stays_within_bounds_and_the_curve_between_the_points(true, kept):
    low, high = (0.01, 0.01**true), (0.25, 0.25**true)
    model = LossModel.fit([low, high])
    assert model.exponent == kept
    # the logarithms of the two misses cancel
    assert math.log(model.predict(low[0]) / low[1]) == pytest.approx(-math.log(model.predict(high[0]) / high[1]))


def test_one_point_means_proportional():
    model = LossModel.fit([(0.2, 0.5)])
    assert (model.scale, model.exponent) == (pytest.approx(2.5), 1.0)
    assert LossModel.fit([(0.2, 0.25), (0.2, 1.0)]).predict(0.2) == pytest.approx(0.5)  # geometric mean


@pytest.mark.parametrize("points", [[(0.0, 0.0)], [(0.0, 0.0), (0.1, 0.2)], [(0.1, 0.0), (0.4, 0.0)]])
def test_losses_of_zero_have_no_logarithm_but_a_model(points):
    model = LossModel.fit(points)
    assert math.isfinite(model.scale)
    assert model.predict(0.0) == 0
    assert model.predict(-1e-18) == 0
    assert model.predict(0.2) <= model.predict(0.3)
