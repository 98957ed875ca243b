"""The baselines of the compression benchmark do what their papers say, and the benchmark resumes."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxslim1x1.api import DataOptions, RunOptions
from onnxslim1x1.errors import InfeasibleBudget
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.save import save
from onnxslim1x1.linalg.moments import Moments
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.search.pipeline import model_cost
from onnxslim1x1.search.plan_file import load_plan
from onnxslim1x1.spec import ConvSpec
from onnxslim1x1.strategies import by_name as family_named
from onnxslim1x1.strategies.base import patch_matrix

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"))

import compression
import parts
from baselines import (
    channel_svd,
    int8,
    measure,
    methods,
    ours,
    search,
    spatial_svd,
    table,
    tucker,
    whitened,
    worker,
)
from baselines.evbmf import evbmf_rank
from baselines.job import Job, random_subset
from baselines.problem import Option, Problem
from baselines.store import Store

BLOCK = 16
LOW_RANK = {"svd": channel_svd.choose, "spatial-greedy": spatial_svd.choose, "tucker-scaled": tucker.scaled,
            "whitened": whitened.choose}
WIDTHS = (3, 16, 32, 48, 64)


def needs(name):
    """Skip what needs tensorly where it is not installed."""
    if name.startswith("tucker"):
        pytest.importorskip("tensorly")


def network(widths=WIDTHS, size=12):
    """Convolutions 3x3 with a falling spectrum and ReLUs, stride 2 in the second, then pooling: 4 classes."""
    rng = np.random.default_rng(5)
    nodes, weights, current = [], [], "x"
    for number, (c, o) in enumerate(itertools.pairwise(widths)):
        kernel = rng.standard_normal((o, c, 3, 3)) * 0.7 ** np.arange(c)[None, :, None, None]
        kernel = np.einsum("op,pchw->ochw", rng.standard_normal((o, o)) * 0.8 ** np.arange(o), kernel)
        kernel *= o**0.5 / np.linalg.norm(kernel)
        weights += [numpy_helper.from_array(kernel.astype(np.float32), f"w{number}"),
                    numpy_helper.from_array(rng.standard_normal(o).astype(np.float32), f"b{number}")]
        stride = 2 if number == 1 else 1
        nodes += [helper.make_node("Conv", [current, f"w{number}", f"b{number}"], [f"c{number}"], name=f"conv{number}",
                                   kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride]),
                  helper.make_node("Relu", [f"c{number}"], [f"r{number}"])]
        current = f"r{number}"
    weights.append(numpy_helper.from_array(rng.standard_normal((4, widths[-1], 1, 1)).astype(np.float32), "head"))
    nodes += [helper.make_node("GlobalAveragePool", [current], ["pooled"]),
              helper.make_node("Conv", ["pooled", "head"], ["scores"], name="head", kernel_shape=[1, 1])]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", widths[0], size, size])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 4, 1, 1])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """24 smooth images."""
    rng = np.random.default_rng(6)
    coarse = rng.integers(0, 256, (24, 4, 4, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "calibration.npz"
    np.savez(path, images=coarse.repeat(3, axis=1).repeat(3, axis=2))
    return path


def problem(images, budget=None, **changes):
    data = DataOptions(path=images, preprocess=preprocess("cifar10", resize=None, crop=None))
    return Problem(network(**changes), budget=budget, calibration=data, run=RunOptions(threads=1), block=BLOCK)


def outputs(source, feeds):
    return run(create_session(load(source).source if isinstance(source, onnx.ModelProto) else source.source), feeds)[0]


def forwarded(factors, layer, weight, bias, rng):
    """Outputs of one layer and of its chain on the same random input."""
    feeds = {"x": rng.standard_normal((2, *layer.in_shape[1:])).astype(np.float32)}
    original = single([(layer.spec, weight, bias)], layer.in_shape)
    chain = single([(f.spec, f.weight, f.bias) for f in factors], layer.in_shape)
    return outputs(original, feeds), outputs(chain, feeds)


def single(convolutions, in_shape):
    """Model of nothing but these convolutions in a row."""
    nodes, weights, current = [], [], "x"
    for number, (spec, weight, bias) in enumerate(convolutions):
        names = [current, f"w{number}"]
        weights.append(numpy_helper.from_array(np.asarray(weight, np.float32), f"w{number}"))
        if bias is not None:
            names.append(f"b{number}")
            weights.append(numpy_helper.from_array(np.asarray(bias, np.float32), f"b{number}"))
        nodes.append(helper.make_node("Conv", names, [f"y{number}"], kernel_shape=list(spec.kernel),
                                      pads=list(spec.pads), strides=list(spec.stride)))
        current = f"y{number}"
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in
            (("x", ["N", *in_shape[1:]]), (current, None)))
    return helper.make_model(helper.make_graph(nodes, "one", [x], [y], weights),
                             opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


# ---- EVBMF ----

def planted(rows, columns, rank, noise, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return signal + noise * rng.standard_normal((rows, columns))


@pytest.mark.parametrize(("rows", "columns", "rank"), [(40, 300, 7), (64, 576, 20), (32, 32, 3), (16, 144, 1)])
def test_evbmf_finds_the_rank_of_a_planted_matrix(rows, columns, rank):
    assert evbmf_rank(planted(rows, columns, rank, noise=0.5)) == rank
    assert evbmf_rank(1e-4 * planted(rows, columns, rank, noise=0.5).T) == rank  # neither scale nor orientation matter


def test_evbmf_finds_nothing_in_noise():
    assert evbmf_rank(planted(48, 400, 0, noise=2.0)) == 0
    assert evbmf_rank(np.zeros((8, 20))) == 0


def test_evbmf_drops_what_drowns_in_noise():
    """Signals below the noise cannot be found, however often one looks."""
    assert evbmf_rank(planted(40, 300, 7, noise=50.0)) < 7


@pytest.mark.parametrize(("strength", "rank"), [(2.15, 0), (2.5, 1)])
def test_evbmf_keeps_a_component_above_its_threshold_only(strength, rank):
    """At L / M = 0.16 the noise ends at x = (1 + 0.4)^2 = 1.96, but components count only from x = 2.32 on."""
    u, s, v = np.linalg.svd(planted(80, 500, 0, noise=1.0), full_matrices=False)
    s[0] = np.sqrt(500 * strength)
    assert evbmf_rank((u * s) @ v) == rank


# ---- chains ----

@pytest.mark.parametrize("family", ["reduce", "expand", "spatial"])
def test_full_rank_svd_is_the_original(images, family):
    given, rng = problem(images), np.random.default_rng(0)
    for layer in given.layers:
        strategy = family_named(family)
        weight, bias = given.weight(layer), given.bias(layer)
        factors = strategy.decompose(layer.spec, weight, bias).truncate(strategy.max_ranks(layer.spec)).factors
        original, chain = forwarded(factors, layer, weight, bias, rng)
        np.testing.assert_allclose(chain, original, atol=2e-4 * np.abs(original).max())  # float32


def test_full_rank_whitened_is_the_original(images):
    given, rng = problem(images), np.random.default_rng(0)
    moments = whitened.collect_moments(given.model, given.layers, given.data, threads=1)
    for layer in given.layers:
        decomposed = whitened.decompose(given, layer, moments[layer.output])
        factors = decomposed.truncate(family_named("expand").max_ranks(layer.spec)).factors
        bias = given.bias(layer)
        original, chain = forwarded(factors, layer, given.weight(layer), bias, rng)
        np.testing.assert_allclose(chain, original, atol=2e-4 * np.abs(original).max())  # float32
        np.testing.assert_array_equal(factors[-1].bias, bias.astype(np.float64))  # BALF corrects no bias


@pytest.mark.parametrize("ranks", [(6, 9), (6, 4), (3, 9), (3, 4)], ids=["full", "input full", "output full", "low"])
def test_tucker_is_the_original_at_the_rank_of_the_kernel(ranks):
    pytest.importorskip("tensorly")
    rng = np.random.default_rng(1)
    spec = ConvSpec.make(6, 9, kernel=(3, 2), stride=(2, 1), pads=(1, 0, 2, 3), in_size=(13, 17))
    core = rng.standard_normal((ranks[1], ranks[0], 3, 2))
    weight = np.einsum("op,pqhw,qc->ochw", rng.standard_normal((9, ranks[1])), core, rng.standard_normal((ranks[0], 6)))
    bias = rng.standard_normal(9)
    factors = tucker.tucker2(spec, weight, bias, ranks)
    assert tuple(f.spec for f in factors) == tucker.chain(spec, ranks)
    assert len(factors) == 1 + (ranks[0] < 6) + (ranks[1] < 9)
    assert [f.bias is not None for f in factors] == [False] * (len(factors) - 1) + [True]
    feeds = {"x": rng.standard_normal((2, 6, 13, 17)).astype(np.float32)}
    original = outputs(single([(spec, weight, bias)], (1, 6, 13, 17)), feeds)
    chain = outputs(single([(f.spec, f.weight, f.bias) for f in factors], (1, 6, 13, 17)), feeds)
    np.testing.assert_allclose(chain, original, atol=1e-4 * np.abs(original).max())  # float32


def test_whitened_truncation_is_the_svd_of_the_cholesky_whitened_kernel(images):
    """The textbook route: Cholesky of the second moment, SVD, unwhitening."""
    given = problem(images)
    layer = given.layers[1]
    moments = whitened.collect_moments(given.model, [layer], given.data, threads=1)[layer.output]
    second = moments.covariance + np.outer(moments.mean, moments.mean)
    ridged = Moments(mean=np.zeros_like(moments.mean), covariance=second, count=moments.count).regularized()
    lower, matrix = np.linalg.cholesky(ridged), patch_matrix(given.weight(layer))
    u, s, v = np.linalg.svd(matrix @ lower, full_matrices=False)
    expected = (u[:, :7] * s[:7]) @ np.linalg.solve(lower.T, v[:7].T).T
    first, last = whitened.decompose(given, layer, moments).truncate((7,)).factors
    composed = last.weight.reshape(-1, 7) @ patch_matrix(first.weight)
    np.testing.assert_allclose(composed, expected, atol=1e-5 * np.abs(expected).max())  # second moment is float32


# ---- budgets ----

@pytest.mark.parametrize("budget", [0.667, 0.5])
@pytest.mark.parametrize("name", LOW_RANK)
@pytest.mark.parametrize("step", [BLOCK, 1])
def test_every_baseline_meets_the_budget(images, name, budget, step):
    needs(name)
    given = problem(images, budget)
    choice, used = methods.solve(given, LOW_RANK[name], step)
    made = given.build(choice)
    kept = model_cost(made, RunOptions().shapes(made)).macs / given.cost.macs
    assert kept <= budget + 1e-6
    assert kept > budget - (0.15 if used > 1 else 0.03)  # as mild as the grid allows
    assert model_cost(made, RunOptions().shapes(made)).macs == given.macs(choice)
    ranks = [f.spec.out_channels for o in choice.values() for f in o.build()[:-1]]
    assert all(rank % used == 0 for rank in ranks)
    feeds = given.data.batch([0, 1])
    assert outputs(made, feeds).shape == (2, 4, 1, 1)


@pytest.mark.parametrize("name", ["svd", "spatial-greedy", "whitened"])
def test_a_milder_budget_loses_less(images, name):
    losses = []
    for budget in (0.9, 0.5):
        given = problem(images, budget)
        made = given.build(methods.solve(given, LOW_RANK[name], 1)[0])
        feeds = given.data.batch(range(24))
        losses.append(np.square(outputs(made, feeds) - outputs(given.model, feeds)).mean())
    assert losses[0] < losses[1]


def test_a_finer_step_serves_where_the_block_cannot(images):
    """Between 16 channels and 16 no rank of 16 saves anything by channels alone."""
    given = problem(images, 0.7, widths=(16, 16, 16))
    with pytest.raises(InfeasibleBudget):
        channel_svd.choose(given, BLOCK)
    choice, used = methods.solve(given, channel_svd.choose, BLOCK)
    assert used == 8
    assert given.meets(choice)
    with pytest.raises(InfeasibleBudget):
        methods.solve(problem(images, 0.01), channel_svd.choose, BLOCK)


def test_evbmf_ignores_the_budget(images):
    pytest.importorskip("tensorly")
    choices = [tucker.as_is(problem(images, budget), 1) for budget in (0.9, 0.1)]
    assert {n: o.what for n, o in choices[0].items()} == {n: o.what for n, o in choices[1].items()} != {}


def test_the_first_layer_is_left_alone(images):
    """As `slim` does: no multiple of the block saves anything at three input channels."""
    assert [layer.name for layer in problem(images).layers] == ["conv1", "conv2", "conv3"]


# ---- choosing ----

def options(layer, *points):
    return [Option(layer=layer, what=f"{macs}", macs=macs, score=score, build=tuple) for macs, score in points]


class Budgeted:
    """Stands in for a problem: two layers of 100 MACs."""

    def __init__(self, most):
        self.most = most
        spec = ConvSpec.make(1, 1, kernel=(1,), in_size=(100,))
        self.layers = [type("Layer", (), {"name": name, "spec": spec})() for name in "ab"]
        self.cost = spec.cost + spec.cost

    def macs(self, choice):
        return 200 - sum(100 - o.macs for o in choice.values())

    def meets(self, choice):
        return self.macs(choice) <= self.most


def test_greedy_ratios_stop_before_the_score_first_falls():
    found = options("a", (90, -0.1), (80, -0.5), (70, -0.2), (60, -0.9))
    assert [getattr(spatial_svd.strongest(found, t), "macs", None) for t in (-0.05, -0.1, -0.3, -0.5, -1.0)] \
        == [None, 90, 90, 70, 60]


def test_greedy_ratios_become_ranks_rounded_up():
    """32 -> 32 at 3x3: rank r costs r / 48 of the layer, so ratio 0.1 is rank 4 and 0.9 rank 43."""
    spec = ConvSpec.make(32, 32, kernel=(3, 3), pads=(1, 1, 1, 1), in_size=(8, 8))
    layer = type("Layer", (), {"spec": spec})()
    strategy = family_named("spatial")
    assert spatial_svd.ranks(strategy, layer, 1) == [43, 38, 33, 28, 24, 19, 14, 9, 4]
    assert spatial_svd.ranks(strategy, layer, 16) == [32, 16]  # 48 saves nothing


def test_the_threshold_is_as_high_as_the_budget_allows():
    levels = {"a": options("a", (30, 0.8), (60, 0.9)), "b": options("b", (40, 0.7), (70, 0.95))}

    def at(level):
        return {n: o for n, found in levels.items() if (o := search.cheapest(found, level)) is not None}

    picks = {most: {n: o.macs for n, o in search.highest(Budgeted(most), [0.7, 0.8, 0.9, 0.95], at).items()}
             for most in (70, 100, 130, 170)}
    assert picks == {70: {"a": 30, "b": 40}, 100: {"a": 30, "b": 70}, 130: {"a": 60, "b": 70}, 170: {"b": 70}}
    with pytest.raises(InfeasibleBudget, match="70 MACs are left, 69 are allowed"):
        search.highest(Budgeted(69), [0.7, 0.8, 0.9, 0.95], at)


def test_one_multiplier_finds_the_best_allocation_on_the_hull():
    """Concave energies: every budget that the hull holds is solved exactly, here compared with all allocations."""
    found = {"a": options("a", (20, 0.5), (40, 0.8), (60, 0.95)), "b": options("b", (20, 0.3), (40, 0.55), (80, 0.9))}
    best = {}
    for a, b in itertools.product((*found["a"], None), (*found["b"], None)):
        macs = (a.macs if a else 100) + (b.macs if b else 100)
        best[macs] = max(best.get(macs, 0), (a.score if a else 1) + (b.score if b else 1))
    for most in (40, 60, 80, 100, 140, 160):
        given = Budgeted(most)
        choice = whitened.by_multiplier(given, found)
        reached = given.macs(choice)
        score = sum(choice[n].score if n in choice else 1 for n in found)
        assert reached <= most
        assert score == max(value for macs, value in best.items() if macs <= reached)


def test_what_is_left_of_the_budget_is_filled():
    found = {"a": options("a", (20, 0.5), (40, 0.8)), "b": options("b", (20, 0.3), (50, 0.9))}
    start = {name: each[0] for name, each in found.items()}
    macs = {most: {n: o.macs for n, o in search.fill(Budgeted(most), start, found, 1.0).items()}
            for most in (59, 60, 70, 90, 150)}
    assert macs == {59: {"a": 20, "b": 20}, 60: {"a": 40, "b": 20}, 70: {"a": 20, "b": 50}, 90: {"a": 40, "b": 50},
                    150: {"b": 50}}


# ---- int8 ----

@pytest.mark.filterwarnings("ignore")  # onnxruntime's own
def test_int8_stays_close_to_the_original(images, tmp_path):
    given = problem(images)
    int8.quantize(given, tmp_path / "int8.onnx")
    made = onnx.load(tmp_path / "int8.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in made.graph.node}
    feeds = given.data.batch(range(24))
    original, quantised = outputs(given.model, feeds), outputs(made, feeds)
    assert 0 < np.abs(quantised - original).max() < 0.2 * np.abs(original).max()


# ---- jobs ----

def test_a_job_survives_the_way_to_the_child(tmp_path):
    job = Job(method="svd", model="m", calibration="c", preset="cifar10", budget=0.5, seed=3, limit=None, threads=2,
              output=str(tmp_path))
    assert Job.loads(job.dumps()) == job
    assert (job.run.threads, job.run.seed) == (2, 3)


def test_seeds_draw_different_images_from_an_array(images, tmp_path):
    drawn = {}
    for name, seed, limit in (("a", 0, None), ("b", 0, None), ("c", 1, None), ("d", 0, 10)):
        (tmp_path / name).mkdir()
        drawn[name] = np.load(random_subset(images, tmp_path / name, seed=seed, limit=limit))["images"]
    assert [len(d) for d in drawn.values()] == [19, 19, 19, 8]
    np.testing.assert_array_equal(drawn["a"], drawn["b"])
    assert not np.array_equal(drawn["a"], drawn["c"])


def test_seeds_draw_different_images_from_a_folder(tmp_path):
    source = tmp_path / "pictures"
    source.mkdir()
    for number in range(10):
        (source / f"{number}.jpg").write_bytes(b"")
    (source / "labels.csv").write_text("file,label")
    names = []
    for seed in (0, 1):
        target = tmp_path / str(seed)
        target.mkdir()
        names.append(sorted(p.name for p in random_subset(source, target, seed=seed).iterdir()))
    assert [len(n) for n in names] == [8, 8]
    assert names[0] != names[1]
    assert all(name.endswith(".jpg") for found in names for name in found)


def test_peak_memory_is_plausible():
    assert 20e6 < worker.peak_bytes() < 64e9


def test_method_names_are_unique_and_hold_ours():
    names = [m.name for m in methods.METHODS]
    assert len(set(names)) == len(names)
    assert {label for label, _ in ours.ABLATION} <= set(names)
    assert methods.by_name(ours.OURS).budgeted


# ---- the benchmark ----

@pytest.fixture
def data(tmp_path):
    """A folder as the benchmark wants it, with a small network in the place of ResNet-20."""
    root = tmp_path / "data"
    (root / "models").mkdir(parents=True)
    (root / "cifar10").mkdir()
    save(load(network(size=32)), root / "models" / "cifar10_resnet20.onnx")
    rng = np.random.default_rng(8)
    for name, count in (("calibration", 12), ("evaluation", 10)):
        arrays = {"images": rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)}
        if name == "evaluation":
            arrays["labels"] = rng.integers(0, 4, count)
        np.savez(root / "cifar10" / f"{name}.npz", **arrays)
    return root


def arguments(data, out, *more):
    return [str(data), "--models", "resnet20", "--budgets", "0.7", "--threads", "1", "--time", "0.05",
            "--out", str(out), *more]


def test_a_run_measures_and_the_next_one_resumes(data, tmp_path, capsys, monkeypatch):
    out, front = tmp_path / "result.json", tmp_path / "front.svg"
    compression.main(arguments(data, out, "--methods", "original,svd"))
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    original, svd = found["rows"]
    assert (original["method"], original["budget"], original["classification"]["agreement"]) == ("original", None, 1.0)
    assert svd["cost"]["macs"] <= 0.7 * svd["cost_original"]["macs"] + 1
    assert svd["seconds"] > 0
    assert svd["peak_bytes"] > 20e6
    assert svd["latency"]["1"]["speedup"] > 0
    assert found["environment"]["block"] >= 1
    assert table.line(svd) in printed
    assert "10 evaluation images, 12 calibration images" in printed

    monkeypatch.setattr(compression, "measure", lambda *_, **__: pytest.fail("measured again"))
    matplotlib = pytest.importorskip("matplotlib")
    assert matplotlib
    compression.main(arguments(data, out, "--methods", "original,svd", "--plot", str(front)))
    assert capsys.readouterr().out == printed
    first = front.read_bytes()
    assert first.startswith(b"<?xml")
    compression.main(arguments(data, out, "--methods", "original,svd", "--plot", str(front)))
    assert front.read_bytes() == first


def test_other_conditions_failures_and_fresh_measure_again(data, tmp_path, monkeypatch):
    out, asked = tmp_path / "result.json", []

    def failing(job, *_, latency):
        asked.append((job.method, job.budget, job.seed, job.limit, latency))
        if len(asked) < 3:
            raise measure.ChildFailed("exit status 1: no luck")
        scores = {"top1_rewritten": 0.5, "agreement": 0.75, "kl": 0.1 * len(asked)}
        cost = {"macs": 10, "params": 5}
        return {"cost": cost, "cost_original": cost, "classification": scores, "images": 4}

    monkeypatch.setattr(compression, "measure", failing)
    compression.main(arguments(data, out, "--methods", "svd"))
    assert "no luck" in json.loads(out.read_text())["rows"][0]["error"]
    compression.main(arguments(data, out, "--methods", "svd"))
    compression.main(arguments(data, out, "--methods", "svd"))  # succeeds
    compression.main(arguments(data, out, "--methods", "svd"))  # reused
    assert len(asked) == 3
    compression.main(arguments(data, out, "--methods", "svd", "--limit", "5"))
    compression.main(arguments(data, out, "--methods", "svd", "--limit", "5", "--fresh"))
    assert asked[-2:] == [("svd", 0.7, None, 5, True)] * 2
    assert len(json.loads(out.read_text())["rows"]) == 1  # the newer takes the place of the older


def test_seeds_repeat_ours_and_report_the_spread(data, tmp_path, monkeypatch, capsys):
    def measured(job, *_, latency):
        assert (job.method, latency) == ("ours", False)
        cost = {"macs": 10, "params": 5}
        return {"cost": cost, "cost_original": cost, "images": 4,
                "classification": {"top1_rewritten": 0.5 + 0.1 * job.seed, "agreement": 0.75, "kl": 0.01 * job.seed}}

    monkeypatch.setattr(compression, "measure", measured)
    compression.main(arguments(data, tmp_path / "o.json", "--methods", "", "--seeds", "1,2,3"))
    text = capsys.readouterr().out
    assert "ours at 0.700, 3 seeds" in text
    assert "top-1 70.00 +- 10.00 (60.00 to 80.00) %" in text
    assert "KL 0.0200 +- 0.0100 (0.0100 to 0.0300)" in text


def test_a_failed_child_says_why(data, tmp_path):
    job = Job(method="svd", model=str(data / "nothing.onnx"), calibration=str(data / "cifar10" / "calibration.npz"),
              preset="cifar10", budget=0.5, seed=None, limit=None, threads=1, output=str(tmp_path / "o.onnx"))
    with pytest.raises(measure.ChildFailed, match=r"exit status 1: .*ModelError: .*nothing\.onnx"):
        measure.make(job)


def test_an_error_in_the_file_names_no_folder_of_this_machine(data, tmp_path):
    out = tmp_path / "result.json"
    compression.main([*arguments(data, out, "--methods", "svd"), "--budgets", "0.01"])  # no ranks reach that
    (row,) = json.loads(out.read_text())["rows"]
    assert "InfeasibleBudget" in row["error"]
    assert str(data) not in out.read_text()


def test_a_child_starts_with_an_empty_cache(tmp_path, monkeypatch):
    seen = []

    def started(_command, *, env, **_):
        seen.append(env)
        return subprocess.CompletedProcess([], returncode=9, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", started)
    job = Job(method="svd", model="m", calibration="c", preset="cifar10", budget=0.5, seed=None, limit=None, threads=3,
              output=str(tmp_path))
    with pytest.raises(measure.ChildFailed, match="exit status 9: it said nothing"):
        measure.make(job)
    assert not Path(seen[0]["ONNXSLIM1X1_CACHE"]).exists()
    assert seen[0]["OPENBLAS_NUM_THREADS"] == "3"


def test_an_unfinished_file_of_another_version_is_not_reused(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"schema_version": 0, "rows": [{"model": "a"}], "environment": None}))
    assert Store(path).rows == []


def test_missing_data_is_said(tmp_path, capsys):
    compression.main([str(tmp_path), "--models", "resnet18"])
    assert "resnet18: left out, models/imagenet_resnet18.onnx" in capsys.readouterr().out


def test_unknown_names_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        compression.main([str(tmp_path), "--methods", "magic"])
    assert "magic: unknown; choose from original, int8" in capsys.readouterr().err


# ---- the parts of a plan ----

@pytest.mark.parametrize("path", sorted(parts.RESULTS.glob("plans/*.json")), ids=lambda path: path.stem)
def test_every_planned_layer_belongs_to_one_part(path):
    plan = load_plan(path)
    found = parts.parts(plan)
    whole = found.pop(parts.WHOLE)
    assert whole == plan.layers
    assert [layer for own in found.values() for layer in own] == list(plan.layers)  # named in graph order
    assert len(found) > 2
    assert all(layer.layer.startswith(name) for name, own in found.items() for layer in own)
