"""Plans that are written, edited and carried out: the same bytes every time, and nothing stale in the result."""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1 import Budget, DataOptions, RunOptions, api
from onnxslim1x1.errors import OptionError, OutputError, PlanMismatchError
from onnxslim1x1.runtime import calibration as runtime_calibration
from onnxslim1x1.runtime.blas import blas_threads, limited_blas
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.search import carrying, pipeline
from onnxslim1x1.search.plan import SkippedLayer

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 22, 27] image) => (float[N, 6] scores) {
  stem = Conv <strides = [1, 2], pads = [1, 0, 1, 2]> (image, stem_w)
  r0 = Relu(stem)
  wide = Conv <pads = [2, 1, 2, 1]> (r0, wide_w, wide_b)
  r1 = Relu(wide)
  late = Conv <strides = [2, 1], pads = [0, 2, 1, 1]> (r1, late_w)
  g = GlobalAveragePool(late)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w)
}"""
SHAPES = {"stem_w": (20, 3, 3, 4), "wide_w": (28, 20, 5, 3), "wide_b": (28,), "late_w": (24, 28, 3, 3),
          "head_w": (6, 24)}
BOTH = Budget(ranks={"wide": 8, "late": 5})


def network(seed=3):
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array((rng.standard_normal(s) * 0.3).astype(np.float32), n) for n, s in SHAPES.items())
    return model


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Blocks of 4 channels, few samples, and chains that are twice as fast as what they replace."""
    monkeypatch.setattr(pipeline, "compare_chain", lambda *_args, **_options: 2.0)
    monkeypatch.setattr(pipeline, "channel_block", lambda _provider: 4)
    monkeypatch.setattr(runtime_calibration, "LEAST_ROWS", 900)
    monkeypatch.setattr(runtime_calibration, "ROWS_PER_COLUMN", 2)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with a model and images; more positions than are sampled, so that the seed matters."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    rng = np.random.default_rng(8)
    array = rng.standard_normal((10, 3, 22, 27)) + rng.standard_normal((10, 3, 1, 1))
    np.savez("images.npz", x=array.astype(np.float32))
    return tmp_path


IMAGES = DataOptions(path=api.Path("images.npz"))


def run(**options):
    return RunOptions(**({"threads": 1} | options))


def planned(budget=BOTH, *, data=None, output=None, **options):
    return api.plan("net.onnx", budget, output=output, calibration=data, run=run(**options))


def content(result):
    return result.proto.SerializeToString(deterministic=True)


def edited(plan, number=0, **changes):
    layers = list(plan.layers)
    layers[number] = dataclasses.replace(layers[number], **changes)
    return dataclasses.replace(plan, layers=tuple(layers))


def dims(result):
    return {tuple(t.dims) for t in result.proto.graph.initializer}


# ---- the same bytes ----

@pytest.mark.parametrize("data", [None, IMAGES], ids=["weights", "images"])
@pytest.mark.parametrize("budget", [BOTH, Budget(max_error=0.6), Budget(target_macs=0.6)], ids=str)
def test_a_plan_gives_the_same_bytes_from_memory_and_from_its_file(place, data, budget):
    plan = planned(budget, data=data, output="plan.json")
    assert plan.layers
    assert api.load_plan("plan.json") == plan
    results = [api.apply("net.onnx", source, output) for source, output in (
        (plan, None), ("plan.json", None), (place / "plan.json", "a.onnx"), ("plan.json", place / "b.onnx"))]
    assert len({content(result) for result in results}) == 1
    assert (place / "a.onnx").read_bytes() == (place / "b.onnx").read_bytes()
    assert content(results[0]) == onnx.load(place / "a.onnx").SerializeToString(deterministic=True)


@pytest.mark.usefixtures("place")
def test_what_was_predicted_comes_true():
    plan = planned(data=IMAGES)
    result = api.apply("net.onnx", plan)
    assert [p.error for p in result.applied] == pytest.approx([p.error for p in plan.layers], rel=1e-5)
    assert (result.plan.before, result.plan.after) == (plan.before, plan.after)
    assert plan.after.macs == pipeline.model_cost(result.model, RunOptions().shapes(result.model)).macs
    assert plan.after.params == pipeline.model_cost(result.model, RunOptions().shapes(result.model)).params


