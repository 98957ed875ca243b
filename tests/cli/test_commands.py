"""The commands as a user types them, in this process; what hangs on speed is decided by fake measurements."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from typer.testing import CliRunner

import onnxslim1x1
from onnxslim1x1.cli.main import app
from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime import validate as runtime_validate
from onnxslim1x1.runtime.benchmark import Latency, LatencyComparison
from onnxslim1x1.runtime.evidence import Footprint
from onnxslim1x1.search import pipeline
from onnxslim1x1.strategies import STRATEGIES

pytestmark = pytest.mark.usefixtures("folder")

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
SAMPLE = str(SAMPLES / "digits_googlenet.onnx")
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 24, 20] image) => (float[N, 7] scores) {
  stem = Conv <strides = [1, 2], pads = [2, 1, 2, 1]> (image, stem_w, stem_b)
  r = Relu(stem)
  wide = Conv <pads = [1, 0, 1, 2]> (r, wide_w)
  s = Relu(wide)
  mix = Conv(s, mix_w)
  g = GlobalAveragePool(mix)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w)
}"""
NAMES = {"stem": "net/stem", "wide": "block/wide", "mix": "block/mix", "scores": "head"}
SHAPES = {"stem_w": (48, 3, 5, 3), "stem_b": (48,), "wide_w": (40, 48, 3, 3), "mix_w": (36, 40, 1, 1),
          "head_w": (7, 36)}


def network():
    rng = np.random.default_rng(17)
    weights = {name: rng.standard_normal(shape).astype(np.float32) * 0.2 for name, shape in SHAPES.items()}
    basis = np.linalg.qr(rng.standard_normal((48, 14)))[0]
    weights["wide_w"] = np.einsum("ocij,cd->odij", weights["wide_w"], basis @ basis.T)  # rank 14 of 48
    weights["wide_w"] += 0.001 * rng.standard_normal(SHAPES["wide_w"])
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = NAMES.get(node.output[0], "")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items())
    return model


def verdict(speedup):
    """What a measurement would find that shows this speed-up beyond doubt."""
    def latency(seconds):
        return Latency(median_s=seconds, p10_s=seconds, p90_s=seconds, runs=9, provider="CPUExecutionProvider",
                       threads=1)

    return LatencyComparison(original=latency(0.01), rewritten=latency(0.01 / speedup), speedup=speedup,
                             speedup_low=0.99 * speedup, speedup_high=1.01 * speedup, noise_low=0.999, noise_high=1.001)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """80 columns, and a machine on which every chain and every rewritten model is twice as fast."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(pipeline, "compare_chain", lambda *_args, **_options: 2.0)
    monkeypatch.setattr(runtime_validate, "compare_models", lambda *_args, **_options: verdict(2.0))
    monkeypatch.setattr(runtime_validate, "measure_footprint", lambda *_args, file_bytes: Footprint(
        load_s=0.02, arena_bytes=3_000_000, resident_bytes=9_000_000, file_bytes=file_bytes, denormal_slowdown=1.0))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with the model and some images."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    rng = np.random.default_rng(3)
    np.savez("images.npz", images=rng.integers(0, 256, (24, 24, 20, 3), dtype=np.uint8))
    return tmp_path


def run(*arguments, code=0):
    """Run a command; standard output must hold no control characters."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == code, result.output
    assert "\x1b" not in result.output
    return result


def run_json(*arguments, code=0):
    """Run with --json; standard output must be exactly one document of strict JSON."""
    result = run(*arguments, "--json", code=code)
    assert result.stdout.endswith("}\n")

    def refuse(text):
        raise ValueError(f"{text} is no JSON")

    return json.loads(result.stdout, parse_constant=refuse)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# ---- cost ----

GOOGLENET = ("cost", "--input", "14x14x480", "--filters", 48, "--kernel", 5)


def test_cost_prints_the_table_of_the_readme():
    result = run(*GOOGLENET, "--reduce", 16)
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == "5x5 convolution 14x14x480 -> 14x14x48: 112,896,000 MACs, 576,000 parameters"
    assert lines[3].split() == ["16", "1,505,280", "3,763,200", "5,268,480", "21.43x", "26,880", "21.43x"]
    assert lines[4] == "break-even rank: 342 (up to it the 1x1 reduction saves MACs)"
    assert len(lines) == 5


@pytest.mark.parametrize("spelling", [
    ["--reduce", "16,32,64"], ["--reduce", "16", "--reduce", "32", "--reduce", "64"], ["--reduce", "16x32x64"],
    ["--reduce", "16,32", "--reduce", "64"], ["--reduce", " 16, 32, 64 "]])
