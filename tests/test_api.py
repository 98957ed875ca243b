"""What `import onnxslim1x1` offers: sources of every kind, plans that are carried out again, results that are kept."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import onnxslim1x1
from onnxslim1x1 import Budget, Check, DataOptions, RunOptions, ValidationSettings, api
from onnxslim1x1.errors import InfeasibleBudget, ModelError, OptionError, OutputError
from onnxslim1x1.runtime import calibration as runtime_calibration
from onnxslim1x1.runtime import validate as runtime_validate
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, Latency, LatencyComparison
from onnxslim1x1.runtime.store import NO_STORE
from onnxslim1x1.runtime.verdict import CheckResult, Tolerance, ValidationReport
from onnxslim1x1.search import measuring, pipeline

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 22, 27] image) => (float[N, 6] scores) {
  c0 = Conv <strides = [1, 2], pads = [1, 0, 1, 2]> (image, c0_w)
  n0 = BatchNormalization (c0, n0_g, n0_b, n0_m, n0_v)
  r0 = Relu(n0)
  c1 = Conv <pads = [2, 1, 2, 1]> (r0, c1_w, c1_b)
  r1 = Relu(c1)
  c2 = Conv <strides = [2, 1], pads = [0, 2, 1, 1]> (r1, c2_w)
  g = GlobalAveragePool(c2)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w, head_b)
}"""
NAMES = {"c0": "stem", "c1": "wide", "c2": "late", "scores": "head"}
SHAPES = {"c0_w": (20, 3, 3, 4), "c1_w": (28, 20, 5, 3), "c1_b": (28,), "c2_w": (24, 28, 3, 3), "head_w": (6, 24),
          "head_b": (6,), "n0_b": (20,), "n0_m": (20,)}
RUN = RunOptions(threads=1)
QUICK = ValidationSettings(benchmark=BenchmarkSettings(budget_s=0.0, min_rounds=3, max_rounds=3, warmup_s=0.0))


def network(seed=3):
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal(shape) * 0.3 for name, shape in SHAPES.items()}
    weights |= {"n0_g": rng.uniform(0.5, 2, 20), "n0_v": rng.uniform(0.5, 2, 20)}
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = NAMES.get(node.output[0], "")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items())
    return model


