"""Eigen-decompositions against numpy's own and against their definitions, entry by entry."""

import numpy as np
import pytest

from onnxslim1x1.linalg.spectra import eigh_descending, fractions, gram, orthonormal_rows

SHAPES = [(1, 1), (1, 6), (4, 4), (3, 11), (7, 5)]  # (5, 7): more rows than columns, so the Gram matrix is singular


def matrix(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_eigenpairs_satisfy_their_definition_and_descend(shape):
    symmetric = matrix(shape) @ matrix(shape).T
    values, vectors = eigh_descending(symmetric)
    assert (np.diff(values) <= 0).all()
    # float64 rounding of a matrix with entries of size 10
    np.testing.assert_allclose(symmetric @ vectors, vectors * values, atol=1e-12)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(shape[0]), atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_eigenvalues_of_the_gram_matrix_are_squared_singular_values(shape):
    a = matrix(shape, seed=1)
    expected = np.zeros(shape[0])
    singular = np.linalg.svd(a, compute_uv=False)
    expected[: len(singular)] = singular**2
    # an eigenvalue of A A^T carries an absolute error of about 1e-16 times the largest one
    np.testing.assert_allclose(eigh_descending(gram(a))[0], expected, atol=1e-13)


def test_rounding_below_zero_is_clipped():
    values, _ = eigh_descending(np.diag([-1e-12, 4.0, 2.0]))
    np.testing.assert_array_equal(values, [4.0, 2.0, 0.0])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_the_work_is_done_in_float64(dtype):
    a = np.array([[4096, 1, 2], [3, 2048, -1]], dtype=dtype)
    product = gram(a)
    # exact integers beyond float32's 2^24 (and far beyond float16's 65,504)
    np.testing.assert_array_equal(product, [[16777221, 14334], [14334, 4194314]])
    assert product.dtype == eigh_descending(product.astype(np.int64))[0].dtype == np.float64


def test_single_precision_stays_single():
    a = matrix((5, 9), seed=3)
    product = gram(a.astype(np.float32))
    values, vectors = eigh_descending(product)
    assert product.dtype == values.dtype == vectors.dtype == np.float32
    expected = eigh_descending(gram(a))[0]
    np.testing.assert_allclose(values, expected, atol=1e-6 * expected[0])  # a few units of 2^-24
    np.testing.assert_allclose(vectors * values @ vectors.T, gram(a), atol=2e-6 * expected[0])


def test_gram_multiplies_rows_not_columns():
    np.testing.assert_array_equal(gram(np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]])), [[14.0, -1.0], [-1.0, 2.0]])


def test_fractions_of_a_known_spectrum():
    # thirds and tenths are not exact in binary
    np.testing.assert_allclose(fractions(np.array([6.0, 3.0, 1.0])), [0.6, 0.3, 0.1], rtol=1e-15)


def test_fractions_of_nothing_are_zero():
    assert fractions(np.zeros(3)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (3, 8), (5, 5)])
def test_orthonormal_rows_span_the_same_space_rank_by_rank(rows, columns):
    a = matrix((rows, columns), seed=2)
    q = orthonormal_rows(a)
    np.testing.assert_allclose(q @ q.T, np.eye(rows), atol=1e-13)  # float64 rounding of QR
    for rank in range(1, rows + 1):  # nested: the first rows of a basis serve every smaller rank
        head = q[:rank]
        np.testing.assert_allclose(a[:rank] @ head.T @ head, a[:rank], atol=1e-12)
    assert q.flags.c_contiguous
