"""Two models as the reports see them: one that was analysed with everything, and one that it was rewritten to."""

import dataclasses
import math

import pytest

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.report.outcome import Outcome
from onnxslim1x1.runtime.benchmark import Latency, LatencyComparison
from onnxslim1x1.runtime.compare import Classification, Mismatch, OutputDiff
from onnxslim1x1.runtime.evidence import Figure, LayerError
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.profile import ModelProfile
from onnxslim1x1.runtime.roofline import Roofline
from onnxslim1x1.runtime.verdict import CheckResult, Gate, ValidationReport
from onnxslim1x1.search.analysis import Analysis, LayerProfile, NodeProfile, Proposal
from onnxslim1x1.search.comparison import compare
from onnxslim1x1.search.plan import PlannedLayer, SkippedLayer
from onnxslim1x1.spec import ConvSpec, Cost, Ineligible
from onnxslim1x1.strategies.redundancy import EnergyCurve, LayerSpectra

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;{{7*7}}|`x`"  # a name that a page and a table must survive
ROOFLINE = Roofline(peak=4e10, bandwidth=1e10, provider="CPUExecutionProvider", threads=1, cases=(("3x3", 4e10),))
ENVIRONMENT = Environment(
    cpu="Some CPU <8 cores>", isa=("avx", "avx2"), cores=4, block=8, onnxruntime="1.30.0", onnx="1.20.0",
    python="3.12.1", platform="Linux-x86_64", providers=("CPUExecutionProvider",), threads=1)


def curve(size, fall):
    """Energy of directions that fall by a factor."""
    values = [fall ** i for i in range(size)]
    kept = [math.fsum(values[:r]) / math.fsum(values) for r in range(1, size)]
    return EnergyCurve(size=size, kept=(*kept, 1.0))


def profile(name, index, spec, time_s, *, read, proposal=None, declined=None, inputs=None):
    layer = Layer(
        name=name, index=index, op_type="Gemm" if not spec.kernel else "Conv", spec=spec, input=read,
        output=f"{name}:0", weight=f"{name}.w", bias=None, in_shape=(1, spec.in_channels, *spec.in_size),
        out_shape=(1, spec.out_channels, *spec.out_size), ineligible=None)
    moved = 4 * (spec.params + math.prod(layer.in_shape) + math.prod(layer.out_shape))
    spectra = inputs and LayerSpectra(inputs=inputs, outputs=curve(spec.out_channels, 0.97), positions=curve(9, 0.5),
                                      separable=None)
    return LayerProfile(
        layer=layer, params=spec.params, macs=spec.macs, time_s=time_s, declined=declined, proposal=proposal,
        bytes=moved, inserted_s=1e-5, provider="CPUExecutionProvider", weight_spectra=spectra or None,
        roof=ROOFLINE.place(macs=spec.macs, moved_bytes=moved, seconds=time_s))


STEM = ConvSpec.make(3, 24, kernel=(7, 5), in_size=(34, 38), stride=(2, 2), pads=(3, 2, 3, 2))
WIDE = ConvSpec.make(24, 80, kernel=(3, 3), in_size=(17, 19), pads=(1, 1, 1, 1))
DEEP = ConvSpec.make(80, 72, kernel=(3, 3), in_size=(17, 19), pads=(1, 1, 1, 1), stride=(2, 2))
MIX = ConvSpec.make(72, 40, kernel=(1, 1), in_size=(9, 10), bias=False)
EXTRA = ConvSpec.make(72, 40, kernel=(1, 3), in_size=(9, 12))
HEAD = ConvSpec.make(40, 7, kernel=(), in_size=())
FEW = Ineligible(code="few_channels", reason="3 input channel(s) cannot be reduced")


