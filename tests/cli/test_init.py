"""`init`: what it writes is read back, fits the model, and takes nothing away."""

import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from typer.testing import CliRunner

from onnxslim1x1.cli.main import app
from onnxslim1x1.cli.settings import load
from onnxslim1x1.errors import DataError, ModelError, OptionError, OutputError
from onnxslim1x1.graph.model import load as load_model
from onnxslim1x1.runtime.look import look

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
TOML = Path("onnxslim1x1.toml")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(signature, body="y = Relu(x)", path="net.onnx"):
    onnx.save(onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net {signature} {{ {body} }}'), path)
    return path


def run(*arguments):
    result = CliRunner().invoke(app, ["init", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    return result.stderr


def uncommented():
    """The file with every example put into force: `# key = value` becomes `key = value`."""
    lines = TOML.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.removeprefix("# ") if line.startswith("# ") and " = " in line else line for line in lines)


# ---- what it sees ----

@pytest.mark.parametrize(("signature", "body", "preset", "word"), [
    ("(float[N, 3, 224, 224] x) => (float[N, 3, 224, 224] y)", "y = Relu(x)", "imagenet", "ImageNet"),
    ("(float[N, 3, 32, 32] x) => (float[N, 3, 32, 32] y)", "y = Relu(x)", "cifar10", "CIFAR"),
    ("(float[N, 1, 28, 28] x) => (float[N, 1, 28, 28] y)", "y = Relu(x)", "unit", "images of 1 x 28 x 28"),
    ("(float[N, 640, 640, 3] x) => (float[N, 640, 640, 3] y)", "y = Relu(x)", "unit", "images of 3 x 640 x 640"),
    ("(uint8[N, 3, 224, 224] x) => (float[N, 3, 224, 224] y)", "y = Cast <to = 1> (x)", "raw", "8-bit"),
    ("(float[N, 3, 224, 224] x) => (float[N, 3, 224, 224] y)", "y = Mul(x, x)", "raw", "begins with Mul"),
    ("(float[N, 3, 240, 320] x) => (float[N, 3, 240, 320] y)", "y = Relu(x)", "unit", "images of 3 x 240 x 320"),
    ("(float[N, 3, H, W] x) => (float[N, 3, H, W] y)", "y = Relu(x)", "imagenet", "224x224"),
    ("(float[N, 17] x) => (float[N, 17] y)", "y = Relu(x)", None, ""),
    ("(float[N, 80, 99, 40] x) => (float[N, 80, 99, 40] y)", "y = Relu(x)", None, "")])
def test_preprocessing_is_guessed_with_a_reason(signature, body, preset, word):
    seen = look(load_model(Path(model(signature, body))))
    assert seen.preset == preset
    assert word in seen.reason
    said = run("net.onnx")
    text = TOML.read_text(encoding="utf-8")
    assert load(TOML).values.get("preprocess") == preset
    assert ("A GUESS" in text) is (preset is not None)
    assert ("is a guess" in said) is (preset is not None)


@pytest.mark.parametrize(("side", "sizes"), [(224, {}), (299, {"resize": 342, "crop": 299}),
                                             (192, {"resize": 219, "crop": 192})])
def test_another_side_than_that_of_the_preset_is_written(side, sizes):
    model(f"(float[N, 3, {side}, {side}] x) => (float[N, 3, {side}, {side}] y)")
    np.save("big.npy", np.zeros((2, 400, 500, 3), np.uint8))
    run("net.onnx", "--data", "big.npy")
    values = load(TOML).values
    assert {key: values[key] for key in ("resize", "crop") if key in values} == sizes


@pytest.mark.parametrize(("options", "sizes"), [
    ([], {"resize": [20, 28]}), (["--preprocess", "imagenet"], {"resize": [20, 28], "crop": [20, 28]})])
def test_images_of_another_size_are_resized(options, sizes):
    model("(float[N, 3, 20, 28] x) => (float[N, 3, 20, 28] y)")
    np.save("other.npy", np.zeros((2, 40, 50, 3), np.uint8))
    run("net.onnx", "--calibration", "other.npy", *options)
    values = load(TOML).values
    assert {key: values[key] for key in ("resize", "crop") if key in values} == sizes


def test_the_sample_model_is_seen():
    seen = look(load_model(SAMPLES / "digits_googlenet.onnx"))
    assert (seen.classes, dict(seen.free)) == (10, {"N": 1})
    assert [(p.name, p.text) for p in (*seen.inputs, *seen.outputs)] == [
        ("images", "float [N, 1, 32, 32]"), ("logits", "float [N, 10]")]


def test_weights_that_are_listed_as_inputs_are_not_fed():
    path = model("(float[1, 4] x, float[1, 4] w) => (float[1, 4] y)", "y = Add(x, w)")
    proto = onnx.load(path)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "w"))
    onnx.save(proto, path)
    assert [p.name for p in look(load_model(Path(path))).inputs] == ["x"]


