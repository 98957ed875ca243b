"""Chains are built as specified and timed between their neighbours; no test asserts how fast anything is."""

import tempfile
from dataclasses import replace

import numpy as np
import onnx
import pytest

import onnxslim1x1.runtime.microbench as module
from onnxslim1x1.errors import OptionError, RuntimeFailure
from onnxslim1x1.runtime import hardware
from onnxslim1x1.runtime.benchmark import timing_options
from onnxslim1x1.runtime.hardware import channel_block
from onnxslim1x1.runtime.kernels import KernelRun, recording
from onnxslim1x1.runtime.microbench import chain_model, clear_cache, compare_chain, time_chain
from onnxslim1x1.runtime.session import CPU, create_session, input_specs, random_feeds
from onnxslim1x1.runtime.store import NO_STORE, Store
from onnxslim1x1.spec import ConvSpec

PLAIN = ConvSpec.make(24, 32, kernel=(3, 5), in_size=(11, 9), pads=(0, 1, 2, 3), stride=(2, 1), dilation=(1, 2))
GEOMETRIES = {
    "2-D": PLAIN,
    "same upper": ConvSpec.make(6, 8, kernel=(3, 2), in_size=(11, 8), stride=(2, 3), auto_pad="SAME_UPPER"),
    "same lower": ConvSpec.make(6, 8, kernel=(2, 4), in_size=(11, 8), auto_pad="SAME_LOWER", bias=False),
    "valid": ConvSpec.make(6, 8, kernel=(2, 4), in_size=(11, 8), auto_pad="VALID"),
    "groups": ConvSpec.make(12, 18, kernel=(3, 1), in_size=(7, 5), groups=3, batch=2),
    "depthwise": ConvSpec.make(16, 16, kernel=(3, 3), in_size=(7, 5), groups=16, pads=(1, 1, 1, 1)),
    "1-D": ConvSpec.make(5, 7, kernel=(3,), in_size=(13,), stride=(2,)),
    "3-D": ConvSpec.make(3, 4, kernel=(2, 3, 1), in_size=(5, 6, 4), pads=(1, 0, 0, 0, 2, 0)),
    "dense": ConvSpec.make(19, 7, kernel=(), in_size=(), batch=3),
    "dense without bias": ConvSpec.make(19, 7, kernel=(), in_size=(), bias=False),
}