def comparison(low, high, noise=1.0):
    def latency(seconds):
        return Latency(median_s=seconds, p10_s=seconds, p90_s=seconds, runs=3, provider="CPUExecutionProvider",
                       threads=1)

    middle = (low + high) / 2
    return LatencyComparison(original=latency(0.01), rewritten=latency(0.01 / middle), speedup=middle, speedup_low=low,
                             speedup_high=high, noise_low=1 / noise, noise_high=noise)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Blocks of 4 channels, few samples, and chains and models that are twice as fast as what they replace."""
    monkeypatch.setattr(pipeline, "compare_chain", lambda *_args, **_options: 2.0)
    monkeypatch.setattr(pipeline, "channel_block", lambda _provider: 4)
    monkeypatch.setattr(measuring, "channel_block", lambda _provider: 4)
    monkeypatch.setattr(runtime_calibration, "LEAST_ROWS", 900)
    monkeypatch.setattr(runtime_calibration, "ROWS_PER_COLUMN", 2)
    monkeypatch.setattr(runtime_validate, "compare_models", lambda *_args, **_options: comparison(1.9, 2.1))


@pytest.fixture
def measured(monkeypatch):
    """Decide what the comparison of the two models finds."""
    def decide(*arguments):
        monkeypatch.setattr(runtime_validate, "compare_models", lambda *_args, **_options: comparison(*arguments))
    return decide


@pytest.fixture
def path(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def images(tmp_path):
    """More positions than are sampled, so that the seed matters."""
    rng = np.random.default_rng(8)
    array = rng.standard_normal((10, 3, 22, 27)).astype(np.float32) + rng.standard_normal((10, 3, 1, 1))
    np.savez(tmp_path / "images.npz", x=array.astype(np.float32))
    return DataOptions(path=tmp_path / "images.npz")


def content(proto):
    return proto.SerializeToString(deterministic=True)


def scores(model, count=4):
    raw = model.SerializeToString() if isinstance(model, onnx.ModelProto) else Path(model).read_bytes()
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    feed = np.random.default_rng(1).standard_normal((count, 3, 22, 27)).astype(np.float32)
    return session.run(["scores"], {"image": feed})[0]


# ---- the package ----

@pytest.mark.parametrize("code", [
    "import onnxslim1x1", "import onnxslim1x1; onnxslim1x1.__version__", "from onnxslim1x1 import __all__",
    "import onnxslim1x1; dir(onnxslim1x1)", "import onnxslim1x1; hasattr(onnxslim1x1, 'nothing')"])
def test_the_import_is_lazy(code):
    heavy = "{'onnx', 'onnxruntime', 'numpy', 'scipy', 'PIL', 'typer', 'rich'}"
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\nprint(sorted({heavy} & set(sys.modules)))"],
                          capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_everything_that_is_promised_is_there():
    assert {"analyze", "plan", "apply", "validate", "slim", "__version__"} <= set(onnxslim1x1.__all__)
    for name in onnxslim1x1.__all__:
        assert getattr(onnxslim1x1, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'slimmer'"):
        onnxslim1x1.slimmer  # noqa: B018


# ---- sources ----

@pytest.fixture(params=["str", "path", "proto"])
def source(request, path):
    """The model in every form, checked to be untouched afterwards."""
    proto, before = onnx.load(path), path.read_bytes()
    yield {"str": str(path), "path": path, "proto": proto}[request.param]
    assert path.read_bytes() == before
    assert content(proto) == content(onnx.load_from_string(before))


def test_analyze(source):
    found = api.analyze(source, run=RUN)
    assert found.path == (None if isinstance(source, onnx.ModelProto) else str(source))
    assert found.opset == 17
    assert [p.layer.name for p in found.layers] == ["stem", "wide", "late", "head"]
    assert found.macs == (20 * 3 * 12 * 22 * 13) + (28 * 20 * 15 * 22 * 13) + (24 * 28 * 9 * 11 * 14) + 24 * 6
    assert found.profile is not None
    assert all(p.time_s >= 0 for p in found.layers)


def test_analyze_without_measuring(source):
    found = api.analyze(source, measure=False, digest=True)
    assert (found.environment, found.profile) == (None, None)
    assert len(found.sha256) == 64
    assert {p.layer.name: p.declined and p.declined.code for p in found.layers} == {
        "stem": None, "wide": None, "late": None, "head": None}


def test_plan(source):
    found = api.plan(source, Budget(ranks={"wide": 8, "late": 4}), run=RUN)
    assert {p.layer: p.ranks for p in found.layers} == {"wide": (8,), "late": (4,)}
    assert found == api.plan(source, Budget(ranks={"wide": 8, "late": 4}), run=RUN)


def test_apply(source):
    budget = Budget(ranks={"wide": 8})
    result = api.apply(source, api.plan(source, budget, run=RUN), run=RUN)
    onnx.checker.check_model(result.proto, full_check=True)
    shapes = {tuple(t.dims) for t in result.proto.graph.initializer}
    assert {(8, 20, 1, 1), (28, 8, 5, 3)} <= shapes


def test_validate(source):
    found = api.validate(source, source, run=RUN, settings=QUICK)
    assert found.passed
    assert found.outputs[0].max_abs == 0.0
    assert found.cost_original == found.cost_rewritten
    assert found.cost_original.macs == api.analyze(source, measure=False).macs


def test_slim(source, tmp_path):
    for output in (tmp_path / "out.onnx", str(tmp_path / "out2.onnx"), None):
        result = api.slim(source, output, budget=Budget(ranks={"wide": 8}), run=RUN)
        assert result.output == (None if output is None else Path(output))
        assert result.unchanged is None
        assert result.after.macs < result.before.macs
        assert result.validation.passed
        if output:
            np.testing.assert_array_equal(scores(output), scores(result.rewrite.proto))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "out.onnx", "out2.onnx"]


# ---- plans that are carried out again ----

def slimmed(path, tmp_path, budget, **options):
    out = tmp_path / "slim.onnx"
    result = api.slim(path, out, budget=budget, check=Check(settings=QUICK), **options)
    assert result.unchanged is None
    return result, out.read_bytes()


BUDGETS = [Budget(ranks={"wide": 8}), Budget(ranks={"wide": 8, "late": 5}), Budget(max_error=0.6),
           Budget(max_error=0.6, exclude=("late",)), Budget(target_macs=0.8), Budget(target_macs=0.45),
           Budget(ranks={"late": 3}, target_macs=0.8), Budget(include=("late",), max_error=0.9)]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("seed", [0, 12])
@pytest.mark.parametrize("with_images", [False, True])
def test_a_plan_that_is_applied_gives_the_bytes_of_slim(path, tmp_path, images, budget, seed, with_images):
    run, data = dataclasses.replace(RUN, seed=seed), images if with_images else None
    result, raw = slimmed(path, tmp_path, budget, run=run, calibration=data)
    plan = api.plan(path, budget, run=run, calibration=data)
    assert plan == result.plan
    again = api.apply(path, plan, run=RUN, calibration=data)  # the seed is that of the plan
    assert [p.layer for p in again.applied] == [p.layer for p in result.plan.layers]
    assert content(again.proto) == content(onnx.load_from_string(raw))


def test_another_seed_gives_other_factors(path, images):
    plan = api.plan(path, Budget(ranks={"wide": 8}), calibration=images, run=RUN)
    first, other = (api.apply(path, dataclasses.replace(plan, seed=seed), calibration=images, run=RUN)
                    for seed in (0, 1))
    assert list(first.proto.graph.initializer) != list(other.proto.graph.initializer)  # not only the metadata


# ---- what slim keeps ----

def test_metadata_says_how_the_model_was_made(path, tmp_path, images):
    result, raw = slimmed(path, tmp_path, Budget(ranks={"wide": 8}), calibration=images,
                          run=dataclasses.replace(RUN, seed=6))
    found = {p.key: p.value for p in onnx.load_from_string(raw).metadata_props}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(found["onnxslim1x1"]) == {
        "tool": f"onnxslim1x1 {onnxslim1x1.__version__}", "source_sha256": digest, "data": "images.npz", "seed": 6,
        "layers": {"wide": {"strategy": "reduce", "ranks": [8]}}}
    assert result.plan.model.sha256 == digest


@pytest.mark.parametrize("budget", [Budget(include=("head",)), Budget(exclude=("*",)), Budget(max_error=1e-6)])
def test_where_nothing_pays_the_output_is_a_copy(path, tmp_path, budget):
    result = api.slim(path, tmp_path / "out.onnx", budget=budget, run=RUN, check=Check(settings=QUICK))
    assert result.unchanged == "no layer is worth rewriting"
    assert result.rewrite.applied == ()
    assert result.before == result.after
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


BY_ERROR, BY_RANK = Budget(max_error=0.6), Budget(ranks={"wide": 8})
# Ends of the interval and noise floor of a measurement
FASTER, BARELY, NOISE = (1.5, 1.7, 1.02), (1.01, 1.05, 1.001), (1.01, 1.05, 1.02)
UNCLEAR, SLOWER = (0.97, 1.05), (0.8, 0.9)


@pytest.mark.parametrize(("budget", "found", "kept"), [
    (BY_ERROR, FASTER, True), (BY_ERROR, BARELY, True), (BY_ERROR, NOISE, False), (BY_ERROR, UNCLEAR, False),
    (BY_ERROR, SLOWER, False),
    (BY_RANK, FASTER, True), (BY_RANK, UNCLEAR, True), (BY_RANK, SLOWER, False),  # what was asked for: unless slower
    (Budget(target_macs=0.6), UNCLEAR, True), (Budget(target_macs=0.6), SLOWER, False),
    (Budget(target_macs=0.6, max_error=0.9), UNCLEAR, True), (None, UNCLEAR, False), (None, FASTER, True)])
def test_a_rewrite_that_is_not_faster_is_taken_back(path, measured, monkeypatch, budget, found, kept):
    measured(*found)
    monkeypatch.setattr(pipeline, "ERROR_WITHOUT_DATA", 0.6)  # else nothing of this network would be rewritten
    output = path.with_name("out.onnx")
    result = api.slim(path, output, budget=budget, run=RUN)
    assert result.plan.layers
    assert (result.unchanged is None) == kept
    if kept:
        assert output.read_bytes() != path.read_bytes()
        assert result.after.macs < result.before.macs
    else:
        low, high = found[:2]
        assert output.read_bytes() == path.read_bytes()
        assert f"{(low + high) / 2:.2f}x ({low:.2f} to {high:.2f})" in result.unchanged


def test_what_is_taken_back_costs_what_the_original_costs(path, tmp_path, measured):
    measured(0.8, 0.9)
    result = api.slim(path, tmp_path / "out.onnx", budget=Budget(ranks={"wide": 8}), run=RUN)
    assert result.unchanged
    assert result.after == result.before


def report(latencies):
    return ValidationReport(checker=CheckResult(original_ok=True, rewritten_ok=True, message=""), mismatches=(),
                            outputs=(), classification=None, latencies=latencies, size_original_bytes=1,
                            size_rewritten_bytes=1, images=1, data="random inputs, seed 0")


@pytest.mark.parametrize(("verdict", "open_budget", "explicit"), [
    ((1.5, 1.7), False, False), ((0.98, 1.02), True, False), ((0.7, 0.8), True, True), (None, False, False)])
def test_not_faster(verdict, open_budget, explicit):
    found = report((comparison(*verdict),) if verdict else ())
    for budget in (Budget(), Budget(max_error=0.1), Budget(include=("a",))):
        assert (api.not_faster(found, budget) is not None) == open_budget
    for budget in (Budget(ranks={"a": 3}), Budget(target_macs=0.5), Budget(target_macs=0.5, max_error=0.1)):
        assert (api.not_faster(found, budget) is not None) == explicit


@pytest.mark.parametrize(("tolerance", "keep", "kept"), [
    (Tolerance(min_snr_db=300.0), False, False), (Tolerance(min_snr_db=300.0), True, True),
    (Tolerance(min_speedup=3.0), False, False), (Tolerance(min_speedup=3.0), True, True),
    (Tolerance(min_speedup=1.5, min_snr_db=-50.0), False, True)])
def test_gates(path, tmp_path, tolerance, keep, kept):
    check = Check(settings=dataclasses.replace(QUICK, tolerance=tolerance), keep_failed=keep)
    result = api.slim(path, tmp_path / "out.onnx", budget=Budget(ranks={"wide": 2}), run=RUN, check=check)
    assert (tmp_path / "out.onnx").exists() == kept
    assert result.output == (tmp_path / "out.onnx" if kept else None)
    assert result.validation.passed == (not keep and kept)


def test_without_a_check_nothing_is_validated(path, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "validate_models", lambda *_args, **_options: pytest.fail("validated"))
    result = api.slim(path, tmp_path / "out.onnx", budget=Budget(ranks={"wide": 8}), run=RUN, check=None)
    assert result.validation is None
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)


def test_the_check_takes_its_own_data_else_the_calibration_data_else_random_inputs(path, tmp_path, images):
    np.save(tmp_path / "check.npy", np.zeros((3, 3, 22, 27), np.float32))
    data = DataOptions(path=tmp_path / "check.npy")
    for calibration, check, name in ((images, Check(data=data), "check.npy"), (images, Check(), "images.npz"),
                                     (None, Check(data=data), "check.npy"), (None, Check(), "random inputs, seed 0")):
        result = api.slim(path, budget=Budget(ranks={"wide": 8}), run=RUN, calibration=calibration, check=check)
        assert result.validation.data == name
        assert any("without calibration data" in w for w in result.warnings) == (calibration is None)


@pytest.mark.parametrize(("count", "name", "checked"), [(39, "many.npy", 39), (44, "many.npy, held out", 9)])
def test_images_that_were_fitted_to_do_not_serve_the_check_if_there_are_enough(path, tmp_path, count, name, checked):
    """Every fifth one from the third on is held out."""
    values = np.random.default_rng(2).standard_normal((count, 3, 22, 27), dtype=np.float32)
    np.save(tmp_path / "many.npy", values)
    result = api.slim(path, budget=Budget(ranks={"wide": 8}), run=RUN, check=Check(settings=QUICK),
                      calibration=DataOptions(path=tmp_path / "many.npy"))
    assert (result.validation.data, result.validation.images) == (name, checked)
    np.save(tmp_path / "held_out.npy", values[2::5] if count > checked else values)
    again = api.validate(path, result.rewrite.proto, run=RUN, settings=QUICK,
                         data=DataOptions(path=tmp_path / "held_out.npy"))
    assert (again.outputs, again.figures) == (result.validation.outputs, result.validation.figures)


# ---- errors ----

def test_errors_come_before_the_work(path, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "make_plan", lambda *_args: pytest.fail("planned"))
    for output, kind in ((tmp_path / "missing" / "o.onnx", OutputError), (tmp_path, OutputError), (path, OptionError)):
        with pytest.raises(kind):
            api.slim(path, output, run=RUN)
    with pytest.raises(ModelError):
        api.slim(tmp_path / "missing.onnx", tmp_path / "out.onnx", run=RUN)


def test_a_failure_leaves_nothing(path, tmp_path, monkeypatch):
    with pytest.raises(InfeasibleBudget):
        api.slim(path, tmp_path / "out.onnx", budget=Budget(target_macs=0.001), run=RUN)

    def fail(*_args, **_options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(api, "validate_models", fail)
    with pytest.raises(RuntimeError):
        api.slim(path, tmp_path / "out.onnx", budget=Budget(ranks={"wide": 8}), run=RUN)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_progress_tells_stages_and_rises(path, images):
    told = []
    api.slim(path, budget=Budget(max_error=0.6), calibration=images, check=Check(settings=QUICK),
             run=dataclasses.replace(RUN, store=NO_STORE, progress=lambda stage, done: told.append((stage, done))))
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages[:4] == ["statistics", "gradients", "factorising", "reconstruction"]
    for stage in stages:
        parts = [done for name, done in told if name == stage]
        assert parts == sorted(parts)
        assert parts[-1] == pytest.approx(1.0)


def test_shapes_of_the_options_decide_about_the_costs(path):
    one, five = (api.slim(path, budget=BY_RANK, run=dataclasses.replace(RUN, dims={"N": n}), check=None)
                 for n in (1, 5))
    assert (five.before.macs, five.after.macs) == (5 * one.before.macs, 5 * one.after.macs)
    assert five.before.params == one.before.params
