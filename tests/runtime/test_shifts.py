"""Images changed on purpose, and whether a model that is fragile is found out."""

import numpy as np
import onnx
import pytest

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import create_session, input_specs
from onnxslim1x1.runtime.shifts import SHIFTS, compare_shifted
from onnxslim1x1.runtime.validate import Tolerance, ValidationSettings

RNG = np.random.default_rng(1)
KINDS = pytest.mark.parametrize("shift", SHIFTS, ids=lambda s: f"{s.name} {s.strength}")


@KINDS
@pytest.mark.parametrize(("dtype", "top", "shape"), [(np.uint8, 255, (24, 31, 3)), (np.float32, 255, (9, 24, 1)),
                                                      (np.float64, 1, (16, 16, 4))])
def test_a_change_keeps_size_type_and_range(shift, dtype, top, shape):
    pixels = (RNG.random(shape) * top).astype(dtype)
    before = pixels.copy()
    found = shift.change(3)(pixels, 5)
    assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
    assert found.min() >= 0
    assert found.max() <= top
    assert not np.array_equal(found, pixels)
    assert np.array_equal(pixels, before)


@KINDS
def test_a_change_repeats(shift):
    pixels = RNG.integers(0, 256, (20, 20, 3), np.uint8)
    assert np.array_equal(shift.change(3)(pixels, 5), shift.change(3)(pixels, 5))


@pytest.mark.parametrize("name", ["noise", "crop"])
def test_what_is_drawn_depends_on_the_seed_and_the_image(name):
    shift = next(s for s in SHIFTS if s.name == name)
    pixels = RNG.integers(0, 256, (40, 40, 3), np.uint8)
    first = shift.change(3)(pixels, 5)
    assert not np.array_equal(shift.change(3)(pixels, 6), first)
    assert not np.array_equal(shift.change(4)(pixels, 5), first)


def test_brightness_and_blur_by_hand():
    brighter, darker = (s.change(0) for s in SHIFTS if s.name == "brightness")
    pixels = np.array([[[10], [100]], [[200], [250]]], np.uint8)
    assert brighter(pixels, 0).ravel().tolist() == [12, 120, 240, 255]
    assert darker(pixels, 0).ravel().tolist() == [8, 80, 160, 200]
    dot = np.zeros((41, 41, 1))
    dot[20, 20] = 1.0
    blurred = next(s for s in SHIFTS if s.name == "blur").change(0)(dot, 0)[..., 0]
    assert blurred.sum() == pytest.approx(1.0)
    assert blurred[20, 20] < 0.8
    assert blurred[19, 20] == pytest.approx(blurred[20, 21])


def test_noise_is_as_strong_as_it_says():
    shift = next(s for s in SHIFTS if s.name == "noise")
    grey = np.full((200, 200, 1), 128, np.uint8)
    assert (shift.change(0)(grey, 0).astype(float) - 128).std() == pytest.approx(8, abs=0.2)


def test_a_crop_is_a_part_of_the_image():
    ramp = np.broadcast_to(np.linspace(0, 1, 80)[:, None, None], (80, 80, 1))
    found = next(s for s in SHIFTS if s.name == "crop").change(0)(ramp, 3)[:, 40, 0]
    assert found[-1] - found[0] == pytest.approx(7 / 8, abs=0.02)


# models

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N, 3, 8, 6] image) => (float[N, 2] logits) {
  pooled = GlobalAveragePool(image)
  flat = Flatten(pooled)
  logits = Gemm <transB = 1> (flat, w, b)
}"""


def model(path, threshold):
    """Class 1 if the image is brighter than a threshold."""
    proto = onnx.parser.parse_model(TEXT)
    values = {"w": np.array([[0, 0, 0], [20, 20, 20]]), "b": np.array([0, -60 * threshold])}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items())
    onnx.save(proto, path)
    return path


@pytest.fixture
def workplace(tmp_path):
    """Bright and dark images: 180 and 30 of 255."""
    model(tmp_path / "a.onnx", 0.4)
    model(tmp_path / "fragile.onnx", 0.66)  # right as it is, but wrong on images that are a little darker
    labels = np.arange(60) % 2
    images = np.where(labels[:, None, None, None] == 1, 180, 30) + RNG.integers(-9, 10, (60, 8, 6, 3))
    np.savez(tmp_path / "d.npz", images=images.astype(np.uint8), labels=labels)
    np.savez(tmp_path / "unlabelled.npz", images=images.astype(np.uint8))
    np.save(tmp_path / "raw.npy", images.transpose(0, 3, 1, 2).astype(np.float32))
    return tmp_path


def shifted(folder, rewritten, name="d.npz", preset="unit", **options):
    data = load_dataset(folder / name, preprocess=preprocess(preset), inputs=input_specs(create_session(
        folder / "a.onnx")))
    settings = ValidationSettings(measure_latency=False, tolerance=Tolerance(confidence=0.9))
    return compare_shifted((folder / "a.onnx", folder / rewritten), dataset=data, settings=settings, **options)


def test_a_model_that_degrades_faster_is_found_out(workplace):
    found = {(one.shift, one.strength): one for one in shifted(workplace, "fragile.onnx")}
    dark = found["brightness", "-20 %"]
    assert (dark.figure.name, dark.clean.original, dark.clean.rewritten) == ("top1", 1.0, 1.0)
    assert (dark.figure.original, dark.figure.rewritten) == (1.0, 0.5)
    assert dark.excess == pytest.approx(0.5)
    assert 0.3 < dark.low < dark.excess < dark.high
    bright = found["brightness", "+20 %"]
    assert (bright.excess, bright.low, bright.high) == (0.0, 0.0, 0.0)
    assert {one.figure.confidence for one in found.values()} == {0.9}


def test_equal_models_degrade_alike(workplace):
    assert {one.excess for one in shifted(workplace, "a.onnx")} == {0.0}


def test_without_labels_both_are_compared(workplace):
    found = {(one.shift, one.strength): one for one in shifted(workplace, "fragile.onnx", "unlabelled.npz")}
    dark = found["brightness", "-20 %"]
    assert (dark.figure.name, dark.figure.original, dark.clean.value) == ("agreement", None, 1.0)
    assert dark.excess == pytest.approx(0.5)


def test_progress_goes_from_nothing_to_all(workplace):
    told = []
    shifted(workplace, "a.onnx", progress=lambda stage, done: told.append((stage, done)))
    assert {stage for stage, _ in told} == {"shifts"}
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert told[-1][1] == pytest.approx(1.0)


def test_arrays_that_are_fed_as_they_are_cannot_be_changed(workplace):
    with pytest.raises(DataError, match=r"raw\.npy: holds arrays that are fed as they are"):
        shifted(workplace, "a.onnx", "raw.npy", "raw")


def test_without_data_there_is_nothing_to_change(workplace):
    with pytest.raises(OptionError, match="--shift: needs images"):
        compare_shifted((workplace / "a.onnx",) * 2, dataset=None, settings=ValidationSettings(measure_latency=False))
