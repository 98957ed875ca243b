"""The roofline: places by hand, what counts as moved, and figures that are kept."""

import dataclasses
from contextlib import contextmanager

import pytest

import onnxslim1x1.runtime.roofline as module
from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime import microbench
from onnxslim1x1.runtime.kernels import KernelRun
from onnxslim1x1.runtime.roofline import Roofline, measured_roofline
from onnxslim1x1.runtime.store import Store
from onnxslim1x1.spec import ConvSpec

WIDE = ConvSpec.make(16, 16, kernel=(3, 1), pads=(1, 0, 1, 0), in_size=(9, 8))
DENSE = ConvSpec.make(32, 32, kernel=(), in_size=(), batch=3)
ROOF = Roofline(peak=100e9, bandwidth=20e9, provider="CPUExecutionProvider", threads=0)  # ridge: 5 MACs per byte


@pytest.mark.parametrize(("macs", "moved", "seconds", "bound", "limit", "fraction"), [
    (10**9, 10**8, 0.02, "compute", 100e9, 0.5),     # 10 MACs per byte, 50 GMAC/s
    (10**8, 10**8, 0.01, "memory", 20e9, 0.5),       # 1 MAC per byte: all bytes need 5 ms
    (5 * 10**8, 10**8, 0.005, "compute", 100e9, 1.0),  # at the ridge
    (4 * 10**8, 10**8, 0.004, "memory", 80e9, 1.25),   # out of a cache
])
def test_places(macs, moved, seconds, bound, limit, fraction):
    place = ROOF.place(macs=macs, moved_bytes=moved, seconds=seconds)
    assert place.bound == bound
    assert place.limit == pytest.approx(limit, rel=1e-12)
    assert place.fraction == pytest.approx(fraction, rel=1e-12)


def test_the_limit_is_the_least_time_that_either_needs():
    for macs in (10**6, 10**8, 3 * 10**9):
        for moved in (10**5, 10**7, 10**9):
            place = ROOF.place(macs=macs, moved_bytes=moved, seconds=0.1)
            least = max(macs / ROOF.peak, moved / ROOF.bandwidth)
            assert macs / place.limit == pytest.approx(least, rel=1e-12)
            assert place.fraction == pytest.approx(least / 0.1, rel=1e-12)
            assert (place.bound == "memory") == (moved / ROOF.bandwidth > macs / ROOF.peak)


@pytest.mark.parametrize("missing", [{"macs": None}, {"macs": 0}, {"moved_bytes": None}, {"moved_bytes": 0},
                                     {"seconds": None}, {"seconds": 0.0}])
def test_what_is_not_known_has_no_place(missing):
    assert ROOF.place(**({"macs": 10, "moved_bytes": 10, "seconds": 1.0} | missing)) is None


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small layers and tensors, little time, and nothing that was measured before."""
    monkeypatch.setattr(module, "LAYERS", {"wide": WIDE, "dense": DENSE})
    monkeypatch.setattr(module, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(module, "_OPERATORS", 3)
    monkeypatch.setattr(module, "_BUDGET_S", 0.002)
    monkeypatch.setattr(module, "_measured", {})


def test_a_real_machine():
    roof = measured_roofline(threads=1)
    cases = dict(roof.cases)
    assert list(cases) == ["wide", "dense", "Add", "Abs"]
    assert all(rate > 0 for rate in cases.values())
    assert roof.peak == max(cases["wide"], cases["dense"])
    assert roof.bandwidth == max(cases["Add"], cases["Abs"])
    assert roof.ridge == roof.peak / roof.bandwidth
    assert (roof.provider, roof.threads) == ("CPUExecutionProvider", 1)


def fake_kernels(monkeypatch, runs):
    """Runs of kernels that take these seconds, with a copy to and from a device around them."""
    class Recorded:
        session = None

        def runs(self):
            return [[KernelRun(node="", index=i, op=op, seconds=s, input_shapes=()) for i, (op, s) in enumerate((
                ("MemcpyFromHost", 7.0), *(("Add", one) for one in seconds), ("MemcpyToHost", 9.0)))]
                for seconds in runs]

    @contextmanager
    def recording(*_args, **_options):
        yield Recorded()

    monkeypatch.setattr(module, "recording", recording)
    monkeypatch.setattr(module, "rounds", lambda *_args, **_options: len(runs))
    monkeypatch.setattr(module, "between_neighbours", lambda run: run)


@pytest.mark.parametrize("runs", [
    [[4e-3, 2e-3, 3e-3, 1e-3], [9e-3, 8e-3, 7e-3, 6e-3]],  # an operator each: the fastest quarter of all counts
    [[9e-3], [8e-3], [7e-3], [6e-3], [8e-3]],              # compiled into one kernel, which takes 6 ms for 4 of them
])
def test_what_counts(monkeypatch, runs):
    """Add moves three tensors of 4096 values and Abs two, of 4 bytes each."""
    monkeypatch.setattr(module, "_OPERATORS", 4)
    fake_kernels(monkeypatch, runs)
    roof = measured_roofline()
    assert dict(roof.cases) == {
        "wide": pytest.approx(16 * 9 * 8 * 16 * 3 / 1.5e-3), "dense": pytest.approx(3 * 32 * 32 / 1.5e-3),
        "Add": pytest.approx(3 * 4 * 4096 / 1.5e-3), "Abs": pytest.approx(2 * 4 * 4096 / 1.5e-3)}


def test_figures_are_kept_by_threads(monkeypatch, tmp_path):
    store = Store(tmp_path)
    first = measured_roofline(threads=1, store=store)

    forget = module._measured.clear

    def fail(*_args, **_options):
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr(module, "recording", fail)
        assert measured_roofline(threads=1) == first  # in this process
        forget()
        assert measured_roofline(threads=1, store=store) == first
        forget()
        for other in ({"threads": 2, "store": store}, {"threads": 1, "store": Store(tmp_path / "other")}):
            with pytest.raises(AssertionError, match="measured again"):
                measured_roofline(**other)
    forget()
    assert measured_roofline(threads=2, store=store).threads == 2


@pytest.mark.parametrize(("part", "value"), [("cpu", "another"), ("onnxruntime", "1.0"), ("cores", 999)])
def test_figures_of_another_machine_do_not_count(monkeypatch, tmp_path, part, value):
    store = Store(tmp_path)
    measured_roofline(threads=1, store=store)
    module._measured.clear()
    real = microbench.environment
    monkeypatch.setattr(microbench, "environment", lambda **options: dataclasses.replace(
        real(**options), **{part: value}))
    before = len(store.entries())
    measured_roofline(threads=1, store=store)
    assert (before, len(store.entries())) == (4, 8)


def test_every_operator_has_tensors_of_its_own():
    for op, reads in module.MOVERS.items():
        graph = module._mover(op).graph
        names = [name for node in graph.node for name in node.input]
        assert len(names) == len(set(names)) == reads * 3
        assert [value.name for value in graph.input] == names
        assert [node.output[0] for node in graph.node] == [value.name for value in graph.output]


def test_a_provider_that_is_not_there():
    with pytest.raises(OptionError, match="nonsense"):
        measured_roofline(provider="nonsense")
