"""Threads of the linear algebra: found out, limited, and given back."""

import subprocess
import sys

import pytest

from onnxslim1x1.runtime.blas import blas_threads, limited_blas


def test_a_limit_holds_for_a_block():
    before = blas_threads()
    assert before >= 1
    with limited_blas(before + 1):
        assert blas_threads() == before + 1
        with limited_blas(1):
            assert blas_threads() == 1
        assert blas_threads() == before + 1
    assert blas_threads() == before


def test_zero_leaves_everything_as_it_is():
    with limited_blas(3), limited_blas(0):
        assert blas_threads() == 3


def test_a_limit_ends_with_an_error():
    before = blas_threads()
    with pytest.raises(KeyError), limited_blas(before + 2):
        raise KeyError
    assert blas_threads() == before


def test_libraries_that_are_loaded_late_are_limited_too():
    code = ("from onnxslim1x1.runtime.blas import limited_blas\n"
            "with limited_blas(3):\n"
            "    import scipy.linalg, threadpoolctl\n"
            "    print({p['num_threads'] for p in threadpoolctl.threadpool_info() if p['user_api'] == 'blas'})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "{3}\n"
