"""Linear maps against numpy's least squares, and fits behind a ReLU where the right answer is known."""

import numpy as np
import pytest

from onnxslim1x1.linalg.moments import MomentAccumulator, Moments
from onnxslim1x1.linalg.refit import Affine, RidgeFit, match_moments, refit_behind_relu, regress


def samples(count=400, *, inputs=6, outputs=4, seed=0, offset=0.0):
    """Correlated inputs with different means and spreads, noisy targets, and weights that are near the truth."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, inputs)) @ rng.standard_normal((inputs, inputs))
    x = (mixed * np.linspace(0.5, 2, inputs) + np.arange(inputs) + offset).astype(np.float32)
    truth = rng.standard_normal((outputs, inputs))
    t = (x @ truth.T + rng.standard_normal((count, outputs)) + np.linspace(-3, 3, outputs)).astype(np.float32)
    return x, t, truth + rng.standard_normal(truth.shape) / 2


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


# from moments


@pytest.mark.parametrize("ridge", [0.0, 1e-12])
def test_without_a_ridge_it_is_least_squares(ridge):
    x, t, start = samples()
    found = regress(exact_moments(x, t), start, ridge=ridge)
    assert_map(found.map, *least_squares(x, t), atol=1e-9)  # condition 1e3 of float64


def test_moments_in_single_precision_are_enough():
    x, t, start = samples()
    found = regress(streamed_moments(x, t), start, ridge=0.0)
    assert_map(found.map, *least_squares(x, t), atol=2e-4)  # condition 1e3 times 2^-24


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
    expected = exact_moments(x)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-12)
    assert found.count == 400
    np.testing.assert_array_equal(joint.mean, mean)
    np.testing.assert_array_equal(joint.covariance, covariance)
    np.testing.assert_array_equal(start, weights)


# from rows


@pytest.mark.parametrize("ridge", [1e-9, 1e-3, 0.1, 3.0])
def test_a_fit_solves_the_normal_equations_for_any_targets(ridge):
    x, t, start = samples()
    fit = RidgeFit(x, ridge=ridge)
    penalty = ridge * x.astype(np.float64).var(axis=0).mean()
    for targets, weights in ((t, start), (2 - t**2, 3 * start), (t[:, ::-1].copy(), np.zeros_like(start))):
        # products in float32: condition 1e3 times 2^-24 of values up to 300
        assert_map(fit.solve(targets, weights), *least_squares(x, targets, weights, penalty), atol=5e-3)


def test_a_mean_far_above_the_spread_does_not_cancel_the_fit():
    x, t, start = samples(offset=300.0)
    found = RidgeFit(x, ridge=1e-6).solve(t, start)
    matrix, _ = least_squares(x - 300, t)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-2)
    np.testing.assert_allclose(found(x), x @ matrix.T + (t - x @ matrix.T).mean(axis=0), atol=2e-2)


def test_a_fit_leaves_what_it_is_given():
    x, t, start = samples()
    given = x.copy(), t.copy(), start.copy()
    RidgeFit(x, ridge=1e-3).solve(t, start)
    refit_behind_relu(x, t, Affine(matrix=start, bias=np.zeros(4)), shortcuts=t)
    for before, after in zip(given, (x, t, start), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_map_multiplies_and_adds():
    x, _, matrix = samples()
    bias = np.array([1.0, -2.0, 0.5, 100.0])
    found = Affine(matrix=matrix, bias=bias)(x)
    np.testing.assert_allclose(found, x.astype(np.float64) @ matrix.T + bias, rtol=1e-5, atol=1e-5)  # float32
    assert found.dtype == np.float32


# means and deviations


def shrunk():
    """Rows, targets, and a map whose outputs deviate too little, much too little, too much and not at all."""
    x, t, _ = samples()
    matrix, _ = least_squares(x, t)
    scale = np.std(t, axis=0, dtype=np.float64) / np.std(x.astype(np.float64) @ matrix.T, axis=0)
    wanted = np.array([1.2, 4.0, 0.7, 1.0])  # sd(t) / sd(f(x))
    return x, t, Affine(matrix=matrix * (scale / wanted)[:, None], bias=np.array([5.0, -3, 0, 1])), wanted


@pytest.mark.parametrize(("settings", "scales"), [
    ({}, [1.1, 1.25, 1, 1]),
    ({"part": 1.0}, [1.2, 1.5, 1, 1]),
    ({"part": 0.25, "most": 5.0}, [1.05, 1.75, 1, 1]),
    ({"part": 0.0}, [1, 1, 1, 1]),
])
def test_a_part_of_the_missing_deviation_is_given_back_up_to_a_limit(settings, scales):
    x, t, start, _ = shrunk()
    found = match_moments(x, t, start, **settings)
    np.testing.assert_allclose(found.matrix, start.matrix * np.array(scales)[:, None], rtol=1e-5)  # float32 outputs
    np.testing.assert_allclose(found(x).mean(axis=0, dtype=np.float64), t.mean(axis=0, dtype=np.float64), atol=1e-5)


def test_all_of_the_deviation_can_be_given_back():
    x, t, start, wanted = shrunk()
    found = match_moments(x, t, start, part=1.0, most=10.0)(x)
    expected = np.where(wanted < 1, 1 / wanted, 1) * t.std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(found.std(axis=0, dtype=np.float64), expected, rtol=1e-5)


def test_an_output_that_never_varies_only_gets_its_mean():
    x, t, start, _ = shrunk()
    dead = Affine(matrix=start.matrix * np.array([[0], [1], [1], [1]]), bias=start.bias)
    t[:, 3] = -2
    found = match_moments(x, t, dead)
    np.testing.assert_array_equal(found.matrix[[0, 3]], dead.matrix[[0, 3]])
    np.testing.assert_allclose(found.bias[0], t[:, 0].mean(dtype=np.float64), rtol=1e-12)
    assert np.isfinite(found.matrix).all()


# behind a ReLU


def rectified(*, shortcut, seed=0, count=2000):
    """Targets that a linear map meets where a ReLU lets them through; below it they are three times as far away."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((count, 6)) + np.linspace(-1, 1, 6)).astype(np.float32)
    truth = Affine(matrix=rng.standard_normal((4, 6)), bias=np.linspace(3, 4, 4))
    s = (2 * rng.standard_normal((count, 4)) + np.arange(4) / 2).astype(np.float32) if shortcut else None
    added = np.float32(0) if s is None else s
    summed = truth(x) + added
    return x, np.where(summed > 0, summed, 3 * summed) - added, s, truth