@pytest.mark.usefixtures("place")
def test_seed_shapes_and_treatment_are_those_of_the_plan():
    data = dataclasses.replace(IMAGES, limit=7, preprocess=preprocess("raw", scale=0.5))
    plan = planned(data=data, seed=4, dims={"N": 3})
    assert (plan.seed, plan.dims, plan.data.limit, plan.data.images) == (4, {"N": 3}, 7, 7)
    results = [api.apply("net.onnx", plan, calibration=given, run=options) for given, options in (
        (None, None), ("images.npz", None), (data, None), (None, RunOptions(seed=9, dims={"N": 2})))]
    assert len({content(result) for result in results}) == 1
    other = api.apply("net.onnx", dataclasses.replace(plan, seed=5))
    assert list(other.proto.graph.initializer) != list(results[0].proto.graph.initializer)


class Reached(Exception):
    """The place where the work begins."""


@pytest.fixture
def work(monkeypatch):
    """Number of threads of onnxruntime and of the linear algebra with which the work begins; it ends there."""
    seen = []

    def workbench(_subject, _layers, _data, options, **_others):
        seen.append((options.threads, blas_threads()))
        raise Reached

    def begin(*given, **options):
        with pytest.raises(Reached):
            api.apply(*given, **options)
        return seen[-1]

    monkeypatch.setattr(carrying, "workbench", workbench)
    return begin


@pytest.mark.parametrize(("given", "threads"), [(None, 2), ({}, 2), ({"threads": 1}, 1)])
@pytest.mark.usefixtures("place")
def test_as_many_threads_as_the_plan_says_unless_told_otherwise(work, given, threads):
    plan = planned(threads=2)
    assert work("net.onnx", plan, run=None if given is None else RunOptions(**given))[0] == threads


@pytest.mark.usefixtures("place")
def test_the_linear_algebra_runs_as_it_did_when_the_plan_was_made(work):
    plan = planned()
    assert plan.blas_threads == blas_threads()
    with limited_blas(2):
        assert work("net.onnx", dataclasses.replace(plan, blas_threads=3))[1] == 3
        assert work("net.onnx", dataclasses.replace(plan, blas_threads=0))[1] == 2


# ---- edited plans ----

@pytest.mark.usefixtures("place")
def test_an_edited_plan_is_a_plan_of_its_own():
    plan = planned(data=IMAGES)
    changed = edited(plan, ranks=(3,), strategy="expand", error=0.0, speedup=9.0, before=plan.after, after=plan.before)
    result = api.apply("net.onnx", changed)
    direct = api.apply("net.onnx", edited(plan, ranks=(3,), strategy="expand"))
    assert content(result) == content(direct)
    assert {(3, 20, 5, 3), (28, 3, 1, 1)} <= dims(result)
    wide, late = result.applied
    assert wide == direct.applied[0]
    assert (wide.before, wide.speedup) == (plan.layers[0].before, None)
    assert 0 < wide.error < 1
    assert wide.after.params == 3 * 20 * 5 * 3 + 28 * 3 + 28
    assert late.error == pytest.approx(plan.layers[1].error, rel=1e-5)
    assert late.after == plan.layers[1].after
    assert result.plan.after.macs == plan.before.macs - sum(p.before.macs - p.after.macs for p in result.applied)


@pytest.mark.usefixtures("place")
def test_layers_can_be_deleted_and_moved():
    plan = planned(data=IMAGES)
    single = planned(Budget(ranks={"late": 5}), data=IMAGES)
    late = dataclasses.replace(single.layers[0], refit=plan.layers[1].refit)  # which may have been decided otherwise
    alone = content(api.apply("net.onnx", dataclasses.replace(single, layers=(late,))))
    deleted = api.apply("net.onnx", dataclasses.replace(plan, layers=plan.layers[1:]))
    skipped = SkippedLayer(layer="wide", code="mine", reason="too important")
    moved = api.apply("net.onnx", dataclasses.replace(plan, layers=plan.layers[1:], skipped=(skipped, *plan.skipped)))
    assert content(deleted) == content(moved) == alone
    assert [(s.layer, s.code) for s in deleted.skipped] == [
        ("stem", "not_asked"), ("wide", "not_planned"), ("scores", "not_asked")]
    assert moved.skipped[1] == skipped
    turned = dataclasses.replace(plan, layers=plan.layers[::-1])  # the order of a plan means nothing
    assert content(api.apply("net.onnx", turned)) == content(api.apply("net.onnx", plan))
    assert [p.layer for p in api.apply("net.onnx", turned).applied] == ["wide", "late"]


