"""Linear maps and their errors from moments, against numpy's least squares on the rows themselves."""

import numpy as np
import pytest

from onnxslim1x1.linalg.moments import MomentAccumulator, Moments
from onnxslim1x1.linalg.refit import RIDGES, Affine, best_ridge, regress, squared_error


def samples(count=400, *, inputs=6, outputs=4, seed=0, offset=0.0, noise=1.0, away=0.5):
    """Correlated inputs with different means and spreads, noisy targets, and weights that are near the truth."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, inputs)) @ rng.standard_normal((inputs, inputs))
    x = (mixed * np.linspace(0.5, 2, inputs) + np.arange(inputs) + offset).astype(np.float32)
    truth = rng.standard_normal((outputs, inputs))
    t = (x @ truth.T + noise * rng.standard_normal((count, outputs)) + np.linspace(-3, 3, outputs)).astype(np.float32)
    return x, t, truth + away * rng.standard_normal(truth.shape)


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


def explicit_error(matrix, bias, x, t, root):
    """Mean over the rows of ||R (M x + b - t)||^2."""
    missed = x.astype(np.float64) @ matrix.T + bias - t
    return float(np.mean(np.sum((missed @ root.T) ** 2, axis=1)))


def assert_map(found, matrix, bias, *, atol):
    np.testing.assert_allclose(found.matrix, matrix, atol=atol)
    np.testing.assert_allclose(found.bias, bias, atol=atol)
    assert found.matrix.dtype == found.bias.dtype == np.float64


# the fit


@pytest.mark.parametrize("ridge", [0.0, 1e-12])
def test_without_a_ridge_it_is_least_squares(ridge):
    x, t, start = samples()
    found = regress(exact_moments(x, t), start, ridge=ridge)
    assert_map(found.map, *least_squares(x, t), atol=1e-9)  # condition 1e3 of float64


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_moments_in_single_precision_are_enough(offset):
    x, t, start = samples(offset=offset)
    found = regress(streamed_moments(x, t), start, ridge=0.0).map
    matrix, _ = least_squares(x - np.float32(offset), t)
    np.testing.assert_allclose(found.matrix, matrix, atol=2e-4)  # condition 1e3 times 2^-24
    left = (t - x @ found.matrix.T).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(found.bias, left, atol=1e-3)  # means of up to 300 and targets of up to 2000 in float32


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 3.0])
def test_the_ridge_is_relative_to_the_mean_variance(ridge):
    x, t, start = samples()
    found = regress(exact_moments(x, t), start, ridge=ridge)
    penalty = ridge * x.astype(np.float64).var(axis=0).mean()
    assert_map(found.map, *least_squares(x, t, start, penalty), atol=1e-9)


def test_a_large_ridge_gives_the_start():
    x, t, start = samples()
    found = regress(exact_moments(x, t), start, ridge=1e12).map
    bias = t.mean(axis=0, dtype=np.float64) - start @ x.mean(axis=0, dtype=np.float64)
    assert_map(found, start, bias, atol=1e-9)


def test_directions_that_are_never_seen_keep_their_weights():
    x, t, start = samples()
    twins = np.hstack([x, x[:, :1], np.zeros((len(x), 1), np.float32)])  # a copy of a column, and a dead one
    start = np.hstack([start, start[:, 1:3]])
    found = regress(exact_moments(twins, t), start, ridge=1e-6).map
    np.testing.assert_allclose(found.matrix[:, 7], start[:, 7], atol=1e-9)
    np.testing.assert_allclose(found.matrix[:, 0] - found.matrix[:, 6], start[:, 0] - start[:, 6], atol=1e-4)
    matrix, _ = least_squares(x, t)
    np.testing.assert_allclose(found.matrix[:, 0] + found.matrix[:, 6], matrix[:, 0], atol=1e-4)


def test_inputs_that_never_vary_give_the_start():
    x, t, start = samples()
    constant = np.repeat(x[:1], len(x), axis=0)
    moments = exact_moments(constant, t)
    moments.covariance[:6], moments.covariance[:, :6] = 0, 0
    found = regress(moments, start, ridge=1e-2).map
    assert_map(found, start, t.mean(axis=0, dtype=np.float64) - start @ constant[0], atol=1e-9)


def test_the_moments_of_the_inputs_come_along_and_the_joint_ones_stay():
    x, t, start = samples()
    joint = exact_moments(x, t)
    mean, covariance, weights = joint.mean.copy(), joint.covariance.copy(), start.copy()
    found = regress(joint, start, ridge=0.1).inputs
    squared_error(Affine(matrix=start, bias=np.ones(4)), joint, root=np.eye(4))
    best_ridge(joint, joint, start)
    expected = exact_moments(x)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-12)
    assert found.count == 400
    np.testing.assert_array_equal(joint.mean, mean)
    np.testing.assert_array_equal(joint.covariance, covariance)
    np.testing.assert_array_equal(start, weights)


# the error


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("moments", "tolerance"), [(exact_moments, 1e-10), (streamed_moments, 1e-4)])
def test_the_squared_error_is_the_mean_over_the_rows(moments, tolerance, seed):
    rng = np.random.default_rng(seed)
    inputs, outputs = (int(n) for n in rng.integers(1, 8, 2))
    x, t, start = samples(int(rng.integers(2, 300)), inputs=inputs, outputs=outputs, seed=seed)
    root, bias = rng.standard_normal((outputs, outputs)), 3 * rng.standard_normal(outputs)
    found = Affine(matrix=start, bias=bias)
    for given, used in ((None, np.eye(outputs)), (root, root)):
        # in float32 the terms that cancel, up to 100 times the error, have 2^-24 of rounding each
        expected = explicit_error(start, bias, x, t, used)
        assert squared_error(found, moments(x, t), root=given) == pytest.approx(expected, rel=tolerance)


def test_an_exact_map_has_no_error_and_a_wrong_bias_its_square():
    x, _, matrix = samples()
    bias = np.linspace(-3, 3, 4)
    joint = exact_moments(x, x.astype(np.float64) @ matrix.T + bias)
    assert squared_error(Affine(matrix=matrix, bias=bias), joint) == pytest.approx(0, abs=1e-10)  # of terms up to 300
    wrong = Affine(matrix=matrix, bias=bias + np.array([0, 2, 0, -1]))
    assert squared_error(wrong, joint) == pytest.approx(5)
    assert squared_error(wrong, joint, root=np.diag([7.0, 3, 5, 0.5])) == pytest.approx(36.25)


# how strong a ridge


def parts(x, t, count):
    """Rows to fit to, and others."""
    return (x[:count], t[:count]), (x[count:], t[count:])


def explicit_errors(fitting, checking, start, root):
    """By ridge, the error on other rows of a fit by least squares."""
    scale = fitting[0].astype(np.float64).var(axis=0).mean()
    return [explicit_error(*least_squares(*fitting, start, ridge * scale), *checking, root) for ridge in RIDGES]


def choice(fitting, checking, start, root=None):
    return best_ridge(exact_moments(*fitting), exact_moments(*checking), start, root=root)


def test_ridges_get_weaker():
    assert list(RIDGES) == sorted(set(RIDGES), reverse=True)
    assert RIDGES[-1] > 0


def test_the_ridge_with_the_least_error_on_other_rows_is_chosen():
    chosen = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        count = int(rng.choice([8, 15, 40, 200]))
        x, t, start = samples(count + 50, seed=seed, noise=rng.choice([1, 3, 9]), away=rng.choice([0.1, 0.4, 1]))
        fitting, checking = parts(x, t, count)
        root = rng.standard_normal((4, 4))
        for given, used in ((None, np.eye(4)), (root, root)):
            errors = explicit_errors(fitting, checking, start, used)
            if (np.diff(np.sign(np.diff(errors))) >= 0).all():  # they fall, then rise
                chosen.append(choice(fitting, checking, start, given))
                assert chosen[-1] == RIDGES[int(np.argmin(errors))]
    assert {RIDGES[0], RIDGES[-1]} < set(chosen)  # and at least one in between


@pytest.mark.parametrize(("count", "noise", "away", "expected"), [
    (8, 10.0, 0.0, RIDGES[0]), (1500, 0.0, 1.0, RIDGES[-1])], ids=["few noisy rows", "many exact rows"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_noisy_rows_keep_the_weights_and_many_exact_ones_replace_them(count, noise, away, expected, seed):
    x, t, start = samples(2000, noise=noise, away=away, seed=seed)
    assert choice(*parts(x, t, count), start) == expected


def test_the_root_says_which_outputs_decide():
    x, t, start = samples(120, outputs=2, noise=0.0, away=0.0)
    start[0] += np.linspace(-2, 3, 6)  # to be corrected; the weights of the other are right, but its targets are noisy
    t[:, 1] += 10 * np.random.default_rng(5).standard_normal(120).astype(np.float32)
    for root, expected in (([1, 1e-3], RIDGES[-1]), ([1e-3, 1], RIDGES[0])):
        assert choice(*parts(x, t, 20), start, np.diag(root)) == expected