def plain(x, t):
    matrix, bias = least_squares(x, t)
    return Affine(matrix=matrix, bias=bias)


def relu_error(found, x, t, s=None):
    """Mean squared error behind the ReLU, by output."""
    added = 0 if s is None else s
    return np.mean((np.maximum(t + added, 0) - np.maximum(found(x) + added, 0)) ** 2, axis=0)


def distance(found, truth):
    """Largest error of the weights and the bias, by output."""
    return np.maximum(np.abs(found.matrix - truth.matrix).max(axis=1), np.abs(found.bias - truth.bias))


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_a_relu_hides_does_not_disturb_the_fit(shortcut, seed):
    x, t, s, truth = rectified(shortcut=shortcut, seed=seed)
    start = plain(x, t)
    first, second = (refit_behind_relu(x, t, start, shortcuts=s, ridge=1e-6, rounds=n) for n in (10, 80))
    assert (relu_error(first, x, t, s) < relu_error(start, x, t, s) / 2).all()
    # it ends at the truth; how fast depends on how much of an output the ReLU hides
    assert (distance(second, truth) < distance(start, truth) / 20).all()


def test_a_shortcut_decides_what_the_relu_hides():
    x, t, s, truth = rectified(shortcut=True)
    start = plain(x, t)
    blind, seeing = (refit_behind_relu(x, t, start, shortcuts=given, ridge=1e-6, rounds=40) for given in (None, s))
    assert (distance(seeing, truth) < distance(blind, truth) / 20).all()
    zeros = refit_behind_relu(x, t, start, shortcuts=np.zeros_like(s), ridge=1e-6, rounds=40)
    assert_map(zeros, blind.matrix, blind.bias, atol=1e-9)


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize(("rounds", "penalties"), [(1, [0.01]), (5, [0.01, 0.03, 0.1, 0.3, 1.0])])
def test_every_round_finds_the_best_relaxed_targets(rounds, penalties, shortcut):
    """With as many inputs as rows the map meets every target, so what it gives are the relaxed targets."""
    rng = np.random.default_rng(4)
    x = 10 * np.eye(30, dtype=np.float32)
    t, s = (2 * rng.standard_normal((2, 30, 3))).astype(np.float32)
    s = s if shortcut else np.zeros_like(s)
    start = Affine(matrix=rng.standard_normal((3, 30)) / 5, bias=np.array([0.5, 0, -0.5]))
    grid = np.linspace(-10, 10, 8001)[:, None, None]
    r, z = np.maximum(t + s, 0), start(x) + s
    for penalty in penalties:
        cost = (r - np.maximum(grid, 0)) ** 2 + penalty * (grid - z) ** 2
        z = np.take_along_axis(grid, cost.argmin(axis=0)[None], axis=0)[0]
    found = refit_behind_relu(x, t, start, shortcuts=s if shortcut else None, ridge=1e-6, rounds=rounds)
    np.testing.assert_allclose(found(x) + s, z, atol=0.01)  # the grid has steps of 0.0025, taken up to five times


