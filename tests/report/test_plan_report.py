"""Plans, and what became of them, as tables and as JSON."""

import dataclasses
import json
from pathlib import Path

import pytest

from onnxslim1x1.report.plan import apply_json, apply_report, basis_line, plan_json, plan_report
from onnxslim1x1.report.style import Table, lines_of
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.search.pipeline import RewriteResult
from onnxslim1x1.search.plan import Budget, PlannedData, PlannedLayer, PlannedModel, RewritePlan, SkippedLayer
from onnxslim1x1.spec import Cost

BEFORE, AFTER = Cost(params=115_200, macs=29_491_200), Cost(params=42_130, macs=9_830_400)
LAYERS = tuple(
    PlannedLayer(layer=name, strategy="reduce", ranks=(rank,), error=0.058, before=BEFORE, after=AFTER, speedup=2.7)
    for name, rank in (("inception_a/5x5", 32), ("/backbone/features/denseblock4/denselayer12/conv2/Conv", 128)))
SKIPPED = (SkippedLayer(layer="stem/conv1", code="few_channels", reason="1 input channel(s) cannot be reduced"),
           SkippedLayer(layer="a/1x1", code="pointwise", reason="a 1x1 kernel has no positions to divide"),
           SkippedLayer(layer="b/1x1", code="pointwise", reason="a 1x1 kernel has no positions to divide"))
DATA = PlannedData(path="photos/faces", preprocess=preprocess("imagenet"), limit=300, images=256, sha256="9" * 64)
OUTPUT = Path("plan.json")


def plan(**changes):
    environment = Environment(cpu="Some CPU", isa=("avx2",), cores=4, block=16, onnxruntime="1.30.0", onnx="1.20.0",
                              python="3.12.1", platform="Linux-x86_64", providers=("CPUExecutionProvider",), threads=2)
    values = {"tool": "onnxslim1x1 0.1.0", "seed": 3, "environment": environment, "data": DATA, "budget": Budget(),
              "model": PlannedModel(path="net.onnx", sha256="cd" * 32), "layers": LAYERS, "skipped": SKIPPED,
              "before": Cost(params=435_000, macs=111_183_424), "after": Cost(params=210_000, macs=53_500_000),
              "notes": ("folded 10 BatchNormalization into the convolutions before them",)}
    return RewritePlan(**(values | changes))


def result(notes=("a note",), frozen=0, **changes):
    return RewriteResult(model=None, plan=plan(**changes), notes=notes, frozen=frozen)


def rendered(parts, width):
    return [line for part in parts for line in lines_of(part, width)]


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("data", [DATA, None])
def test_reports_fit(width, data):
    for parts in (plan_report(plan(data=data), OUTPUT), apply_report(result(data=data), Path("out.onnx"))):
        assert isinstance(parts[0], Table)
        assert max(map(len, rendered(parts, width))) <= width


def test_a_plan_says_what_it_decided_and_what_to_do_with_it():
    lines = rendered(plan_report(plan(), OUTPUT), 160)
    assert lines[2].split() == ["inception_a/5x5", "reduce", "32", "0.058", "29.5M", "9.83M", "2.70x"]
    assert lines[-7:-4] == ["left alone: 3 layers", "    1 x few_channels: 1 input channel(s) cannot be reduced",
                            "    2 x pointwise: a 1x1 kernel has no positions to divide"]
    assert lines[-3:] == ["MACs 111M -> 53.5M, parameters 435k -> 210k", "fitted to 256 images of faces",
                          "wrote plan.json; onnxslim1x1 apply MODEL plan.json -o OUT carries it out"]


def test_a_plan_that_changes_nothing_says_so():
    lines = rendered(plan_report(plan(layers=(), data=None), OUTPUT), 160)
    assert lines[0] == "left alone: 3 layers"
    assert lines[-3:] == [
        "no layer is worth rewriting", "from the weights alone; a plan with --calibration IMAGES finds better factors",
        "wrote plan.json; onnxslim1x1 apply MODEL plan.json -o OUT carries it out"]


def test_what_was_carried_out():
    unmeasured = tuple(dataclasses.replace(p, speedup=None) for p in LAYERS)
    lines = rendered(apply_report(result(layers=unmeasured), Path("out.onnx")), 160)
    assert lines[0].split() == ["layer", "family", "rank", "error", "MACs", "after"]
    assert lines[-3:] == ["MACs 111M -> 53.5M, parameters 435k -> 210k", "fitted to 256 images of faces",
                          "wrote out.onnx; onnxslim1x1 validate compares it with the original"]


@pytest.mark.parametrize(("frozen", "line"), [
    (0, "unchanged: the plan rewrites no layer; out.onnx is a copy of the input"),
    (3, "wrote out.onnx; onnxslim1x1 validate compares it with the original")])
def test_a_plan_without_layers_carried_out(frozen, line):
    lines = rendered(apply_report(result(layers=(), frozen=frozen), Path("out.onnx")), 160)
    assert lines[-1] == line


def test_what_factors_are_fitted_to():
    assert basis_line(DATA) == "fitted to 256 images of faces"
    assert basis_line(None).startswith("from the weights alone; ")


def strict(document):
    return json.loads(json.dumps(document, allow_nan=False))


def test_json_of_a_plan():
    found = strict(plan_json(plan(), OUTPUT))
    assert (found["schema_version"], found["command"], found["output"]) == (1, "plan", "plan.json")
    assert found["model"] == {"path": "net.onnx", "sha256": "cd" * 32}
    assert found["environment"]["block"] == 16
    assert found["totals"] == {"before": {"params": 435_000, "macs": 111_183_424},
                               "after": {"params": 210_000, "macs": 53_500_000}}
    assert list(found["plan"]) == [f.name for f in dataclasses.fields(RewritePlan)]
    assert [x["layer"] for x in found["plan"]["layers"]] == [p.layer for p in LAYERS]
    assert found["warnings"] == ["folded 10 BatchNormalization into the convolutions before them"]


@pytest.mark.parametrize(("changes", "unchanged"), [
    ({}, None), ({"layers": ()}, "the plan rewrites no layer"), ({"layers": (), "frozen": 2}, None)])
def test_json_of_what_was_carried_out(changes, unchanged):
    found = strict(apply_json(result(**changes), Path("out.onnx")))
    assert (found["schema_version"], found["command"], found["output"]) == (1, "apply", "out.onnx")
    assert found["unchanged"] == unchanged
    assert found["plan"]["data"]["preprocess"]["resize"] == 256
    assert found["totals"]["after"]["macs"] == 53_500_000
    assert found["warnings"] == ["a note"]
