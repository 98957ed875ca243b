"""Two models as the reports see them: one that was analysed with everything, and one that it was rewritten to.

And the two compared, with everything that a validation can find out.
"""

import base64
import dataclasses
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxslim1x1
from onnxslim1x1.api import SlimResult
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.report.outcome import Outcome
from onnxslim1x1.report.slimming import slim_json
from onnxslim1x1.report.validation import validate_json
from onnxslim1x1.runtime.benchmark import Latency, LatencyComparison, Samples
from onnxslim1x1.runtime.compare import Classification, Mismatch, OutputDiff
from onnxslim1x1.runtime.evidence import Figure, Footprint, LayerError, Shifted, WorstSample
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.profile import ModelProfile
from onnxslim1x1.runtime.roofline import Roofline
from onnxslim1x1.runtime.verdict import CheckResult, Gate, ValidationReport
from onnxslim1x1.search.analysis import Analysis, LayerProfile, NodeProfile, Proposal
from onnxslim1x1.search.comparison import compare
from onnxslim1x1.search.pipeline import RewriteResult
from onnxslim1x1.search.plan import Budget, PlannedLayer, PlannedModel, RewritePlan, SkippedLayer
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


# ---- two models compared ----

def latencies(median_s, speedup, *, low, high, noise=(0.98, 1.03), threads=1, batch=1, seed=0, rounds=140):
    """A comparison with times of single runs: two modes, as busy machines have them, and a few spikes."""
    rng = np.random.default_rng(seed)

    def drawn(median):
        times = median * (1 + 0.02 * rng.standard_normal(rounds)) + 0.25 * median * (rng.random(rounds) < 0.15)
        return np.where(rng.random(rounds) < 0.02, 6 * median, times)

    def latency(times):
        p10, median, p90 = np.quantile(times, (0.1, 0.5, 0.9)).tolist()
        return Latency(median_s=median, p10_s=p10, p90_s=p90, runs=rounds, provider="CPUExecutionProvider",
                       threads=threads)

    times = np.stack([drawn(median_s), drawn(median_s / speedup), drawn(median_s)], axis=1)
    return LatencyComparison(original=latency(times[:, 0]), rewritten=latency(times[:, 1]), speedup=speedup,
                             speedup_low=low, speedup_high=high, noise_low=noise[0], noise_high=noise[1],
                             samples=Samples.of(times), batch=batch, sittings=7, cpus=4)


def figure(name="top1", value=-0.004, low=-0.007, high=-0.001, **changes):
    values = {"name": name, "output": "logits", "unit": "", "better": "higher", "original": 0.831,
              "rewritten": 0.831 + value, "value": value, "low": low, "high": high, "confidence": 0.95,
              "p_value": 0.0093, "images": 4000}
    return Figure(**(values | changes))


AGREEMENT = figure("agreement", 0.961, 0.954, 0.967, original=None, rewritten=None, p_value=None)
KL = figure("kl", 0.0491, 0.0442, 0.0549, original=None, rewritten=None, p_value=None, unit="nats", better="lower")
ECE = figure("ece", 0.0031, -0.0008, 0.0071, original=0.092, rewritten=0.0951, p_value=None, better="lower")


