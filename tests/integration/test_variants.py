"""The sample model gives the same layer table in every type, with free shapes, external data and functions."""

import subprocess
import sys
from pathlib import Path

import pytest

from onnxslim1x1 import api

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample_models" / "digits_googlenet.onnx"
NAMES = ("float16", "bfloat16", "float64", "dynamic", "functions", "constants", "inputs", "external")


def script(*arguments):
    return subprocess.run([sys.executable, str(ROOT / "scripts" / "variants.py"), *map(str, arguments)],
                          capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    done = script("--check", SAMPLE, "-o", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_every_variant_has_the_same_layer_table(variants):
    _, out = variants
    assert [line.split()[1:] for line in out.splitlines()] == [[name, "11", "layers"] for name in NAMES]


def test_the_variants_are_what_they_say(variants):
    import onnx

    folder, _ = variants
    protos = {name: onnx.load(folder / f"digits_googlenet.{name}.onnx", load_external_data=False) for name in NAMES}
    types = {name: {t.data_type for t in proto.graph.initializer} for name, proto in protos.items()}
    tensor = onnx.TensorProto
    assert types["float16"] == {tensor.FLOAT16}
    assert types["bfloat16"] == {tensor.BFLOAT16}
    assert types["float64"] == {tensor.DOUBLE}
    assert types["constants"] == set()
    assert len(protos["functions"].functions) > 11  # one for every node that reads a weight
    assert all(t.data_location == tensor.EXTERNAL for t in protos["external"].graph.initializer)
    assert len(protos["inputs"].graph.input) == 1 + len(protos["inputs"].graph.initializer)
    assert all(d.dim_param for d in list(protos["dynamic"].graph.output[0].type.tensor_type.shape.dim)[:1])


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bfloat16"])
def test_every_variant_that_onnxruntime_can_run_is_slimmed(variants, name, tmp_path):
    folder, _ = variants
    layer = "inception_b/5x5"
    result = api.slim(folder / f"digits_googlenet.{name}.onnx", tmp_path / "slim.onnx", check=None,
                      budget=api.Budget(ranks={layer: 16}),
                      run=api.RunOptions(threads=1, input_shapes={"images": (1, 1, 32, 32)}))
    assert [p.layer for p in result.rewrite.applied] == [layer]
    assert result.after.macs < result.before.macs
    assert (tmp_path / "slim.onnx.data").exists() == (name == "external")
