"""Data on its way through models, segment by segment, against single runs of the whole models."""

import errno
import os
import shutil
from collections import Counter

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.errors import OutputError, RuntimeFailure
from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime import replay
from onnxslim1x1.runtime.calibration import with_outputs
from onnxslim1x1.runtime.replay import Replay
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.strategies import by_name

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
WEIGHTS = {"w": (5, 3, 2, 3), "u": (4, 5, 1, 1), "v": (4, 5, 3, 2), "t": (6, 4, 2, 2)}
ORDER = ("a", "r", "s", "b", "z", "q", "y")


class Images:
    """Seeded images as a data set; remembers what was asked for."""

    def __init__(self, count=7, *, size=(6, 9), dtype=np.float32):
        self.values = np.random.default_rng(1).standard_normal((count, 3, *size)).astype(dtype)
        self.asked = []

    def __len__(self):
        return len(self.values)

    def batches(self, batch_size):
        self.asked.append(batch_size)
        for start in range(0, len(self), batch_size):
            yield self.part(slice(start, start + batch_size))

    def part(self, rows):
        return {"x": self.values[rows]}


def model_of(*, batch="N", seed=0):
    """A convolution, and behind it one with a shortcut that is a convolution too, and a last one."""
    proto = onnx.parser.parse_model(HEAD + f"""g (float[{batch},3,H,W] x) => (float[B,6,P,Q] y) {{
        [first] a = Conv<strides=[1,2], pads=[1,0,0,2]>(x, w)  [act] r = Relu(a)
        [side] s = Conv(r, u)  [main] b = Conv<dilations=[2,1], pads=[1,0,3,1]>(r, v)
        [sum] z = Add(b, s)  [act_2] q = Relu(z)  [last] y = Conv<strides=[2,1]>(q, t) }}""")
    rng = np.random.default_rng(seed)
    proto.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 3, name)
        for name, shape in WEIGHTS.items())
    return load(proto)


def rewritten(model, **ranks):
    """The model with layers replaced by two factors."""
    edit = GraphEdit(model)
    for layer in find_layers(model, infer_shapes(model, dims={"H": 6, "W": 9}).tensors):
        if layer.name in ranks:
            weight = numpy_helper.to_array(next(t for t in model.proto.graph.initializer if t.name == layer.weight))
            found = by_name("reduce").decompose(layer.spec, weight).truncate((ranks[layer.name],))
            replace_layer(edit, layer, found.factors)
    return edit.result()


def whole(model, images, *names):
    """Values of tensors for all images, from one run of the whole model."""
    names = [name for name in names if name != "x"]
    return dict(zip(names, run(create_session(with_outputs(model, names)), {"x": images.values}, outputs=names),
                    strict=True)) | {"x": images.values}


def values_of(track, *names):
    batches = list(track.batches(names))
    return {name: np.concatenate([batch[number] for batch in batches]) for number, name in enumerate(names)}


def assert_values(found, expected):
    for name, values in found.items():
        # fused in other places: float32 rounding of values up to 10
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(replay, "_BATCH", 3)  # seven images: 3, 3 and 1


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("steps", [
    ORDER, ("y",), ("r", "b", "y"), ("z", "y"), ("sb", "q"), ("a", "s", "b", "y"), ("xb", "sz", "y")], ids="-".join)
def test_values_are_those_of_the_whole_model(steps, tmp_path):
    model, images = model_of(), Images()
    expected = whole(model, images, *ORDER)
    track = Replay(model, images, tmp_path)
    assert_values(values_of(track, "x"), expected)
    for wanted in steps:
        track.advance(model, list(wanted))
        assert_values(values_of(track, *wanted), expected)
    assert [len(batch[0]) for batch in track.batches(["y"] if steps[-1] == "y" else ["q"])] == [3, 3, 1]
    assert len(track) == 7


def test_data_comes_in_batches_of_sixteen(tmp_path):
    images = Images(19)
    track = Replay(model_of(), images, tmp_path)
    assert images.asked == [16]
    assert [len(x) for (x,) in track.batches(["x"])] == [16, 3]


@pytest.mark.parametrize("batch", [1, 4, 7, 9])
def test_what_pads_a_fixed_batch_is_hidden(batch, tmp_path):
    images = Images(7)
    expected = whole(model_of(), images, "r", "z")
    track = Replay(model_of(batch=batch), images, tmp_path)
    track.advance(model_of(batch=batch), ["r"])
    track.advance(model_of(batch=batch), ["z"])
    found = values_of(track, "z")
    assert found["z"].shape == expected["z"].shape
    assert_values(found, expected)
    assert images.asked == [batch]
    assert len(track) == 7


