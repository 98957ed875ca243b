"""Budgets: what is accepted, what is refused, and what they mean."""

import dataclasses
import math

import pytest

from onnxslim1x1.errors import OptionError
from onnxslim1x1.search.plan import PLAN_SCHEMA_VERSION, Budget, PlannedLayer, RewritePlan, SkippedLayer
from onnxslim1x1.spec import Cost


@pytest.mark.parametrize("value", [1e-9, 0.05, 0.1, 0.5, 0.999, 1, 1.0])
def test_errors_that_are_allowed(value):
    assert Budget(max_error=value).max_error == value


@pytest.mark.parametrize("value", [0, 0.0, -0.1, 1.0000001, 2, 10, math.nan, math.inf, -math.inf, -0.0])
def test_errors_that_make_no_sense(value):
    with pytest.raises(OptionError, match=r"^--max-error .*: must lie in \(0, 1\]"):
        Budget(max_error=value)


@pytest.mark.parametrize("value", [1e-9, 0.2, 0.35, 0.5, 0.67, 0.9, 0.999999])
def test_targets_that_are_allowed(value):
    assert Budget(target_macs=value).target_macs == value


@pytest.mark.parametrize("value", [0, 0.0, -0.5, 1, 1.0, 1.5, 67, math.nan, math.inf, -math.inf])
def test_targets_that_make_no_sense(value):
    with pytest.raises(OptionError, match=r"^--target-macs .*: must lie between 0 and 1"):
        Budget(target_macs=value)


@pytest.mark.parametrize(("budget", "is_open", "only_explicit"), [
    (Budget(), True, False),
    (Budget(include=("a*",)), True, False),
    (Budget(exclude=("a*",)), True, False),
    (Budget(max_error=0.1), False, False),
    (Budget(target_macs=0.5), False, False),
    (Budget(max_error=0.1, target_macs=0.5), False, False),
    (Budget(ranks={"a": 3}), False, True),
    (Budget(ranks={"a": 3}, include=("b",)), False, True),
    (Budget(ranks={"a": 3}, max_error=0.1), False, False),
    (Budget(ranks={"a": 3}, target_macs=0.5), False, False),
    (Budget(ranks={"a": 3}, max_error=0.1, target_macs=0.5), False, False),
])
def test_how_far_a_budget_goes(budget, is_open, only_explicit):
    assert (budget.is_open, budget.only_explicit) == (is_open, only_explicit)


def test_values_are_frozen_and_compare_by_content():
    cost = Cost(params=3, macs=5)
    layer = PlannedLayer(layer="a", strategy="reduce", ranks=(8,), error=0.1, before=cost, after=cost)
    skipped = SkippedLayer(layer="b", code="dense", reason="a dense layer")
    plan = RewritePlan(tool="onnxslim1x1 0", model_sha256="f" * 64, seed=0, block=8, data="weights", layers=(layer,),
                       skipped=(skipped,))
    assert plan.schema_version == PLAN_SCHEMA_VERSION == 1
    assert layer.speedup is None
    assert plan == dataclasses.replace(plan)
    assert plan != dataclasses.replace(plan, seed=1)
    for value, name in ((Budget(), "max_error"), (layer, "error"), (skipped, "code"), (plan, "seed")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 1)
