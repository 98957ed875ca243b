"""Settings of every test process, and a cache of its own for every test."""

import os
from itertools import count

import pytest

# pytest runs two processes: with one BLAS thread each they do not fight over the cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

CACHE_VARIABLE = "ONNXSLIM1X1_CACHE"
numbers = count()


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory):
    """A folder for caches, so that no test ever sees that of the user; fixtures of wider scope than a test use it."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("caches")
        patch.setenv(CACHE_VARIABLE, str(root / "shared"))
        yield root


@pytest.fixture(autouse=True)
def own_cache(caches, monkeypatch):
    """Nothing that another test has kept."""
    monkeypatch.setenv(CACHE_VARIABLE, str(caches / str(next(numbers))))


@pytest.fixture(autouse=True)
def no_service(monkeypatch):
    """Commands must not take the CI that runs the tests for the one of their user."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