def reduced(spec, rank):
    """The layer to `rank` channels and a 1x1 layer from there."""
    return [replace(spec, out_channels=rank, bias=False),
            ConvSpec.make(rank, spec.out_channels, kernel=(1, 1), in_size=spec.out_size)]


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Nothing measured before, and no file left behind."""
    channel_block()
    clear_cache()
    places = [tmp_path / "cwd", tmp_path / "tmp"]
    for place in places:
        place.mkdir()
    monkeypatch.chdir(places[0])
    monkeypatch.setattr(tempfile, "tempdir", str(places[1]))
    yield
    clear_cache()
    assert [list(place.iterdir()) for place in places] == [[], []]


def kernels_of(chain):
    with recording(chain_model(chain).SerializeToString(), options=timing_options(1)) as recorded:
        recorded.session.run(None, random_feeds(input_specs(recorded.session)))
        (kernels,) = recorded.runs()
    return [kernel.op for kernel in module.between_neighbours(kernels)]


@pytest.mark.parametrize("spec", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_layer_has_the_geometry_of_its_spec(spec):
    model = chain_model([spec])
    onnx.checker.check_model(model, full_check=True)
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer}
    assert list(weights.values()) == [spec.weight_shape, *([(spec.out_channels,)] if spec.bias else [])]
    layer = model.graph.node[1]
    assert layer.op_type == ("Conv" if spec.kernel else "Gemm")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in layer.attribute}
    if spec.kernel:
        assert tuple(attributes["strides"]) == spec.stride
        assert tuple(attributes["dilations"]) == spec.dilation
        assert attributes["group"] == spec.groups
    session = create_session(model.SerializeToString())
    (result,) = session.run(None, random_feeds(input_specs(session)))  # onnxruntime checks the declared output shape
    assert result.shape == (spec.batch, spec.out_channels, *spec.out_size)
    assert np.isfinite(result).all()


@pytest.mark.parametrize("spec", GEOMETRIES.values(), ids=GEOMETRIES)
def test_any_layer_can_be_timed(spec):
    assert time_chain([spec], threads=1, budget_s=1e-6) > 0


def test_a_chain_takes_what_the_layer_before_gives():
    chain = reduced(PLAIN, 16)
    model = chain_model(chain)
    onnx.checker.check_model(model, full_check=True)
    assert [n.op_type for n in model.graph.node] == ["MaxPool", "Conv", "Conv", "MaxPool"]
    assert list(model.graph.node[2].input[:1]) == list(model.graph.node[1].output)
    assert [t.name for t in model.graph.initializer] == ["w1", "w2", "b2"]


def test_weights_are_seeded():
    assert chain_model([PLAIN]).SerializeToString() == chain_model([PLAIN]).SerializeToString()


def test_neighbours_and_the_reorders_around_them_are_not_counted():
    layer = ConvSpec.make(32, 64, kernel=(3, 3), in_size=(9, 9), pads=(1, 1, 1, 1))
    assert kernels_of([layer]) == ["Conv"]
    assert kernels_of(reduced(layer, 16)) == ["Conv", "Conv"]
    assert kernels_of([ConvSpec.make(19, 7, kernel=(), in_size=())]) == ["Gemm"]


@pytest.mark.skipif("channel_block() == 1", reason="no blocked layout on this machine")
def test_reorders_at_a_seam_of_the_chain_are_counted():
    layer = ConvSpec.make(32, 64, kernel=(3, 3), in_size=(9, 9), pads=(1, 1, 1, 1))
    rank = 2 * channel_block() - 1  # more than a block, but no multiple of 4
    assert kernels_of(reduced(layer, rank)) == ["Conv", "ReorderOutput", "Conv", "ReorderInput"]


def test_the_time_is_that_of_the_fastest_quarter_of_the_runs():
    def one(seconds):
        times = ((1, "MaxPool", 5.0), (2, "Conv", seconds), (3, "ReorderOutput", 0.5), (4, "MaxPool", 7.0),
                 (5, "ReorderOutput", 9.0))
        return [KernelRun(node="", index=k, op=op, seconds=s, input_shapes=()) for k, op, s in times]

    assert module._seconds([one(s) for s in (8.0, 1.0, 9.0, 2.0, 3.0, 99.0, 4.0, 5.0)]) == 2.0  # (1 + 2) / 2 + 0.5
    assert module._seconds([one(3.0), one(2.0)]) == 2.5


def test_a_session_without_the_neighbours_is_a_failure():
    lone = KernelRun(node="", index=0, op="Conv", seconds=1.0, input_shapes=())
    with pytest.raises(RuntimeFailure, match="neighbours"):
        module.between_neighbours([lone])


def test_a_provider_that_compiles_the_chain_is_charged_for_all_of_it():
    def kernel(op, provider="OtherExecutionProvider"):
        return KernelRun(node="", index=0, op=op, seconds=1.0, input_shapes=(), provider=provider)

    compiled = [kernel("MemcpyFromHost"), kernel("Subgraph_1"), kernel("Subgraph_2"), kernel("MemcpyToHost")]
    assert module.between_neighbours(compiled) == compiled[1:3]
    apart = [kernel("MaxPool"), kernel("Conv"), kernel("MaxPool")]
    assert module.between_neighbours(apart) == apart[1:2]
    with pytest.raises(RuntimeFailure, match="neighbours"):
        module.between_neighbours([kernel("Conv", "CPUExecutionProvider")])


def test_figures_are_remembered_by_layers_threads_and_provider(monkeypatch):
    calls = []

    def measure(chains, threads, provider, budget_s):
        calls.append((chains, threads, provider, budget_s))
        return tuple(float(len(chain)) for chain in chains)

    monkeypatch.setattr(module, "_measure", measure)
    chain = reduced(PLAIN, 16)
    assert time_chain([PLAIN], threads=1) == 1.0
    assert time_chain((replace(PLAIN),), threads=1, provider="cpu", budget_s=9) == 1.0  # equal specs are the same
    assert time_chain([PLAIN], threads=2) == 1.0
    assert compare_chain(PLAIN, chain, threads=1) == 0.5
    assert compare_chain(PLAIN, chain, threads=1) == 0.5
    assert [c[:3] for c in calls] == [(((PLAIN,),), 1, CPU), (((PLAIN,),), 2, CPU),
                                      (((PLAIN,), tuple(chain)), 1, CPU)]
    clear_cache()
    time_chain([PLAIN], threads=1)
    assert len(calls) == 4


@pytest.fixture
def measured(monkeypatch):
    """What was measured, in place of measuring: the sum of output channels, times a number that grows."""
    calls = []

    def measure(chains, threads, provider, _budget_s):
        calls.append((chains, threads, provider))
        return tuple(len(calls) * float(sum(s.out_channels for s in chain)) for chain in chains)

    monkeypatch.setattr(module, "_measure", measure)
    return calls


@pytest.fixture
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("cache"), warn=pytest.fail)


def test_figures_outlive_the_process(measured, store):
    chain = reduced(PLAIN, 16)
    for _ in range(2):
        clear_cache()
        assert time_chain([PLAIN], threads=1, store=store) == 32.0
        assert compare_chain(PLAIN, chain, threads=1, store=store) == (2 * 32.0) / (2 * 48.0)
        assert time_chain([PLAIN], threads=1, store=store) == 32.0  # that of the pair is another one
    assert len(measured) == 2
    assert [entry.kind for entry in store.entries()] == ["latency", "latency"]
    clear_cache()
    assert time_chain([PLAIN], threads=1, store=NO_STORE) == 3 * 32.0


def test_a_run_that_is_cut_off_keeps_what_it_measured(measured, store, monkeypatch):
    time_chain([PLAIN], store=store)
    fake = module._measure

    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare_chain(PLAIN, reduced(PLAIN, 16), store=store)
    assert len(store.entries()) == 1
    clear_cache()
    assert time_chain([PLAIN], store=store) == 32.0
    monkeypatch.setattr(module, "_measure", fake)
    assert compare_chain(PLAIN, reduced(PLAIN, 16), store=store) == 32 / 48
    assert len(measured) == 2


@pytest.mark.parametrize(("field", "value"), [
    ("cpu", "another"), ("isa", ("avx2",)), ("cores", 99), ("block", 4), ("onnxruntime", "0.1"), ("platform", "Plan9")])
def test_another_machine_or_runtime_is_measured_anew(field, value, measured, store, monkeypatch):
    real = module.environment
    time_chain([PLAIN], store=store)
    clear_cache()
    monkeypatch.setattr(module, "environment", lambda **options: replace(real(**options), **{field: value}))
    time_chain([PLAIN], store=store)
    assert len(measured) == 2


def test_versions_that_do_not_matter_do_not_count(measured, store, monkeypatch):
    real = hardware.environment
    time_chain([PLAIN], store=store)
    clear_cache()
    monkeypatch.setattr(module, "environment", lambda **options: replace(real(**options), onnx="0", python="2.7"))
    time_chain([PLAIN], store=store)
    assert len(measured) == 1


@pytest.mark.parametrize("change", [
    {"in_channels": 40}, {"out_channels": 40}, {"kernel": (5, 3)}, {"stride": (1, 2)}, {"dilation": (2, 1)},
    {"pads": (1, 0, 2, 3)}, {"groups": 2}, {"bias": False}, {"in_size": (9, 11)}, {"batch": 2}])
def test_another_geometry_is_measured_anew(change, measured, store):
    time_chain([PLAIN], store=store)
    time_chain([replace(PLAIN, **change)], store=store)
    clear_cache()
    time_chain([replace(PLAIN, **change)], store=store)
    assert len(measured) == 2


def test_threads_count_and_spellings_of_padding_do_not(measured, store):
    same = ConvSpec.make(6, 8, kernel=(3, 2), in_size=(11, 8), stride=(2, 3), auto_pad="SAME_UPPER")
    time_chain([same], threads=1, store=store)
    time_chain([replace(same, auto_pad="NOTSET", pads=same.explicit_pads)], threads=1, store=store)
    assert len(measured) == 1
    time_chain([same], threads=2, store=store)
    assert len(measured) == 2


def test_a_comparison_is_old_over_new():
    ratio = compare_chain(PLAIN, reduced(PLAIN, 16), threads=1, budget_s=1e-6)
    ((old, new),) = module._measured.values()
    assert ratio == old / new
    assert min(old, new) > 0


def test_both_run_by_turns_and_the_warm_up_is_left_out(monkeypatch):
    order, counts = [], []
    real_run, real_seconds = module.run, module._seconds
    monkeypatch.setattr(module, "run", lambda session, *a, **k: order.append(id(session)) or real_run(session, *a, **k))
    monkeypatch.setattr(module, "_seconds", lambda runs: counts.append(len(runs)) or real_seconds(runs))
    compare_chain(PLAIN, reduced(PLAIN, 16), threads=1, budget_s=1e-6)
    assert len(set(order)) == 2
    assert order == order[:2] * 4  # one to warm up, three measured
    assert counts == [3, 3]


def test_unusable_chains_are_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        time_chain([])
    with pytest.raises(ValueError, match="input size is unknown"):
        time_chain([replace(PLAIN, in_size=None)])
    with pytest.raises(ValueError, match="does not take what the one before gives"):
        compare_chain(PLAIN, reduced(PLAIN, 16)[::-1])
    with pytest.raises(OptionError, match="budget"):
        time_chain([PLAIN], budget_s=0)
    with pytest.raises(OptionError, match="not offered"):
        time_chain([PLAIN], provider="nonsense")


def test_large_weights_repeat_a_random_block():
    values = module.random_values((3, module._RANDOM_VALUES))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[0], values[2])
    assert np.unique(values[0]).size > module._RANDOM_VALUES // 2