def test_cost_takes_several_ranks(spelling):
    found = run_json(*GOOGLENET, *spelling)
    assert [r["rank"] for r in found["reductions"]] == [16, 32, 64]
    assert [r["total"]["macs"] for r in found["reductions"]] == [196 * r * (480 + 25 * 48) for r in (16, 32, 64)]


@pytest.mark.parametrize(("options", "macs", "params", "out"), [
    ([], 112_896_000, 576_000, [14, 14, 48]), (["--bias"], 112_896_000, 576_048, [14, 14, 48]),
    (["--padding", "valid"], 57_600_000, 576_000, [10, 10, 48]),
    (["--stride", "2x1"], 56_448_000, 576_000, [7, 14, 48]),
    (["--padding", "2x0", "--stride", "1x2"], 40_320_000, 576_000, [14, 5, 48]),
    (["--dilation", "3", "--padding", "valid"], 2_304_000, 576_000, [2, 2, 48])])
def test_cost_knows_the_geometry(options, macs, params, out):
    found = run_json(*GOOGLENET, *options)
    assert found["direct"] == {"macs": macs, "params": params}
    assert found["out_shape"] == out
    assert (found["command"], found["schema_version"]) == ("cost", 1)
    assert found["tool"] == f"onnxslim1x1 {onnxslim1x1.__version__}"


# ---- analyze ----

@pytest.mark.parametrize("path", ["net.onnx", SAMPLE])
def test_analyze_without_measuring(path):
    result = run("analyze", path, "--no-measure")
    assert "free dimension N set to 1" in result.stderr
    assert all(line.startswith("note: ") for line in result.stderr.splitlines())
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["layer", "kernel", "MACs", "share", "rewrite"]
    assert max(map(len, lines)) <= 80
    layers = run_json("analyze", path, "--no-measure")["layers"]
    assert [line.split()[0] for line in lines[2:2 + len(layers)]] == [x["name"] for x in layers]
    assert lines[2 + len(layers)] == ""


@pytest.mark.parametrize("name", [":fire:", "fire2:fire:conv:0", "[bold]conv[/bold]", "[red]", "größe/卷积", "a b\\c",
                                  "%s{}"])
def test_analyze_shows_names_as_they_are(name):
    model = network()
    model.graph.node[0].name = name
    onnx.save(model, "net.onnx")
    assert name in run("analyze", "net.onnx", "--no-measure").stdout
    assert run_json("analyze", "net.onnx", "--no-measure")["layers"][0]["name"] == name


def test_analyze_json():
    found = run_json("analyze", "net.onnx", "--no-measure")
    assert found["model"] == {"path": "net.onnx", "sha256": digest("net.onnx"), "opset": 17,
                              "file_bytes": Path("net.onnx").stat().st_size}
    assert [x["name"] for x in found["layers"]] == list(NAMES.values())
    assert [x["macs"] for x in found["layers"]] == [
        48 * 3 * 15 * 24 * 10, 40 * 48 * 9 * 24 * 10, 36 * 40 * 24 * 10, 7 * 36]
    assert [x["kind"] for x in found["layers"]] == ["conv", "conv", "pointwise", "dense"]
    assert [x["declined"] and x["declined"]["code"] for x in found["layers"]][2:] == [None, None]
    assert {x["time_s"] for x in found["layers"]} == {None}
    assert found["totals"]["macs"] == sum(x["macs"] for x in found["layers"])
    assert found["warnings"] == ["input image: free dimension N set to 1 (change it with --dim N=...)"]


@pytest.mark.parametrize("path", ["net.onnx", SAMPLE])
def test_analyze_with_a_measurement(path):
    found = run_json("analyze", path, "--threads", 1)
    assert found["environment"]["threads"] == 1
    assert found["environment"]["block"] >= 1
    assert all(x["time_s"] > 0 for x in found["layers"])
    assert all((x["declined"] is None) != (x["proposal"] is None) for x in found["layers"])
    measured = found["totals"]["measured"]
    assert 0 < measured["layers_s"] <= measured["kernel_s"] * (1 + 1e-9)
    assert measured["layers_s"] == pytest.approx(sum(x["time_s"] for x in found["layers"]), rel=1e-9)
    proposals = [x["proposal"] for x in found["layers"] if x["proposal"]]
    assert proposals
    assert {p["speedup"] for p in proposals} == {2.0}
    assert {p["strategy"] for p in proposals} <= {s.name for s in STRATEGIES}


