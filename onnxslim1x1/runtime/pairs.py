"""What a layer of a rewritten model reads, paired with what it should write."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.linalg.moments import MomentAccumulator, Moments
from onnxslim1x1.runtime.calibration import rows_per_image
from onnxslim1x1.runtime.patches import draw_positions, gather_patches, gather_pixels
from onnxslim1x1.runtime.replay import Replay
from onnxslim1x1.spec import ConvSpec

ROWS_PER_COLUMN = 10  # a regression needs more rows than a covariance
LEAST_ROWS = 40_000


def rows_per_column(spec: ConvSpec, images: int) -> float:
    """How many samples so many images hold of a layer, relative to the length of its patches; 0 for an unknown size."""
    return images * math.prod(spec.out_size or (0,)) / spec.patch


def collect_pairs(original: Replay, rewritten: Replay, layer: Layer, *, shortcut: str | None = None,
                  seed: int = 0) -> Moments:
    """Moments of what a layer reads and should write, at sampled output positions common to both tracks.

    Rows are (x', t), of length nC + O: input patches of the rewritten model, and targets, which is what the layer
    should write. With a shortcut that is the sum of the original less the shortcut of the rewritten model, so the layer
    corrects what the shortcut brings.

    Args:
        original: has the layer's output, and the shortcut, at its front.
        rewritten: has the layer's input, and the shortcut, at its front.
        layer: the layer.
        shortcut: tensor that is added to the layer's output, or None. It may have to be broadcast; where the output is
            broadcast instead, no position of it stands for one of the sum, and the shortcut is left out.
        seed: of the sampled positions.
    """
    source = np.random.default_rng([seed, crc32(layer.output.encode()), 1])
    extra = [] if shortcut is None else [shortcut]
    per_image = rows_per_image(layer.spec, len(rewritten), per_column=ROWS_PER_COLUMN, least=LEAST_ROWS)
    sums = MomentAccumulator(layer.spec.patch + layer.spec.out_channels)
    for (inputs, *ours), (outputs, *theirs) in zip(rewritten.batches([layer.input, *extra]),
                                                  original.batches([layer.output, *extra]), strict=True):
        spec = sized(layer.spec, inputs)
        positions = draw_positions(len(inputs), spec, per_image, source)
        target = gather_pixels(outputs, positions).astype(np.float32)
        if extra and np.broadcast_shapes(outputs.shape, ours[0].shape) == outputs.shape:
            added, due = (gather_pixels(np.broadcast_to(s, outputs.shape), positions).astype(np.float32)
                          for s in (ours[0], theirs[0]))
            target += due - added
        sums.add(np.concatenate([gather_patches(inputs, spec, positions), target], axis=1))
    return sums.result()


def sized(spec: ConvSpec, images: NDArray[Any]) -> ConvSpec:
    """The spec for the size that the images really have."""
    return replace(spec, in_size=images.shape[2:], batch=len(images))
