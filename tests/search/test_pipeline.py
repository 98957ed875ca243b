"""From a model and a budget to a plan, and from a plan to a rewritten model that runs in onnxruntime."""

import dataclasses
import hashlib
import json

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import onnxslim1x1
from onnxslim1x1.errors import DataError, PlanMismatchError, RankError, UnknownLayerError
from onnxslim1x1.graph.model import load
from onnxslim1x1.runtime import calibration as runtime_calibration
from onnxslim1x1.runtime.hardware import environment
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.search import pipeline
from onnxslim1x1.search.pipeline import (
    Calibration,
    Subject,
    factors_of,
    groundwork,
    make_plan,
    model_cost,
    provenance,
    rewrite,
    total_cost,
    workbench,
)
from onnxslim1x1.search.plan import Budget, PlannedData, PlannedLayer, PlannedModel
from onnxslim1x1.spec import Cost

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 26, 33] image) => (float[N, 6] scores) {
  c0 = Conv <strides = [1, 2], pads = [1, 0, 1, 2]> (image, c0_w)
  n0 = BatchNormalization <epsilon = 0.01> (c0, n0_g, n0_b, n0_m, n0_v)
  r0 = Relu(n0)
  c1 = Conv <pads = [2, 1, 2, 1]> (r0, c1_w, c1_b)
  r1 = Relu(c1)
  c2 = Conv <strides = [2, 1], dilations = [1, 2], pads = [0, 2, 1, 1]> (r1, c2_w)
  g = GlobalAveragePool(c2)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w, head_b)
}"""
NAMES = {"c0": "stem", "c1": "wide", "c2": "late", "scores": "head"}
SHAPES = {"c0_w": (20, 3, 3, 4), "c1_w": (28, 20, 5, 3), "c1_b": (28,), "c2_w": (24, 28, 3, 3), "head_w": (6, 24),
          "head_b": (6,), "n0_b": (20,), "n0_m": (20,)}
BLOCK = 4


def network(text=TEXT, seed=3, **changes):
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal(s).astype(np.float32) * 0.3 for name, s in SHAPES.items()}
    for name, rank in (("c1_w", 5), ("c2_w", 7)):  # nearly of low rank in the input channels
        basis = np.linalg.qr(rng.standard_normal((SHAPES[name][1], rank)))[0]
        weights[name] = (np.einsum("ocij,cd->odij", weights[name], basis @ basis.T) + 0.03 * weights[name])
    weights |= {"n0_g": rng.uniform(0.5, 2, 20), "n0_v": rng.uniform(0.5, 2, 20)} | changes
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = NAMES.get(node.output[0], "")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items())
    return model


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with blocks of 4 channels on which every chain is twice as fast; gives what was measured.

    Statistics take fewer samples than they should, which is faster.
    """
    asked = []

    def compare_chain(original, chain, **options):
        asked.append((original, chain, options))
        return 2.0

    monkeypatch.setattr(pipeline, "compare_chain", compare_chain)
    monkeypatch.setattr(pipeline, "channel_block", lambda _provider: BLOCK)
    monkeypatch.setattr(pipeline, "time_chain", lambda specs, **_options: 1e-9 * specs[0].macs)
    monkeypatch.setattr(runtime_calibration, "LEAST_ROWS", 1500)
    monkeypatch.setattr(runtime_calibration, "ROWS_PER_COLUMN", 3)
    return asked


@pytest.fixture
def path(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def calibration(tmp_path):
    """More positions than are sampled, so the seed matters; in squares, so the data has structure of its own."""
    rng = np.random.default_rng(8)
    images = rng.standard_normal((12, 3, 4, 5)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=images.repeat(7, axis=2)[:, :, :26].repeat(7, axis=3)[:, :, :, :33])
    return DataOptions(path=tmp_path / "images.npz")


def subject(source, **options):
    return Subject.of(load(source), RunOptions(**options))


def planned(source, budget, calibration=None, **options):
    run = RunOptions(**options)
    return make_plan(Subject.of(load(source), run), budget, calibration, run).plan


def rewritten(source, budget, calibration=None, **options):
    run = RunOptions(**options)
    it = Subject.of(load(source), run)
    made = make_plan(it, budget, calibration, run)
    return rewrite(it, made.plan, made.factors)


def scores(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"image": images})[0]


def images(count=5, seed=77):
    return np.random.default_rng(seed).standard_normal((count, 3, 26, 33)).astype(np.float32)


# ---- the subject ----

