"""The bound is below what singular values say, for every matrix, and near enough to be of use."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim1x1.linalg.bounds import _log_determinant, least_tail


def tail(matrix, rank):
    """By singular values, in double precision."""
    energies = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2
    return energies[rank:].sum() / energies.sum()


def matrix(rows, columns, decay, seed):
    """Singular values that fall by a power, down to exactly low rank for a steep one."""
    rng = np.random.default_rng(seed)
    size = min(rows, columns)
    left, right = (np.linalg.qr(rng.standard_normal((n, size)))[0] for n in (rows, columns))
    return ((left * (1.0 + np.arange(size)) ** -decay) @ right.T).astype(np.float32)


@given(rows=st.integers(2, 60), columns=st.integers(2, 60), decay=st.floats(0, 6), part=st.floats(0.02, 0.98),
       seed=st.integers(0, 99), scale=st.sampled_from([1e-12, 1.0, 1e12]))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_no_bound_is_above_the_truth(rows, columns, decay, part, seed, scale):
    values = matrix(rows, columns, decay, seed) * np.float32(scale)
    rank = max(int(part * min(rows, columns)), 1)
    for enough in (1.0, 1e-4):
        assert 0 <= least_tail(values, rank, enough=enough) <= tail(values, rank)


@pytest.mark.parametrize("shape", [(64, 64), (64, 576), (576, 64), (128, 256), (192, 190)])
def test_random_matrices_are_found_out_at_the_rank_that_saves_nothing(shape):
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    rank = shape[0] * shape[1] // sum(shape)
    found, truth = least_tail(values, rank), tail(values, rank)
    assert 0.3 * truth < found <= truth
    assert found > 0.01  # an error of 0.1, twice what is allowed without data


@pytest.mark.parametrize("rank", [10, 20, 39])
def test_nothing_is_said_about_a_matrix_of_that_rank(rank):
    rng = np.random.default_rng(2)
    low = (rng.standard_normal((40, rank)) @ rng.standard_normal((rank, 200))).astype(np.float32)
    assert least_tail(low, rank) < 1e-6


def test_some_columns_are_enough():
    rng = np.random.default_rng(3)
    values = rng.standard_normal((32, 1280)).astype(np.float32)
    few = least_tail(values, 16, enough=0.01)
    assert 0.01 <= few < least_tail(values, 16)
    values[:, 960:] = 0
    assert least_tail(values, 16) == pytest.approx(least_tail(values[:, :960], 16), rel=0.01)


@pytest.mark.parametrize("values", [np.zeros((4, 7)), np.full((4, 7), np.nan), np.full((4, 7), np.inf),
                                    np.full((4, 7), 1e30), np.eye(4)])
def test_nothing_is_said_where_nothing_can_be(values):
    with np.errstate(all="ignore"):
        assert least_tail(values.astype(np.float32), 4) == 0.0
        assert least_tail(np.zeros((4, 7), np.float32), 2) == 0.0
        assert least_tail(np.full((4, 7), np.nan, np.float32), 2) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 1e-30])
def test_single_precision_gives_up_silently(value):
    values = np.full((5, 9), value, np.float32)
    assert least_tail(values, 2) == 0.0


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 700])
def test_the_determinant_of_many_blocks(size):
    rows = np.random.default_rng(size).standard_normal((size, 2 * size))
    product = (rows @ rows.T).astype(np.float32)
    assert _log_determinant(product.copy()) == pytest.approx(np.linalg.slogdet(product.astype(np.float64))[1], rel=1e-4)
    product[-1, -1] = -1.0
    assert _log_determinant(product) == -np.inf