def proposal(rank, spec, curve, time_s, speedup):
    error = (1 - curve.kept[rank - 1]) ** 0.5
    return Proposal(strategy="reduce", ranks=(rank,), error=error, cost=Cost(params=spec.params // 2,
                    macs=spec.macs // 2), speedup=speedup, time_s=time_s / speedup)


def analysis(layers, path, latency_s, file_bytes):
    total = math.fsum(p.time_s for p in layers)
    return Analysis(
        path=path, sha256="0123456789abcdef" * 4, opset=17, environment=ENVIRONMENT, layers=tuple(layers),
        warnings=("input x: free dimension N set to 1",), roofline=ROOFLINE, file_bytes=file_bytes,
        nodes=(NodeProfile(index=0, name="stem", op="Conv", output="stem:0", seconds=1e-3, inserted_s=0.0,
                           absorbed_into=None, kernels=("Conv",), provider="CPUExecutionProvider"),),
        profile=ModelProfile(
            nodes=(), end_to_end=Latency(median_s=latency_s, p10_s=0.9 * latency_s, p90_s=1.2 * latency_s, runs=12,
                                         provider="CPUExecutionProvider", threads=1),
            profiled_s=1.1 * latency_s, total_kernel_s=total + 1e-3, mapped_s=total + 0.9e-3, reorder_s=1e-4,
            cast_s=0.0, by_op=(("Conv", total), ("MaxPool", 0.9e-3), ("Mystery", 1e-4)),
            unmapped=(("fused_17", "Mystery", 1e-4),), feed_shapes=(("x", (1, 3, 34, 38)),)))


@pytest.fixture
def analysed():
    """A measured model of five layers; the third one has a name that HTML and Markdown must not take literally."""
    narrow, broad = curve(24, 0.8), curve(80, 0.93)
    return analysis((
        profile("stem", 0, STEM, 2e-3, read="x", declined=FEW),
        profile("block/wide", 2, WIDE, 3e-3, read="stem:0", proposal=proposal(8, WIDE, narrow, 3e-3, 1.5),
                inputs=narrow),
        profile(HOSTILE, 4, DEEP, 5e-3, read="block/wide:0", proposal=proposal(40, DEEP, broad, 5e-3, 2.0),
                inputs=broad),
        profile("block/mix", 6, MIX, 1e-3, read="other",
                declined=Ineligible(code="flat_spectrum", reason="no rank is worth it")),
        profile("head", 9, HEAD, 2e-4, read="pooled", declined=Ineligible(code="dense", reason="dense"))),
        "models/net.onnx", 0.0125, 1_234_567)


@pytest.fixture
def unmeasured(analysed):
    """The same with --no-measure."""
    layers = tuple(dataclasses.replace(p, time_s=None, inserted_s=None, provider=None, roof=None, proposal=None,
                                       weight_spectra=None) for p in analysed.layers)
    return dataclasses.replace(analysed, layers=layers, environment=None, profile=None, roofline=None, nodes=())


@pytest.fixture
def compared(analysed):
    """The first model beside one in which the second layer is a chain, the fourth is gone and another one is new."""
    stem, wide, deep, _, head = analysed.layers
    first = ConvSpec.make(24, 8, kernel=(1, 1), in_size=(17, 19), bias=False)
    last = ConvSpec.make(8, 80, kernel=(3, 3), in_size=(17, 19), pads=(1, 1, 1, 1))
    chain = (profile("block/wide/reduce", 2, first, 4e-4, read="stem:0"),
             profile("block/wide", 3, last, 1.1e-3, read="block/wide/reduce:0"))
    new = profile("extra", 8, EXTRA, 2e-3, read="elsewhere")
    after = analysis((stem, *chain, deep, new, head), "slim.onnx", 0.0105, 1_000_000)
    assert wide.layer.output == chain[1].layer.output
    return compare(analysed, after)


# ---- validations, and what pipelines are told of them ----

CLASSES = Classification(output="logits", images=450, classes=10, agreement=0.9876, kl=0.00123, top1_original=0.7654,
                         top1_rewritten=0.7632, top1_drop=0.0022, top5_original=0.9321, top5_rewritten=0.9333,
                         nonfinite_original=0, nonfinite_rewritten=0)


def race(speedup, low, high, noise=1.02):
    """A measured comparison."""
    def latency(median):
        return Latency(median_s=median, p10_s=0.9 * median, p90_s=1.2 * median, runs=143,
                       provider="CPUExecutionProvider", threads=1)

    return LatencyComparison(original=latency(0.02), rewritten=latency(0.02 / speedup), speedup=speedup,
                             speedup_low=low, speedup_high=high, noise_low=1 / noise, noise_high=noise)


@pytest.fixture
def validation():
    """Makes a report that holds all its promises, with any of its values changed."""
    def make(**changes):
        output = OutputDiff(name="logits", shape=(16, 10), dtype="float32", max_abs=0.3, mean_abs=0.03, max_rel=0.3,
                            mean_rel=0.03, cosine=0.9998, snr_db=31.5, nan_count_original=0, nan_count_rewritten=0,
                            nan_count_new=0)
        values = {"checker": CheckResult(original_ok=True, rewritten_ok=True, message=""), "mismatches": (),
                  "outputs": (output,), "classification": CLASSES, "latencies": (race(1.8, 1.75, 1.9),),
                  "size_original_bytes": 2_000_000, "size_rewritten_bytes": 1_000_000, "images": 450,
                  "data": "evaluation.npz", "cost_original": Cost(params=500_000, macs=100_000_000),
                  "cost_rewritten": Cost(params=250_000, macs=40_000_000),
                  "gates": (Gate(name="checker", bound=0.0, value=0.0, passed=True, kind="accuracy"),
                            Gate(name="max_drop", bound=0.01, value=0.0022, passed=True, kind="accuracy"))}
        return ValidationReport(**(values | changes))

    return make


FAILED = (Gate(name="max_drop", bound=0.01, value=0.25, passed=False, kind="accuracy"),
          Gate(name="min_speedup", bound=1.2, value=None, passed=False, kind="latency"))


@pytest.fixture
def passed(validation):
    """A `slim` that went well: one layer rewritten, two left alone, one of them with a name that is hard to print."""
    planned = PlannedLayer(layer="block/wide", strategy="reduce", ranks=(16,), error=0.05, before=Cost(
        params=100, macs=1000), after=Cost(params=50, macs=500), speedup=1.5)
    return Outcome(command="slim", original="models/net.onnx", rewritten="models/slim.onnx", report=validation(),
                   layers=(planned,), declined=(
                       SkippedLayer(layer=HOSTILE, code="few_channels", reason=f"{HOSTILE} has 3"),
                       SkippedLayer(layer="a\x00\n\ud800b", code="dense", reason="one channel")),
                   warnings=("input x: 100 % of N,\r\nset to 1",))


@pytest.fixture
def failed(validation):
    """A `validate` with two broken promises and the layers behind one of them."""
    def layer(number, rel_error, growth):
        return LayerError(tensor=f"t{number}", counterpart=f"t{number}", node=f"n{number}", op_type="Conv",
                          snr_db=20.0 - number, rel_error=rel_error, growth=growth, rewritten=True)

    layers = (layer(0, 0.01, None), layer(1, 0.2, math.inf), layer(2, 0.21, 1.05), layer(3, 0.9, 4.0))
    return Outcome(command="validate", original="/abs/net one.onnx", rewritten="slim ü.onnx",
                   report=validation(gates=FAILED, layers=layers, mismatches=(
                       Mismatch(name="boxes", code="missing_output", reason="gone"),)))


@pytest.fixture
def unchanged(validation):
    """A `slim` that was not worth it."""
    return Outcome(command="slim", original="net.onnx", rewritten="copy.onnx", report=validation(),
                   unchanged="no layer is worth rewriting")


@pytest.fixture
def figures():
    """Accuracy by task, as a validation finds it."""
    def figure(name, value, better, unit, *, rewritten=None, output="logits"):
        return Figure(name=name, output=output, unit=unit, better=better, value=value, rewritten=rewritten,
                      original=None if rewritten is None else rewritten - value, low=None, high=None, confidence=0.95,
                      p_value=None, images=450)

    return (figure("top1", -0.01, "higher", "", rewritten=0.9), figure("kl", 0.02, "lower", "nats"),
            figure("psnr", 40.0, "higher", "dB"), figure("psnr", 30.0, "higher", "dB", output="mask"),
            figure("angle", 2.0, "lower", "degrees"))