def test_a_subject_is_folded_and_its_source_is_not(path):
    it = subject(path)
    assert it.source.path == path
    assert [layer.name for layer in it.layers] == ["stem", "wide", "late", "head"]
    assert it.prepared.folded == 1
    assert "BatchNormalization" not in {node.op_type for node in it.prepared.model.proto.graph.node}
    assert "BatchNormalization" in {node.op_type for node in it.source.proto.graph.node}
    assert it.shapes.inputs == {"image": (1, 3, 26, 33)}
    assert [layer.spec.in_size for layer in it.layers] == [(26, 33), (26, 16), (26, 16), ()]


def test_a_subject_takes_the_shapes_of_the_options(path):
    assert {layer.spec.batch for layer in subject(path, dims={"N": 4}).layers} == {4}
    assert subject(path, input_shapes={"image": (2, 3, 26, 33)}).shapes.notes == ()


# ---- plans ----

def test_an_open_budget_without_data_means_a_small_error_of_the_weights(path):
    plan = planned(path, Budget())
    assert plan == planned(path, Budget(max_error=0.05))
    assert plan.layers
    assert max(p.error for p in plan.layers) <= 0.05
    assert plan != planned(path, Budget(max_error=0.9))


def test_an_open_budget_with_data_means_a_small_drop(path, calibration):
    plan = planned(path, Budget(), calibration)
    assert plan == planned(path, Budget(max_drop=0.01), calibration)
    assert plan.promise.max_drop == 0.01
    assert plan.promise.held_out_drop <= 0.01 or not plan.layers
    assert plan.promise.held_out_loss is not None


@pytest.mark.parametrize("budget", [Budget(ranks={"wide": 8}), Budget(ranks={"wide": 8}, max_drop=0.9)])
def test_labels_of_the_calibration_images_count_for_the_drop(path, calibration, budget):
    """The original is right about all of them, far more often than it thinks."""
    plain = planned(path, budget, calibration).promise.held_out_drop
    with np.load(calibration.path) as images:
        found = scores(onnx.load(path), images["x"]).reshape(12, -1)
        np.savez(calibration.path, x=images["x"], labels=found.argmax(axis=1))
    assert planned(path, budget, calibration).promise.held_out_drop > 1.2 * plain


def test_without_data_a_drop_cannot_be_judged(path):
    assert planned(path, Budget(max_drop=0.2)) == planned(path, Budget())


