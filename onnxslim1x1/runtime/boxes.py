"""Agreement of detectors in their raw outputs: scores and boxes of many places of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.runtime.metrics import Batch, Columned
from onnxslim1x1.runtime.series import Series, mean

Float64 = NDArray[np.float64]

BEST = 10  # boxes per image that are compared
_LEAST_PLACES = 16
_PLACES_PER_VALUE = 10
_PYRAMIDS = (1 + 4 + 16, 1 + 4 + 16 + 64)  # cells of three and of four grids for one of the coarsest
_OVERLAP = 0.5  # from which on two boxes are the same, as PASCAL VOC has it
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """Where the scores and boxes of a detector are.

    Attributes:
        scores: output with the scores.
        boxes: output with the boxes, the same one where both stand side by side.
        kind: ``apart``: (N, M, K) and (N, M, 4); ``rows``: (N, M, 4 + 1 + K), box, objectness and classes;
            ``columns``: (N, 4 + K, M), box and classes.
    """

    scores: str
    boxes: str
    kind: str


def find_raw(shapes: Mapping[str, Sequence[int]]) -> Raw | None:
    """Recognise the raw outputs of a detector by their shapes (batch axis included); None if there are none.

    At least 16 places are expected with scores and boxes apart; in one output of three axes ten times as many places as
    values of each, because features of tokens have three axes, too. Places on the last axis are those of three or four
    grids, each twice as fine as the next one: a recogniser of text has all its letters there.
    """
    three = {name: shape for name, shape in shapes.items() if len(shape) == 3}
    for boxes, shape in three.items():
        if shape[2] == 4 and shape[1] >= _LEAST_PLACES:
            scores = next((n for n, s in three.items() if n != boxes and s[1] == shape[1] and s[2] >= 1), None)
            if scores:
                return Raw(scores=scores, boxes=boxes, kind="apart")
    for name, (_, places, values) in three.items():
        if 6 <= values <= places // _PLACES_PER_VALUE:
            return Raw(scores=name, boxes=name, kind="rows")
        if 5 <= places <= values // _PLACES_PER_VALUE and any(values % cells == 0 for cells in _PYRAMIDS):
            return Raw(scores=name, boxes=name, kind="columns")
    return None


class BoxMetric:
    """How far two detectors find the same: the 10 best-scored boxes of each image, before any suppression.

    ``topk_box_agreement`` is the fraction of the original's boxes to which one of the rewritten model's belongs: of
    the same class, and overlapping it by half (intersection over union); each belongs to one at most.
    ``box_iou`` is the mean overlap of the two boxes at the places of the original's best. Boxes are taken for corners
    if none of the first batch has its second corner before its first, else for centre and size. A class that most
    places of the first batch prefer is taken for the background where scores are probabilities that sum to 1.
    """

    def __init__(self, raw: Raw) -> None:
        self._raw, self._columns = raw, Columned()
        self._background: int | None = None
        self._corners: bool | None = None

    def add(self, batch: Batch) -> None:
        """Take in a batch of scores and boxes."""
        scores, boxes = batch.pair(self._raw.scores), batch.pair(self._raw.boxes)
        if scores is None or boxes is None:
            return
        sides = [self._split(a, b) for a, b in zip(scores, boxes, strict=True)]
        if self._corners is None:
            self._learn(*sides[0])
        (old_scores, old_boxes), (new_scores, new_boxes) = sides
        found = [self._compare(self._best(a), b, self._best(c), d)
                 for a, b, c, d in zip(old_scores, old_boxes, new_scores, new_boxes, strict=True)]
        agreement, overlap = np.array(found).T
        self._columns.put(agreement=agreement, overlap=overlap)

    def series(self) -> tuple[Series, ...]:
        """See the class."""
        if "agreement" not in self._columns:
            return ()
        return (Series(name="topk_box_agreement", output=self._raw.boxes, statistic=mean,
                       columns=self._columns("agreement")),
                Series(name="box_iou", output=self._raw.boxes, statistic=mean, columns=self._columns("overlap")))

    def _split(self, scores: Float64, boxes: Float64) -> tuple[Float64, Float64]:
        """Scores (N, M, K) and boxes (N, M, 4)."""
        if self._raw.kind == "apart":
            return scores, boxes
        if self._raw.kind == "columns":
            values = scores.transpose(0, 2, 1)
            return values[..., 4:], values[..., :4]
        return scores[..., 4:5] * scores[..., 5:], scores[..., :4]

    def _learn(self, scores: Float64, boxes: Float64) -> None:
        self._corners = bool((boxes[..., 2:] >= boxes[..., :2]).all())
        distributed = scores.shape[-1] > 1 and bool((np.abs(scores.sum(axis=-1) - 1.0) <= _SUM_TOLERANCE).all())
        if distributed:
            counts = np.bincount(scores.argmax(axis=-1).ravel(), minlength=scores.shape[-1])
            self._background = int(counts.argmax())

    def _best(self, scores: Float64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the best boxes of an image, the best first, and their classes; what is not finite comes last."""
        usable = np.where(np.isfinite(scores), scores, -np.inf)
        if self._background is not None:
            usable[:, self._background] = -np.inf
        classes, best = usable.argmax(axis=1), usable.max(axis=1)
        places = np.argsort(-best, kind="stable")[:BEST]
        places = places[np.isfinite(best[places])]
        return places, classes[places]

    def _compare(self, old: tuple[NDArray[Any], NDArray[Any]], old_boxes: Float64,
                 new: tuple[NDArray[Any], NDArray[Any]], new_boxes: Float64) -> tuple[float, float]:
        (old_places, old_classes), (new_places, new_classes) = old, new
        if not len(old_places):
            return 1.0, 1.0
        first, second, there = (self._as_corners(b[p]) for b, p in (
            (old_boxes, old_places), (new_boxes, new_places), (new_boxes, old_places)))
        same = (iou(first[:, None], second[None]) >= _OVERLAP) & (old_classes[:, None] == new_classes[None])
        return matched(same) / len(old_places), float(iou(first, there).mean())

    def _as_corners(self, boxes: Float64) -> Float64:
        if self._corners:
            return boxes
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        return np.concatenate([centre - half, centre + half], axis=-1)


def iou(first: Float64, second: Float64) -> Float64:
    """Intersection over union of boxes (..., 4) given by corners; 0 where a box is empty or not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
        inner = np.clip(high - low, 0.0, None).prod(axis=-1)
        areas = [np.clip(b[..., 2:] - b[..., :2], 0.0, None).prod(axis=-1) for b in (first, second)]
        shares = inner / (areas[0] + areas[1] - inner)
    return np.where(np.isfinite(shares), shares, 0.0)


def matched(same: NDArray[np.bool_]) -> int:
    """Size of the largest one-to-one matching between rows and columns that are the same."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(same, maximize=True)
    return int(same[rows, columns].sum())
