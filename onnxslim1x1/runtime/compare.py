"""Figures for how far the outputs of two models are apart, gathered batch by batch in float64.

What cannot be compared (an output that is gone, renamed, or has another shape or dtype) is a `Mismatch` value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]
Float64 = NDArray[np.float64]

_TOP = 5
_SUM_TOLERANCE = 1e-3  # rows of float16 probabilities sum to 1 this well
_SMALLEST = float(np.finfo(np.float32).tiny)  # stands for a probability that was rounded to 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """An input or output (`name`) of the original that the rewritten model does not match.

    Codes: missing_output, renamed_output, extra_output, output_order, changed_shape, changed_dtype;
    missing_input, extra_input, changed_input_shape, changed_input_dtype.
    """

    name: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputDiff:
    """How far one output y' of the rewritten model is from y of the original, over all runs.

    Positions where y is not finite are left out. Where only y' is not finite the difference counts as infinite.

    Attributes:
        name: of the output.
        shape: of the first run.
        dtype: numpy name.
        max_abs: max |y - y'|.
        mean_abs: mean |y - y'|.
        max_rel: max_abs / mean |y|; 0 if both are 0, inf if only mean |y| is 0.
        mean_rel: mean_abs / mean |y|, with the same convention.
        cosine: <y, y'> / (||y|| ||y'||) in [-1, 1]; 1 if they are identical, 0 if only one is 0 everywhere.
        snr_db: 10 log10(sum y^2 / sum (y - y')^2); inf if they are identical, -inf for an infinite difference.
        nan_count_original: values of y that are NaN or infinite.
        nan_count_rewritten: values of y' that are NaN or infinite.
        nan_count_new: values of y' that are NaN or infinite where y is finite.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    cosine: float
    snr_db: float
    nan_count_original: int
    nan_count_rewritten: int
    nan_count_new: int


def compare_names(original: Sequence[str], rewritten: Sequence[str]) -> tuple[Mismatch, ...]:
    """Compare the output names of two models, in their order; another name at the same place is a renaming."""
    gone = [name for name in original if name not in rewritten]
    extra = [name for name in rewritten if name not in original]
    found = []
    for name in gone:
        place = original.index(name)
        other = rewritten[place] if place < len(rewritten) else None
        if other in extra:
            extra.remove(other)
            found.append(Mismatch(name=name, code="renamed_output", reason=f"it is called {other} now"))
        else:
            found.append(Mismatch(name=name, code="missing_output", reason="the rewritten model has no such output"))
    found += [Mismatch(name=n, code="extra_output", reason="the original has no such output") for n in extra]
    if not found and list(original) != list(rewritten):
        place = next(i for i, pair in enumerate(zip(original, rewritten, strict=True)) if pair[0] != pair[1])
        found.append(Mismatch(name=original[place], code="output_order",
                              reason=f"output {place} of the rewritten model is {rewritten[place]}"))
    return tuple(found)


def compare_inputs(original: Any, rewritten: Any) -> tuple[Mismatch, ...]:
    """Inputs for which the session `rewritten` cannot be fed what the session `original` takes."""
    before = {item.name: item for item in original.get_inputs()}
    after = {item.name: item for item in rewritten.get_inputs()}
    found = [Mismatch(name=n, code="missing_input", reason="the rewritten model has no such input")
             for n in before if n not in after]
    found += [Mismatch(name=n, code="extra_input", reason="the original has no such input")
              for n in after if n not in before]
    for name in (n for n in before if n in after):
        old, new = before[name], after[name]
        if old.type != new.type:
            found.append(Mismatch(name=name, code="changed_input_dtype", reason=f"{old.type} became {new.type}"))
        elif len(old.shape) != len(new.shape) or any(
                isinstance(b, int) and a != b for a, b in zip(old.shape, new.shape, strict=True)):
            found.append(Mismatch(name=name, code="changed_input_shape", reason=f"{old.shape} became {new.shape}"))
    return tuple(found)


def compare_types(name: str, original: AnyArray, rewritten: AnyArray) -> Mismatch | None:
    """Compare shape and dtype of one output of the same run."""
    if original.shape != rewritten.shape:
        return Mismatch(name=name, code="changed_shape", reason=f"{original.shape} became {rewritten.shape}")
    if original.dtype != rewritten.dtype:
        return Mismatch(name=name, code="changed_dtype", reason=f"{original.dtype} became {rewritten.dtype}")
    return None


def _relative(value: float, reference: float) -> float:
    if reference > 0.0:
        return value / reference
    return 0.0 if value == 0.0 else math.inf


class DiffAccumulator:
    """Gathers an `OutputDiff` over any number of runs; memory does not grow with them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._first: tuple[tuple[int, ...], str] | None = None  # shape and dtype of the first run
        self._count = 0
        self._largest = 0.0
        self._abs_diff = self._abs_ref = 0.0
        self._sq_diff = self._sq_ref = self._sq_new = self._dot = 0.0
        self._bad_ref = self._bad_new = self._bad_only_new = 0

    def add(self, original: AnyArray, rewritten: AnyArray) -> None:
        """Take in one run.

        Raises:
            ValueError: the shapes differ.
        """
        if original.shape != rewritten.shape:
            raise ValueError(f"{self._name}: shapes {original.shape} and {rewritten.shape} differ")
        if self._first is None:
            self._first = original.shape, original.dtype.name
        ref, new = original.astype(np.float64).ravel(), rewritten.astype(np.float64).ravel()
        ref_finite, new_finite = np.isfinite(ref), np.isfinite(new)
        self._bad_ref += int(np.count_nonzero(~ref_finite))
        self._bad_new += int(np.count_nonzero(~new_finite))
        self._bad_only_new += int(np.count_nonzero(ref_finite & ~new_finite))
        both = ref_finite & new_finite
        if not both.all():
            ref, new = ref[both], new[both]
        self._add_finite(ref, new)

    def _add_finite(self, ref: Float64, new: Float64) -> None:
        diff = new - ref
        self._count += ref.size
        self._largest = max(self._largest, float(np.abs(diff).max(initial=0.0)))
        self._abs_diff += float(np.abs(diff).sum())
        self._abs_ref += float(np.abs(ref).sum())
        self._sq_diff += float(diff @ diff)
        self._sq_ref += float(ref @ ref)
        self._sq_new += float(new @ new)
        self._dot += float(ref @ new)

    def result(self) -> OutputDiff:
        """The figures so far.

        Raises:
            ValueError: nothing was added.
        """
        if self._first is None:
            raise ValueError(f"{self._name}: nothing was compared")
        shape, dtype = self._first
        broken = self._bad_only_new > 0
        count = max(self._count, 1)
        max_abs = math.inf if broken else self._largest
        mean_abs = math.inf if broken else self._abs_diff / count
        mean_ref = self._abs_ref / count
        return OutputDiff(
            name=self._name, shape=shape, dtype=dtype, max_abs=max_abs, mean_abs=mean_abs,
            max_rel=_relative(max_abs, mean_ref), mean_rel=_relative(mean_abs, mean_ref),
            cosine=0.0 if broken else self._cosine(), snr_db=-math.inf if broken else self._snr_db(),
            nan_count_original=self._bad_ref, nan_count_rewritten=self._bad_new, nan_count_new=self._bad_only_new)

    def _cosine(self) -> float:
        if self._sq_diff == 0.0:
            return 1.0
        norms = math.sqrt(self._sq_ref) * math.sqrt(self._sq_new)
        return min(1.0, max(-1.0, self._dot / norms)) if norms > 0.0 else 0.0

    def _snr_db(self) -> float:
        if self._sq_diff == 0.0:
            return math.inf
        return 10.0 * math.log10(self._sq_ref / self._sq_diff) if self._sq_ref > 0.0 else -math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """How two classifiers agree; all but `kl` and the counts are fractions of the images.

    An image for which a model gives a NaN or infinite score counts as wrong and as a disagreement, and is left out
    of `kl`.

    Attributes:
        output: name of the output that was judged.
        images: how many.
        classes: K.
        agreement: images with the same top-1 class in both.
        kl: mean KL(original || rewritten) in nats; None if no image had finite scores in both.
        top1_original: images whose label has the largest score; None without labels, as the next four.
        top1_rewritten: the same for the rewritten model.
        top1_drop: top1_original - top1_rewritten.
        top5_original: images whose label is among the 5 largest scores; None also if K <= 5.
        top5_rewritten: the same for the rewritten model.
        nonfinite_original: images with a NaN or infinite score in the original.
        nonfinite_rewritten: images with one in the rewritten model.
    """

    output: str
    images: int
    classes: int
    agreement: float
    kl: float | None
    top1_original: float | None
    top1_rewritten: float | None
    top1_drop: float | None
    top5_original: float | None
    top5_rewritten: float | None
    nonfinite_original: int
    nonfinite_rewritten: int


def looks_like_classifier(shape: Sequence[int]) -> bool:
    """Whether an output of this shape (with the batch axis) can hold scores: (N, K) or (N, K, 1, 1) with K >= 2."""
    return len(shape) in (2, 4) and shape[1] >= 2 and all(n == 1 for n in shape[2:])


def log_probabilities(scores: AnyArray) -> Float64:
    """Logarithms of class probabilities, (N, K), from logits or probabilities (N, K).

    Scores are taken for probabilities if none is negative and every row sums to 1 within 1e-3; those are scaled to
    sum to 1, and zeros replaced by the smallest float32. Anything else goes through softmax. Scores must be finite.
    """
    from scipy.special import log_softmax

    values = scores.astype(np.float64)
    sums = values.sum(axis=1, keepdims=True)
    if bool(np.all(values >= 0.0)) and bool(np.all(np.abs(sums - 1.0) <= _SUM_TOLERANCE)):
        return np.asarray(np.log(np.maximum(values / sums, _SMALLEST)))
    return np.asarray(log_softmax(values, axis=1))


def kl_divergence(original: AnyArray, rewritten: AnyArray) -> Float64:
    """KL(original || rewritten) = sum_k p_k (log p_k - log q_k) of each row in nats, (N,); scores (N, K), finite."""
    p, q = log_probabilities(original), log_probabilities(rewritten)
    return np.asarray(np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0))


def label_ranks(scores: AnyArray, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the label, (N,); of equal scores the smaller index comes first, as in argmax."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & before)).sum(axis=1))


class ClassificationAccumulator:
    """Gathers a `Classification` over any number of batches, with labels for all or for none of them."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._images = self._classes = self._agreed = 0
        self._labelled = False
        self._kl_sum, self._kl_rows = 0.0, 0
        self._top1, self._top5, self._bad = [0, 0], [0, 0], [0, 0]  # original, rewritten

    def add(self, original: AnyArray, rewritten: AnyArray, labels: NDArray[np.int64] | None = None) -> None:
        """Take in scores of both models, (N, K) or (N, K, 1, 1), and labels (N,) in 0..K-1.

        Raises:
            ValueError: shapes differ or do not hold scores, or labels come for some batches only.
            IndexError: a label is not in 0..K-1.
        """
        if original.shape != rewritten.shape or not looks_like_classifier(original.shape):
            raise ValueError(f"{self._output}: {original.shape} and {rewritten.shape} are no scores of the same images")
        if self._images and self._labelled != (labels is not None):
            raise ValueError(f"{self._output}: labels for some batches only")
        self._labelled, self._classes = labels is not None, original.shape[1]
        if labels is not None and ((labels < 0) | (labels >= self._classes)).any():
            raise IndexError(f"{self._output}: a label lies outside of 0..{self._classes - 1}")
        count = len(original)
        self._images += count
        pair = [a.reshape(count, -1).astype(np.float64) for a in (original, rewritten)]
        good = [np.isfinite(scores).all(axis=1) for scores in pair]
        both = good[0] & good[1]
        self._agreed += int(np.count_nonzero(both & (pair[0].argmax(axis=1) == pair[1].argmax(axis=1))))
        self._kl_sum += float(kl_divergence(pair[0][both], pair[1][both]).sum())
        self._kl_rows += int(np.count_nonzero(both))
        for side in (0, 1):
            self._bad[side] += int(np.count_nonzero(~good[side]))
            if labels is not None:
                ranks = label_ranks(pair[side][good[side]], labels[good[side]])
                self._top1[side] += int(np.count_nonzero(ranks < 1))
                self._top5[side] += int(np.count_nonzero(ranks < _TOP))

    def result(self) -> Classification:
        """The figures so far.

        Raises:
            ValueError: nothing was added.
        """
        n = self._images
        if not n:
            raise ValueError(f"{self._output}: nothing was compared")
        top1 = [hits / n if self._labelled else None for hits in self._top1]
        top5 = [hits / n if self._labelled and self._classes > _TOP else None for hits in self._top5]
        return Classification(
            output=self._output, images=n, classes=self._classes, agreement=self._agreed / n,
            kl=self._kl_sum / self._kl_rows if self._kl_rows else None, top1_original=top1[0], top1_rewritten=top1[1],
            top1_drop=(self._top1[0] - self._top1[1]) / n if self._labelled else None, top5_original=top5[0],
            top5_rewritten=top5[1], nonfinite_original=self._bad[0], nonfinite_rewritten=self._bad[1])
