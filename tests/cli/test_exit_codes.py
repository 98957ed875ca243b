"""The command on everything that can be wrong: exit code, one line on standard error, nothing left behind.

The cases that a user meets first run through the installed command, two at a time, each in a folder of its own;
their variants run through the same `main` in this process, which is faster.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from PIL import Image

from onnxslim1x1 import errors
from onnxslim1x1.cli import exits, main
from onnxslim1x1.cli.options import Debug

SCRIPT = Path(sys.executable).with_name("onnxslim1x1")
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 24, 20] image) => (float[N, 7] scores) {
  stem = Conv <strides = [1, 2], pads = [2, 1, 2, 1]> (image, stem_w)
  r = Relu(stem)
  wide = Conv <pads = [2, 2, 2, 2]> (r, wide_w)
  s = Relu(wide)
  mix = Conv(s, mix_w)
  g = GlobalAveragePool(mix)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w, head_b)
}"""
SHAPES = {"stem_w": (64, 3, 5, 3), "wide_w": (80, 64, 5, 5), "mix_w": (36, 80, 1, 1), "head_w": (7, 36), "head_b": (7,)}
IMAGES = 20
NOT_OURS = {".ses"}  # onnxruntime leaves this where temporary files go, just by being imported


def weights():
    rng = np.random.default_rng(29)
    return {name: rng.standard_normal(shape).astype(np.float32) * 0.1 for name, shape in SHAPES.items()}


def network(**changes):
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, n) for n, w in (weights() | changes).items())
    return model


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: exit code, text, and the files in its own folder and in that for temporary files."""

    code: int
    out: str
    err: str
    files: dict[str, str]
    temporary: list[str]


def run(folder, *arguments, command=(sys.executable, "-m", "onnxslim1x1")):
    """Run the command in a new folder below `folder`."""
    places = [folder / name for name in ("here", "temporary")]
    for place in places:
        place.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}
    done = subprocess.run([*map(str, command), *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          check=False, cwd=places[0], env=environment | {"TMPDIR": str(places[1])})
    files = {str(p.relative_to(places[0])): hashlib.sha256(p.read_bytes()).hexdigest()
             for p in places[0].rglob("*") if p.is_file()}
    temporary = [p.name for p in places[1].iterdir() if p.name not in NOT_OURS]
    return Outcome(done.returncode, done.stdout, done.stderr, files, temporary)


# ---- a place with one thing wrong in every file ----

def pixels():
    return np.random.default_rng(5).integers(0, 256, (IMAGES, 24, 20, 3), dtype=np.uint8)


def fed(model, output="scores"):
    """Output of a model for the images, as the preset unit feeds them."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([output], {"image": pixels().transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)})[0]


def classifier(**changes):
    """The network with a bias that makes it see different classes in the images."""
    probe = network()
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info("f"))
    return network(**({"head_b": -weights()["head_w"] @ fed(probe, "f").mean(axis=0)} | changes))


