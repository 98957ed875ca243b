"""The sample model: its files are the ones its README speaks of, and it does what the README says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "sample_models"
MODEL = FOLDER / "digits_googlenet.onnx"
ROW = re.compile(r"^\| `([\w.]+)` \| ([\d,]+) \| `([0-9a-f]{64})` \|$", re.MULTILINE)


def readme_rows() -> dict[str, tuple[int, str]]:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    return {name: (int(size.replace(",", "")), digest) for name, size, digest in ROW.findall(text)}


def test_readme_lists_every_file() -> None:
    assert set(readme_rows()) == {path.name for path in FOLDER.iterdir() if path.name != "README.md"}


@pytest.mark.parametrize("name", ["digits_googlenet.onnx", "digits_calibration.npz", "digits_evaluation.npz"])
def test_files_are_those_of_the_readme(name: str) -> None:
    content = (FOLDER / name).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == readme_rows()[name]


def test_model_is_small_valid_and_has_something_to_reduce() -> None:
    assert MODEL.stat().st_size < 2_000_000
    onnx.checker.check_model(str(MODEL), full_check=True)
    graph = onnx.load(MODEL).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kernels = {node.name: shapes[node.input[1]] for node in graph.node if node.op_type == "Conv"}
    wide = {name: shape for name, shape in kernels.items() if shape[1] >= 96 and shape[2] > 1}
    assert {(name, *shape[2:]) for name, shape in wide.items()} == {
        (f"inception_{module}/{kernel}x{kernel}", kernel, kernel) for module in "ab" for kernel in (3, 5)
    }
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == len(kernels)


def test_arrays() -> None:
    with np.load(FOLDER / "digits_calibration.npz") as arrays:
        assert arrays.files == ["images"]
        calibration = arrays["images"]
    with np.load(FOLDER / "digits_evaluation.npz") as arrays:
        assert sorted(arrays.files) == ["images", "labels"]
        evaluation, labels = arrays["images"], arrays["labels"]
    assert (calibration.dtype, calibration.shape) == (np.uint8, (256, 32, 32, 1))
    assert (evaluation.dtype, evaluation.shape) == (np.uint8, (450, 32, 32, 1))
    assert labels.dtype == np.int64
    assert np.bincount(labels, minlength=10).min() >= 40
    # The calibration images are training images: none of them may be an evaluation image.
    assert not {image.tobytes() for image in calibration} & {image.tobytes() for image in evaluation}


def test_accuracy_is_that_of_the_readme() -> None:
    with np.load(FOLDER / "digits_evaluation.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"images": x})[0]
    correct = int((logits.argmax(axis=1) == labels).sum())
    assert correct / len(labels) >= 0.97
    assert f"({correct} of {len(labels)})" in (FOLDER / "README.md").read_text(encoding="utf-8")
