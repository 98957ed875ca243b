"""Whole analyses of small models through the real onnxruntime: what is measured, and that it adds up."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.errors import OptionError
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.operators import QUANTIZED
from onnxslim1x1.runtime import calibration as runtime_calibration
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.profile import PROFILE_SETTINGS
from onnxslim1x1.runtime.roofline import Roofline
from onnxslim1x1.runtime.store import NO_STORE, Store
from onnxslim1x1.search import curves, measuring
from onnxslim1x1.search.inspection import Inspection, inspect

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 22, 27] image) => (float[n, 6] scores) {
  [stem] a = Conv <pads = [1, 1, 1, 1]> (image, a_w, a_b)
  [bn] an = BatchNormalization(a, a_b, a_b, a_b, a_s)
  [relu] ar = Relu(an)
  [deep] d = Conv <pads = [1, 1, 1, 1], group = 16> (ar, d_w)
  [wide] b = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (d, b_w, b_b)
  c = Abs(b)
  g = GlobalAveragePool(c)
  f = Flatten(g)
  [head] scores = Gemm <transB = 1> (f, h_w, h_b)
}"""
SHAPES = {"a_w": (16, 3, 3, 3), "a_b": (16,), "a_s": (16,), "d_w": (16, 1, 3, 3), "b_w": (24, 16, 3, 3), "b_b": (24,),
          "h_w": (6, 24), "h_b": (6,)}
ROOF = Roofline(peak=1e15, bandwidth=1e12, provider="CPUExecutionProvider", threads=1)