def make_models(place):
    good = classifier()
    onnx.save(good, place / "good.onnx")
    raw = good.SerializeToString()
    (place / "empty.onnx").write_bytes(b"")
    (place / "garbage.onnx").write_bytes(np.random.default_rng(0).bytes(4096))
    (place / "text.onnx").write_text("this is no model\n" * 40, encoding="utf-8")
    for part in (10, 50, 99):
        (place / f"truncated{part}.onnx").write_bytes(raw[:len(raw) * part // 100])
    (place / "folder.onnx").mkdir()
    onnx.save(onnx.ModelProto(ir_version=8), place / "nothing.onnx")
    variants = {name: network() for name in ("no_nodes", "cyclic", "dangling", "no_outputs", "unknown_operator",
                                             "future_opset", "wrong_types")}
    variants["no_nodes"].graph.ClearField("node")
    variants["cyclic"].graph.node[1].input[0] = "s"
    variants["dangling"].graph.node[4].input[0] = "nobody"
    variants["no_outputs"].graph.ClearField("output")
    variants["unknown_operator"].graph.node[1].op_type = "Frobnicate"
    variants["future_opset"].opset_import[0].version = 999
    variants["wrong_types"].graph.node[5].op_type = "StringNormalizer"
    for name in ("nan", "infinite"):
        weight = weights()["wide_w"]
        weight[3, 5, 1, 2] = float(name[:3])
        variants[name] = network(wide_w=weight)
    for name, model in variants.items():
        (place / f"{name}.onnx").write_bytes(model.SerializeToString())
    for name, location in (("outside", "../outside.bin"), ("absolute", str(place.parent / "outside.bin")),
                           ("lost", "lost.bin"), ("short", "short.bin")):
        external = network()
        tensor = next(t for t in external.graph.initializer if t.name == "wide_w")
        data = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        if name == "outside":
            (place.parent / "outside.bin").write_bytes(data)
        elif name == "short":
            (place / location).write_bytes(data[:1000])
        (place / f"{name}.onnx").write_bytes(external.SerializeToString())


def make_data(place):
    for name in ("images", "broken", "half", "sizes", "labelled", "misnamed", "unlabelled", "texts"):
        (place / name).mkdir()
        for number in range(3):
            Image.fromarray(pixels()[number]).save(place / name / f"{number}.png")
    (place / "broken" / "1.png").write_bytes(b"no image at all")
    (place / "half" / "1.png").write_bytes((place / "half" / "1.png").read_bytes()[:200])
    Image.fromarray(pixels()[0, :20]).save(place / "sizes" / "1.png")
    rows = {"labelled": ("0.png,1", "1.png,2", "2.png,7"), "misnamed": ("0.png,1", "1.png,2", "2.png,3", "3.png,4"),
            "unlabelled": ("0.png,1", "2.png,3"), "texts": ("0.png,cat", "1.png,dog", "2.png,cat")}
    for name, lines in rows.items():
        (place / name / "labels.csv").write_text("\n".join(("file,label", *lines)) + "\n", encoding="utf-8")
    (place / "no_images").mkdir()
    (place / "no_images" / "readme.txt").write_text("nothing", encoding="utf-8")
    labels = fed(classifier()).argmax(axis=1)
    assert len(set(labels)) > 2
    np.savez(place / "good.npz", images=pixels(), labels=labels)
    np.savez(place / "size.npz", images=pixels()[:, :, :19])
    np.savez(place / "keys.npz", first=pixels(), second=pixels())
    np.save(place / "nan.npy", np.full((2, 3, 24, 20), np.nan, np.float32))
    np.save(place / "rank.npy", np.zeros((2, 3, 24, 20, 2), np.float32))
    np.save(place / "none.npy", np.zeros((0, 3, 24, 20), np.float32))
    (place / "damaged.npz").write_bytes((place / "good.npz").read_bytes()[:700])
    (place / "data.txt").write_text("1 2 3\n", encoding="utf-8")
    for name, labels in (("few", np.arange(IMAGES - 1) % 7), ("large", np.arange(IMAGES) % 8),
                         ("negative", np.arange(IMAGES) - 1), ("fractions", np.arange(IMAGES) / 3)):
        np.save(place / f"{name}_labels.npy", labels)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("wrong") / "place"
    place.mkdir()
    make_models(place)
    make_data(place)
    return place


SLIM = ("slim", "@good.onnx", "-o", "out.onnx", "--no-validate", "--threads", "1")
VALIDATE = ("validate", "@good.onnx", "@good.onnx", "--time", "0.1", "--threads", "1")
ANALYZE = ("analyze", "@good.onnx", "--no-measure")


def slim(name):
    return ("slim", f"@{name}", "-o", "out.onnx", "--no-validate", "--rank", "wide=8", "--threads", "1")


# Arguments (@ stands for the place above), exit code, and what the message must say.
# A model that is at fault is named in the message.
INSTALLED = {
    "models": [
        (slim("missing.onnx"), 3, "missing.onnx: no such file"),
        (("analyze", "@empty.onnx", "--json"), 3, "empty.onnx: the file is empty"),
        (slim("garbage.onnx"), 3, "garbage.onnx: is no complete ONNX file"),
        (slim("truncated50.onnx"), 3, "truncated50.onnx: is no complete ONNX file"),
        (slim("folder.onnx"), 3, "folder.onnx: is a directory"),
        (slim("nothing.onnx"), 3, "nothing.onnx: holds no graph with nodes"),
        (slim("cyclic.onnx"), 3, "cyclic.onnx: node r reads tensor s"),
    ],
    "graphs": [
        (("slim", "@future_opset.onnx", "-o", "out.onnx", "--rank", "wide=8"), 3, "future_opset.onnx: onnxruntime"),
        (("slim", "@unknown_operator.onnx", "-o", "out.onnx"), 3, "Frobnicate"),
        (slim("unknown_operator.onnx"), 2, "the shape of r is unknown"),
        (slim("nan.onnx"), 3, "nan.onnx: layer wide has 1 NaN or infinite values"),
        (slim("outside.onnx"), 3, "outside.onnx: the values of tensor wide_w cannot be read"),
    ],
    "data": [
        ((*VALIDATE, "--data", "@broken"), 3, "1.png: cannot be read as an image"),
        ((*SLIM, "--calibration", "@sizes"), 3, "1.png: image is 20x20"),
        ((*VALIDATE, "--data", "@no_images"), 3, "no_images: no images in this folder"),
        ((*VALIDATE, "--data", "@good.npz", "--labels", "@few_labels.npy"), 3, "20 samples"),
        ((*VALIDATE, "--data", "@good.npz", "--labels", "@large_labels.npy"), 3, "label 7"),
        ((*VALIDATE, "--data", "@misnamed"), 3, "3.png"),
        ((*VALIDATE, "--labels", "@few_labels.npy"), 2, "give --data"),
    ],
    "options": [
        ((*SLIM, "--rank", "wide=65"), 2, "--rank wide=65: out of range; the layer allows 1 to 64"),
        ((*SLIM, "--rank", "wode=8"), 2, "--rank wode=8: no such layer; did you mean wide"),
        ((*SLIM, "--include", "conv*"), 2, "pattern conv*: matches no layer"),
        ((*SLIM, "--target-macs", "0.01"), 2, "can go down to"),
        ((*VALIDATE, "--preprocess", "imagnet"), 2, "did you mean imagenet?"),
        ((*ANALYZE, "--dim", "N"), 2, "--dim N: cannot be read"),
        ((*ANALYZE, "--input-shape", "image:a,b"), 2, "--input-shape image:a,b: cannot be read"),
        ((*VALIDATE, "--scale", "1/0"), 2, "--scale 1/0: cannot be read"),
        (("analyze", "@good.onnx", "--provider", "quantum"), 2, "--provider quantum: not offered"),
    ],
    "usage": [
        ((*ANALYZE, "--nonsense"), 2, "--nonsense"),
        ((*ANALYZE, "--nodes"), 2, "--nodes: contradicts --no-measure"),
        ((*ANALYZE, "--calibration", "images.npz"), 2, "--calibration images.npz: contradicts --no-measure"),
        (("analyze",), 2, "Missing argument"),
        (("nonsense",), 2, "nonsense"),
    ],
}
INSIDE = [
    (("analyze", "@missing.onnx"), 3, "missing.onnx: no such file"),
    (("validate", "@missing.onnx", "@good.onnx"), 3, "missing.onnx: no such file"),
    (("validate", "@good.onnx", "@missing.onnx"), 3, "missing.onnx: no such file"),
    (slim("text.onnx"), 3, "text.onnx: "),
    (slim("good.npz"), 3, "good.npz: "),
    (slim("truncated10.onnx"), 3, "truncated10.onnx: is no complete ONNX file"),
    (slim("truncated99.onnx"), 3, "truncated99.onnx: is no complete ONNX file"),
    (slim("no_nodes.onnx"), 3, "no_nodes.onnx: holds no graph with nodes"),
    (slim("dangling.onnx"), 3, "dangling.onnx: node mix reads tensor nobody"),
    (slim("no_outputs.onnx"), 3, "no_outputs.onnx: the graph has no outputs"),
    (("analyze", "@cyclic.onnx", "--no-measure"), 3, "a cycle"),
    (("validate", "@good.onnx", "@unknown_operator.onnx"), 3, "Frobnicate"),
    (("analyze", "@wrong_types.onnx"), 3, "wrong_types.onnx: onnxruntime cannot load"),
    (slim("infinite.onnx"), 3, "infinite.onnx: layer wide has 1 NaN or infinite values"),
    (("analyze", "@nan.onnx"), 3, "nan.onnx: layer wide has 1 NaN or infinite values"),
    (slim("absolute.onnx"), 3, "absolute.onnx: the values of tensor wide_w cannot be read"),
    (slim("lost.onnx"), 3, "lost.onnx: the values of tensor wide_w cannot be read"),
    (slim("short.onnx"), 3, "short.onnx: the values of tensor wide_w cannot be read"),
    (("validate", "@good.onnx", "@outside.onnx"), 3, "outside"),

    ((*SLIM, "--calibration", "@broken"), 3, "1.png: cannot be read as an image"),
    ((*VALIDATE, "--data", "@half"), 3, "1.png: cannot be read as an image"),
    ((*VALIDATE, "--data", "@sizes"), 3, "1.png: image is 20x20"),
    ((*SLIM, "--calibration", "@no_images"), 3, "no images in this folder"),
    ((*VALIDATE, "--data", "@nowhere"), 3, "nowhere: no such file or folder"),
    ((*VALIDATE, "--data", "@size.npz"), 3, "24x19"),
    ((*VALIDATE, "--data", "@keys.npz"), 3, "first, second"),
    ((*VALIDATE, "--data", "@nan.npy"), 3, "nan.npy"),
    ((*VALIDATE, "--data", "@rank.npy"), 3, "3x24x20x2"),
    ((*VALIDATE, "--data", "@none.npy"), 3, "no samples"),
    ((*VALIDATE, "--data", "@damaged.npz"), 3, "damaged.npz"),
    ((*VALIDATE, "--data", "@data.txt"), 3, "data.txt"),
    ((*VALIDATE, "--data", "@good.npz", "--labels", "@negative_labels.npy"), 3, "-1"),
    ((*VALIDATE, "--data", "@good.npz", "--labels", "@fractions_labels.npy"), 3, "not integers"),
    ((*VALIDATE, "--data", "@good.npz", "--labels", "@missing.csv"), 3, "missing.csv: no such file"),
    ((*VALIDATE, "--data", "@labelled"), 3, "label 7"),
    ((*VALIDATE, "--data", "@unlabelled"), 3, "1.png"),
    ((*VALIDATE, "--data", "@texts"), 3, "cat"),
    (("slim", "@good.onnx", "-o", "out.onnx", "--labels", "@few_labels.npy"), 2, "give --data"),

    ((*SLIM, "--rank", "wide=0"), 2, "the layer allows 1 to 64"),
    ((*SLIM, "--rank", "wide=-4"), 2, "the layer allows 1 to 64"),
    ((*SLIM, "--rank", "mix=8"), 2, "--rank mix=8: the layer cannot be rewritten"),
    ((*SLIM, "--rank", "wide"), 2, "--rank wide: cannot be read; write LAYER=RANK"),
    ((*SLIM, "--exclude", "w?de", "--exclude", "nothing"), 2, "pattern nothing: matches no layer"),
    ((*SLIM, "--target-macs", "0"), 2, "must lie between 0 and 1"),
    ((*SLIM, "--target-macs", "67"), 2, "must lie between 0 and 1"),
    ((*SLIM, "--max-error", "-0.1"), 2, "must lie in (0, 1]"),
    ((*SLIM, "--max-error", "nan"), 2, "must lie in (0, 1]"),
    ((*VALIDATE[:3], "--threads", "1,one"), 2, "--threads 1,one"),
    ((*VALIDATE, "--batch", "1,8,1"), 2, "--batch 1,8,1"),
    ((*VALIDATE, "--batch", "0"), 2, "--batch 0"),
    ((*SLIM, "--min-agreement", "0.9"), 2, "--no-validate"),  # a promise that nobody is to check
    ((*SLIM, "--min-speedup", "1.2"), 2, "--no-validate"),

    ((*ANALYZE, "--dim", "N=0"), 2, "--dim N=0: cannot be read"),
    ((*ANALYZE, "--dim", "N=²"), 2, "--dim N=²: cannot be read"),
    ((*ANALYZE, "--dim", "M=2"), 2, "--dim M: no input"),
    ((*ANALYZE, "--input-shape", "picture:1,3,24,20"), 2, "has no such input; it has image"),
    ((*ANALYZE, "--input-shape", "image:1,3,24,21"), 2, "does not fit the declared"),
    ((*ANALYZE, "--input-shape", "image:1,3,24"), 2, "does not fit the declared"),
    (("analyze", "@good.onnx", "--threads", "99999999999"), 2, "--threads"),
    ((*VALIDATE, "--scale", "big"), 2, "--scale big: cannot be read"),
    ((*VALIDATE, "--mean", "1,2"), 2, "--mean 1,2"),
    ((*VALIDATE, "--max-drop", "2"), 2, "--max-drop 2"),
    ((*VALIDATE, "--min-speedup", "0"), 2, "--min-speedup 0"),
    (("cost", "--input", "14x14x48", "--filters", "480", "--reduce", "49"), 2, "allows 1..48"),
    (("cost", "--input", "14x480", "--filters", "48", "--kernel", "3x3"), 2, "--kernel 3x3"),
    (("cost", "--input", "14by14", "--filters", "48"), 2, "--input 14by14: cannot be read"),
    (("cost", "--input", "3x3x8", "--filters", "4", "--kernel", "5", "--padding", "valid"), 2, "does not fit"),
    (("cost", "--input", "9x9x8", "--filters", "4", "--padding", "²"), 2, "--padding ²"),

    (("slim", "@good.onnx"), 2, "--output"),
    ((*ANALYZE, "--threads", "two"), 2, "--threads"),
    ((*ANALYZE, "--threads", "-1"), 2, "--threads"),
    ((*ANALYZE, "--top", "0"), 2, "--top"),
    ((*ANALYZE, "--sort", "colour"), 2, "--sort"),
    ((*SLIM, "--limit", "0"), 2, "--limit"),
    ((*VALIDATE, "@good.onnx"), 2, "good.onnx"),
    ((*ANALYZE, "--seed"), 2, "--seed"),
]


def complaints(found, code, text):
    """What is wrong with an outcome that should be an error."""
    lines = found.err.splitlines()
    checks = {
        f"exit code {found.code} instead of {code}": found.code == code,
        "standard error is not one line 'error: ...'": len(lines) == 1 and found.err.startswith("error: "),
        f"the message does not say {text!r}": text in found.err,
        "something on standard output": found.out == "",
        f"files were left: {sorted(found.files)}": not found.files,
        f"temporary files were left: {found.temporary}": not found.temporary,
    }
    return [problem for problem, holds in checks.items() if not holds]


@pytest.mark.parametrize("group", INSTALLED)
def test_bad_input(place, tmp_path, group):
    cases = INSTALLED[group]
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*")}

    def outcome(number):
        arguments = [a.replace("@", f"{place}/") for a in cases[number][0]]
        return run(tmp_path / str(number), *arguments)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(outcome, range(len(cases))))
    problems = [f"{' '.join(arguments)}: {'; '.join(wrong)}\n{found.err.strip()}"
                for (arguments, code, text), found in zip(cases, outcomes, strict=True)
                if (wrong := complaints(found, code, text))]
    assert not problems, "\n\n".join(problems)
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*")} == before


@pytest.mark.parametrize(("arguments", "code", "text"), INSIDE, ids=[" ".join(x[0]) for x in INSIDE])
def test_more_bad_input(place, tmp_path, monkeypatch, capfd, arguments, code, text):
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(sys, "argv", ["onnxslim1x1", *(a.replace("@", f"{place}/") for a in arguments)])
    with pytest.raises(SystemExit) as caught:
        main.main()
    out, err = capfd.readouterr()
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} - {"here", "temporary"}
    found = Outcome(caught.value.code or 0, out, err, dict.fromkeys(left, ""), [])
    assert not complaints(found, code, text), err