@pytest.mark.parametrize(("options", "names"), [
    (["--sort", "macs"], ["block/wide", "net/stem", "block/mix", "head"]),
    (["--sort", "params", "--top", 2], ["block/wide", "net/stem"]),
    (["--top", 3], ["net/stem", "block/wide", "block/mix"]), (["--sort", "graph"], list(NAMES.values())),
    (["--sort", "macs", "--top", 1], ["block/wide"])])
def test_analyze_sorts_and_cuts(options, names):
    found = run_json("analyze", "net.onnx", "--no-measure", *options)
    assert [x["name"] for x in found["layers"]] == names
    assert found["totals"]["layers"] == 4  # of the model, not of the selection


@pytest.mark.parametrize("options", [
    ["--dim", "N=3"], ["--input-shape", "image:3,3,24,20"], ["--input-shape", "image:3x3x24x20"],
    ["--input-shape", "image:[3,3,24,20]"], ["--input-shape", "3,3,24,20"]])
def test_analyze_takes_shapes_in_every_spelling(options):
    found = run_json("analyze", "net.onnx", "--no-measure", *options)
    assert found["layers"][0]["macs"] == 3 * 48 * 3 * 15 * 24 * 10
    assert found["warnings"] == []
    assert run("analyze", "net.onnx", "--no-measure", *options).stderr == ""


def test_analyze_shows_more_on_a_wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    header = run("analyze", "net.onnx", "--no-measure").stdout.splitlines()[0]
    assert {"kind", "params", "MAC/B"} <= set(header.split())


def test_analyze_tells_roof_curves_and_providers():
    found = run_json("analyze", "net.onnx", "--threads", 1)
    assert found["roofline"]["ridge"] == pytest.approx(found["roofline"]["peak"] / found["roofline"]["bandwidth"])
    assert len(found["nodes"]) == len(onnx.load("net.onnx").graph.node)
    for layer in found["layers"]:
        assert layer["roof"]["fraction"] > 0
        assert layer["roof"]["bound"] in ("compute", "memory")
        assert layer["provider"] == "CPUExecutionProvider"
        assert layer["spectra"]["activations"] is None
    wide = found["layers"][1]["spectra"]["weights"]["inputs"]
    assert (wide["size"], wide["directions"]["0.999"]) == (48, 14)  # as it was made


def test_analyze_with_images():
    found = run_json("analyze", "net.onnx", "--threads", 1, "--calibration", "images.npz", "--limit", 10)
    assert all(x["spectra"]["activations"] and x["spectra"]["weights"] for x in found["layers"])
    text = run("analyze", "net.onnx", "--threads", 1, "--calibration", "images.npz", "--limit", 10).stdout
    assert "from the images" in " ".join(text.split())


def test_analyze_lists_every_node():
    lines = run("analyze", "net.onnx", "--threads", 1, "--nodes").stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("node "))
    rows = lines[start + 2:start + 2 + len(onnx.load("net.onnx").graph.node)]
    assert [row.split()[1] for row in rows] == ["Conv", "Relu", "Conv", "Relu", "Conv", "GlobalAveragePool", "Flatten",
                                                "Gemm"]
    assert rows[1].rstrip().endswith("in net/stem")
    assert not any(line.startswith("node ") for line in run("analyze", "net.onnx", "--threads", 1).stdout.splitlines())


# ---- slim ----

def test_slim_writes_a_smaller_model(folder):
    before = digest("net.onnx")
    result = run("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=16")
    assert digest("net.onnx") == before
    assert result.stdout.splitlines()[-1] == "wrote out.onnx"
    assert "faster: 2.00x" in result.stdout
    assert "without calibration data" in result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    shapes = {t.name: tuple(t.dims) for t in onnx.load("out.onnx").graph.initializer}
    assert (16, 48, 1, 1) in shapes.values()
    assert (40, 16, 3, 3) in shapes.values()
    onnx.checker.check_model("out.onnx", full_check=True)
    assert sorted(p.name for p in folder.iterdir()) == ["images.npz", "net.onnx", "out.onnx"]


def test_slim_with_calibration_and_data():
    result = run("slim", "net.onnx", "--output", "out.onnx", "--calibration", "images.npz", "--data", "images.npz",
                 "--max-error", 0.3, "--max-drop", 0.5, "--limit", 12)
    assert result.stdout.splitlines()[-1] == "wrote out.onnx"
    assert "without calibration data" not in result.stderr
    assert "on images.npz" in result.stdout
    assert "gate max_drop: passed" in result.stdout


