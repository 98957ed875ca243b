"""Every figure is compared with one computed another way, on arrays whose axes and values all differ."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from onnxslim1x1.runtime.compare import (
    ClassificationAccumulator,
    DiffAccumulator,
    compare_names,
    compare_types,
    kl_divergence,
    log_probabilities,
    looks_like_classifier,
)

RNG_SEED = 20240607


def batches(dtype=np.float32, sizes=(3, 1, 5)):
    rng = np.random.default_rng(RNG_SEED)
    for size in sizes:
        ref = (2.0 + 3.0 * rng.standard_normal((size, 2, 7, 4))).astype(dtype)
        yield ref, (ref * 1.01 + 0.1 * rng.standard_normal(ref.shape)).astype(dtype)


def diff_of(pairs, name="y"):
    accumulator = DiffAccumulator(name)
    for ref, new in pairs:
        accumulator.add(np.asarray(ref), np.asarray(new))
    return accumulator.result()


# ---- differences ----

@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_figures_over_batches_are_those_of_all_data_at_once(dtype):
    pairs = list(batches(dtype))
    found = diff_of(pairs)
    ref, new = (np.concatenate([p[i] for p in pairs]).astype(np.float64).ravel() for i in (0, 1))
    error = np.abs(ref - new)
    assert (found.name, found.shape, found.dtype) == ("y", (3, 2, 7, 4), np.dtype(dtype).name)
    assert found.max_abs == error.max()
    assert found.mean_abs == pytest.approx(error.mean(), rel=1e-12)
    assert found.max_rel == pytest.approx(error.max() / np.abs(ref).mean(), rel=1e-12)
    assert found.mean_rel == pytest.approx(error.sum() / np.abs(ref).sum(), rel=1e-12)
    assert found.cosine == pytest.approx(np.corrcoef(np.r_[ref, -ref], np.r_[new, -new])[0, 1], rel=1e-12)
    assert found.snr_db == pytest.approx(20 * np.log10(np.linalg.norm(ref) / np.linalg.norm(error)), rel=1e-12)
    assert 20 < found.snr_db < 35
    assert found.nan_count_original == found.nan_count_rewritten == found.nan_count_new == 0


def test_a_small_figure_by_hand():
    found = diff_of([([[1.0, -2.0]], [[1.5, -2.0]]), ([[4.0, 1.0]], [[4.0, 0.0]])])
    assert (found.max_abs, found.mean_abs, found.max_rel, found.mean_rel) == (1.0, 0.375, 0.5, 0.1875)
    assert found.snr_db == pytest.approx(10 * math.log10(22 / 1.25))
    assert found.cosine == pytest.approx(21.5 / math.sqrt(22 * 22.25))


def test_reference_and_rewritten_are_not_interchangeable():
    forth, back = diff_of([([1.0, 3.0], [1.0, 5.0])]), diff_of([([1.0, 5.0], [1.0, 3.0])])
    assert (forth.max_abs, forth.cosine) == (back.max_abs, back.cosine)
    assert (forth.max_rel, back.max_rel) == (1.0, pytest.approx(2 / 3))
    assert forth.snr_db < back.snr_db


def test_float16_is_summed_in_float64():
    ref = np.full((1, 70000), 60000.0, np.float16)  # a sum in float16 ends at 65504
    found = diff_of([(ref, ref - np.float16(64))])
    assert found.mean_abs == found.max_abs == 64.0
    assert found.snr_db == pytest.approx(20 * math.log10(float(ref[0, 0]) / 64), rel=1e-12)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_integers_and_booleans_are_numbers(dtype):
    found = diff_of([(np.array([1, 0, 1, 1], dtype), np.array([1, 1, 0, 1], dtype))])
    assert (found.max_abs, found.mean_abs, found.dtype) == (1.0, 0.5, np.dtype(dtype).name)


def test_identical_outputs():
    found = diff_of([(ref, ref) for ref, _ in batches()])
    assert (found.max_abs, found.mean_abs, found.max_rel, found.mean_rel) == (0.0, 0.0, 0.0, 0.0)
    assert (found.cosine, found.snr_db) == (1.0, math.inf)


def test_nothing_divides_by_a_reference_of_zeros():
    same = diff_of([([0.0, 0.0], [0.0, 0.0])])
    assert (same.max_rel, same.mean_rel, same.cosine, same.snr_db) == (0.0, 0.0, 1.0, math.inf)
    other = diff_of([([0.0, 0.0], [0.0, 2.0])])
    assert (other.max_abs, other.mean_abs) == (2.0, 1.0)
    assert (other.max_rel, other.mean_rel, other.cosine, other.snr_db) == (math.inf, math.inf, 0.0, -math.inf)
    gone = diff_of([([1.0, 2.0], [0.0, 0.0])])
    assert (gone.cosine, gone.snr_db, gone.mean_rel) == (0.0, 0.0, 1.0)


def test_scalars_and_empty_outputs():
    assert diff_of([(np.float32(2.0), np.float32(1.5))]).max_abs == 0.5
    empty = diff_of([(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))])
    assert (empty.shape, empty.max_abs, empty.mean_abs, empty.snr_db) == ((0, 4), 0.0, 0.0, math.inf)


def test_new_non_finite_values_are_infinitely_wrong():
    found = diff_of([([1.0, 2.0, 3.0], [1.0, np.nan, np.inf]), ([4.0], [4.0])])
    assert (found.nan_count_original, found.nan_count_rewritten, found.nan_count_new) == (0, 2, 2)
    assert (found.max_abs, found.mean_abs, found.max_rel, found.mean_rel) == (math.inf,) * 4
    assert (found.cosine, found.snr_db) == (0.0, -math.inf)


def test_non_finite_values_of_the_original_are_left_out():
    found = diff_of([([1.0, np.nan, -np.inf, np.inf, 4.0], [1.5, np.nan, -np.inf, 7.0, 4.0])])
    assert (found.nan_count_original, found.nan_count_rewritten, found.nan_count_new) == (3, 2, 0)
    assert (found.max_abs, found.mean_abs) == (0.5, 0.25)
    assert found.snr_db == pytest.approx(10 * math.log10(17 / 0.25))


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="nothing was compared"):
        DiffAccumulator("y").result()
    with pytest.raises(ValueError, match="differ"):
        DiffAccumulator("y").add(np.zeros((2, 3)), np.zeros((3, 2)))


# ---- mismatches ----

@pytest.mark.parametrize(("original", "rewritten", "found"), [
    (["a", "b"], ["a", "b"], []),
    (["a", "b"], ["a", "c"], [("b", "renamed_output")]),
    (["a", "b"], ["b"], [("a", "missing_output")]),
    (["a", "b"], ["a"], [("b", "missing_output")]),
    (["a"], ["a", "b"], [("b", "extra_output")]),
    (["a", "b"], ["b", "a"], [("a", "output_order")]),
    (["a", "b", "c"], ["d", "b"], [("a", "renamed_output"), ("c", "missing_output")]),
    (["a", "b"], ["x", "y", "z"], [("a", "renamed_output"), ("b", "renamed_output"), ("z", "extra_output")]),
    (["a", "b"], ["b", "c"], [("a", "missing_output"), ("c", "extra_output")]),
])
def test_output_names(original, rewritten, found):
    assert [(m.name, m.code) for m in compare_names(original, rewritten)] == found


def test_a_renaming_says_the_new_name():
    (found,) = compare_names(["logits"], ["scores"])
    assert "scores" in found.reason


def test_shapes_and_types():
    ref = np.zeros((1, 3, 5), np.float32)
    assert compare_types("y", ref, ref.copy()) is None
    shape, dtype = (compare_types("y", ref, other) for other in (ref.reshape(1, 5, 3), ref.astype(np.float64)))
    assert (shape.name, shape.code, shape.reason) == ("y", "changed_shape", "(1, 3, 5) became (1, 5, 3)")
    assert (dtype.name, dtype.code, dtype.reason) == ("y", "changed_dtype", "float32 became float64")


# ---- classification ----

@pytest.mark.parametrize(("shape", "expected"), [
    ((1, 10), True), ((16, 2), True), ((4, 1000, 1, 1), True),
    ((4, 1), False), ((10,), False), ((), False), ((1, 4420, 2), False), ((1, 3, 720, 720), False),
    ((4, 1000, 1, 2), False), ((4, 1, 1, 1), False), ((4, 10, 1), False),
])
def test_which_outputs_look_like_scores(shape, expected):
    assert looks_like_classifier(shape) is expected


def scores(images=23, classes=9, noise=1.0):
    rng = np.random.default_rng(RNG_SEED)
    ref = (3 * rng.standard_normal((images, classes))).astype(np.float32)
    new = (ref + noise * rng.standard_normal(ref.shape)).astype(np.float32)
    labels = np.where(rng.random(images) < 0.7, ref.argmax(axis=1), rng.integers(0, classes, images)).astype(np.int64)
    return ref, new, labels


def classified(*parts):
    accumulator = ClassificationAccumulator("logits")
    for part in parts:
        accumulator.add(*part)
    return accumulator.result()


def test_fractions_over_batches_are_those_of_all_images():
    ref, new, labels = scores()
    found = classified(*((ref[s], new[s], labels[s]) for s in (slice(0, 4), slice(4, 5), slice(5, 23))))
    order = [np.argsort(-x, axis=1) for x in (ref, new)]
    top1 = [np.mean(o[:, 0] == labels) for o in order]
    top5 = [np.mean((o[:, :5] == labels[:, None]).any(axis=1)) for o in order]
    assert (found.output, found.images, found.classes) == ("logits", 23, 9)
    assert [found.top1_original, found.top1_rewritten] == pytest.approx(top1)
    assert [found.top5_original, found.top5_rewritten] == pytest.approx(top5)
    assert found.top1_drop == pytest.approx(top1[0] - top1[1])
    assert found.agreement == pytest.approx(np.mean(order[0][:, 0] == order[1][:, 0]))
    p, q = (scipy.special.softmax(x.astype(np.float64), axis=1) for x in (ref, new))
    assert found.kl == pytest.approx(scipy.stats.entropy(p, q, axis=1).mean(), rel=1e-9)
    assert len({*top1, *top5}) == 4  # else swapped figures would not show
    assert found.nonfinite_original == found.nonfinite_rewritten == 0


def test_without_labels_there_is_no_accuracy():
    ref, new, _ = scores()
    found = classified((ref, new))
    assert found.top1_original is found.top1_rewritten is found.top1_drop is None
    assert found.top5_original is found.top5_rewritten is None
    assert found.agreement == pytest.approx(np.mean(ref.argmax(1) == new.argmax(1)))


def test_five_classes_have_no_top_5():
    ref, new, labels = scores(classes=5)
    found = classified((ref, new, labels))
    assert found.top1_original is not None
    assert found.top5_original is found.top5_rewritten is None


def test_scores_may_keep_two_spatial_axes():
    ref, new, labels = scores()
    assert classified((ref[:, :, None, None], new[:, :, None, None], labels)) == classified((ref, new, labels))


def test_float16_scores():
    ref, new, labels = (a.astype(np.float16) if a.dtype == np.float32 else a for a in scores())
    wide = classified((ref.astype(np.float64), new.astype(np.float64), labels))
    assert classified((ref, new, labels)) == wide


def test_a_model_agrees_with_itself():
    ref, _, labels = scores()
    found = classified((ref, ref, labels))
    assert (found.agreement, found.kl, found.top1_drop) == (1.0, 0.0, 0.0)


def test_of_equal_scores_the_first_class_wins():
    ties = np.array([[1.0, 5.0, 5.0, 0.0, 5.0, 5.0, 5.0, 5.0]])  # rank 0..5: classes 1, 2, 4, 5, 6, 7
    for label, top1, top5 in ((1, 1.0, 1.0), (2, 0.0, 1.0), (6, 0.0, 1.0), (7, 0.0, 0.0), (0, 0.0, 0.0)):
        found = classified((ties, ties, np.array([label])))
        assert (found.top1_original, found.top5_original) == (top1, top5)


def test_images_with_nan_are_wrong_and_counted():
    ref, _, _ = scores(images=4)
    new = ref.copy()
    new[1, 3], new[2, 0] = np.nan, np.inf
    found = classified((ref, new, ref.argmax(axis=1)))
    assert (found.nonfinite_original, found.nonfinite_rewritten) == (0, 2)
    assert (found.top1_original, found.top1_rewritten, found.top1_drop, found.agreement) == (1.0, 0.5, 0.5, 0.5)
    assert found.kl == 0.0  # of the two others


def test_nothing_but_nan_has_no_divergence():
    ref, _, _ = scores(images=4)
    found = classified((ref, np.full_like(ref, np.nan)))
    assert (found.kl, found.agreement, found.nonfinite_rewritten) == (None, 0.0, 4)


def test_probabilities_are_recognised_and_logits_go_through_softmax():
    ref, new, _ = scores()
    p, q = (scipy.special.softmax(x.astype(np.float64), axis=1) for x in (ref, new))
    np.testing.assert_allclose(np.exp(log_probabilities(ref)), p, rtol=1e-9)
    np.testing.assert_allclose(np.exp(log_probabilities(p)), p, rtol=1e-9)
    want = scipy.stats.entropy(p, q, axis=1)
    for one, two in ((ref, new), (p, q), (ref, q), (p, new)):
        np.testing.assert_allclose(kl_divergence(one, two), want, rtol=1e-6)
    half = kl_divergence(p.astype(np.float16), q.astype(np.float16))
    np.testing.assert_allclose(half, want, rtol=0.02, atol=1e-3)  # 11 bits of mantissa


def test_probabilities_are_scaled_to_sum_to_one():
    p = np.array([[0.25, 0.35, 0.4], [0.1, 0.2, 0.7]])
    rounded = p * [[1.0004], [0.9995]]
    np.testing.assert_allclose(np.exp(log_probabilities(rounded)), p, rtol=1e-12)
    np.testing.assert_allclose(kl_divergence(rounded, p), 0.0, atol=1e-15)


@pytest.mark.parametrize("rows", [[[0.6, 0.6], [0.5, 0.5]], [[-0.5, 1.5], [0.5, 0.5]], [[0.5, 0.4985], [0.5, 0.5]]])
def test_rows_that_are_no_probabilities_are_logits(rows):
    np.testing.assert_allclose(np.exp(log_probabilities(np.array(rows))), scipy.special.softmax(rows, axis=1))


def test_a_probability_that_was_rounded_to_zero_stays_finite():
    p, q = np.array([[0.25, 0.75]]), np.array([[0.0, 1.0]])
    assert 20 < kl_divergence(p, q)[0] < 30  # 0.25 * log(0.25 / 1.2e-38) - 0.2
    assert kl_divergence(q, p)[0] == pytest.approx(math.log(1 / 0.75))


def test_classification_refuses_misuse():
    ref, new, labels = scores()
    with pytest.raises(ValueError, match="nothing was compared"):
        ClassificationAccumulator("y").result()
    with pytest.raises(ValueError, match="no scores"):
        classified((ref, new[:, 1:]))
    with pytest.raises(ValueError, match="no scores"):
        classified((ref[:, :, None], new[:, :, None]))
    with pytest.raises(ValueError, match="some batches"):
        classified((ref, new, labels), (ref, new))
    for shift in (9, -9):
        with pytest.raises(IndexError):
            classified((ref, new, labels + shift))