def test_a_plan_says_what_it_was_made_for(path, calibration):
    plan = planned(path, Budget(max_error=0.3), calibration, seed=5)
    assert plan.tool == f"onnxslim1x1 {onnxslim1x1.__version__}"
    assert plan.model == PlannedModel(path="net.onnx", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert (plan.schema_version, plan.seed, plan.budget) == (1, 5, Budget(max_error=0.3))
    assert plan.environment == environment(threads=0)
    assert (plan.data.path, plan.data.limit, plan.data.images) == (str(calibration.path), None, 12)
    assert planned(path, Budget(max_error=0.3)).data is None
    assert {p.speedup for p in plan.layers} == {2.0}


def test_measurements_run_as_the_options_say(path, machine):
    planned(path, Budget(ranks={"wide": 8, "late": 4}), threads=3, provider="cpu")
    assert {(m[0].in_channels, m[1][0].out_channels) for m in machine} == {(20, 8), (28, 4)}
    assert [(m[2]["threads"], m[2]["provider"]) for m in machine] == [(3, "cpu")] * 2


@pytest.mark.parametrize(("budget", "fitted"), [
    (Budget(), {"n0", "c1", "c2"}),
    (Budget(include=("late",)), {"c2"}),
    (Budget(exclude=("late",)), {"n0", "c1"}),
    (Budget(ranks={"wide": 7}), {"c1"}),
    (Budget(ranks={"wide": 7}, max_error=0.2, include=("late",)), {"c1", "c2"}),
    (Budget(ranks={"stem": 2}), {"n0"}),
    (Budget(ranks={"stem": 2}, target_macs=0.9), {"n0", "c1", "c2"}),
    (Budget(include=("head",)), set()),
])
def test_statistics_are_collected_only_where_they_may_be_needed(path, calibration, monkeypatch, budget, fitted):
    asked = []
    real = pipeline.moments_of

    def collect(model, layers, *args, **options):
        asked.append({layer.output for layer in layers})
        return real(model, layers, *args, **options)

    monkeypatch.setattr(pipeline, "moments_of", collect)
    planned(path, budget, calibration)
    assert asked == ([fitted] if fitted else [])


@pytest.mark.parametrize(("budget", "timed"), [
    (Budget(target_speedup=1.0001), True), (Budget(max_drop=0.1), True), (Budget(max_drop=0.1, max_error=0.3), True),
    (Budget(target_macs=0.9, max_drop=0.1), False), (Budget(target_params=0.9, max_drop=0.1), False),
    (Budget(max_error=0.3), False), (Budget(target_macs=0.9), False)])
def test_layers_are_timed_only_where_candidates_are_chosen_by_time(path, calibration, monkeypatch, budget, timed):
    asked = []

    def time_chain(specs, **_options):
        asked.append(specs)
        return 1e-9 * specs[0].macs

    monkeypatch.setattr(pipeline, "time_chain", time_chain)
    run = RunOptions(threads=1)
    it = subject(path)
    found = groundwork(it, budget, data=Calibration.of(calibration, it), options=run)
    assert bool(asked) == timed
    candidates = [c for found in found.planner.options.values() for c in found]
    assert candidates
    assert {c.saved_s is not None for c in candidates} == {timed}


@pytest.mark.parametrize("budget", [Budget(), Budget(include=("head",)), Budget(ranks={"wide": 3})])
def test_wrong_data_is_an_error_even_where_nothing_is_fitted(path, tmp_path, budget):
    np.savez(tmp_path / "wrong.npz", x=np.zeros((4, 3, 26, 32), np.float32))
    with pytest.raises(DataError, match=r"wrong\.npz"):
        planned(path, budget, DataOptions(path=tmp_path / "wrong.npz"))


def test_unknown_layers_are_found_before_the_data_is_read(path, tmp_path):
    with pytest.raises(UnknownLayerError):
        planned(path, Budget(include=("nothing",)), DataOptions(path=tmp_path / "missing.npz"))


# ---- rewriting ----

def test_at_full_rank_the_outputs_are_those_of_the_original(path):
    result = rewritten(path, Budget(ranks={"wide": 20, "late": 28, "stem": 3}))
    assert {p.layer: p.ranks for p in result.applied} == {"stem": (3,), "wide": (20,), "late": (28,)}
    before = scores(network(), images())
    np.testing.assert_allclose(scores(result.proto, images()), before, atol=2e-5 * np.abs(before).max())


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 7, 11])
def test_a_rewritten_model_is_a_valid_one_with_the_same_interface(path, rank):
    result = rewritten(path, Budget(ranks={"late": rank}))
    proto = result.proto
    onnx.checker.check_model(proto, full_check=True)
    original = network()
    assert list(proto.graph.input) == list(original.graph.input)
    assert list(proto.graph.output) == list(original.graph.output)
    shapes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    convs = [shapes[n.input[1]] for n in proto.graph.node if n.op_type == "Conv"]
    assert convs == [(20, 3, 3, 4), (28, 20, 5, 3), (rank, 28, 1, 1), (24, rank, 3, 3)]
    assert result.changed
    assert result.notes == ("folded 1 BatchNormalization into the convolutions before them",)
    assert np.isfinite(scores(proto, images())).all()


def test_data_makes_better_factors_than_the_weights_alone(path, calibration):
    with np.load(calibration.path) as arrays:
        seen = arrays["x"]
    before = scores(network(), seen)
    budget = Budget(ranks={"wide": 4})
    errors = [np.square(scores(rewritten(path, budget, data).proto, seen) - before).sum()
              for data in (calibration, None)]
    assert errors[0] < errors[1] / 2


def test_the_seed_decides_about_every_byte(path, calibration):
    budget = Budget(ranks={"wide": 4, "late": 8})
    first, again, other = (rewritten(path, budget, calibration, seed=seed).proto for seed in (11, 11, 12))
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert list(first.graph.initializer) != list(other.graph.initializer)  # not only the seed in the metadata


