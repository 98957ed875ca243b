"""The outcome of `slim` as tables and as JSON."""

import dataclasses
import json
from pathlib import Path

import pytest

import onnxslim1x1
from onnxslim1x1.api import SlimResult
from onnxslim1x1.report.slimming import layer_table, outcome_line, slim_json, slim_report
from onnxslim1x1.report.style import Table, lines_of
from onnxslim1x1.runtime.benchmark import Latency, LatencyComparison
from onnxslim1x1.runtime.compare import OutputDiff
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.verdict import CheckResult, Gate, ValidationReport
from onnxslim1x1.search.pipeline import RewriteResult
from onnxslim1x1.search.plan import Budget, PlannedLayer, PlannedModel, RewritePlan, SkippedLayer
from onnxslim1x1.spec import Cost

LONG = ("/backbone/features/denseblock4/denselayer{}/conv2/Conv",
        "InceptionV4/InceptionV4/Mixed_7d/Branch_2/Conv2d_0c_0b_{}x1/convolution")


def planned(name, rank, *, error=0.0581, macs=29_491_200, speedup=2.7):
    return PlannedLayer(layer=name, strategy="reduce", ranks=(rank,), error=error,
                        before=Cost(params=macs // 256, macs=macs), after=Cost(params=macs // 700, macs=macs // 3),
                        speedup=speedup)


SKIPPED = (SkippedLayer(layer="stem/conv1", code="few_channels", reason="1 input channel(s) cannot be reduced"),
           SkippedLayer(layer="a/1x1", code="pointwise", reason="a 1x1 kernel is the reduction itself"),
           SkippedLayer(layer="b/1x1", code="pointwise", reason="a 1x1 kernel is the reduction itself"),
           SkippedLayer(layer="b/3x3", code="not_faster", reason="rank 80 runs at 0.97x of the original, measured"))
LAYERS = (planned("inception_a/5x5", 32), planned("inception_b/3x3", 1008, macs=1_849_688_064, speedup=None),
          planned("x", 8, error=0.99999, macs=512, speedup=12.345),
          *(planned(name.format(i), 64 + i) for name in LONG for i in (1, 2, 12)))


def validation(**changes):
    def latency(median):
        return Latency(median_s=median, p10_s=median, p90_s=median, runs=61, provider="CPUExecutionProvider", threads=1)

    values = {
        "checker": CheckResult(original_ok=True, rewritten_ok=True, message=""), "mismatches": (),
        "outputs": (OutputDiff(name="logits", shape=(16, 10), dtype="float32", max_abs=0.272, mean_abs=0.0325,
                               max_rel=0.257, mean_rel=0.0308, cosine=0.999778, snr_db=31.14, nan_count_original=0,
                               nan_count_rewritten=0, nan_count_new=0),),
        "classification": None, "size_original_bytes": 1_755_342, "size_rewritten_bytes": 848_127, "images": 256,
        "data": "digits_calibration.npz", "gates": (),
        "latencies": (LatencyComparison(original=latency(2.3e-3), rewritten=latency(1.19e-3), speedup=1.87,
                                        speedup_low=1.83, speedup_high=1.95, noise_low=0.97, noise_high=1.04),)}
    return ValidationReport(**(values | changes))


def result(**changes):
    environment = Environment(cpu="Some CPU", isa=("avx2",), cores=4, block=16, onnxruntime="1.30.0", onnx="1.20.0",
                              python="3.12.1", platform="Linux-x86_64", providers=("CPUExecutionProvider",), threads=2)
    plan = RewritePlan(tool=f"onnxslim1x1 {onnxslim1x1.__version__}", seed=3, environment=environment, data=None,
                       model=PlannedModel(path="net.onnx", sha256="cd" * 32), budget=Budget(max_error=0.1),
                       before=Cost(params=435_000, macs=111_183_424), after=Cost(params=210_000, macs=53_500_000),
                       layers=LAYERS, skipped=SKIPPED)
    values = {"plan": plan, "rewrite": RewriteResult(model=None, plan=plan, notes=()),
              "output": Path("slim.onnx"), "before": Cost(params=435_000, macs=111_183_424),
              "after": Cost(params=210_000, macs=53_500_000), "validation": validation(),
              "warnings": ("input images: free dimension N set to 1 (change it with --dim N=...)",)}
    return SlimResult(**(values | changes))


def rendered(parts, width):
    return [line for part in parts for line in lines_of(part, width)]


def text(found, width=160):
    return "\n".join(rendered(slim_report(found), width))


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("layers", [LAYERS[:1], LAYERS[:3], LAYERS, LAYERS[:3:-1]])
def test_the_table_of_layers_fits(width, layers):
    table = layer_table(layers)
    lines = rendered([table], width)
    assert max(map(len, lines)) <= width
    rows = [[str(c.header) for c in table.columns],
            *zip(*(map(str, column.cells) for column in table.columns), strict=True)]
    for row, line in zip(rows, [lines[0], *lines[2:]], strict=True):
        assert line.split()[1:] == [word for cell in row[1:] for word in cell.split()]
    shown = [line.split()[0] for line in lines[2:]]
    assert len(set(shown)) == len(layers)  # long names are shortened, and still differ


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("changes", [
    {}, {"validation": None}, {"output": None}, {"unchanged": "no layer is worth rewriting"},
    {"output": Path("results/2026-01-01/inception_v4_with_a_rather_long_name/slim.onnx")}])
def test_reports_fit(width, changes):
    parts = slim_report(result(**changes))
    assert max(map(len, rendered(parts, width))) <= width
    assert any(isinstance(part, Table) for part in parts)


def test_the_figures_of_a_layer():
    lines = rendered([layer_table(LAYERS)], 80)
    assert lines[2].split() == ["inception_a/5x5", "reduce", "32", "0.058", "29.5M", "9.83M", "2.70x"]
    assert lines[3].split() == ["inception_b/3x3", "reduce", "1008", "0.058", "1.85G", "617M", "-"]
    assert lines[4].split() == ["x", "reduce", "8", "1.000", "512", "170", "12.35x"]


def test_without_a_measured_speed_up_there_is_no_column_for_it():
    lines = rendered([layer_table(tuple(dataclasses.replace(p, speedup=None) for p in LAYERS[:2]))], 80)
    assert lines[0].split() == ["layer", "family", "rank", "error", "MACs", "after"]
    assert lines[2].split() == ["inception_a/5x5", "reduce", "32", "0.058", "29.5M", "9.83M"]


def test_layers_that_are_left_alone_are_counted_by_reason():
    found = text(result())
    assert "left alone: 4 layers" in found
    assert "  1 x few_channels: 1 input channel(s) cannot be reduced" in found
    assert "  2 x pointwise: a 1x1 kernel is the reduction itself" in found
    assert "  1 x not_faster: rank 80 runs at 0.97x" in found
    nothing = result(plan=dataclasses.replace(result().plan, skipped=()))
    assert "left alone" not in text(nothing)


@pytest.mark.parametrize(("changes", "line"), [
    ({}, "wrote slim.onnx"), ({"output": None}, "no file was written"),
    ({"unchanged": "it is slower"}, "unchanged: it is slower; slim.onnx is a copy of the input"),
    ({"unchanged": "it is slower", "output": None}, "unchanged: it is slower")])
def test_the_last_line_says_what_was_written(changes, line):
    found = result(**changes)
    assert outcome_line(found) == line
    assert text(found).splitlines()[-1] == line


def test_without_a_validation_the_costs_are_told():
    found = text(result(validation=None))
    assert "MACs 111M -> 53.5M, parameters 435k -> 210k; not validated" in found
    assert "faster" not in found.replace("not_faster", "")


def test_with_a_validation_its_verdict_is_told():
    assert "faster: 1.87x, 95 % interval 1.83 to 1.95" in text(result())
    failed = Gate(name="max_drop", bound=0.01, value=0.3, passed=False, kind="accuracy")
    assert "gate max_drop: FAILED (0.3, bound 0.01)" in text(result(validation=validation(gates=(failed,))))


def test_without_layers_there_is_no_empty_table():
    found = result(plan=dataclasses.replace(result().plan, layers=()), validation=None, unchanged="nothing pays")
    assert not any(isinstance(part, Table) for part in slim_report(found))


# ---- JSON ----

def strict_json(found):
    return json.loads(json.dumps(slim_json(found), allow_nan=False))


def test_json_says_what_was_done():
    found = strict_json(result())
    assert {"schema_version", "tool", "command", "model", "totals", "plan", "validation", "warnings"} <= set(found)
    assert (found["schema_version"], found["command"], found["output"]) == (1, "slim", "slim.onnx")
    assert found["unchanged"] is None
    assert found["model"]["sha256"] == "cd" * 32
    assert found["totals"]["before"] == {"params": 435_000, "macs": 111_183_424}
    assert found["totals"]["after"] == {"params": 210_000, "macs": 53_500_000}
    assert [x["layer"] for x in found["plan"]["layers"]] == [p.layer for p in LAYERS]
    first = found["plan"]["layers"][0]
    assert list(first) == [f.name for f in dataclasses.fields(PlannedLayer)]
    assert first.items() >= {
        "layer": "inception_a/5x5", "strategy": "reduce", "ranks": [32], "error": 0.0581, "speedup": 2.7,
        "before": {"params": 115_200, "macs": 29_491_200}, "after": {"params": 42_130, "macs": 9_830_400}}.items()
    assert found["plan"]["skipped"][0] == {"layer": "stem/conv1", "code": "few_channels",
                                           "reason": "1 input channel(s) cannot be reduced"}
    assert (found["plan"]["seed"], found["plan"]["environment"]["block"]) == (3, 16)
    assert found["validation"]["latencies"][0]["speedup"] == 1.87
    assert found["validation"]["passed"] is True
    assert found["warnings"] == list(result().warnings)


@pytest.mark.parametrize(("changes", "key", "value"), [
    ({"output": None}, "output", None), ({"validation": None}, "validation", None), ({"warnings": ()}, "warnings", []),
    ({"unchanged": "no layer is worth rewriting"}, "unchanged", "no layer is worth rewriting")])
def test_json_of_what_is_not_there(changes, key, value):
    assert strict_json(result(**changes))[key] == value