# ---- outputs ----

def test_outputs_that_cannot_be_written(place, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.onnx").symlink_to(place / "good.onnx")
    os.link(place / "good.onnx", tmp_path / "hard.onnx")
    cases = [(tmp_path / "missing" / "out.onnx", 3, "no such folder"), (tmp_path / "there", 3, "is a directory"),
             (tmp_path, 3, "is a directory"), (place / "good.onnx", 2, "the same file"),
             (place / ".." / "place" / "good.onnx", 2, "the same file"), (tmp_path / "link.onnx", 2, "the same file"),
             (tmp_path / "hard.onnx", 2, "the same file"), (place / "good.onnx" / "out.onnx", 3, "no such folder"),
             ("", 3, "is a directory")]
    before = (place / "good.onnx").read_bytes()

    def outcome(number):
        return run(tmp_path / str(number), "slim", place / "good.onnx", "-o", cases[number][0], "--rank", "wide=8",
                   "--no-validate")

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(outcome, range(len(cases))))
    problems = [(str(path), wrong, found.err) for (path, code, text), found in zip(cases, outcomes, strict=True)
                if (wrong := complaints(found, code, text))]
    assert not problems
    assert (place / "good.onnx").read_bytes() == before
    assert not (tmp_path / "missing").exists()
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(("location", "output"), [("weights.bin", "weights.bin"), ("out.onnx.data", "out.onnx")])
def test_the_weights_beside_the_input_are_not_overwritten(tmp_path, location, output):
    onnx.save_model(network(), tmp_path / "net.onnx", save_as_external_data=True, location=location, size_threshold=64)
    before = {name: (tmp_path / name).read_bytes() for name in ("net.onnx", location)}
    found = run(tmp_path / "run", "slim", tmp_path / "net.onnx", "-o", tmp_path / output, "--rank", "wide=8",
                "--no-validate")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert complaints(found, 2, output) == []


