"""Metrics of the user: what goes wrong in them is one clear line."""

import sys

import numpy as np
import pytest

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime.custom_metric import load_metric
from onnxslim1x1.runtime.metrics import Batch
from onnxslim1x1.runtime.series import figure

SOURCE = """
import numpy as np

def good(original, rewritten, labels):
    return np.abs(original["y"] - rewritten["y"]).max(axis=1)

good.better, good.unit = "lower", "m"

def wrong_better(original, rewritten, labels):
    return np.zeros(3)

wrong_better.better = "bigger"

def scalar(original, rewritten, labels):
    return 0.5

def short(original, rewritten, labels):
    return np.zeros(2)

def text(original, rewritten, labels):
    return "fine"

def three(original, rewritten, labels):
    return np.zeros(3), np.zeros(3), np.zeros(3)

def broken(original, rewritten, labels):
    return np.array([1.0, np.nan, 2.0])

def failing(original, rewritten, labels):
    return original["nonsense"]

def moody(original, rewritten, labels, seen=[]):
    seen.append(1)
    return np.zeros(3) if len(seen) == 1 else (np.zeros(3), np.zeros(3))

number = 5
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    (tmp_path / "my_metrics.py").write_text(SOURCE)
    (tmp_path / "my_broken.py").write_text("import nonsense_that_nobody_has")
    (tmp_path / "my_exit.py").write_text("raise RuntimeError('two\\nlines')")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_metrics", None)


BATCH = Batch(original={"y": np.zeros((3, 2))}, rewritten={"y": np.arange(6.0).reshape(3, 2)}, rows=3)


def test_a_metric_of_the_working_directory():
    before = list(sys.path)
    metric = load_metric("my_metrics:good")
    metric.add(BATCH)
    found = figure(metric.series()[0], confidence=0.95)
    assert (found.name, found.unit, found.better, found.value, found.images) == ("good", "m", "lower", 3.0, 3)
    assert sys.path == before


@pytest.mark.parametrize(("text", "message"), [
    ("my_metrics", "must read module:function"),
    (":good", "must read module:function"),
    ("my_metrics:", "must read module:function"),
    ("my_nothing:good", "my_nothing cannot be imported (ModuleNotFoundError"),
    ("my_broken:good", "my_broken cannot be imported (ModuleNotFoundError: No module named 'nonsense"),
    ("my_exit:good", "my_exit cannot be imported (RuntimeError: two lines)"),
    ("my_metrics:god", "has no function god; it has good,"),
    ("my_metrics:number", "has no function number"),
    ("my_metrics:wrong_better", "must be 'higher' or 'lower'"),
])
def test_what_cannot_be_loaded(text, message):
    with pytest.raises(OptionError) as caught:
        load_metric(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--metric {text}: ")


@pytest.mark.parametrize(("name", "message"), [
    ("scalar", "an array of shape () for 3 images"),
    ("short", "an array of shape (2,) for 3 images; return shape (3,)"),
    ("text", "returned str, not numbers"),
    ("three", "returned 3 arrays"),
    ("broken", "returned NaN or infinite numbers"),
    ("failing", "failed on a batch of 3 images (KeyError: 'nonsense')"),
])
def test_what_does_not_return_a_number_for_each_image(name, message):
    metric = load_metric(f"my_metrics:{name}")
    with pytest.raises(DataError, match=f"--metric my_metrics:{name}: ") as caught:
        metric.add(BATCH)
    assert message in str(caught.value)


def test_a_metric_that_changes_its_mind():
    metric = load_metric("my_metrics:moody")
    metric.add(BATCH)
    with pytest.raises(DataError, match="one array for some batches and two for others"):
        metric.add(BATCH)


def test_a_metric_that_was_never_called_has_no_figure():
    assert load_metric("my_metrics:good").series() == ()