def test_slim_json():
    found = run_json("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=16", "--seed", 5)
    assert (found["command"], found["output"], found["unchanged"]) == ("slim", "out.onnx", None)
    assert found["model"]["sha256"] == digest("net.onnx")
    assert found["totals"]["after"]["macs"] < found["totals"]["before"]["macs"]
    layer, = found["plan"]["layers"]
    assert (layer["layer"], layer["ranks"], layer["speedup"]) == ("block/wide", [16], 2.0)
    assert {s["layer"]: s["code"] for s in found["plan"]["skipped"]} == {
        "net/stem": "not_asked", "block/mix": "not_asked", "head": "too_narrow"}
    assert found["plan"]["seed"] == 5
    assert found["validation"]["passed"] is True
    assert found["validation"]["latencies"][0]["verdict"] == "faster"
    assert any("calibration" in warning for warning in found["warnings"])


def test_slim_without_validation():
    found = run_json("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=16", "--no-validate")
    assert found["validation"] is None
    assert Path("out.onnx").exists()
    assert "not validated" in run("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=8",
                                  "--no-validate").stdout


def test_slim_replaces_an_older_output():
    Path("out.onnx").write_text("something else", encoding="utf-8")
    run("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=16", "--no-validate")
    onnx.checker.check_model("out.onnx")


@pytest.mark.parametrize("options", [["--include", "block/mix"], ["--exclude", "*"], ["--include", "head"]])
def test_slim_copies_where_there_is_nothing_to_do(options):
    result = run("slim", "net.onnx", "-o", "out.onnx", *options)
    assert result.stdout.splitlines()[-1].endswith("out.onnx is a copy of the input")
    assert digest("out.onnx") == digest("net.onnx")
    found = run_json("slim", "net.onnx", "-o", "out.onnx", *options)
    assert found["unchanged"] == "no layer is worth rewriting"
    assert found["plan"]["layers"] == []
    assert found["totals"]["before"] == found["totals"]["after"]


def test_slim_that_changes_something_does_not_fail_if_unchanged():
    run("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=16", "--fail-if-unchanged")
    assert digest("out.onnx") != digest("net.onnx")


def test_slim_takes_a_slow_rewrite_back(monkeypatch):
    monkeypatch.setattr(runtime_validate, "compare_models", lambda *_args, **_options: verdict(0.5))
    found = run_json("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=16")
    assert found["unchanged"].endswith("slower")
    assert digest("out.onnx") == digest("net.onnx")
    run("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=16", "--fail-if-unchanged", code=6)


@pytest.mark.parametrize(("options", "code"), [
    (["--min-snr", 300], 4), (["--min-speedup", 1000], 5), (["--min-snr", 300, "--min-speedup", 1000], 4)])
def test_slim_gates(options, code):
    result = run("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=2", *options, code=code)
    assert result.stdout.splitlines()[-1] == "no file was written"
    assert "FAILED" in result.stdout
    assert not Path("out.onnx").exists()
    found = run_json("slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=2", *options, "--keep-failed",
                     code=code)
    assert found["validation"]["passed"] is False
    assert found["output"] == "out.onnx"
    onnx.checker.check_model("out.onnx")


def test_slim_on_the_sample_model():
    before = digest(SAMPLE)
    found = run_json("slim", SAMPLE, "-o", "out.onnx", "--rank", "inception_a/5x5=32", "--threads", 1)
    assert [p["layer"] for p in found["plan"]["layers"]] == ["inception_a/5x5"]
    assert found["validation"]["checker"]["rewritten_ok"] is True
    assert digest(SAMPLE) == before


# ---- validate ----

def test_validate_a_model_against_itself():
    result = run("validate", "net.onnx", "net.onnx", "--max-drop", 0, "--min-agreement", 1, "--min-snr", 300)
    assert any(line.startswith("faster: 2.00x") for line in result.stdout.splitlines())
    assert result.stdout.count(": passed (") == 3
    found = run_json("validate", "net.onnx", "net.onnx", "--data", "images.npz", "--limit", 9)["validation"]
    assert (found["passed"], found["images"], found["data"]) == (True, 9, "images.npz")
    assert found["outputs"][0]["name"] == "scores"
    assert (found["outputs"][0]["max_abs"], found["outputs"][0]["snr_db"]) == (0.0, None)
    assert found["classification"]["agreement"] == 1.0


