"""Losses of models on held-out images, against sums written down here."""

import math

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.errors import DataError
from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime.loss import HeldOutLoss
from onnxslim1x1.strategies import by_name


class Images:
    def __init__(self, count):
        self.values = np.random.default_rng(1).standard_normal((count, 3, 4, 5)).astype(np.float32)

    def __len__(self):
        return len(self.values)

    def batches(self, size):
        for start in range(0, len(self), size):
            yield {"x": self.values[start : start + size]}


def scaled(factor, *, batch="N", classes=True):
    tail = "g = GlobalAveragePool(s)\n y = Flatten(g)" if classes else "y = Identity(s)"
    shape = f"{batch},3" if classes else f"{batch},3,4,5"
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{batch},3,4,5] x) => (float[{shape}] y) {{ s = Mul(x, f)
        {tail} }}""")
    proto.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "f"))
    return load(proto)


def divergence(images, factor):
    scores = images.astype(np.float64).mean(axis=(2, 3))
    p, q = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (scores, factor * scores))
    return float((p * np.log(p / q)).sum(axis=1).mean())


@pytest.mark.parametrize("batch", ["N", 4])
@pytest.mark.parametrize("count", [8, 21])
def test_class_scores_diverge(batch, count):
    data = Images(count)
    loss = HeldOutLoss(scaled(1.0, batch=batch), data)
    assert loss(scaled(1.0, batch=batch)) == pytest.approx(0, abs=1e-7)
    assert loss(scaled(3.0, batch=batch)) == pytest.approx(divergence(data.values, 3.0), rel=1e-4)


@pytest.mark.parametrize("batch", ["N", 4])
def test_other_outputs_have_a_squared_error_relative_to_their_variance(batch):
    data = Images(6)
    x = data.values.astype(np.float64)
    loss = HeldOutLoss(scaled(1.0, batch=batch, classes=False), data)
    expected = 0.25 * (x**2).mean() / x.var(axis=0, ddof=1).mean()
    assert loss(scaled(1.5, batch=batch, classes=False)) == pytest.approx(expected, rel=1e-5)


def test_an_output_that_follows_no_image_any_more_has_lost_everything():
    """A detector writes much the same for every image: what it finds is little of all that it writes."""
    data = Images(40)
    data.values = 0.01 * data.values + np.linspace(-5, 5, 5, dtype=np.float32)
    mean = data.values.mean(axis=0, dtype=np.float64)
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,4,5] x) => (float[N,3,4,5] y) { z = Sub(x, x)  y = Add(z, m) }""")
    proto.graph.initializer.append(numpy_helper.from_array(mean.astype(np.float32), "m"))
    loss = HeldOutLoss(scaled(1.0, classes=False), data)
    assert loss(load(proto)) == pytest.approx(39 / 40, rel=1e-3)  # float32 of values up to 5
    assert loss.drop(load(proto)) == loss(load(proto))


def test_scores_beside_boxes_count_as_much_as_they():
    """Their values are ten thousand times smaller: pooled, losing all of them would cost nothing."""
    data = Images(30)
    data.values[:, 0] *= 300.0

    def keeping(*factors):
        proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,3,4,5] x) => (float[N,3,4,5] y) { y = Mul(x, f) }""")
        values = np.array(factors, np.float32).reshape(3, 1, 1)
        proto.graph.initializer.append(numpy_helper.from_array(values, "f"))
        return load(proto)

    loss = HeldOutLoss(keeping(1, 1, 1), data)
    small, large = data.values[:, 1:].astype(np.float64), data.values[:, 0].astype(np.float64)
    of_small, of_large = ((v**2).mean() / v.var(axis=0, ddof=1).mean() for v in (small, large))
    assert loss(keeping(1, 0, 0)) == pytest.approx(of_small / 2, rel=1e-4)
    assert loss.drop(keeping(1, 0, 0)) == pytest.approx(of_small, rel=1e-4)  # the worse part
    assert loss.drop(keeping(1.1, 0.5, 0.5)) == pytest.approx(0.25 * of_small, rel=1e-4)
    assert loss.drop(keeping(0.1, 0.5, 0.5)) == pytest.approx(0.81 * of_large, rel=1e-4)


def test_a_single_image_has_only_the_variance_of_its_values():
    data = Images(1)
    x = data.values.astype(np.float64)
    loss = HeldOutLoss(scaled(1.0, classes=False), data)
    assert loss(scaled(1.5, classes=False)) == pytest.approx(0.25 * (x**2).mean() / x.var(), rel=1e-5)


def test_what_no_image_changes_is_held_to_its_own_variance():
    data = Images(4)
    data.values[1:] = data.values[0]
    assert 1e3 < HeldOutLoss(scaled(1.0, classes=False), data)(scaled(1.5, classes=False)) < 1e6


def test_an_output_that_is_not_finite_is_an_infinite_loss():
    assert HeldOutLoss(scaled(1.0), Images(3))(scaled(math.inf)) == math.inf


# ---- what is lost in accuracy ----

class Rows:
    """Given scores (images, classes) as a data set for a model that hands them out."""

    def __init__(self, rows):
        self.values = np.array(rows, np.float32)

    def __len__(self):
        return len(self.values)

    def batches(self, size):
        for start in range(0, len(self), size):
            yield {"x": self.values[start : start + size]}


def turned(matrix, *, shape="N,3", more=""):
    """A model whose scores are those of its input times a matrix."""
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{shape}] x) => (float[{shape}] y) {{ y = MatMul(x, m) {more} }}""")
    proto.graph.initializer.append(numpy_helper.from_array(np.array(matrix, np.float32), "m"))
    return load(proto)


