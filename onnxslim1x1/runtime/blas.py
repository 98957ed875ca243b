"""Threads of the linear algebra behind numpy and scipy: the last digits of a result depend on how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def blas_threads() -> int:
    """How many threads there are now; 0 where that cannot be found out.

    numpy's library is asked: scipy brings its own, which the environment gives as many, and takes long to load.
    """
    import numpy as np  # noqa: F401  (only a library that is loaded can be asked)
    from threadpoolctl import threadpool_info

    return max((int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"), default=0)


@contextmanager
def limited_blas(threads: int) -> Iterator[None]:
    """As many threads for as long as the block runs, whatever the cores and the environment say; 0: as it is."""
    import scipy.linalg  # noqa: F401  (only a library that is loaded can be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=threads or None, user_api="blas"):
        yield
