"""The README's five lines in a fresh repository: the gate passes, and fails on a planted fault.

With PyTorch (`make example` installs it) the model is one that the example trains and exports, else the sample model.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "sample_models"
TIMEOUT_S = 500


def five_lines():
    """Commands of the README's section, as arguments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("### In your pipeline\n")[2]
    block = re.search(r"```console\n(.*?)```", section, re.DOTALL)[1]
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in block.splitlines()]


def run(arguments, folder, code=0):
    """Run a command of the repository; `onnxslim1x1` is that of this checkout, `python` that of the tests."""
    programs = {"onnxslim1x1": [sys.executable, "-m", "onnxslim1x1"], "python": [sys.executable]}
    path = os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    result = subprocess.run([*programs.get(arguments[0], arguments[:1]), *arguments[1:]], cwd=folder, check=False,
                            capture_output=True, text=True, timeout=TIMEOUT_S, env=os.environ | {"PYTHONPATH": path})
    assert result.returncode == code, f"{shlex.join(arguments)}\n{result.stdout}{result.stderr}"
    return result.stdout + result.stderr


def git(folder, *arguments):
    return run(["git", "-c", "user.name=newcomer", "-c", "user.email=newcomer@example.org", *arguments], folder)


def sample(folder):
    """A repository that has exported the sample model."""
    for source, name in (("digits_googlenet.onnx", "model.onnx"), ("digits_calibration.npz", "calibration.npz"),
                         ("digits_evaluation.npz", "evaluation.npz")):
        shutil.copyfile(SAMPLES / source, folder / name)


def example(folder):
    """A repository that trains and exports its own model."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("NO PYTORCH: the example of the README is not run; make example installs it and does")
    shutil.copyfile(ROOT / "scripts" / "example" / "export.py", folder / "export.py")
    assert "wrote model.onnx" in run(["python", "export.py"], folder)


def test_there_are_five_lines():
    lines = five_lines()
    assert len(lines) == 5
    assert [line[:2] for line in lines] == [["pip", "install"], ["onnxslim1x1", "init"], ["onnxslim1x1", "slim"],
                                            ["onnxslim1x1", "validate"], ["onnxslim1x1", "validate"]]


@pytest.mark.parametrize("export", [sample, example])
def test_a_newcomer_gets_a_gate_that_passes_and_fails(export, tmp_path):
    _, init, slim, record, gate = five_lines()
    git(tmp_path, "init", "--quiet")
    export(tmp_path)
    assert "is a guess" in run(init, tmp_path)
    with (tmp_path / "onnxslim1x1.toml").open("a") as file:  # [validate] is the last table
        file.write("time = 1.0\n")
    run(slim, tmp_path)
    assert "wrote baseline.json" in run(record, tmp_path)
    base = json.loads((tmp_path / "baseline.json").read_text())
    base["slack"]["speedup"] = 0.9  # how busy the machine of the tests is, is not the point
    (tmp_path / "baseline.json").write_text(json.dumps(base))
    git(tmp_path, "add", "onnxslim1x1.toml", "baseline.json")
    git(tmp_path, "commit", "--quiet", "-m", "Gate the export")

    assert "FAILED" not in run(gate, tmp_path)
    good = (tmp_path / "model-slim.onnx").read_bytes()
    run(["python", str(ROOT / "scripts" / "example" / "plant.py"), "model-slim.onnx"], tmp_path)
    said = run(gate, tmp_path, code=4)
    assert "gate max_drop: FAILED" in said
    assert "_of_baseline: FAILED" in said
    (tmp_path / "model-slim.onnx").write_bytes(good)
    run(gate, tmp_path)
    assert not git(tmp_path, "status", "--porcelain", "onnxslim1x1.toml", "baseline.json")