def alternated(x, t, s, start, penalties, *, ridge):
    """The alternation in float64, its regressions by numpy."""
    x, t, s = (values.astype(np.float64) for values in (x, t, s))
    matrix, bias = start.matrix, start.bias
    r = np.maximum(t + s, 0)
    for penalty in penalties:
        p = x @ matrix.T + bias + s
        choices = np.stack([np.minimum(p, 0), np.maximum((penalty * p + r) / (penalty + 1), 0)])
        costs = (r - np.maximum(choices, 0)) ** 2 + penalty * (choices - p) ** 2
        z = np.take_along_axis(choices, costs.argmin(axis=0)[None], axis=0)[0]
        matrix, bias = least_squares(x, z - s, start.matrix, ridge * x.var(axis=0).mean())
    return matrix, bias


@pytest.mark.parametrize("ridge", [1e-3, 0.3])
@pytest.mark.parametrize(("rounds", "penalties"), [
    (1, [0.01]), (2, [0.01, 0.1]), (3, [0.01, 0.03, 0.3]), (5, [0.01, 0.03, 0.1, 0.3, 1.0]),
    (7, [0.01, 0.01, 0.03, 0.1, 0.1, 0.3, 1.0])])
def test_rounds_alternate_with_a_growing_penalty_and_shrink_toward_the_start(rounds, penalties, ridge):
    x, t, s, truth = rectified(shortcut=True, count=150)
    start = Affine(matrix=truth.matrix[::-1], bias=truth.bias - 2)
    found = refit_behind_relu(x, t, start, shortcuts=s, ridge=ridge, rounds=rounds)
    assert_map(found, *alternated(x, t, s, start, penalties, ridge=ridge), atol=1e-4)  # float32 rounding of 150 rows


def test_no_round_gives_the_start():
    x, t, s, _ = rectified(shortcut=True)
    start = plain(x, t)
    assert refit_behind_relu(x, t, start, shortcuts=s, rounds=0) is start


def test_a_large_ridge_keeps_the_weights_and_moves_only_the_bias():
    x, t, s, _ = rectified(shortcut=True)
    start = Affine(matrix=plain(x, t).matrix, bias=plain(x, t).bias - 1)
    found = refit_behind_relu(x, t, start, shortcuts=s, ridge=1e9, rounds=20)
    np.testing.assert_allclose(found.matrix, start.matrix, atol=1e-6)
    assert (relu_error(found, x, t, s) < relu_error(start, x, t, s)).all()


def test_the_same_data_give_the_same_map():
    x, t, s, _ = rectified(shortcut=True)
    one, two = (refit_behind_relu(x, t, plain(x, t), shortcuts=s) for _ in range(2))
    np.testing.assert_array_equal(one.matrix, two.matrix)
    np.testing.assert_array_equal(one.bias, two.bias)