# ---- gates ----

def gated(place, folder, *options):
    return run(folder, "slim", place / "good.onnx", "-o", "out.onnx", "--rank", "wide=1", "--time", "0.1",
               "--data", place / "good.npz", "--threads", "1", *options)


ACCURACY, LATENCY = ("--max-drop", "0.1"), ("--min-speedup", "1000")


@pytest.mark.parametrize(("options", "code"), [(ACCURACY, 4), (LATENCY, 5), (ACCURACY + LATENCY, 4)])
def test_a_failed_gate_leaves_no_file_unless_it_is_to_be_kept(place, tmp_path, options, code):
    dropped = gated(place, tmp_path / "dropped", *options)
    kept = gated(place, tmp_path / "kept", *options, "--keep-failed", "--json")
    for found in (dropped, kept):
        assert (found.code, found.temporary) == (code, [])
        assert all(line.startswith("note: ") for line in found.err.splitlines()), found.err
        assert "\x1b" not in found.out + found.err
    assert dropped.files == {}
    assert "FAILED" in dropped.out
    assert list(kept.files) == ["out.onnx"]
    onnx.checker.check_model(tmp_path / "kept" / "here" / "out.onnx", full_check=True)


def test_an_older_output_survives_a_failed_gate(place, tmp_path):
    (tmp_path / "older.onnx").write_bytes(b"older")
    found = gated(place, tmp_path / "run", *ACCURACY, "-o", tmp_path / "older.onnx")
    assert found.code == 4
    assert (tmp_path / "older.onnx").read_bytes() == b"older"


