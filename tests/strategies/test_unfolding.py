"""Eigenvalues of large matrices in single precision, and the order of patches."""

import numpy as np
import pytest

from onnxslim1x1.strategies.unfolding import Blocks, Unfolding, cumulated, eigenvalues


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("size", [7, 1040])
def test_eigenvalues_fall_and_add_up(size, scale):
    rng = np.random.default_rng(size)
    matrix = rng.standard_normal((size, size + 5)) * np.logspace(0, -3, size)[:, None]
    symmetric = scale * matrix @ matrix.T
    found, expected = eigenvalues(symmetric), np.maximum(np.linalg.eigvalsh(symmetric)[::-1], 0)
    assert (np.diff(found) <= 0).all()
    assert (found >= 0).all()
    total = expected.sum()
    # float32 rounding of about 1e-7 of the largest value, in each of the sums
    np.testing.assert_allclose(found.cumsum(), expected.cumsum(), rtol=0, atol=total * (1e-12 if size < 100 else 1e-6))


def test_eigenvalues_of_zero():
    np.testing.assert_array_equal(eigenvalues(np.zeros((1040, 1040))), np.zeros(1040))


def test_sums_begin_with_nothing():
    assert cumulated(np.array([3.0, 2.0, 0.5])) == [0.0, 3.0, 5.0, 5.5]


@pytest.mark.parametrize(("axes", "positions", "size"), [((), 24, 5), ((0,), 12, 10), ((1,), 8, 15), ((2, 0), 3, 40),
                                                         ((0, 1, 2), 1, 120)])
def test_blocks_are_reordered_patches(axes, positions, size):
    blocks = Blocks((2, 3, 4), 5, axes=axes, outputs=7)
    assert (blocks.positions, blocks.size) == (positions, size)
    assert (blocks.capacity, blocks.kernel_behind) == (min(size, 7 * positions), tuple(
        1 if axis in axes else length for axis, length in enumerate((2, 3, 4))))
    patches = np.arange(2 * 120.0).reshape(2, 2, 3, 4, 5)
    rest = [axis for axis in range(3) if axis not in axes]
    expected = patches.transpose(0, *(a + 1 for a in (*rest, *axes, 3))).reshape(2, positions, size)
    np.testing.assert_array_equal(blocks.rows(patches.reshape(2, 120)), expected)
    np.testing.assert_array_equal(blocks.unordered(expected), patches.reshape(2, 120))
    square = np.einsum("x,y->xy", patches[0].ravel(), patches[1].ravel())
    np.testing.assert_array_equal(blocks.square(square), np.einsum("pb,qc->pbqc", *expected))


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)], ids=["wide", "tall"])
def test_both_sides_have_the_same_spectrum_and_span(shape):
    rng = np.random.default_rng(0)
    rows, mixing = rng.standard_normal(shape), rng.standard_normal((shape[0], shape[0]))
    block = mixing @ mixing.T
    unfolding = Unfolding(rows, block)
    left, singular, _ = np.linalg.svd(np.linalg.cholesky(block).T @ rows)
    values, vectors = np.linalg.eigh(unfolding.gram)
    np.testing.assert_allclose(values[::-1][:6], singular**2, rtol=1e-9)
    found = unfolding.directions(vectors[:, ::-1][:, :4])
    expected = left[:, :4].T @ np.linalg.inv(np.linalg.cholesky(block))
    for rank in range(1, 5):  # for every rank the same span: no part is left outside of it
        outside = found[:rank] - found[:rank] @ np.linalg.pinv(expected[:rank]) @ expected[:rank]
        np.testing.assert_allclose(outside, 0, atol=1e-10)