@pytest.mark.usefixtures("place")
def test_a_plan_without_layers_gives_a_copy(place):
    plan = dataclasses.replace(planned(), layers=())
    assert not api.apply("net.onnx", plan, "out.onnx").changed
    assert (place / "out.onnx").read_bytes() == (place / "net.onnx").read_bytes()


@pytest.mark.parametrize(("changes", "message"), [
    ({"layer": "wode"}, r"layers\[0\]\.layer: the model has no layer wode; did you mean wide\?"),
    ({"layer": "late"}, r"layers\[1\]\.layer: late stands in layers\[0\], too; remove one of the two"),
    ({"layer": "scores"}, r"skipped\[1\]\.layer: scores stands in layers\[0\], too"),
    ({"strategy": "reduse"}, r"layers\[0\]\.strategy: unknown family reduse; did you mean reduce, reduce_spatial\?"),
    ({"strategy": "svd"}, r"layers\[0\]\.strategy: unknown family svd; choose from reduce, "),
    ({"ranks": (21,)}, r"layers\[0\]\.ranks: rank 21: reduce on 5x3 20->28 allows 1\.\.20"),
    ({"ranks": (0,)}, r"layers\[0\]\.ranks: rank 0: "), ({"ranks": (-3,)}, r"layers\[0\]\.ranks: rank -3: "),
    ({"ranks": (4, 4)}, r"layers\[0\]\.ranks: rank 4,4: "), ({"ranks": ()}, r"layers\[0\]\.ranks: rank ")])
@pytest.mark.usefixtures("place")
def test_an_edit_that_makes_no_sense_is_refused_with_its_place(changes, message):
    changed = edited(planned(), **changes)
    with pytest.raises(PlanMismatchError, match=f"^plan: {message}"):
        api.apply("net.onnx", changed)
    api.save_plan(changed, "plan.json")
    with pytest.raises(PlanMismatchError, match=rf"^plan\.json: {message}"):
        api.apply("net.onnx", "plan.json", "out.onnx")
    assert not api.Path("out.onnx").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"seed": -1}, "seed: -1 is negative"), ({"blas_threads": -2}, "blas_threads: -2 lies outside of 0 to 1024"),
    ({"dims": {"M": 2}}, "--dim M: no input"),
    ({"input_shapes": {"image": (1, 3, 22)}}, "--input-shape image: "),
    ({"skipped": (SkippedLayer(layer="steam", code="a", reason="b"),)},
     r"skipped\[0\]\.layer: the model has no layer steam; did you mean stem")])
@pytest.mark.usefixtures("place")
def test_the_rest_of_a_plan_is_checked_too(changes, message):
    with pytest.raises(PlanMismatchError, match=f"^plan: {message}"):
        api.apply("net.onnx", dataclasses.replace(planned(), **changes))


@pytest.mark.parametrize("threads", [-1, 1025])
@pytest.mark.usefixtures("place")
def test_threads_of_a_plan_are_checked(threads):
    plan = planned()
    plan = dataclasses.replace(plan, environment=dataclasses.replace(plan.environment, threads=threads))
    with pytest.raises(PlanMismatchError, match=f"^plan: environment.threads: {threads} lies outside of 0 to 1024"):
        api.apply("net.onnx", plan)


@pytest.mark.usefixtures("place")
def test_layers_that_no_family_can_serve_are_refused():
    plan = planned()
    skipped = tuple(s for s in plan.skipped if s.layer != "scores")
    changed = dataclasses.replace(edited(plan, layer="scores"), skipped=skipped)
    with pytest.raises(PlanMismatchError, match=r"^plan: layers\[0\]: reduce cannot serve scores \(.*\); choose"):
        api.apply("net.onnx", changed)


# ---- another model, other data, another machine ----

@pytest.mark.usefixtures("place")
def test_a_plan_for_another_model_is_refused():
    plan = planned()
    onnx.save(network(seed=4), "other.onnx")
    with pytest.raises(PlanMismatchError, match=r"^other\.onnx: its SHA-256 .*\(net\.onnx\); make a plan for"):
        api.apply("other.onnx", plan)
    with pytest.raises(PlanMismatchError, match="make a plan for this model"):
        api.apply(network(seed=4), plan)