def test_metadata_says_how_the_model_was_made(path, calibration):
    result = rewritten(path, Budget(ranks={"wide": 4, "late": 9}), calibration, seed=2)
    found = {p.key: p.value for p in result.proto.metadata_props}
    assert json.loads(found["onnxslim1x1"]) == {
        "tool": f"onnxslim1x1 {onnxslim1x1.__version__}", "seed": 2, "data": "images.npz",
        "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "layers": {"wide": {"strategy": "reduce", "ranks": [4]}, "late": {"strategy": "reduce", "ranks": [9]}}}
    assert str(calibration.path.parent) not in found["onnxslim1x1"]  # folders of the maker are nobody's business


def test_metadata_of_others_stays(tmp_path):
    model = network()
    model.metadata_props.add(key="author", value="somebody")
    model.metadata_props.add(key="onnxslim1x1", value="an older rewrite")
    onnx.save(model, tmp_path / "net.onnx")
    result = rewritten(tmp_path / "net.onnx", Budget(ranks={"wide": 4}))
    found = [(p.key, p.value) for p in result.proto.metadata_props]
    assert [key for key, _ in found] == ["author", "onnxslim1x1"]
    assert found[0][1] == "somebody"
    assert json.loads(found[1][1])["layers"] == {"wide": {"strategy": "reduce", "ranks": [4]}}


def test_a_plan_for_another_model_is_refused(path):
    plan = planned(path, Budget(ranks={"wide": 4}))
    other = dataclasses.replace(plan, layers=(dataclasses.replace(plan.layers[0], layer="narrow"),))
    with pytest.raises(PlanMismatchError, match="has no layer narrow; make a new plan"):
        rewrite(subject(path), other, {})


@pytest.mark.parametrize("ranks", [(0,), (21,), (-1,), (), (3, 4)])
def test_a_plan_with_impossible_ranks_is_refused(path, ranks):
    plan = planned(path, Budget(ranks={"wide": 4}))
    other = dataclasses.replace(plan, layers=(dataclasses.replace(plan.layers[0], ranks=ranks),))
    bench = workbench(subject(path), [], None, RunOptions())
    with pytest.raises(RankError):
        factors_of(other, bench, None, RunOptions())


def test_without_layers_nothing_has_changed(path):
    result = rewritten(path, Budget(include=("head",)))
    assert not result.changed
    assert result.applied == ()
    assert {s.layer for s in result.skipped} == {"stem", "wide", "late", "head"}


def test_weights_that_become_constants_are_a_change(tmp_path):
    model = network()
    model.graph.input.append(onnx.helper.make_tensor_value_info("c2_w", onnx.TensorProto.FLOAT, SHAPES["c2_w"]))
    onnx.save(model, tmp_path / "net.onnx")
    result = rewritten(tmp_path / "net.onnx", Budget(include=("head",)))
    assert (result.frozen, result.changed) == (1, True)
    assert [i.name for i in result.proto.graph.input] == ["image"]
    np.testing.assert_allclose(scores(result.proto, images()), scores(network(), images()), rtol=1e-3, atol=1e-5)


# ---- costs ----

def test_costs_add_up(path):
    it = subject(path)
    made = make_plan(it, Budget(ranks={"wide": 5, "late": 3}), None, RunOptions())
    plan, result = made.plan, rewrite(it, made.plan, made.factors)
    before, after = total_cost(it.layers), model_cost(result.model, it.shapes)
    planned_layers = plan.layers
    assert after == Cost(params=before.params + sum(p.after.params - p.before.params for p in planned_layers),
                         macs=before.macs + sum(p.after.macs - p.before.macs for p in planned_layers))
    # By hand: stem 26x16, wide 26x16, late 13x15, head; biases of the folded norm, of wide and of the head count.
    sizes = ((20 * 3 * 12, 416, 20), (28 * 20 * 15, 416, 28), (24 * 28 * 9, 13 * 15, 0), (6 * 24, 1, 6))
    assert before.params == sum(weights + bias for weights, _, bias in sizes)
    assert before.macs == sum(weights * positions for weights, positions, _ in sizes)


def test_layers_of_unknown_shape_add_no_macs(path):
    it = subject(path)
    blind = tuple(dataclasses.replace(x, spec=dataclasses.replace(x.spec, in_size=None)) if x.name == "wide" else x
                  for x in it.layers)
    assert total_cost(blind).macs == total_cost(it.layers).macs - it.layers[1].spec.macs
    assert total_cost(blind).params == total_cost(it.layers).params


def test_costs_are_those_of_the_shapes_that_were_asked_for(path):
    model = load(path)
    one, four = (model_cost(model, RunOptions(dims={"N": n}).shapes(model)) for n in (1, 4))
    assert (four.macs, four.params) == (4 * one.macs, one.params)


# ---- parts ----

def test_provenance_names_the_data_only_by_its_last_part(path, tmp_path):
    plan = planned(path, Budget(ranks={"wide": 4}))
    data = PlannedData(path=str(tmp_path / "deep" / "faces"), preprocess=preprocess(), limit=None, images=3, sha256="")
    found = json.loads(provenance(dataclasses.replace(plan, data=data)))
    assert found["data"] == "faces"
    assert json.loads(provenance(plan))["data"] == "weights"


def test_a_workbench_for_no_layers_reads_no_statistics(path, calibration):
    bench = workbench(subject(path), [], calibration, RunOptions())
    assert bench.factors("wide", "reduce", (4,)).output_rel_error is None


def test_planned_layers_are_what_was_applied(path):
    result = rewritten(path, Budget(max_error=0.3))
    assert result.applied
    assert all(isinstance(p, PlannedLayer) for p in result.applied)
    names = [n.name for n in result.proto.graph.node if n.op_type == "Conv"]
    first = {"reduce": "reduce", "expand": "kernel", "spatial": "first"}  # the last factor keeps the layer's name
    assert [n for n in names if "/" in n] == [f"{p.layer}/{first[p.strategy]}" for p in result.applied]