def test_a_fixed_batch_is_filled_up_because_inner_nodes_may_insist_on_it(tmp_path):
    model = load(onnx.parser.parse_model(HEAD + """
        g (float[4,3,6,9] x) => (float[4,162] y) <int64[2] shape = {4, 162}> {
        a = Reshape(x, shape)  y = Neg(a) }"""))
    images = Images(7)
    track = Replay(model, images, tmp_path)
    track.advance(model, ["y"])
    np.testing.assert_array_equal(values_of(track, "y")["y"], -images.values.reshape(7, -1))


def test_tensors_without_a_batch_axis_are_whole(tmp_path):
    proto = onnx.parser.parse_model(HEAD + """g (float[4,3,H,W] x) => (float[4,3,H,W] y) {
        m = ReduceMean<axes = [1, 2]>(w)
        total = ReduceSum<keepdims = 0>(m)  a = Mul(x, m)  y = Add(a, total) }""")
    weight = np.arange(30, dtype=np.float32).reshape(3, 5, 2)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model = load(proto)
    track = Replay(model, Images(2), tmp_path)  # padded to 4, but m has 3 rows and total none
    track.advance(model, ["m", "total"])
    ((m, total),) = track.batches(["m", "total"])
    np.testing.assert_array_equal(m, weight.mean(axis=(1, 2), keepdims=True))
    np.testing.assert_array_equal(total, m.sum())
    track.advance(model, ["y"])
    assert_values(values_of(track, "y"), {"y": Images(2).values * m + m.sum()})


def test_a_model_with_several_inputs_is_fed_them_all(tmp_path):
    proto = onnx.parser.parse_model(HEAD + """g (float[4,3,H,W] x, int64[4,1] shift, float[4,1] unused) =>
        (float[4,3,H,W] y) { a = Neg(x)  c = Cast<to = 1>(shift)  d = Unsqueeze(c, axes)  y = Add(a, d) }""")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    shift = np.array([[5], [-3], [2], [7], [0], [1]])

    class Several(Images):
        def part(self, rows):
            return {"x": self.values[rows], "shift": shift[rows], "unused": np.ones((6, 1), np.float32)[rows]}

    model, images = load(proto), Several(6)
    track = Replay(model, images, tmp_path)
    track.advance(model, ["a", "shift"])
    assert len(files(tmp_path)) == 4  # two tensors in two batches, and nothing of `unused`
    track.advance(model, ["y"])
    assert_values(values_of(track, "y"), {"y": shift[:, :, None, None] - images.values})


@pytest.mark.parametrize("dtype", ["float16", "float", "double"])
def test_types_need_not_be_declared(dtype, tmp_path):
    """The shape, a boolean and halves go from segment to segment, and the model does not say what they are."""
    model = load(onnx.parser.parse_model(HEAD + f"""g ({dtype}[N,3,H,W] x) => ({dtype}[N,A] y) {{
        a = Abs(x)  shape = Shape(x)  small = Less(x, a)  b = Neg(a)  c = Where(small, b, x)
        d = Expand(c, shape)  y = Flatten(d) }}"""))
    images = Images(dtype={"float16": np.float16, "float": np.float32, "double": np.float64}[dtype])
    expected = whole(model, images, "y")
    track = Replay(model, images, tmp_path)
    for name in ("a", "small", "b", "c", "shape", "y"):
        track.advance(model, [name])
    found = values_of(track, "y")["y"]
    np.testing.assert_array_equal(found, expected["y"])
    assert found.dtype == expected["y"].dtype


# every node once, and nothing stays that is not needed


@pytest.mark.usefixtures("small_batches")
def test_every_node_runs_once(tmp_path, monkeypatch):
    ran = Counter()

    def spy(source, **kwargs):
        ran.update(node.name for node in onnx.ModelProto.FromString(source).graph.node)
        return create_session(source, **kwargs)

    monkeypatch.setattr(replay, "create_session", spy)
    model = model_of()
    track = Replay(model, Images(), tmp_path)
    for name in ("r", "r", "b", "r", "z", "y"):
        track.advance(model, [name, "r"] if name == "b" else [name])
    assert ran == Counter(node.name for node in model.proto.graph.node)


