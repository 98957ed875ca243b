"""Budgets: what is accepted, what is refused, and what they mean."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from onnxslim1x1.cli.exits import EXIT_UNUSABLE, exit_code
from onnxslim1x1.errors import OptionError, PlanMismatchError
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.search.plan import (
    PLAN_SCHEMA_VERSION,
    Budget,
    PlannedData,
    PlannedLayer,
    PlannedModel,
    Refit,
    RewritePlan,
    SkippedLayer,
    cost_after,
)
from onnxslim1x1.search.plan_check import require_fit
from onnxslim1x1.spec import Cost

HERE = Environment(cpu="Some CPU", isa=(), cores=4, block=8, onnxruntime="1.30.0", onnx="1.20.0", python="3.12.1",
                   platform="Linux-x86_64", providers=("CPUExecutionProvider",), threads=3)


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


@pytest.mark.parametrize("value", [0, 1, 1.2, -0.5, math.nan, math.inf])
def test_parameters_that_make_no_sense(value):
    with pytest.raises(OptionError, match=r"^--target-params .*: must lie between 0 and 1; 0\.67 keeps two thirds$"):
        Budget(target_params=value)


@pytest.mark.parametrize("value", [1.0001, 1.5, 2, 40.0])
def test_speeds_that_are_allowed(value):
    assert Budget(target_speedup=value).target_speedup == value


@pytest.mark.parametrize("value", [1, 1.0, 0.5, 0, -2, math.nan, math.inf])
def test_speeds_that_make_no_sense(value):
    with pytest.raises(OptionError, match=r"^--target-speedup .*: must be above 1; 1\.5 makes the model half as"):
        Budget(target_speedup=value)


@pytest.mark.parametrize("value", [0, 1, -0.01, 5, math.nan, math.inf])
def test_drops_that_make_no_sense(value):
    with pytest.raises(OptionError, match=r"^--max-drop .*: must lie between 0 and 1; 0\.01 is one point$"):
        Budget(max_drop=value)


@pytest.mark.parametrize(("targets", "named"), [
    ({"target_macs": 0.5, "target_params": 0.5}, "--target-macs and --target-params"),
    ({"target_speedup": 1.5, "target_macs": 0.5}, "--target-macs and --target-speedup"),
    ({"target_speedup": 1.5, "target_params": 0.5, "max_drop": 0.1}, "--target-params and --target-speedup"),
    ({"target_speedup": 1.5, "target_params": 0.5, "target_macs": 0.5},
     "--target-macs and --target-params and --target-speedup")])
def test_one_target_at_a_time(targets, named):
    with pytest.raises(OptionError) as caught:
        Budget(**targets)
    assert str(caught.value) == f"{named}: one target at a time; drop the others"


@pytest.mark.parametrize(("budget", "has_target", "counts_work", "needs_times"), [
    (Budget(), False, False, False),
    (Budget(max_error=0.1), False, False, False),
    (Budget(ranks={"a": 3}), False, False, False),
    (Budget(max_drop=0.1), False, False, True),
    (Budget(max_drop=0.1, ranks={"a": 3}, max_error=0.1), False, False, True),
    (Budget(target_speedup=1.5), True, False, True),
    (Budget(target_speedup=1.5, max_drop=0.1), True, False, True),
    (Budget(target_macs=0.5), True, True, False),
    (Budget(target_macs=0.5, max_drop=0.1), True, True, False),
    (Budget(target_params=0.5), True, True, False),
    (Budget(target_params=0.5, max_drop=0.1, ranks={"a": 3}), True, True, False)])
def test_what_a_budget_counts(budget, has_target, counts_work, needs_times):
    assert (budget.has_target, budget.counts_work, budget.needs_times) == (has_target, counts_work, needs_times)
    assert not budget.is_open or budget == Budget()
    assert budget.only_explicit == (budget == Budget(ranks={"a": 3}))


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
    plan = RewritePlan(tool="onnxslim1x1 0", model=PlannedModel(path=None, sha256="f" * 64), environment=HERE, seed=0,
                       budget=Budget(), data=None, before=cost, after=cost, layers=(layer,), skipped=(skipped,))
    assert plan.schema_version == PLAN_SCHEMA_VERSION == 1
    assert layer.speedup is None
    assert plan == dataclasses.replace(plan)
    assert plan != dataclasses.replace(plan, seed=1)
    for value, name in ((Budget(), "max_error"), (layer, "error"), (skipped, "code"), (plan, "seed")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 1)


def plan(**changes):
    values = {"tool": "onnxslim1x1 0", "model": PlannedModel(path="a.onnx", sha256="f" * 64), "environment": HERE,
              "seed": 7, "input_shapes": {"x": (2, 3, 5, 4)}, "dims": {"N": 2}, "budget": Budget(), "data": None,
              "before": Cost(params=9, macs=8), "after": Cost(params=7, macs=6), "layers": (), "skipped": ()}
    return RewritePlan(**(values | changes))


@pytest.mark.parametrize(("given", "threads"), [
    (None, 3), (RunOptions(), 3), (RunOptions(threads=1), 1),
    (RunOptions(threads=5, seed=1, provider="cuda", dims={"M": 4}, input_shapes={"y": (1,)}), 5)])
def test_a_plan_runs_as_it_was_made_but_for_the_threads(given, threads):
    run = plan().run_options(given)
    assert (run.threads, run.seed, run.provider) == (threads, 7, None)
    assert (run.input_shapes, run.dims) == ({"x": (2, 3, 5, 4)}, {"N": 2})


def test_progress_and_the_store_are_not_part_of_a_plan():
    given = RunOptions(progress=print)
    run = plan().run_options(given)
    assert (run.progress, run.store) == (print, given.store)


@pytest.mark.parametrize("path", ["photos/faces", "faces.npz"])
def test_data_can_be_opened_again_and_elsewhere(path):
    prep = preprocess("imagenet", resize=(240, 230))
    data = PlannedData(path=path, preprocess=prep, limit=5, images=4, sha256="0" * 64)
    assert data.name == Path(path).name
    assert data.options() == DataOptions(path=Path(path), preprocess=prep, limit=5)
    assert data.options(Path("x")) == DataOptions(path=Path("x"), preprocess=prep, limit=5)


def test_the_cost_after_a_rewrite():
    layers = [PlannedLayer(layer=str(i), strategy="reduce", ranks=(8,), error=0.1, before=Cost(params=10 * i, macs=7),
                           after=Cost(params=i, macs=5)) for i in (1, 2)]
    before = Cost(params=100, macs=50)
    assert cost_after(before, layers) == Cost(params=100 - 9 - 18, macs=50 - 2 - 2)
    assert cost_after(before, iter(layers)) == cost_after(before, layers)
    assert cost_after(before, ()) == before


# ---- refits ----

DATA = PlannedData(path="images.npz", preprocess=preprocess(), limit=None, images=4, sha256="0" * 64)


@pytest.fixture(scope="module")
def layers():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[1, 8, 6, 6] x) => (float[1, 9, 4, 4] y) { [a] y = Conv (x, w) }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((9, 8, 3, 3), np.float32), "w"))
    return find_layers(load(model), {"x": (1, 8, 6, 6), "y": (1, 9, 4, 4)})


def refitted(refit, **changes):
    cost = Cost(params=3, macs=5)
    return plan(layers=(PlannedLayer(layer="a", strategy="reduce", ranks=(4,), error=0.1, before=cost, after=cost,
                                     refit=refit),), **({"data": DATA} | changes))


@pytest.mark.parametrize("refit", [None, Refit(ridge=1e-9), Refit(ridge=7.0, residual=True)])
def test_refits_that_can_be_carried_out(layers, refit):
    require_fit(refitted(refit), layers, "plan.json")


@pytest.mark.parametrize("ridge", [0.0, -0.5])
def test_a_refit_needs_a_ridge(layers, ridge):
    with pytest.raises(PlanMismatchError) as caught:
        require_fit(refitted(Refit(ridge=ridge)), layers, "plan.json")
    assert str(caught.value).startswith(f"plan.json: layers[0].refit.ridge: {ridge:g} is not positive; ")
    assert exit_code(caught.value) == EXIT_UNUSABLE == 3


def test_refits_need_data(layers):
    with pytest.raises(PlanMismatchError) as caught:
        require_fit(refitted(Refit(ridge=1.0), data=None), layers, "plan.json")
    assert str(caught.value) == ("plan.json: layers[0].refit: needs calibration data, but the plan names none; set it "
                                 "to null, or make a new plan with data")
    require_fit(refitted(None, data=None), layers, "plan.json")