# ---- what it writes ----

def test_the_file_names_the_models_and_the_data():
    sample = SAMPLES / "digits_googlenet.onnx"
    Path("models").mkdir()
    Path("models/net.onnx").write_bytes(sample.read_bytes())
    run("models/net.onnx", "--calibration", SAMPLES / "digits_calibration.npz", "--data",
        SAMPLES / "digits_evaluation.npz")
    values = load(TOML).values
    assert (values["model"], values["rewritten"]) == ("models/net.onnx", "models/net-slim.onnx")
    assert Path(values["data"]).resolve() == SAMPLES / "digits_evaluation.npz"
    assert values["validate"] == {"max-drop": 0.01, "baseline": "baseline.json"}
    assert values["slim"] == {}


def test_without_data_the_gate_is_about_outputs():
    run(model("(float[N, 5] x) => (float[N, 5] y)"))
    assert load(TOML).values["validate"] == {"min-snr": 10.0, "baseline": "baseline.json"}


def test_every_example_in_it_is_an_option():
    for arguments in ([], [model("(float[N, 3, H, 32] x) => (float[N, 3, H, 32] y)")]):
        run(*arguments, "--force")
        text = uncommented()
        document = tomllib.loads(text)
        assert {"threads", "target-speedup", "min-speedup", "exclude"} <= document.keys() | document["slim"].keys() | \
            document["validate"].keys()
        TOML.write_text(text, encoding="utf-8")
        load(TOML)  # every key is known and has the right type
    assert document["dim"] == ["N=1", "H=224"]


def test_paths_are_relative_to_the_file():
    model("(float[N, 5] x) => (float[N, 5] y)")
    Path("conf").mkdir()
    run("net.onnx", "-o", "conf/c.toml")
    assert load(Path("conf/c.toml")).values["model"] == "../net.onnx"


def test_without_a_model_everything_is_an_example():
    run()
    assert load(TOML).values == {"slim": {}, "validate": {"min-snr": 10.0}}


def test_names_from_a_model_stay_in_their_comment():
    path = model("(float[N, 5] x) => (float[N, 5] y)")
    proto = onnx.load(path)
    for info in (proto.graph.input[0], proto.graph.output[0]):
        info.type.tensor_type.shape.dim[0].dim_param = 'N"\n[evil]\u2028'
    proto.graph.input[0].name = "x\nthreads = 7 #"
    proto.graph.node[0].input[0] = "x\nthreads = 7 #"
    odd = "a \"quoted\" ü\x7f.onnx"
    onnx.save(proto, odd)
    run(odd)
    values = load(TOML).values
    assert values["model"] == odd
    assert "threads" not in values


# ---- what it does not do ----

def test_a_file_that_is_there_stays():
    TOML.write_text("# mine")
    with pytest.raises(OutputError, match=r"onnxslim1x1\.toml: is there already; overwrite it with --force"):
        run()
    assert TOML.read_text() == "# mine"
    run("--force")
    assert "mine" not in TOML.read_text()


def test_the_model_is_not_overwritten_even_by_force():
    path = model("(float[N, 5] x) => (float[N, 5] y)")
    before = Path(path).read_bytes()
    with pytest.raises(OptionError, match="same file"):
        run(path, "-o", path, "--force")
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (["--labels", "l.csv"], OptionError, "--labels l.csv: labels need"),
    (["--preprocess", "imagnet"], OptionError, "--preprocess imagnet: unknown; did you mean imagenet"),
    (["net.onnx", "--data", "nowhere.npz"], DataError, "nowhere.npz: no such file"),
    (["other.onnx"], ModelError, "other.onnx"), (["-o", "no/such/x.toml"], OutputError, "no such folder")])
def test_what_cannot_be_used_writes_nothing(arguments, error, message):
    model("(float[N, 3, 32, 32] x) => (float[N, 3, 32, 32] y)")
    with pytest.raises(error, match=message):
        run(*arguments)
    assert not TOML.exists()


def test_data_that_does_not_fit_the_guess_is_found_now():
    model("(float[N, 3, 32, 32] x) => (float[N, 3, 32, 32] y)")
    np.save("small.npy", np.zeros((4, 16, 16, 2), np.uint8))
    with pytest.raises(DataError, match=r"small\.npy"):
        run("net.onnx", "--calibration", "small.npy")
    assert not TOML.exists()