@pytest.fixture
def model():
    rng = np.random.default_rng(3)
    proto = onnx.parser.parse_model(TEXT)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape) if len(shape) > 1 else rng.uniform(0.5, 1, shape)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    return load(proto)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short profiles, a roofline without measuring it, few samples, and no microbenchmark."""
    settings = type(PROFILE_SETTINGS)(budget_s=0.0, min_rounds=3, max_rounds=3, warmup_runs=1, warmup_s=0.0)
    monkeypatch.setattr(measuring, "PROFILE_SETTINGS", settings)
    monkeypatch.setattr(measuring, "measured_roofline", lambda **_options: ROOF)
    monkeypatch.setattr(measuring, "channel_block", lambda _provider: 4)
    monkeypatch.setattr(measuring, "measured", lambda _options: lambda *_args: 2.0)
    monkeypatch.setattr(runtime_calibration, "LEAST_ROWS", 900)
    monkeypatch.setattr(runtime_calibration, "ROWS_PER_COLUMN", 2)


@pytest.fixture
def images(tmp_path):
    array = np.random.default_rng(8).standard_normal((6, 3, 22, 27)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=array)
    return DataOptions(path=tmp_path / "images.npz")


def analysed(model, store=NO_STORE, **wanted):
    return inspect(model, Inspection(**wanted), RunOptions(threads=1, store=store))


def test_every_node_has_its_time_its_place_and_its_provider(model):
    found = analysed(model)
    assert [(n.index, n.name, n.op) for n in found.nodes] == [
        (i, node.name or node.output[0], node.op_type) for i, node in enumerate(model.proto.graph.node)]
    by_name = {n.name: n for n in found.nodes}
    assert by_name["bn"].absorbed_into == by_name["relu"].absorbed_into == "stem"
    assert by_name["bn"].kernels == ()
    assert {n.provider for n in found.nodes} == {"CPUExecutionProvider"}  # of the absorbing node, too
    assert math.fsum(n.seconds + n.inserted_s for n in found.nodes) == pytest.approx(found.profile.mapped_s, rel=1e-9)
    for p in found.layers:
        node = found.nodes[p.layer.index]
        assert (p.time_s, p.inserted_s, p.provider) == (node.seconds, node.inserted_s, node.provider)


def test_layers_have_their_bytes_and_their_place_under_the_roof(model):
    found = analysed(model)
    stem, deep, wide, head = found.layers
    assert stem.bytes == 4 * (3 * 22 * 27 + 16 * 27 + 16 + 16 * 22 * 27)
    assert deep.bytes == 4 * (16 * 22 * 27 + 16 * 9 + 16 * 22 * 27)
    assert wide.bytes == 4 * (16 * 22 * 27 + 24 * 16 * 9 + 24 + 24 * 11 * 27)
    assert head.bytes == 4 * (24 + 24 * 6 + 6 + 6)
    assert found.roofline is ROOF
    for p in found.layers:
        assert p.intensity == p.macs / p.bytes
        assert p.roof == ROOF.place(macs=p.macs, moved_bytes=p.bytes, seconds=p.time_s)
        assert p.roof.bound == "memory"  # under a roof that nothing is dense enough for
        assert p.roof.fraction > 0


def test_bytes_need_no_measurement(model):
    plain, found = analysed(model, measure=False), analysed(model)
    assert [p.bytes for p in plain.layers] == [p.bytes for p in found.layers]
    assert (plain.roofline, plain.nodes, plain.profile, plain.environment) == (None, (), None, None)
    for p in plain.layers:
        assert (p.roof, p.provider, p.inserted_s, p.weight_spectra, p.activation_spectra) == (None,) * 5


def test_an_analysis_without_measuring_loads_neither_onnxruntime_nor_the_spectra(model, tmp_path):
    onnx.save(model.proto, tmp_path / "m.onnx")
    code = ("import sys; from onnxslim1x1.cli.main import main\n"
            "sys.argv = ['onnxslim1x1', 'analyze', '--no-measure', sys.argv[1]]\n"
            "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
            "print([m for m in ('onnxruntime', 'onnxslim1x1.search.measuring') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.onnx")], capture_output=True, text=True,
                          check=True, timeout=120)
    assert done.stdout.endswith("[]\n")


def test_images_change_the_curves_and_the_proposals(model, images):
    alone, seen = analysed(model, max_error=0.9), analysed(model, max_error=0.9, calibration=images)
    assert [p.activation_spectra for p in alone.layers] == [None] * 4
    assert [p.layer.name for p in seen.layers if p.activation_spectra] == ["stem", "wide", "head"]  # deep has groups
    assert [p.weight_spectra for p in seen.layers] == [p.weight_spectra for p in alone.layers]
    wide = seen.layers[2]
    assert wide.activation_spectra != wide.weight_spectra
    assert (alone.layers[2].proposal.ranks, wide.proposal.ranks) != ((), ())
    assert wide.proposal.error != alone.layers[2].proposal.error


@pytest.mark.parametrize(("max_error", "with_images", "limit"), [
    (None, False, 0.3), (None, True, 0.1), (0.6, True, 0.6)])
def test_the_limit_is_stricter_with_images(model, images, monkeypatch, max_error, with_images, limit):
    asked = []
    real = measuring.layer_profiles

    def layer_profiles(*args, **options):
        asked.append(options["max_error"])
        return real(*args, **options)

    monkeypatch.setattr(measuring, "layer_profiles", layer_profiles)
    analysed(model, max_error=max_error, calibration=images if with_images else None)
    assert asked == [limit]


def test_a_second_analysis_takes_the_curves_from_the_store(model, images, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    first = analysed(model, store=store, calibration=images)
    plain = analysed(model, store=store)
    assert [p.activation_spectra for p in plain.layers] == [None] * 4  # these images are kept for themselves
    monkeypatch.setattr(curves, "_study", lambda *_args: pytest.fail("computed again"))
    monkeypatch.setattr(runtime_calibration, "moment_waves", lambda *_args, **_options: iter(()))
    again = analysed(model, store=store, calibration=images)
    assert [p.activation_spectra for p in again.layers] == [p.activation_spectra for p in first.layers]
    assert [p.weight_spectra for p in analysed(model, store=store).layers] == [p.weight_spectra for p in plain.layers]
    monkeypatch.setattr(measuring, "channel_block", lambda _provider: 2)
    with pytest.raises(pytest.fail.Exception, match="again"):  # the tables have other ranks
        analysed(model, store=store)


def test_long_patches_are_judged_by_their_weights(model, images, monkeypatch):
    monkeypatch.setattr(measuring, "_LONGEST_PATCH", 100)
    found = analysed(model, calibration=images)
    assert [p.layer.name for p in found.layers if p.activation_spectra] == ["stem", "head"]
    assert any("1 layers have patches of more than 100 values" in warning for warning in found.warnings)


def test_images_contradict_not_measuring(model, images):
    with pytest.raises(OptionError, match=r"--calibration .*images\.npz: contradicts --no-measure"):
        analysed(model, measure=False, calibration=images)


@pytest.mark.parametrize(("peak", "warned"), [(1e3, True), (1e15, False)])
def test_layers_above_the_roof_are_doubted(model, monkeypatch, peak, warned):
    roof = Roofline(peak=peak, bandwidth=1e15, provider="CPUExecutionProvider", threads=1)
    monkeypatch.setattr(measuring, "measured_roofline", lambda **_options: roof)
    found = analysed(model)
    told = [warning for warning in found.warnings if "measured peak of the machine" in warning]
    assert len(told) == warned
    if warned:
        assert told[0].startswith("4 layers run at more than")
        assert "cache --clear" in told[0]


def test_quantized_layers_may_beat_the_peak_of_floats(model, monkeypatch):
    roof = Roofline(peak=1e3, bandwidth=1e15, provider="CPUExecutionProvider", threads=1)
    monkeypatch.setattr(measuring, "measured_roofline", lambda **_options: roof)
    real = measuring.layer_profiles

    def layer_profiles(layers, **options):
        first, *others = real(layers, **options)
        return (dataclasses.replace(first, layer=dataclasses.replace(first.layer, ineligible=QUANTIZED)), *others)

    monkeypatch.setattr(measuring, "layer_profiles", layer_profiles)
    told, = (warning for warning in analysed(model).warnings if "measured peak of the machine" in warning)
    assert told.startswith("3 layers run at more than")


@pytest.mark.parametrize(("provider", "seconds", "warned"), [
    ("OtherExecutionProvider", 0.4, True), ("OtherExecutionProvider", 0.6, False),
    ("CPUExecutionProvider", 0.4, False)])
def test_a_provider_that_does_not_wait_for_its_kernels_is_doubted(model, monkeypatch, provider, seconds, warned):
    real = measuring.profile_model

    def profile_model(*args, **options):
        found = real(*args, **options)
        latency = dataclasses.replace(found.end_to_end, provider=provider, median_s=1.2, p10_s=1.0)
        return dataclasses.replace(found, end_to_end=latency, total_kernel_s=seconds)

    monkeypatch.setattr(measuring, "profile_model", profile_model)
    told = [w for w in analysed(model).warnings if "in the background" in w]
    assert len(told) == warned
    assert all(w.startswith("the kernels take only 40% of a run: OtherExecutionProvider") for w in told)
