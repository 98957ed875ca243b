"""Calls of onnxruntime that take too long are given up, if somebody says how."""

import threading
import time

import pytest

from onnxslim1x1.runtime.session import run
from onnxslim1x1.runtime.watch import BASE_S, WATCH, Watch, allowed_s, watched


@pytest.fixture
def told(monkeypatch):
    found, event = [], threading.Event()

    def give_up(message):
        found.append(message)
        event.set()

    monkeypatch.setattr(WATCH, "give_up", give_up)
    monkeypatch.setattr(WATCH, "limit_s", 0.05)
    return found, event


def test_what_takes_too_long_is_given_up_in_one_line(told):
    found, event = told
    class Slow:
        def run(self, *_):
            return [event.wait(20)]

    assert run(Slow(), {}, where="m.onnx", limited=True) == [True]
    assert found == ["m.onnx: onnxruntime did not run this model within 0.05 s; give smaller shapes with "
                     "--input-shape, or more time with --run-limit (0: no limit)"]


def test_what_is_quick_is_not(told):
    with watched("m.onnx", "load this model"):
        pass
    time.sleep(1.0)  # more than the clock may show
    assert told[0] == []


def test_runs_on_the_data_of_a_user_take_the_time_that_they_need(told):
    class Slow:
        def run(self, *_):
            time.sleep(0.2)
            return []

    run(Slow(), {}, where="m.onnx")
    assert told[0] == []


def test_waiting_on_a_busy_machine_does_not_count(told, monkeypatch):
    monkeypatch.setattr(WATCH, "limit_s", 0.3)
    with watched("m.onnx", "run this model"):
        time.sleep(1.0)  # three times the limit, and hardly anything is computed
    assert told[0] == []


def test_computing_counts(told, monkeypatch):
    monkeypatch.setattr(WATCH, "limit_s", 0.3)
    with watched("m.onnx", "run this model"):
        end = time.process_time() + 1.0
        while time.process_time() < end and not told[0]:
            sum(range(10_000))
    assert len(told[0]) == 1


def test_no_limit(told, monkeypatch):
    monkeypatch.setattr(WATCH, "limit_s", 0.0)
    with watched("m.onnx", "load this model"):
        time.sleep(0.1)
    assert told[0] == []


def test_the_api_never_gives_up():
    assert Watch().give_up is None


def test_the_limit_grows_with_the_file_and_its_data(tmp_path):
    path = tmp_path / "m.onnx"
    assert allowed_s("model") == allowed_s(str(path)) == 0.0
    path.write_bytes(bytes(2_000_000))
    assert allowed_s(str(path)) == BASE_S + 2.0
    (tmp_path / "m.onnx.data").write_bytes(bytes(3_000_000))
    assert allowed_s(str(path)) == BASE_S + 5.0