def dropped(rows, matrix):
    return HeldOutLoss(turned(np.eye(3)), Rows(rows)).drop(turned(matrix))


NEXT = np.roll(np.eye(3), 1, axis=1)  # every class gets the scores of the one before it
PROBABILITIES = [[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.25, 0.35, 0.4], [0.6, 0.2, 0.2]]
UNSEEN = np.mean([0.2, 0.5, 0.05, 0.4]) / 2 / 4  # half an image of four that loses the mean margin
LOST = np.array([0.5 - 0.3, 0.7 - 0.2, 0.4 - 0.25, 0.6 - 0.2])  # the most probable class less the one after it


def test_a_drop_is_the_mean_of_what_is_lost_and_one_standard_error_and_what_is_unseen():
    expected = LOST.mean() + math.sqrt(((LOST - LOST.mean()) ** 2).sum() / 3) / math.sqrt(4) + UNSEEN
    assert dropped(PROBABILITIES, NEXT) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 3.0, -20.0])
def test_scores_may_be_logits(shift):
    found = dropped(np.log(PROBABILITIES) + shift, NEXT)
    assert found == pytest.approx(dropped(PROBABILITIES, NEXT), rel=1e-5)


def hesitant(count=3000, *, sharpness, seed=4):
    """Logits and labels that are drawn from their probabilities, once they are multiplied by `sharpness`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, 3)).astype(np.float32)
    real = np.exp(sharpness * logits)
    cumulated = (real / real.sum(axis=1, keepdims=True)).cumsum(axis=1)
    return logits, (rng.random((count, 1)) > cumulated).sum(axis=1)


def dropped_with(rows, labels, matrix=NEXT):
    return HeldOutLoss(turned(np.eye(3)), Rows(rows), labels=np.asarray(labels, np.int64)).drop(turned(matrix))


@pytest.mark.parametrize("sharpness", [1.5, 2.5])
@pytest.mark.parametrize("probabilities", [False, True])
def test_labels_tell_that_the_original_is_right_more_often_than_it_thinks(sharpness, probabilities):
    logits, labels = hesitant(sharpness=sharpness)
    given = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) if probabilities else logits
    assert dropped_with(given, labels) == pytest.approx(dropped(sharpness * logits, NEXT), rel=0.04)
    assert dropped_with(given, labels) > 1.15 * dropped(logits, NEXT)
    counted = (logits.argmax(axis=1) == labels).mean() - ((logits @ NEXT).argmax(axis=1) == labels).mean()
    assert dropped_with(given, labels) == pytest.approx(counted, abs=0.04)


@pytest.mark.parametrize("sharpness", [1.0, 0.5, 0.0, -1.0])
def test_labels_never_allow_more(sharpness):
    """Not even where they are those of other images."""
    logits, labels = hesitant(sharpness=sharpness)
    assert dropped_with(logits, labels) == pytest.approx(dropped(logits, NEXT), rel=0.02)
    assert dropped_with(logits, labels) > 0.999 * dropped(logits, NEXT)


def test_labels_that_are_always_right_leave_no_doubt():
    logits, _ = hesitant(50, sharpness=1.0)
    found = dropped_with(logits, logits.argmax(axis=1))
    assert found == pytest.approx(dropped(10 * logits, NEXT), rel=1e-3)
    assert math.isfinite(found)


def test_labels_have_to_be_classes_of_the_model():
    with pytest.raises(DataError, match=r"output y: label 3 \(sample 1\), but the model has 3 classes"):
        dropped_with(PROBABILITIES, [0, 3, 1, 1])


def test_labels_are_those_of_the_first_output_with_scores():
    """The second one has fewer classes."""
    logits, labels = hesitant(200, sharpness=2.0)

    def both(matrix):
        proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,3] x) => (float[N,3] y, float[N,2] z) { y = MatMul(x, m)
            z = MatMul(x, two) }""")
        proto.graph.initializer.extend([numpy_helper.from_array(np.array(matrix, np.float32), "m"),
                                        numpy_helper.from_array(np.ones((3, 2), np.float32), "two")])
        return load(proto)

    found = HeldOutLoss(both(np.eye(3)), Rows(logits), labels=labels).drop(both(NEXT))
    assert found == pytest.approx(dropped_with(logits, labels), rel=1e-6)