@pytest.mark.parametrize(("options", "code"), [((), 0), (ACCURACY, 4), (LATENCY, 5)])
def test_gates_of_validate(place, tmp_path, options, code):
    good = {t.name: onnx.numpy_helper.to_array(t) for t in classifier().graph.initializer}
    turned = {name: good[name][::-1].copy() for name in ("head_w", "head_b")}  # nearly all classes change places
    onnx.save(network(**turned), tmp_path / "other.onnx")
    found = run(tmp_path / "run", "validate", place / "good.onnx", tmp_path / "other.onnx", "--time", "0.1",
                "--data", place / "good.npz", *options)
    assert (found.code, found.files, found.temporary) == (code, {}, [])
    assert ("FAILED" in found.out) == bool(code)


@pytest.mark.parametrize(("flag", "code"), [((), 0), (("--fail-if-unchanged",), 6)])
def test_nothing_worth_changing(place, tmp_path, flag, code):
    found = run(tmp_path, "slim", place / "good.onnx", "-o", "out.onnx", "--include", "mix", "--no-validate", *flag)
    assert (found.code, found.temporary) == (code, [])
    assert found.files == {"out.onnx": hashlib.sha256((place / "good.onnx").read_bytes()).hexdigest()}
    assert found.out.splitlines()[-1].startswith("unchanged: ")


