"""What a layer of a rewritten model reads, paired with what it should write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.graph.chain import chain_model
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.linalg.moments import MomentAccumulator, Moments
from onnxslim1x1.runtime.calibration import rows_per_image
from onnxslim1x1.runtime.patches import Positions, draw_positions, gather_patches, gather_pixels
from onnxslim1x1.runtime.replay import Replay
from onnxslim1x1.runtime.session import create_session, patient_options, run
from onnxslim1x1.spec import ConvFactor, ConvSpec

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerPairs:
    """Samples of one layer at common output positions of the original and the rewritten model.

    Attributes:
        joint: moments of the rows (x', t): input patches of the rewritten model and targets, (nC + O).
        targets: t (rows, O): what the layer should write. With a shortcut, sum of the original less the shortcut of the
            rewritten model, so the layer corrects what the shortcut brings.
        shortcuts: of the rewritten model (rows, O), or None.
        positions: output positions of the rows, batch by batch.
    """

    joint: Moments
    targets: Rows
    shortcuts: Rows | None
    positions: tuple[Positions, ...]


def collect_pairs(original: Replay, rewritten: Replay, layer: Layer, *, shortcut: str | None = None,
                  seed: int = 0) -> LayerPairs:
    """Sample a layer at the front of both tracks.

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
    per_image = rows_per_image(layer.spec, len(rewritten))
    sums = MomentAccumulator(layer.spec.patch + layer.spec.out_channels)
    targets, shortcuts, places = [], [], []
    for (inputs, *ours), (outputs, *theirs) in zip(rewritten.batches([layer.input, *extra]),
                                                  original.batches([layer.output, *extra]), strict=True):
        spec = sized(layer.spec, inputs)
        positions = draw_positions(len(inputs), spec, per_image, source)
        target = gather_pixels(outputs, positions).astype(np.float32)
        if extra and np.broadcast_shapes(outputs.shape, ours[0].shape) == outputs.shape:
            added, due = (gather_pixels(np.broadcast_to(s, outputs.shape), positions).astype(np.float32)
                          for s in (ours[0], theirs[0]))
            target += due - added
            shortcuts.append(added)
        sums.add(np.concatenate([gather_patches(inputs, spec, positions), target], axis=1))
        targets.append(target)
        places.append(positions)
    return LayerPairs(joint=sums.result(), targets=np.concatenate(targets), positions=tuple(places),
                      shortcuts=np.concatenate(shortcuts) if shortcuts else None)


def inner_rows(rewritten: Replay, layer: Layer, factors: Sequence[ConvFactor], positions: Sequence[Positions], *,
               threads: int = 0) -> Rows:
    """Input patches of the last factor of a chain, (rows, patch of the last factor), at the rows of `LayerPairs`."""
    *first, last = factors
    session = create_session(chain_model(first).SerializeToString(), options=patient_options(threads=threads),
                             where=layer.name)
    blocks = []
    for (inputs,), places in zip(rewritten.batches([layer.input]), positions, strict=True):
        inner, = run(session, {"x": inputs.astype(np.float32, copy=False)}, where=layer.name)
        blocks.append(gather_patches(inner, sized(last.spec, inner), places))
    return np.concatenate(blocks)


def sized(spec: ConvSpec, images: NDArray[Any]) -> ConvSpec:
    """The spec for the size that the images really have."""
    return replace(spec, in_size=images.shape[2:], batch=len(images))
