"""Statistics are collected once per model, data and seed; a run that is cut off goes on where it was."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime import calibration, stored
from onnxslim1x1.runtime.calibration import collect_moments
from onnxslim1x1.runtime.gradients import output_weightings
from onnxslim1x1.runtime.options import RunOptions
from onnxslim1x1.runtime.store import NO_STORE, Store
from onnxslim1x1.runtime.stored import code_digest, model_shelf, moments_of, weightings_of

WEIGHTS = {"w": (5, 3, 2, 3), "v": (4, 5, 3, 2), "u": (6, 4, 2, 2), "head": (7, 6)}


class Images:
    """Seeded images that remember how often they were read."""

    def __init__(self, seed=1):
        self.values = np.random.default_rng(seed).standard_normal((6, 3, 9, 11)).astype(np.float32)
        self.digest = f"digest {seed}"
        self.passes = 0

    def __len__(self):
        return len(self.values)

    def batches(self, batch_size):
        self.passes += 1
        for start in range(0, len(self), batch_size):
            yield {"x": self.values[start : start + batch_size]}


def network(middle="Relu"):
    """Three convolutions; what comes before `middle` has no gradient if that is an operator without a rule."""
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,9,11] x) => (float[N,7] y) {{
            a = Conv<pads=[1,0,0,2]>(x, w)
            b = {middle}(a)
            c = Conv(b, v)
            r = Relu(c)
            d = Conv(r, u)
            p = GlobalAveragePool(d)
            f = Flatten(p)
            y = Gemm <transB = 1> (f, head) }}""")
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        values = rng.standard_normal(shape).astype(np.float32) / 3
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return load(proto)


def layers_of(model, *outputs):
    return [x for x in find_layers(model, infer_shapes(model).tensors) if x.output in (outputs or "acd")]


@pytest.fixture
def waves(monkeypatch):
    """Every layer takes a pass of its own, and positions are sampled."""
    monkeypatch.setattr(calibration, "MEMORY_LIMIT", 1)
    monkeypatch.setattr(calibration, "LEAST_ROWS", 40)
    monkeypatch.setattr(calibration, "ROWS_PER_COLUMN", 1)


@pytest.fixture
def options(tmp_path):
    return RunOptions(seed=3, store=Store(tmp_path / "cache", warn=pytest.fail))


def moments(model, data, options, *outputs):
    return moments_of(model, layers_of(model, *outputs), data, shelf=model_shelf(model, options), options=options)


def weightings(model, data, options, *outputs):
    return weightings_of(model, layers_of(model, *outputs), data, shapes=infer_shapes(model).tensors,
                         shelf=model_shelf(model, options), options=options)


def assert_moments(found, expected):
    assert list(found) == list(expected)
    for output, one in expected.items():
        np.testing.assert_array_equal(found[output].mean, one.mean, strict=True)
        np.testing.assert_array_equal(found[output].covariance, one.covariance, strict=True)
        assert found[output].count == one.count
        assert type(found[output].count) is int


# ---- moments ----

@pytest.mark.usefixtures("waves")
def test_moments_are_collected_once(options):
    model, data = network(), Images()
    expected = collect_moments(model, layers_of(model), Images(), seed=3)
    assert_moments(moments(model, data, options), expected)
    assert data.passes == 3
    assert_moments(moments(model, data, options), expected)
    assert data.passes == 3


@pytest.mark.usefixtures("waves")
def test_only_layers_that_are_missing_are_collected(options):
    model, data = network(), Images()
    moments(model, data, options, "d", "a")
    assert data.passes == 2
    expected = collect_moments(model, layers_of(model), Images(), seed=3)
    assert_moments(moments(model, data, options), expected)
    assert data.passes == 3


@pytest.mark.usefixtures("waves")
@pytest.mark.parametrize("last", [0.34, 0.67, 1.0])
def test_a_run_that_is_cut_off_goes_on_after_its_last_wave(last, options):
    def progress(stage, done):
        assert stage == "statistics"
        if done >= last:
            raise KeyboardInterrupt

    model, data = network(), Images()
    cut = RunOptions(seed=3, store=options.store, progress=progress)
    with pytest.raises(KeyboardInterrupt):
        moments(model, data, cut)
    before = data.passes
    kept = len(options.store.entries())
    assert kept == before - 1  # the wave that was cut off left nothing
    assert_moments(moments(model, data, options), collect_moments(model, layers_of(model), Images(), seed=3))
    assert data.passes == before + 3 - kept