def test_labels_are_nothing_to_outputs_that_are_no_scores():
    with_labels, without = (HeldOutLoss(scaled(1.0, classes=False), Images(4), labels=labels)
                            for labels in (np.array([7, 0, 1, 2]), None))
    assert with_labels.drop(scaled(1.5, classes=False)) == without.drop(scaled(1.5, classes=False))


def test_of_one_image_there_is_no_standard_error():
    assert dropped(PROBABILITIES[:1], NEXT) == pytest.approx(0.2 + 0.1, rel=1e-6)


def test_the_same_outputs_lose_nothing():
    assert dropped(PROBABILITIES, np.eye(3)) == 0.0


@pytest.mark.parametrize("matrix", [3 * np.eye(3), np.eye(3) + 0.01])
def test_where_no_class_changes_a_drop_is_only_unseen(matrix):
    assert dropped(PROBABILITIES, matrix) == pytest.approx(UNSEEN, rel=1e-6)
    assert dropped(100 * PROBABILITIES, matrix) == pytest.approx(UNSEEN / 100, rel=1e-6)


def test_only_images_whose_class_changes_count():
    swapped = np.eye(3)[[1, 0, 2]]  # the first two classes change places
    lost = np.array([0.2, 0.6, 0.0, 0.4])
    expected = lost.mean() + lost.std(ddof=1) / 2 + UNSEEN
    assert dropped(PROBABILITIES, swapped) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_lose_everything(bad):
    assert dropped(PROBABILITIES, np.where(np.eye(3) > 0, bad, 0)) == math.inf


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.5])
def test_the_drop_of_other_outputs_is_their_loss(factor):
    loss = HeldOutLoss(scaled(1.0, classes=False), Images(6))
    model = scaled(factor, classes=False)
    assert loss.drop(model) == loss(model) > 0
    assert loss.drop(scaled(math.inf, classes=False)) == math.inf


def test_of_several_outputs_the_largest_drop_counts():
    def model(matrix, factor):
        proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,3] x) => (float[N,3] y, float[N,3,2,1] z) { y = MatMul(x, m)  s = Mul(x, f)
            u = Unsqueeze(s, axes)  z = Concat <axis = 2> (u, u) }""")
        weights = {"m": np.array(matrix, np.float32), "f": np.array(factor, np.float32), "axes": np.array([2, 3])}
        proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in weights.items())
        return load(proto)

    loss = HeldOutLoss(model(np.eye(3), 1.0), Rows(PROBABILITIES))
    assert loss.drop(model(np.eye(3), 1.0)) == 0.0
    one, other = loss.drop(model(NEXT, 1.001)), loss.drop(model(np.eye(3), 4.0))
    assert one > 0
    assert other > 2 * one
    assert loss.drop(model(NEXT, 4.0)) == other
    assert loss.drop(model(NEXT, 1.001)) == one


def chain():
    """Two convolutions, pooled to class scores."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,4,5] x) => (float[N,6] y) { [first] a = Conv<pads=[1,1,1,1]>(x, v)  r = Relu(a)
        [second] b = Conv<pads=[1,0,1,2]>(r, w)  p = GlobalAveragePool(b)  y = Flatten(p) }""")
    rng = np.random.default_rng(3)
    for name, shape in {"v": (7, 3, 3, 3), "w": (6, 7, 3, 3)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return load(proto)


def test_a_swapped_layer_has_the_loss_of_the_whole_model(tmp_path):
    model, data = chain(), Images(21)
    loss = HeldOutLoss(model, data)
    swaps = loss.along(model, tmp_path)
    layers = find_layers(model, infer_shapes(model).tensors)
    weights = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    for layer in layers:
        for rank in (2, 3):
            edit = GraphEdit(model)
            replace_layer(edit, layer, by_name("expand").decompose(layer.spec, weights[layer.weight])
                          .truncate((rank,)).factors)
            changed = edit.result()
            assert swaps(changed, layer) == pytest.approx(loss(changed), rel=1e-4)  # float32 rounding
            assert swaps(changed, layer) > 1e-3


def test_what_is_in_front_of_a_swapped_layer_does_not_run_again(tmp_path):
    model, data = chain(), Images(5)
    swaps = HeldOutLoss(model, data).along(model, tmp_path)
    first, second = find_layers(model, infer_shapes(model).tensors)[:2]
    assert swaps(model, second) == pytest.approx(0, abs=1e-9)
    broken = onnx.ModelProto()
    broken.CopyFrom(model.proto)
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((7, 3, 3, 3), np.nan, np.float32), "v"))
    assert swaps(load(broken), second) == pytest.approx(0, abs=1e-9)
    assert HeldOutLoss(model, data).along(model, tmp_path / "other")(load(broken), first) == math.inf
