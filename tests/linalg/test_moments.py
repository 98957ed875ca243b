"""Streaming moments against numpy's on the same rows, and what the ridge promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim1x1.linalg.moments import MomentAccumulator, Moments


def rows(count, dimension, *, seed=0, offset=0.0):
    """Correlated rows with different means and spreads per column."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, dimension)) @ rng.standard_normal((dimension, dimension))
    return (mixed * np.linspace(0.5, 2, dimension) + offset + np.arange(dimension)).astype(np.float32)


def moments_of(*blocks):
    accumulator = MomentAccumulator(blocks[0].shape[1])
    for block in blocks:
        accumulator.add(block)
    return accumulator.result()


@pytest.mark.parametrize("cuts", [(), (1,), (7, 8), (100, 250)], ids=str)
def test_moments_equal_numpys_however_the_rows_are_split(cuts):
    data = rows(300, 5)
    found = moments_of(*np.split(data, cuts))
    exact = data.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-6)  # stored in float32
    # blocks are multiplied in float32: about sqrt(300) * 2^-24 of the variance, which is up to 40 here
    np.testing.assert_allclose(found.covariance, np.cov(exact.T, bias=True), atol=1e-4)
    assert found.count == 300


@pytest.mark.parametrize("offset", [10.0, 1e3, 1e5])
def test_a_mean_far_above_the_spread_does_not_cancel_the_covariance(offset):
    data = rows(400, 4, offset=offset)
    exact = np.cov(data.astype(np.float64).T, bias=True)
    # the rows themselves hold offset * 2^-24; products must not lose offset^2 * 2^-24
    np.testing.assert_allclose(moments_of(data[:150], data[150:]).covariance, exact, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int64])
def test_rows_of_other_types_are_summed_exactly(dtype):
    data = np.array([[250, 3], [1, 200], [80, 90], [255, 255]], dtype=dtype)
    found = moments_of(data)
    np.testing.assert_array_equal(found.mean, [146.5, 137.0])  # integers and halves: no rounding at all
    np.testing.assert_array_equal(found.covariance, np.cov(data.astype(float).T, bias=True))
    assert found.mean.dtype == found.covariance.dtype == np.float32


def test_an_empty_block_changes_nothing():
    data = rows(20, 3)
    found, expected = moments_of(data[:0], data, data[:0]), moments_of(data)
    np.testing.assert_array_equal(found.covariance, expected.covariance)
    np.testing.assert_array_equal(found.mean, expected.mean)


@pytest.mark.parametrize("size", [5, 37, 1000, 4095, 4096, 4097, 9000], ids=str)
def test_small_blocks_are_gathered_and_give_the_same(size):
    data = rows(9000, 5, offset=20.0)
    found = moments_of(*np.split(data, range(size, len(data), size)))
    exact = data.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-6)
    # blocks are multiplied in float32: about sqrt(9000) * 2^-24 of the variance, which is up to 40 here
    np.testing.assert_allclose(found.covariance, np.cov(exact.T, bias=True), atol=3e-4)
    assert found.count == 9000


def test_a_result_may_be_asked_for_on_the_way():
    data = rows(9000, 4)
    accumulator = MomentAccumulator(4)
    for start, stop in ((0, 10), (10, 5000), (5000, 5001), (5001, 9000)):
        accumulator.add(data[start:stop])
        for _ in range(2):
            found = accumulator.result()
            exact = data[:stop].astype(np.float64)
            np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-5)
            np.testing.assert_allclose(found.covariance, np.cov(exact.T, bias=True), atol=3e-4)
            assert found.count == stop


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [300, 5000])
def test_the_memory_of_a_block_may_be_used_again(count, dtype):
    first, second = rows(count, 3).astype(dtype), rows(count, 3, seed=1).astype(dtype)
    accumulator, buffer = MomentAccumulator(3), first.copy()
    accumulator.add(buffer)
    np.testing.assert_array_equal(buffer, first)  # it is not written to
    buffer[:] = second
    accumulator.add(buffer)
    found, expected = accumulator.result(), moments_of(first, second)
    np.testing.assert_array_equal(buffer, second)
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.covariance, expected.covariance)


def test_no_rows_are_an_error():
    with pytest.raises(ValueError, match="no rows"):
        MomentAccumulator(3).result()


@pytest.mark.parametrize(("count", "ridge"), [(20, 1e-5 + 1e-3), (40, 1e-5 + 0.5e-3), (2000, 1e-5 + 1e-5)])
def test_the_ridge_is_a_part_of_the_mean_variance_and_grows_with_scarcity(count, ridge):
    covariance = np.array([[3.0, 1.5], [1.5, 1.0]], dtype=np.float32)
    moments = Moments(mean=np.array([7.0, -2.0]), covariance=covariance, count=count)
    added = moments.regularized() - covariance
    # mean variance 2; the subtraction leaves float64 rounding of up to 7.0
    np.testing.assert_allclose(added, np.diag([2 * ridge, 2 * ridge]), atol=2e-15)
    np.testing.assert_array_equal(moments.covariance, [[3.0, 1.5], [1.5, 1.0]])


def test_shrunk_moments_add_the_dimension_over_the_count():
    moments = moments_of(rows(40, 5))
    added = moments.shrunk().covariance - moments.covariance
    expected = np.eye(5) * np.trace(moments.covariance) / 5 * 5 / 40
    np.testing.assert_allclose(added, expected, atol=1e-5)  # float32 rounding of variances of up to 40
    assert (moments.shrunk().count, moments.shrunk().mean.tolist()) == (40, moments.mean.tolist())


def test_the_ridge_works_in_float64():
    assert moments_of(rows(9, 3)).regularized().dtype == np.float64


@given(seed=st.integers(0, 2**16), count=st.integers(1, 60), copies=st.integers(1, 4), offset=st.sampled_from([0, 300]))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_degenerate_rows_have_a_positive_definite_ridged_covariance(seed, count, copies, offset):
    data = rows(count, 3, seed=seed, offset=offset)
    repeated = np.hstack([data] * copies + [np.zeros((count, 2), np.float32)])  # copied and constant columns
    ridged = moments_of(repeated).regularized()
    np.testing.assert_array_equal(ridged, ridged.T)
    assert np.linalg.eigvalsh(ridged)[0] > 0
    np.linalg.cholesky(ridged)  # what the fit does with it
