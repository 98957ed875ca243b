"""Speed-ups of choices: each is timed once, and those near the target share what they realise."""

import math

import numpy as np
import pytest

from onnxslim1x1.search.candidates import Candidate
from onnxslim1x1.search.speeds import Speeds
from onnxslim1x1.spec import Cost

WHOLE = 0.040
COST = Cost(macs=100, params=10)


class Clock:
    """Says the speed-ups that it is told to, by the layers of a choice."""

    def __init__(self, speeds, prepared=1.0):
        self.whole_s, self.prepared, self.realised = WHOLE, prepared, 1.0
        self.speeds, self.asked = speeds, []

    def speedup(self, model):
        self.asked.append(model)
        return self.speeds[model]


def chosen(**saved_ms):
    return {name: Candidate(layer=name, strategy="reduce", ranks=(8,), cost=COST, saved_macs=50, saved_params=5,
                            error=0.1, loss=0.01, saved_s=ms / 1e3) for name, ms in saved_ms.items()}


def names(choice):
    return "+".join(sorted(choice)) or "nothing"


def speeds_of(clock, explicit=None):
    return Speeds(clock, names, explicit=explicit or {})


def at(start, saved_ms):
    """Speed-up where so much is saved from so many seconds."""
    return WHOLE / (start - saved_ms / 1e3)


def test_a_choice_is_timed_once():
    clock = Clock({"a": 1.5})
    speeds = speeds_of(clock)
    assert [speeds.measured(chosen(a=10)) for _ in range(3)] == [1.5] * 3
    assert clock.asked == ["a"]
    assert speeds.measured({}) == 1.0  # is known already


def test_near_the_target_all_timings_say_what_is_realised():
    clock = Clock({"a": at(WHOLE, 12.5), "b": at(WHOLE, 14.5), "far": at(WHOLE, 1)}, prepared=1.0)
    speeds = speeds_of(clock)
    a, b, far = chosen(a=14), chosen(b=15), chosen(far=9)
    for choice in (a, b, far):
        speeds.measured(choice)
    assert speeds.estimated(a, 1.5) == pytest.approx(at(WHOLE, 14 * 27 / 29), rel=1e-12)
    assert speeds.estimated(b, 1.5) == pytest.approx(at(WHOLE, 15 * 27 / 29), rel=1e-12)
    assert speeds.estimated(far, 1.5) == clock.speeds["far"]
    assert speeds.nearest(1.5, least=1.35) == (a, speeds.estimated(a, 1.5))


def test_one_timing_says_nothing_more_than_itself():
    speeds = speeds_of(Clock({"a": 1.46}))
    assert speeds.estimated(chosen(a=17), 1.5) == pytest.approx(1.46, rel=1e-12)


def test_savings_count_from_the_explicit_ranks_on():
    clock = Clock({"e": 1.25, "a+e": at(WHOLE / 1.25, 4), "b+e": at(WHOLE / 1.25, 6)})
    explicit = chosen(e=30)  # whatever was predicted for them
    speeds = speeds_of(clock, explicit)
    a, b = explicit | chosen(a=5), explicit | chosen(b=5)
    assert speeds.saved_s(clock.speeds["a+e"]) == pytest.approx(4e-3)
    for choice in (a, b):
        speeds.measured(choice)
    assert speeds.estimated(a, 1.45) == speeds.estimated(b, 1.45) == pytest.approx(at(WHOLE / 1.25, 5), rel=1e-12)


@pytest.mark.parametrize(("least", "best"), [(1.9, "b"), (2.9, "b"), (1.0, "b"), (3.5, "b")])
def test_the_nearest_is_the_fastest_where_none_reaches_the_least(least, best):
    speeds = speeds_of(Clock({"a": 1.4, "b": 3.0}))
    for choice in (chosen(a=11), chosen(b=27)):
        speeds.measured(choice)
    assert names(speeds.nearest(4.0, least=least)[0]) == best


def test_what_saves_nothing_near_the_target_is_taken_as_timed():
    speeds = speeds_of(Clock({"a": 0.99}))
    assert speeds.estimated(chosen(a=0), 1.02) == 0.99
    assert speeds.estimated({}, 1.02) == 1.0


def test_noise_of_single_timings_is_averaged_out():
    """Ten choices of about equal speed, each timed within 3 %."""
    rng = np.random.default_rng(5)
    kinds = {f"c{i}": float(ms) for i, ms in enumerate(rng.uniform(12.5, 14.5, 10))}
    timed = {name: at(WHOLE, ms) * math.exp(rng.normal(0, 0.03)) for name, ms in kinds.items()}
    speeds = speeds_of(Clock(timed))
    choices = [chosen(**{name: ms}) for name, ms in kinds.items()]
    for choice in choices:
        speeds.measured(choice)
    real = np.array([at(WHOLE, ms) for ms in kinds.values()])
    estimated = np.array([speeds.estimated(choice, 1.5) for choice in choices])
    assert np.abs(estimated / real - 1).max() < 0.02 < np.abs(np.array(list(timed.values())) / real - 1).max()