def test_what_decides_about_moments_is_in_the_key(options, monkeypatch):
    model, data = network(), Images()
    other_seed = RunOptions(seed=4, store=options.store)
    changed = network()
    values = numpy_helper.to_array(changed.proto.graph.initializer[0]) * 2
    changed.proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    moments(model, data, options)
    assert data.passes == 1
    for number, again in enumerate([
            lambda: moments(model, data, other_seed), lambda: moments(changed, data, options),
            lambda: monkeypatch.setattr(calibration, "LEAST_ROWS", 30_000) or moments(model, data, options),
            lambda: monkeypatch.setattr(stored, "MOMENTS_CODE", ("spec.py",)) or moments(model, data, options)]):
        again()
        assert data.passes == 2 + number
    other = Images(2)
    moments(model, other, options)
    assert other.passes == 1


def test_a_damaged_entry_is_collected_again(options):
    model, data = network(), Images()
    expected = moments(model, data, options)
    path = options.store.entries()[1].path
    path.write_bytes(path.read_bytes()[:-30])
    assert_moments(moments(model, data, options), expected)
    assert data.passes == 2
    assert len(options.store.entries()) == 3


def test_without_a_store_nothing_is_kept_or_digested():
    model, data = network(), Images()
    del data.digest
    options = RunOptions(seed=3, store=NO_STORE)
    for passes in (1, 2):
        assert_moments(moments(model, data, options), collect_moments(model, layers_of(model), Images(), seed=3))
        assert data.passes == passes


# ---- weightings ----

def assert_weightings(found, expected):
    assert list(found) == list(expected)
    for output, one in expected.items():
        np.testing.assert_array_equal(found[output].covariance, one.covariance, strict=True)


def expected_weightings(model):
    return output_weightings(model, layers_of(model), Images(), shapes=infer_shapes(model).tensors, seed=3)


def test_weightings_are_collected_once(options):
    model, data = network(), Images()
    expected = expected_weightings(model)
    assert set(expected) == {"a", "c", "d"}
    for _ in range(2):
        assert_weightings(weightings(model, data, options), {x: expected[x] for x in "acd"})
        assert data.passes == 1


def test_layers_that_no_gradient_reaches_are_remembered_as_such(options):
    model, data = network("Erf"), Images()
    for _ in range(2):
        assert list(weightings(model, data, options)) == ["c", "d"]
        assert data.passes == 1
    assert weightings(model, data, options, "a") == {}
    assert data.passes == 1


def test_only_weightings_that_are_missing_are_collected(options):
    model, data = network(), Images()
    weightings(model, data, options, "d")
    assert list(weightings(model, data, options)) == ["a", "c", "d"]
    assert data.passes == 2
    weightings(model, data, options)
    assert data.passes == 2


# ---- keys ----

def test_weights_in_other_files_count(tmp_path, options):
    path = tmp_path / "net.onnx"
    onnx.save_model(network().inlined(), str(path), save_as_external_data=True, location="net.data", size_threshold=0)
    first, sha256 = model_shelf(load(path), options), load(path).sha256()
    assert model_shelf(load(path), options).key == first.key
    content = bytearray((tmp_path / "net.data").read_bytes())
    content[5] ^= 1
    (tmp_path / "net.data").write_bytes(content)
    assert load(path).sha256() == sha256
    assert model_shelf(load(path), options).key != first.key
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match=r"cannot be read \(net\.data is not in"):
        model_shelf(load(path), options)
    assert model_shelf(load(path), RunOptions(store=NO_STORE)).store is NO_STORE


def test_the_code_that_a_key_names_exists():
    for name in (*stored.MOMENTS_CODE, *stored._WEIGHTING_CODE):
        assert (stored._ROOT / name).is_file()


def test_the_digest_of_code_follows_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_ROOT", tmp_path)
    (tmp_path / "b").mkdir()
    for name, text in (("a.py", "1"), ("b/c.py", "2"), ("b/d.py", "3"), ("b/e.txt", "4")):
        (tmp_path / name).write_text(text)

    def digest(*names):
        code_digest.cache_clear()
        return code_digest(*names)

    one, folder = digest("a.py"), digest("b")
    assert len({one, folder, digest("a.py", "b"), digest("b", "a.py")}) == 4
    (tmp_path / "b" / "e.txt").write_text("5")
    assert (digest("a.py", "missing.py"), digest("b")) == (one, folder)
    (tmp_path / "b" / "d.py").write_text("5")
    assert digest("a.py") == one
    assert digest("b") != folder
    code_digest.cache_clear()