@pytest.mark.usefixtures("small_batches")
def test_files_are_there_as_long_as_their_tensors_are_needed(tmp_path):
    model = model_of()
    track = Replay(model, Images(), tmp_path)
    at_front = []
    for wanted in (["x"], ["r"], ["b"], ["b", "r"], ["s"], ["z"], ["y"]):
        track.advance(model, wanted)
        at_front.append(len(files(tmp_path)) // 3)
    # x; r; r (for s) and b; the same; s and b; z; y
    assert at_front == [1, 1, 2, 2, 2, 1, 1]


def test_the_folder_does_not_grow_with_the_depth(tmp_path):
    lines = "\n".join(f"t{i + 1} = Conv<pads=[1,0,0,2]>(t{i}, w)" for i in range(12))
    proto = onnx.parser.parse_model(HEAD + f"g (float[N,3,H,W] x) => (float[N,3,H,W] t12) {{ t0 = Neg(x)\n{lines} }}")
    proto.graph.initializer.append(numpy_helper.from_array(np.full((3, 3, 2, 3), 0.1, np.float32), "w"))
    model, images = load(proto), Images()
    track = Replay(model, images, tmp_path)
    for i in range(13):
        track.advance(model, [f"t{i}"])
        assert sum(map(len, files(tmp_path).values())) < images.values.nbytes + 200  # one tensor and its header
    assert_values(values_of(track, "t12"), whole(model, images, "t12"))


def test_a_tensor_that_was_dropped_is_an_error(tmp_path):
    model = model_of()
    track = Replay(model, Images(), tmp_path)
    track.advance(model, ["z"])
    for name in ("r", "b", "x", "nowhere"):
        with pytest.raises(ValueError, match=rf"tensors \['{name}'\] cannot be computed"):
            track.advance(model, [name])
    track.advance(model, ["y"])  # a refusal has changed nothing
    assert_values(values_of(track, "y"), whole(model, Images(), "y"))


# models that change on the way


@pytest.mark.usefixtures("small_batches")
def test_layers_that_were_not_computed_yet_may_change(tmp_path):
    model, images = model_of(), Images()
    track = Replay(model, images, tmp_path)
    track.advance(model, ["r"])
    first = rewritten(model, main=2, last=1)
    track.advance(first, ["b", "s"])
    second = rewritten(model, main=2, last=3)
    track.advance(second, ["y"])
    expected = whole(second, images, "b", "y")
    assert_values(values_of(track, "y"), expected)
    assert (np.abs(whole(first, images, "y")["y"] - expected["y"]) > 0.1).any()


def test_layers_that_were_computed_do_not_change_any_more(tmp_path):
    model, images = model_of(), Images()
    track = Replay(model, images, tmp_path)
    track.advance(model, ["b", "s"])
    track.advance(rewritten(model, main=1, first=1), ["y"])
    assert_values(values_of(track, "y"), whole(model, images, "y"))


# two tracks


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("links", [True, False])
def test_two_tracks_share_nothing_that_one_of_them_changes(links, tmp_path, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    model, images = model_of(), Images()
    other_model = rewritten(model, main=2, side=1)
    one, two = tmp_path / "one", tmp_path / "two"
    track = Replay(model, images, one)
    track.advance(model, ["r"])
    fork = track.fork(two)
    before = files(one)
    assert sorted(files(two).values()) == sorted(before.values())
    fork.advance(other_model, ["b", "s"])
    assert files(one) == before
    assert_values(values_of(track, "r"), whole(model, images, "r"))
    kept = files(two)
    track.advance(model, ["b", "s"])
    track.advance(model, ["z"])
    assert files(two) == kept
    assert_values(values_of(fork, "b", "s"), whole(other_model, images, "b", "s"))
    assert_values(values_of(track, "z"), whole(model, images, "z"))
    shutil.rmtree(one)
    fork.advance(other_model, ["y"])
    assert_values(values_of(fork, "y"), whole(other_model, images, "y"))
    assert len(fork) == 7


def test_a_fork_hides_padding_too(tmp_path):
    images, model = Images(6), model_of(batch=4)
    track = Replay(model, images, tmp_path / "one")
    fork = track.fork(tmp_path / "two")
    fork.advance(model, ["y"])
    assert_values(values_of(fork, "y"), whole(model_of(), images, "y"))


def test_a_fork_can_be_forked(tmp_path):
    model, images = model_of(), Images()
    track = Replay(model, images, tmp_path / "one")
    fork = track.fork(tmp_path / "two")
    track.advance(model, ["r"])
    fork.advance(model, ["r"])
    again = fork.fork(tmp_path / "three")
    again.advance(model, ["b", "s"])
    assert_values(values_of(again, "b", "s"), whole(model, images, "b", "s"))
    assert_values(values_of(fork, "r"), whole(model, images, "r"))


# what goes wrong


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_output_error(caught, folder):
    message = str(caught.value)
    assert message.startswith(f"{folder}: cannot keep activations (")
    assert message.endswith("; free some space or set TMPDIR to a larger disk")
    assert "\n" not in message
    assert isinstance(caught.value.__cause__, OSError)


def test_a_full_disk_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        Replay(model_of(), Images(), tmp_path)
    assert_output_error(caught, tmp_path)


def test_a_full_disk_on_the_way(tmp_path, monkeypatch):
    model = model_of()
    track = Replay(model, Images(), tmp_path)
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        track.advance(model, ["r"])
    assert_output_error(caught, tmp_path)


def test_a_short_write_has_no_number_but_a_reason(tmp_path, monkeypatch):
    def short(*_):
        raise OSError("1323 requested and 1024 written")  # what numpy says when the disk is full

    monkeypatch.setattr(np, "save", short)
    with pytest.raises(OutputError, match=r"\(1323 requested and 1024 written\)") as caught:
        Replay(model_of(), Images(), tmp_path)
    assert_output_error(caught, tmp_path)


def test_a_full_disk_at_a_fork(tmp_path, monkeypatch):
    track = Replay(model_of(), Images(), tmp_path / "one")
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        track.fork(tmp_path / "two")
    assert_output_error(caught, tmp_path / "two")


@pytest.mark.parametrize("fork", [False, True])
def test_a_folder_that_cannot_be_made(fork, tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "folder"
    track = Replay(model_of(), Images(), tmp_path / "one") if fork else None
    with pytest.raises(OutputError, match="Not a directory") as caught:
        track.fork(folder) if fork else Replay(model_of(), Images(), folder)
    assert_output_error(caught, folder)


def test_images_that_do_not_fit_are_an_error_of_the_runtime(tmp_path):
    model = model_of()
    track = Replay(model, Images(size=(1, 1)), tmp_path)  # nothing is left for the last layer
    with pytest.raises(RuntimeFailure):
        track.advance(model, ["y"])


@pytest.mark.parametrize("batch", ["N", 4])
def test_computing_from_the_front_leaves_it_where_it_is(batch, tmp_path):
    model, images = model_of(batch=batch), Images()
    changed = rewritten(model, main=2)
    track = Replay(model, images, tmp_path)
    track.advance(model, ["r"])
    files = sorted(p.name for p in tmp_path.iterdir())
    for which in (changed, model, changed):
        found = [np.concatenate(parts) for parts in zip(*track.compute(which, ["y", "r"]), strict=True)]
        expected = whole(rewritten(model_of(), main=2) if which is changed else model_of(), images, "y", "r")
        for name, values in zip(["y", "r"], found, strict=True):
            np.testing.assert_allclose(values, expected[name], atol=1e-5)  # float32 rounding in convolutions
    assert sorted(p.name for p in tmp_path.iterdir()) == files


def test_outputs_of_the_model_stay_at_hand(tmp_path):
    """Nothing reads them, but they are asked for in the end."""
    proto = onnx.parser.parse_model(HEAD + """g (float[N,3,4,5] x) => (float[N,3,4,5] early, float[N,3,4,5] late) {
        early = Relu(x)  n = Neg(x)  m = Abs(n)  late = Exp(m) }""")
    model = load(proto)
    data = np.random.default_rng(2).standard_normal((3, 3, 4, 5)).astype(np.float32)

    class Data(Images):
        values = data

        def __init__(self):
            self.asked = []

    track = Replay(model, Data(), tmp_path)
    track.advance(model, ["early", "n"])
    track.advance(model, ["m"])
    (early, late), = track.compute(model, ["early", "late"])
    np.testing.assert_array_equal(early, np.maximum(data, 0))
    np.testing.assert_allclose(late, np.exp(np.abs(data)), rtol=1e-6)
