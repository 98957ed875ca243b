"""Two other judges see the same differences: polygraphy's comparator, and onnxruntime with numpy alone."""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from onnxslim1x1 import api
from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import create_session, input_specs
from onnxslim1x1.runtime.validate import ValidationSettings

SAMPLES = Path(__file__).parents[2] / "sample_models"
MODEL = SAMPLES / "digits_googlenet.onnx"
IMAGES = 12


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory):
    path = tmp_path_factory.mktemp("polygraphy") / "slim.onnx"
    api.slim(MODEL, path, budget=api.Budget(ranks={"inception_a/5x5": 16, "inception_b/5x5": 16}),
             run=api.RunOptions(threads=1), check=None)
    return path


@pytest.fixture(scope="module")
def ours(rewritten):
    data = api.DataOptions(path=SAMPLES / "digits_evaluation.npz", limit=IMAGES)
    return api.validate(MODEL, rewritten, data=data, run=api.RunOptions(threads=1),
                        settings=ValidationSettings(measure_latency=False, batch_size=IMAGES)).outputs


def feeds():
    data = load_dataset(SAMPLES / "digits_evaluation.npz", preprocess=preprocess(), limit=IMAGES,
                        inputs=input_specs(create_session(MODEL)))
    return data.batch(range(IMAGES))


def test_polygraphy_sees_the_same(rewritten, ours):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnxrt = pytest.importorskip("polygraphy.backend.onnxrt")
        comparator = pytest.importorskip("polygraphy.comparator")
        runners = [onnxrt.OnnxrtRunner(onnxrt.SessionFromOnnx(str(path), providers=["cpu"]), name=path.stem)
                   for path in (MODEL, rewritten)]
        logger = pytest.importorskip("polygraphy.logger").G_LOGGER
        with logger.verbosity(logger.CRITICAL):
            results = comparator.Comparator.run(runners, data_loader=[feeds()])
            (compared,) = comparator.Comparator.compare_accuracy(results, compare_func=comparator.CompareFunc.simple(
                atol=np.inf, rtol=np.inf))
    ((found,),) = compared.values()  # one pair of runners, one run
    assert {diff.name for diff in ours} == set(found) != set()
    for diff in ours:
        assert found[diff.name].max_absdiff == pytest.approx(diff.max_abs, rel=1e-4)
        assert found[diff.name].mean_absdiff == pytest.approx(diff.mean_abs, rel=1e-4)


def test_onnxruntime_and_numpy_see_the_same(rewritten, ours):
    old, new = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds())
                for path in (MODEL, rewritten))
    for diff, a, b in zip(ours, old, new, strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)  # noqa: PLW2901
        assert diff.max_abs == pytest.approx(np.abs(a - b).max(), rel=1e-4)
        assert diff.mean_abs == pytest.approx(np.abs(a - b).mean(), rel=1e-4)
        assert diff.snr_db == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), abs=1e-3)
        assert diff.cosine == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-9)