# ---- the command itself ----

@pytest.mark.parametrize("command", [(SCRIPT,), (sys.executable, "-m", "onnxslim1x1")])
def test_both_ways_to_start_the_command(tmp_path, command):
    found = run(tmp_path / "good", "cost", "--input", "8x6x16", "--filters", "4", "--reduce", "2", command=command)
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("3x3 convolution 8x6x16 -> 8x6x4: ")
    found = run(tmp_path / "bad", "analyze", "missing.onnx", command=command)
    assert complaints(found, 3, "missing.onnx: no such file") == []


def test_debug_shows_the_traceback(tmp_path):
    found = run(tmp_path, "analyze", "missing.onnx", "--debug")
    assert (found.code, found.out) == (3, "")
    assert found.err.startswith("Traceback (most recent call last):")
    assert found.err.splitlines()[-1].startswith("error: missing.onnx: no such file")


def test_a_closed_pipe_is_no_error(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([SCRIPT, "cost", "--input", "8x6x64", "--filters", "4", "--reduce",
                               ",".join(map(str, range(1, 37)))], stdout=writer, stderr=subprocess.PIPE, text=True,
                              check=False, cwd=tmp_path, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def failing(error):
    def app(*_args, **_options):
        raise error
    return app


KINDS = [
    (errors.OptionError, 2), (errors.RankError, 2), (errors.UnknownLayerError, 2), (errors.InfeasibleBudget, 2),
    (errors.ModelError, 3), (errors.DataError, 3), (errors.BaselineError, 3), (errors.PlanMismatchError, 3),
    (errors.OutputError, 3), (errors.RuntimeFailure, 3)]


@pytest.mark.parametrize(("kind", "code"), [*KINDS, (errors.SlimError, 1)])
def test_every_kind_of_error_has_its_code(monkeypatch, capsys, kind, code):
    assert exits.exit_code(kind("where: what")) == code
    monkeypatch.setattr(main, "application", lambda _: failing(kind("where: what; what to do")))
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == code
    assert capsys.readouterr() == ("", "error: where: what; what to do\n")


def test_no_kind_of_error_is_forgotten():
    assert set(errors.SlimError.__subclasses__()) == {kind for kind, _ in KINDS}


@pytest.mark.parametrize("error", [ValueError("a\nb\tc"), KeyError("x"), AssertionError(), ZeroDivisionError("0"),
                                   TypeError("x" * 5000), OSError(28, "No space left on device"), MemoryError()])
@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_of_ours_is_one_line_and_exit_code_1(monkeypatch, capsys, error, debug):
    monkeypatch.setattr(main, "application", lambda _: failing(error))
    monkeypatch.setattr(Debug, "enabled", debug)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-1].startswith("error: ")
    assert len(lines[-1]) < 500
    assert ("Traceback" in err) == debug
    assert debug or len(lines) == 1
