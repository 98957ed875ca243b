"""Linear maps from moments, against numpy's least squares on the rows themselves."""

import numpy as np
import pytest

from onnxslim1x1.linalg.moments import MomentAccumulator, Moments
from onnxslim1x1.linalg.refit import regress


def samples(count=400, *, inputs=6, outputs=4, seed=0, offset=0.0):
    """Correlated inputs with different means and spreads, noisy targets, and weights that are near the truth."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, inputs)) @ rng.standard_normal((inputs, inputs))
    x = (mixed * np.linspace(0.5, 2, inputs) + np.arange(inputs) + offset).astype(np.float32)
    truth = rng.standard_normal((outputs, inputs))
    t = (x @ truth.T + rng.standard_normal((count, outputs)) + np.linspace(-3, 3, outputs)).astype(np.float32)
    return x, t, truth + 0.5 * rng.standard_normal(truth.shape)


def exact_moments(*parts):
    rows = np.hstack(parts).astype(np.float64)
    return Moments(mean=rows.mean(axis=0), covariance=np.cov(rows.T, bias=True), count=len(rows))


def streamed_moments(*parts):
    rows = np.hstack(parts)
    sums = MomentAccumulator(rows.shape[1])
    sums.add(rows)
    return sums.result()


def least_squares(x, t, start=None, penalty=0.0):
    """Map and bias that minimise ||t - x M^T - b||^2 / rows + penalty ||M - start||^2, by numpy on stacked rows."""
    x, t = x.astype(np.float64), t.astype(np.float64)
    count, width = x.shape
    design = np.hstack([x, np.ones((count, 1))]) / np.sqrt(count)
    wanted = t / np.sqrt(count)
    if penalty:
        design = np.vstack([design, np.sqrt(penalty) * np.eye(width, width + 1)])
        wanted = np.vstack([wanted, np.sqrt(penalty) * start.T])
    found = np.linalg.lstsq(design, wanted, rcond=None)[0]
    return found[:-1].T, found[-1]


def assert_map(found, matrix, bias, *, atol):
    np.testing.assert_allclose(found.matrix, matrix, atol=atol)
    np.testing.assert_allclose(found.bias, bias, atol=atol)
    assert found.matrix.dtype == found.bias.dtype == np.float64


# the fit


@pytest.mark.parametrize("ridge", [0.0, 1e-12])
def test_without_a_ridge_it_is_least_squares(ridge):
    x, t, start = samples()
    found = regress(exact_moments(x, t), start, ridge=ridge)
    assert_map(found, *least_squares(x, t), atol=1e-9)  # condition 1e3 of float64


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_moments_in_single_precision_are_enough(offset):
    x, t, start = samples(offset=offset)
    found = regress(streamed_moments(x, t), start, ridge=0.0)
    matrix, _ = least_squares(x - np.float32(offset), t)
    np.testing.assert_allclose(found.matrix, matrix, atol=2e-4)  # condition 1e3 times 2^-24
    left = (t - x @ found.matrix.T).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(found.bias, left, atol=1e-3)  # means of up to 300 and targets of up to 2000 in float32


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 3.0])
def test_the_ridge_is_relative_to_the_mean_variance(ridge):
    x, t, start = samples()
    found = regress(exact_moments(x, t), start, ridge=ridge)
    penalty = ridge * x.astype(np.float64).var(axis=0).mean()
    assert_map(found, *least_squares(x, t, start, penalty), atol=1e-9)


def test_a_large_ridge_gives_the_start():
    x, t, start = samples()
    found = regress(exact_moments(x, t), start, ridge=1e12)
    bias = t.mean(axis=0, dtype=np.float64) - start @ x.mean(axis=0, dtype=np.float64)
    assert_map(found, start, bias, atol=1e-9)


def test_directions_that_are_never_seen_keep_their_weights():
    x, t, start = samples()
    twins = np.hstack([x, x[:, :1], np.zeros((len(x), 1), np.float32)])  # a copy of a column, and a dead one
    start = np.hstack([start, start[:, 1:3]])
    found = regress(exact_moments(twins, t), start, ridge=1e-6)
    np.testing.assert_allclose(found.matrix[:, 7], start[:, 7], atol=1e-9)
    np.testing.assert_allclose(found.matrix[:, 0] - found.matrix[:, 6], start[:, 0] - start[:, 6], atol=1e-4)
    matrix, _ = least_squares(x, t)
    np.testing.assert_allclose(found.matrix[:, 0] + found.matrix[:, 6], matrix[:, 0], atol=1e-4)


def test_inputs_that_never_vary_give_the_start():
    x, t, start = samples()
    constant = np.repeat(x[:1], len(x), axis=0)
    moments = exact_moments(constant, t)
    moments.covariance[:6], moments.covariance[:, :6] = 0, 0
    found = regress(moments, start, ridge=1e-2)
    assert_map(found, start, t.mean(axis=0, dtype=np.float64) - start @ constant[0], atol=1e-9)


def test_the_moments_of_the_inputs_come_along_and_the_joint_ones_stay():
    x, t, start = samples()
    joint = exact_moments(x, t)
    mean, covariance, weights = joint.mean.copy(), joint.covariance.copy(), start.copy()
    found = regress(joint, start, ridge=0.1).inputs
    expected = exact_moments(x)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-12)
    assert found.count == 400
    np.testing.assert_array_equal(joint.mean, mean)
    np.testing.assert_array_equal(joint.covariance, covariance)
    np.testing.assert_array_equal(start, weights)