def test_validate_the_sample_model_on_its_images():
    found = run_json("validate", SAMPLE, SAMPLE, "--data", SAMPLES / "digits_evaluation.npz", "--limit", 50,
                     "--preprocess", "unit", "--max-drop", 0)["validation"]
    assert found["images"] == 50
    assert found["classification"]["top1_original"] >= 0.97
    assert found["classification"]["top1_original"] == found["classification"]["top1_rewritten"]
    gate = next(g for g in found["gates"] if g["name"] == "max_drop")
    assert gate == {"name": "max_drop", "bound": 0.0, "value": 0.0, "passed": True, "kind": "accuracy",
                    "confidence": None}


def test_validate_takes_labels_of_its_own():
    np.save("labels.npy", np.arange(24) % 7)
    found = run_json("validate", "net.onnx", "net.onnx", "--data", "images.npz", "--labels", "labels.npy")
    assert found["validation"]["classification"]["top1_original"] <= 1.0
    assert found["validation"]["classification"]["top1_drop"] == 0.0


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--min-speedup", 1.5], 0), (["--min-speedup", 2.5], 5)])
def test_validate_gates(options, code):
    assert "2.00x" in run("validate", "net.onnx", "net.onnx", *options, code=code).stdout


def test_validate_times_every_number_of_threads_with_every_batch_size(monkeypatch):
    seen = []

    def compare_models(*_paths, feeds, settings, **_options):
        seen.append((settings.threads, next(iter(feeds.values())).shape[0]))
        return replace(verdict(2.0 - 0.1 * len(seen)), batch=seen[-1][1])

    monkeypatch.setattr(runtime_validate, "compare_models", compare_models)
    options = ["--threads", "1,2", "--batch", "1,8", "--min-speedup", 1.65]
    found = run_json("validate", "net.onnx", "net.onnx", *options, code=5)["validation"]
    assert seen == [(1, 1), (1, 8), (2, 1), (2, 8)]
    assert [one["batch"] for one in found["latencies"]] == [1, 8, 1, 8]
    assert [gate["value"] for gate in found["gates"] if gate["name"] == "min_speedup"] == [1.6]  # the worst
    assert [one["arena_bytes"] for one in found["footprints"]] == [3_000_000] * 2
    assert "arena" in run("validate", "net.onnx", "net.onnx").stdout


def test_validate_declines_a_batch_size_that_the_model_does_not_take():
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, "one.onnx")
    with pytest.raises(OptionError, match=r"^--batch 8: one\.onnx takes 1 at a time"):
        run("validate", "one.onnx", "one.onnx", "--batch", "1,8")


def test_validate_on_other_preprocessing():
    for options in (["--preprocess", "raw"], ["--scale", "1/255", "--mean", ".5", "--std", ".25,.5,.75"],
                    ["--resize", "30x25", "--crop", "24x20"], ["--channel-order", "bgr"]):
        found = run_json("validate", "net.onnx", "net.onnx", "--data", "images.npz", "--limit", 3, *options)
        assert found["validation"]["passed"] is True


# ---- all commands ----

@pytest.mark.parametrize(("arguments", "keys", "model"), [
    (["analyze", "net.onnx"], {"totals", "layers"}, {"path", "sha256", "opset"}),
    (["slim", "net.onnx", "-o", "out.onnx", "--rank", "block/wide=16"], {"totals", "plan", "validation"},
     {"path", "sha256", "opset"}),
    (["validate", "net.onnx", "net.onnx"], {"validation"}, set()),
])
def test_documents_have_the_documented_keys(arguments, keys, model):
    found = run_json(*arguments)
    missing = {"schema_version", "tool", "command", "environment", "warnings", *keys} - set(found)
    assert missing == set()
    assert model <= set(found.get("model", ()))
    assert {"cpu", "isa", "block", "onnxruntime", "providers", "threads"} <= set(found["environment"])


def test_version():
    assert run("--version").stdout == f"onnxslim1x1 {onnxslim1x1.__version__}\n"


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["cost", "-h"], ["analyze", "--help"], ["slim", "-h"],
                                       ["validate", "-h"]])
def test_help(arguments):
    result = run(*arguments)
    assert result.stdout.startswith("Usage: ")
    assert result.stderr == ""


def test_help_and_cost_load_neither_onnx_nor_onnxruntime():
    code = ("import sys\nfrom onnxslim1x1.cli.main import app\n"
            "for arguments in (['-h'], ['slim', '-h'], ['analyze', '-h'], ['--version'],\n"
            "                  ['cost', '--input', '8x6x16', '--filters', '4', '--reduce', '2']):\n"
            "    try: app(arguments)\n"
            "    except SystemExit as end: assert not end.code, end.code\n"
            "print(sorted({'onnx', 'onnxruntime', 'scipy', 'PIL'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
