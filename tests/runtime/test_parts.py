"""Outputs of several kinds of values: what belongs together, and what each part has lost."""

import numpy as np
import pytest

from onnxslim1x1.runtime.parts import Parts

IMAGES, PLACES = 12, 40


def output(*spreads, seed=0, offset=0.0):
    """Values (images, places, fields) with a standard deviation for each field."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((IMAGES, PLACES, len(spreads))) * spreads + offset).astype(np.float32)


@pytest.mark.parametrize(("spreads", "parts"), [
    ((1.0, 1.1, 0.9), [0, 0, 0]),
    ((100.0, 0.01, 90.0, 0.02), [0, 1, 0, 1]),  # boxes and scores
    ((1.0, 0.2, 0.04, 0.008, 0.0016), [0, 0, 0, 0, 0]),  # one after the other within ten
    ((0.01, 1.0, 100.0), [2, 1, 0]),
    ((50.0, 0.02, 0.0, 1e-9), [0, 1, 1, 1]),  # constant fields are no kind of their own
    ((0.0, 0.0), [0, 0]),
    ((3.0,), [0]),
])
@pytest.mark.parametrize("columns", [False, True])
def test_fields_belong_together_within_a_factor_of_ten(spreads, parts, columns):
    values = output(*spreads, offset=5.0)
    found = Parts.of(values.transpose(0, 2, 1) if columns else values)
    assert found.axis == (1 if columns else 2)
    assert found.of_field.tolist() == parts
    assert len(found.variances) == max(parts) + 1


def test_each_part_loses_relative_to_its_own_variance():
    values = output(100.0, 0.01, 90.0)
    lost = values.copy()
    lost[..., 1] = values[..., 1].mean(axis=0)  # scores that follow no image any more
    lost[..., [0, 2]] += 1.0
    boxes, scores = Parts.of(values).losses(values, lost)
    by_place = values.astype(np.float64).var(axis=0, ddof=1).mean(axis=0)
    assert boxes == pytest.approx(1 / by_place[[0, 2]].mean(), rel=1e-4)
    assert scores == pytest.approx((IMAGES - 1) / IMAGES, rel=1e-3)


@pytest.mark.parametrize("spreads", [(1.0, 2.0), (100.0, 0.01, 90.0), (10.0, 0.1, 1e-3)])
@pytest.mark.parametrize("columns", [False, True])
def test_the_squared_seeds_weigh_errors_as_the_loss_does(spreads, columns):
    values, error = output(*spreads), output(*spreads, seed=1) * 0.1
    if columns:
        values, error = values.transpose(0, 2, 1), error.transpose(0, 2, 1)
    parts = Parts.of(values)
    signs = np.random.default_rng(2).choice([-1.0, 1.0], size=values.shape)
    seeds = parts.seeds(signs)
    np.testing.assert_array_equal(np.sign(seeds), signs)
    # E (seed . d)^2 over the signs = sum of seed^2 d^2, per image
    by_seeds = float((seeds**2 * error.astype(np.float64) ** 2).sum(axis=(1, 2)).mean())
    assert by_seeds == pytest.approx(np.mean(parts.losses(values, values + error)), rel=1e-4)  # float32 sums


@pytest.mark.parametrize("shape", [(1, 5, 3), (6, 4, 9, 8), (7,), (5, 1), (2, 3, 2, 4, 5)])
def test_any_shape_has_parts(shape):
    values = np.random.default_rng(3).standard_normal(shape)
    parts = Parts.of(values)
    exact = values.reshape(len(values), -1)
    whole = exact.var() if len(exact) < 2 else exact.var(axis=0, ddof=1).mean()
    assert parts.variances == (pytest.approx(whole, rel=1e-9),)
    assert parts.losses(values, values + 2) == [pytest.approx(4 / whole, rel=1e-9)]
    assert parts.seeds(np.sign(values)).shape == shape
