"""Figures of pictures: images against images, and masks against masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.runtime.metrics import Batch, Columned
from onnxslim1x1.runtime.series import Series, known_mean, mean, mean_db

Float64 = NDArray[np.float64]

_SIGMA = 1.5  # of the window of SSIM, as Wang et al. 2004
_WINDOW = 11
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
_SLACK = 0.25  # of a range, by which a network overshoots it


def has_ssim() -> bool:
    """Whether scikit-image is there, which computes SSIM."""
    from importlib.util import find_spec

    return find_spec("skimage") is not None


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Axis of 1, 3 or 4 channels in a batch of images (N, C, H, W) or (N, H, W, C); None if these are no images."""
    if len(shape) != 4:
        return None
    return next((axis for axis in (1, 3) if shape[axis] in (1, 3, 4)), None)


def peak(values: Float64) -> float:
    """Span of values that pictures of this kind can have: 1, 2 or 255 for 0..1, -1..1 and 0..255, else their own."""
    low, high = (float(f(values[np.isfinite(values)], initial=0.0)) for f in (np.min, np.max))
    for start, end in _RANGES:
        span = end - start
        if low >= start - _SLACK * span and high <= end + _SLACK * span:
            return span
    return high - low


class ImageMetric:
    """Peak signal-to-noise ratio and structural similarity of images, the original being the reference.

    ``psnr_db = 10 log10(R^2 / mean squared error)`` over all images, R from `peak` of the first batch; ``ssim`` is the
    mean over the images, with the Gaussian window of Wang et al. 2004, by scikit-image. An image that is not finite
    has an infinite error and a similarity of 0. Sides below 11 pixels have no SSIM.

    Args:
        output: which one, (N, C, H, W) or (N, H, W, C) with 1, 3 or 4 channels.
        ssim: whether structural similarity is computed; the extra `images` must be installed then.
    """

    def __init__(self, output: str, *, ssim: bool) -> None:
        self._output, self._ssim, self._columns, self._peak = output, ssim, Columned(), 0.0

    def add(self, batch: Batch) -> None:
        """Take in a batch of images."""
        pair = batch.pair(self._output)
        axis = None if pair is None else channel_axis(pair[0].shape)
        if pair is None or axis is None:
            return
        old, new = pair
        self._peak = self._peak or peak(old) or 1.0
        good = np.array([np.isfinite(a).all() and np.isfinite(b).all() for a, b in zip(old, new, strict=True)])
        errors = np.full(len(old), np.inf)
        errors[good] = ((new[good] - old[good]) ** 2).mean(axis=(1, 2, 3)) / self._peak**2
        self._columns.put(errors=errors)
        sides = [n for i, n in enumerate(old.shape) if i not in (0, axis)]
        if self._ssim and min(sides) >= _WINDOW:
            self._columns.put(ssim=np.array([self._similarity(a, b, axis - 1) if fine else 0.0
                                             for a, b, fine in zip(old, new, good, strict=True)]))

    def _similarity(self, old: Float64, new: Float64, axis: int) -> float:
        from skimage.metrics import structural_similarity

        similarity: Any = structural_similarity  # has no types
        return float(similarity(old, new, data_range=self._peak, channel_axis=axis, gaussian_weights=True,
                                sigma=_SIGMA, use_sample_covariance=False))

    def series(self) -> tuple[Series, ...]:
        """See the class."""
        found = []
        if "errors" in self._columns:
            found.append(Series(name="psnr_db", output=self._output, unit="dB", statistic=mean_db,
                                columns=self._columns("errors")))
        if "ssim" in self._columns:
            found.append(Series(name="ssim", output=self._output, statistic=mean, columns=self._columns("ssim")))
        return tuple(found)


class MaskMetric:
    """Overlap of the masks that two segmentations make: mean over the images of the mean IoU over classes.

    Scores (N, K, H, W) become masks by their largest class, a single channel by its sign (by 1/2 if all of its values
    lie in [0, 1]), whole numbers (N, H, W) are masks already. A class counts in an image if either mask has it. A class
    score that is not finite makes the image's overlap 0. ``pixel_agreement`` is the fraction of equal pixels.
    """

    def __init__(self, output: str) -> None:
        self._output, self._columns = output, Columned()

    def add(self, batch: Batch) -> None:
        """Take in a batch of scores or masks."""
        pair = batch.pair(self._output)
        if pair is None or pair[0].ndim not in (3, 4):
            return
        probabilities = bool(((pair[0] >= 0) & (pair[0] <= 1)).all())
        masks = [_masks(scores, probabilities=probabilities) for scores in pair]
        good = [np.isfinite(new).all() for new in pair[1]]
        found = [_overlap(a, b) if fine else (0.0, 0.0) for a, b, fine in zip(*masks, good, strict=True)]
        overlap, same = np.array(found).T
        self._columns.put(overlap=overlap, same=same)

    def series(self) -> tuple[Series, ...]:
        """See the class."""
        if "overlap" not in self._columns:
            return ()
        return (Series(name="mask_iou", output=self._output, statistic=known_mean, columns=self._columns("overlap")),
                Series(name="pixel_agreement", output=self._output, statistic=mean, columns=self._columns("same")))


def _masks(scores: Float64, *, probabilities: bool) -> NDArray[Any]:
    if scores.ndim == 3:
        return scores
    if scores.shape[1] > 1:
        return np.asarray(scores.argmax(axis=1))
    return np.asarray(scores[:, 0] > (0.5 if probabilities else 0.0))


def _overlap(old: NDArray[Any], new: NDArray[Any]) -> tuple[float, float]:
    """Mean IoU over the classes of either mask, and the fraction of equal pixels."""
    classes = [c for c in np.union1d(old, new) if c or old.dtype != np.bool_]  # of two-valued masks the mask alone
    shares = [float((one & other).sum() / (one | other).sum())
              for one, other in ((old == c, new == c) for c in classes)]
    return (float(np.mean(shares)) if shares else 1.0), float((old == new).mean())