def test_the_images_may_have_moved(place):
    plan = planned(data=IMAGES)
    expected = content(api.apply("net.onnx", plan))
    shutil.move("images.npz", place / "moved.npz")
    with pytest.raises(PlanMismatchError, match=r"^plan: data\.path: images\.npz is not there; say with --calibration"):
        api.apply("net.onnx", plan)
    assert content(api.apply("net.onnx", plan, calibration="moved.npz")) == expected
    assert content(api.apply("net.onnx", plan, calibration=DataOptions(path=place / "moved.npz"))) == expected
    with np.load("moved.npz") as arrays:
        np.save("array.npy", arrays["x"])  # the same images in another kind of file
    again = api.apply("net.onnx", plan, calibration="array.npy")
    assert list(again.proto.graph.initializer) == list(api.onnx.load_from_string(expected).graph.initializer)


@pytest.mark.parametrize(("given", "message"), [
    ("fewer.npz", r"fewer\.npz: holds 9 images, but plan was made with 10; give the same images, or make"),
    ("turned.npz", r"turned\.npz: holds other images than plan was made with, or they are read in another order"),
    (dataclasses.replace(IMAGES, limit=6), r"images\.npz: holds 6 images, but plan was made with 10"),
    (dataclasses.replace(IMAGES, preprocess=preprocess("raw", scale=0.5)),
     r"images\.npz: is read with scale 0\.5, but plan was made with None"),
    (dataclasses.replace(IMAGES, preprocess=preprocess(std=(0.5,))), r"images\.npz: is read with std \(0\.5,\), but")])
@pytest.mark.usefixtures("place")
def test_other_data_are_refused(given, message):
    with np.load("images.npz") as arrays:
        np.savez("fewer.npz", x=arrays["x"][:9])
        np.savez("turned.npz", x=arrays["x"][::-1])
    with pytest.raises(PlanMismatchError, match=f"^{message}"):
        api.apply("net.onnx", planned(data=IMAGES), calibration=given)


@pytest.mark.usefixtures("place")
def test_the_same_treatment_in_other_words_is_no_difference():
    plan = planned(data=IMAGES)
    assert plan.data.preprocess.name == "auto"
    given = dataclasses.replace(IMAGES, preprocess=preprocess("raw"))
    assert content(api.apply("net.onnx", plan, calibration=given)) == content(api.apply("net.onnx", plan))


@pytest.mark.parametrize("given", [IMAGES, "images.npz"])
@pytest.mark.usefixtures("place")
def test_a_plan_from_the_weights_takes_no_data(given):
    with pytest.raises(PlanMismatchError, match=r"^plan: the plan was made from the weights alone, without images"):
        api.apply("net.onnx", planned(), calibration=given)


@pytest.mark.usefixtures("place")
def test_a_plan_from_another_machine_is_carried_out_and_that_is_said():
    plan = planned()
    assert not any("made elsewhere" in note for note in api.apply("net.onnx", plan).notes)
    here = plan.environment
    there = dataclasses.replace(here, onnxruntime="1.20.0", python="3.9.1")
    found = api.apply("net.onnx", dataclasses.replace(plan, environment=there, tool="onnxslim1x1 0.0.9"))
    note = next(note for note in found.notes if "made elsewhere" in note)
    assert f"(onnxruntime 1.20.0, here {here.onnxruntime}; tool onnxslim1x1 0.0.9, here onnxslim1x1 " in note
    assert "cpu" not in note


# ---- files ----

def test_nothing_that_is_read_is_overwritten(place):
    planned(data=IMAGES, output="plan.json")
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    for output in ("net.onnx", "images.npz"):
        with pytest.raises(OptionError, match=f"^{output}: output and input are the same file"):
            planned(data=IMAGES, output=output)
    for output in ("net.onnx", "images.npz", "plan.json"):
        with pytest.raises(OptionError, match=f"^{output}: output and input are the same file"):
            api.apply("net.onnx", "plan.json", output)
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before
    planned(Budget(ranks={"wide": 4}), output="plan.json")  # an older plan is replaced
    assert json.loads((place / "plan.json").read_text())["layers"][0]["ranks"] == [4]


def test_the_place_for_the_output_is_looked_at_before_the_work(place, monkeypatch):
    plan = planned()
    monkeypatch.setattr(api, "make_plan", lambda *_args: pytest.fail("planned"))
    monkeypatch.setattr(carrying, "workbench", lambda *_args, **_options: pytest.fail("factorised"))
    with pytest.raises(OutputError, match=r"is a directory; name the file to write, such as .*plan\.json"):
        planned(output=place)
    with pytest.raises(OutputError, match="no such folder"):
        planned(output="missing/plan.json")
    with pytest.raises(OutputError, match="no such folder"):
        api.apply("net.onnx", plan, "missing/out.onnx")