def picture(seed):
    """A small PNG as a data URI."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def layer_errors(count=24):
    """Error that enters at the rewritten layers, grows slowly, and is nothing before the first of them."""
    found, error = [], 0.0
    for i in range(count):
        rewritten, before = i % 4 == 2, error
        error = math.hypot(1.04 * error, 0.03 if rewritten else 0.0)
        growth = None if error == 0 else math.inf if before == 0 else error / before
        found.append(LayerError(
            tensor=f"stage{i // 8}/block{i}:0", counterpart=f"stage{i // 8}/block{i}:0" if i % 5 else f"onnx::Conv_{i}",
            node=HOSTILE if i == 5 else f"stage{i // 8}/block{i}", op_type=("Conv", "Relu", "Conv", "Add")[i % 4],
            snr_db=math.inf if error == 0 else -20 * math.log10(error), rel_error=error, growth=growth,
            rewritten=rewritten))
    return tuple(found)


def shifted(shift, strength, excess, low, high):
    worse = figure(value=-0.004 - excess, low=-0.012, high=-0.001, original=0.79, rewritten=0.786 - excess)
    return Shifted(shift=shift, strength=strength, figure=worse, clean=figure(), excess=excess, low=low, high=high)


WORST = tuple(
    WorstSample(index=17 * i, name=f"photos/{17 * i:04}.jpg" if i else HOSTILE, loss=2.7 / (i + 1), measure="kl",
                note=f"class {i} (cat) became {i + 3} (dog)", picture=picture(i) if i != 4 else None) for i in range(6))


def output_diff(name="logits", **changes):
    figures = {"max_abs": 1.27, "mean_abs": 0.0825, "max_rel": 1.93, "mean_rel": 0.0608, "cosine": 0.99778,
               "snr_db": 23.47, "nan_count_original": 0, "nan_count_rewritten": 0, "nan_count_new": 0}
    return OutputDiff(name=name, shape=(16, 10), dtype="float32", **(figures | changes))


@pytest.fixture
def judged():
    """A validation with everything."""
    return ValidationReport(
        checker=CheckResult(original_ok=True, rewritten_ok=True, message=""), mismatches=(),
        outputs=(output_diff(),), images=4000, data="cifar10/evaluation.npz",
        classification=Classification(
            output="logits", images=4000, classes=10, agreement=0.961, kl=0.0491, top1_original=0.831,
            top1_rewritten=0.827, top1_drop=0.004, top5_original=0.991, top5_rewritten=0.9905, nonfinite_original=0,
            nonfinite_rewritten=0),
        latencies=(latencies(0.0123, 1.5, low=1.46, high=1.53),
                   latencies(0.0081, 1.31, low=1.22, high=1.38, noise=(0.93, 1.09), threads=2, seed=1),
                   latencies(0.0579, 1.02, low=0.97, high=1.05, noise=(0.95, 1.06), threads=2, batch=8, seed=2)),
        size_original_bytes=3_412_345, size_rewritten_bytes=1_734_221,
        cost_original=Cost(params=853_018, macs=125_485_706), cost_rewritten=Cost(params=431_200, macs=62_700_000),
        gates=(Gate(name="checker", bound=0.0, value=0.0, passed=True, kind="accuracy"),
               Gate(name="interface", bound=0.0, value=0.0, passed=True, kind="accuracy"),
               Gate(name="finite", bound=0.0, value=0.0, passed=True, kind="accuracy"),
               Gate(name="max_drop", bound=0.01, value=0.004, passed=True, kind="accuracy"),
               Gate(name="min_speedup", bound=1.2, value=1.5, passed=True, kind="latency")),
        task="classification", task_reason="output logits has one score for each class",
        notes=("per layer: 24 of 26 tensors could be matched",), figures=(figure(), AGREEMENT, KL, ECE),
        layers=layer_errors(), worst=WORST,
        footprints=(Footprint(load_s=0.031, arena_bytes=8_400_000, resident_bytes=21_500_000, file_bytes=3_412_345),
                    Footprint(load_s=0.028, arena_bytes=7_900_000, resident_bytes=None, file_bytes=1_734_221)),
        shifts=(shifted("brightness", "+20 %", 0.0012, -0.002, 0.0045), shifted("noise", "sigma 8", 0.0062, 0.0015,
                                                                               0.0108),
                shifted("blur", "radius 1", -0.0007, -0.004, 0.0026), shifted("crop", "4 pixels", 0.0, None, None)))


@pytest.fixture
def failed(judged):
    """The same with a broken promise of either kind, an output that became NaN, and one that is gone."""
    return dataclasses.replace(
        judged, gates=(Gate(name="finite", bound=0.0, value=12.0, passed=False, kind="accuracy"), *judged.gates[:2],
                       Gate(name="min_speedup", bound=1.2, value=0.8, passed=False, kind="latency")),
        latencies=(latencies(0.0123, 0.8, low=0.77, high=0.83),), figures=(), shifts=(), layers=(), worst=(),
        footprints=None, classification=None,
        outputs=(output_diff(nan_count_rewritten=12, nan_count_new=12, snr_db=-math.inf, max_abs=math.inf,
                             mean_abs=math.inf, max_rel=math.inf, mean_rel=math.inf, cosine=0.0),
                 output_diff("same", max_abs=0.0, mean_abs=0.0, max_rel=0.0, mean_rel=0.0, cosine=1.0,
                             snr_db=math.inf)))


def validate_document(report):
    return validate_json(report, Path("models/net.onnx"), Path("out/slim.onnx"), ENVIRONMENT)


def planned(name, rank, speedup):
    return PlannedLayer(layer=name, strategy="reduce", ranks=(rank,), error=0.0581,
                        before=Cost(params=115_248, macs=29_491_200), after=Cost(params=41_520, macs=10_616_832),
                        speedup=speedup)


def slim_result(report, **changes):
    plan = RewritePlan(
        tool=f"onnxslim1x1 {onnxslim1x1.__version__}", seed=3, environment=ENVIRONMENT, data=None,
        model=PlannedModel(path="net.onnx", sha256="cd" * 32), budget=Budget(max_drop=0.01, ranks={"a": 8}),
        before=Cost(params=853_018, macs=125_485_706), after=Cost(params=431_200, macs=62_700_000),
        layers=(planned("stage0/block2", 16, 1.8), planned(HOSTILE, 24, 1.31), planned("stage1/block10", 32, None)),
        skipped=(SkippedLayer(layer="stem", code="few_channels", reason="3 input channel(s) cannot be reduced"),
                 SkippedLayer(layer="a/1x1", code="pointwise", reason="a 1x1 kernel is the reduction itself"),
                 SkippedLayer(layer="b/1x1", code="pointwise", reason="a 1x1 kernel is the reduction itself")))
    values = {"plan": plan, "rewrite": RewriteResult(model=None, plan=plan, notes=()), "output": Path("out/slim.onnx"),
              "before": plan.before, "after": plan.after, "validation": report, "environment": ENVIRONMENT,
              "warnings": ("input images: free dimension N set to 1",)}
    return SlimResult(**(values | changes))


def slim_document(report, **changes):
    return slim_json(slim_result(report, **changes))


@pytest.fixture
def as_validated():
    """What ``validate --json`` makes of a report, read again: strict JSON."""
    return lambda report: json.loads(json.dumps(validate_document(report), allow_nan=False))


@pytest.fixture
def as_slimmed():
    """What ``slim --json`` makes of a report and of changes of the result, read again."""
    return lambda report, **changes: json.loads(json.dumps(slim_document(report, **changes), allow_nan=False))


# ---- a browser ----

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_BROWSER = "NO BROWSER, SO NO PAGE WAS LOOKED AT: make browser installs Debian's chromium"


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(NO_BROWSER)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Shown:
    """A page in a window of its own, and everything that it complained about or asked for."""

    def __init__(self, browser, text, folder, *, width=1400, scheme="light"):
        path = folder / f"page-{width}-{scheme}.html"
        path.write_text(text, encoding="utf-8")
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]", timeout=60_000)

    def names(self):
        return self.page.locator("#layers tbody tr:not([hidden]) td:first-child").all_inner_texts()

    def selected(self):
        return self.page.inner_text("#selected-name")

    def click_overview(self, part, height):
        """Click into the strip or the bars: at a part of the width of all layers, some pixels below the upper edge."""
        plot = self.page.locator("#plot-overview")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        left, right = box["x"] + 48, box["x"] + box["width"] - 8  # what the plot leaves free at its sides
        self.click(left + (right - left) * part, box["y"] + height)

    def click(self, x, y):
        """Click into a plot, not too soon: to bokeh, two clicks within 0.3 s are a double one, wherever they are."""
        self.page.wait_for_timeout(400)
        self.page.mouse.click(x, y)

    def await_selection(self, name):
        from playwright.sync_api import expect

        expect(self.page.locator("#selected-name")).to_have_text(name)

    def models(self, name):
        """Data and selection of bokeh's sources of a name."""
        return self.page.evaluate("""name => Bokeh.documents.flatMap(d => d.roots().flatMap(r => [...r.references()]))
            .filter(m => m.name === name).map(m => ({data: m.data, picked: m.selected.indices}))""", name)

    def colors(self, selector):
        """How many pixels of an element have which colour."""
        image = Image.open(io.BytesIO(self.page.locator(selector).screenshot())).convert("RGB")
        return {color: number for number, color in image.getcolors(1 << 24)}


@pytest.fixture
def show(browser, tmp_path):
    opened = []

    def opener(text, **options):
        opened.append(Shown(browser, text, tmp_path, **options))
        return opened[-1]

    yield opener
    for shown in opened:
        shown.context.close()


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
def broken(validation):
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
