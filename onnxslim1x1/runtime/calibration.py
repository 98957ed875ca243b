"""Statistics of what the layers of a model see on calibration data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import fed_inputs
from onnxslim1x1.linalg.moments import MomentAccumulator, Moments
from onnxslim1x1.runtime.patches import sample_patches
from onnxslim1x1.runtime.session import create_session, patient_options, run
from onnxslim1x1.spec import ConvSpec

Progress = Callable[[float], None]

ROWS_PER_COLUMN = 6  # patches per dimension of the covariance: enough that its noise is below the ridge
LEAST_ROWS = 20_000
MEMORY_LIMIT = 1_500_000_000  # bytes of float64 sums that are kept at once; more layers take another pass
_ACTIVATION_LIMIT = 200_000_000  # bytes of activations per batch


class Batches(Protocol):
    """What statistics need of a data set: feeds by input name, in batches."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[Mapping[str, NDArray[Any]]]:
        """All images once, `batch_size` at a time."""
        ...


def collect_moments(model: Model, layers: Sequence[Layer], data: Batches, *, seed: int = 0, threads: int = 0,
                    progress: Progress | None = None) -> dict[str, Moments]:
    """Mean and covariance of the input patches of each layer, by layer output.

    Every image gives the same number of sampled positions per layer, about `ROWS_PER_COLUMN` times the patch
    length in all. Layers go through the data in waves, so memory stays within `MEMORY_LIMIT`.

    Raises:
        DataError: the data holds no images.
        RuntimeFailure: onnxruntime cannot run the model on the data.
    """
    moments: dict[str, Moments] = {}
    for wave in moment_waves(model, layers, data, seed=seed, threads=threads, progress=progress):
        moments |= wave
    return moments


def moment_waves(model: Model, layers: Sequence[Layer], data: Batches, *, seed: int = 0, threads: int = 0,
                 progress: Progress | None = None) -> Iterator[dict[str, Moments]]:
    """The moments of `collect_moments`, wave by wave, as soon as they are there.

    What a layer gets depends neither on the other layers nor on the waves.

    Raises:
        DataError, RuntimeFailure: as in `collect_moments`.
    """
    if not len(data):
        raise DataError("calibration data: holds no images; give a folder of images, an .npy or an .npz file")
    waves = _waves(layers)
    for number, wave in enumerate(waves):
        def report(part: float, done: int = number) -> None:
            if progress:
                progress((done + part) / len(waves))

        yield _collect_wave(model, wave, data, seed=seed, threads=threads, progress=report)


def _waves(layers: Sequence[Layer]) -> list[list[Layer]]:
    waves: list[list[Layer]] = []
    used = MEMORY_LIMIT
    for layer in layers:
        size = 8 * layer.spec.patch**2
        if used + size > MEMORY_LIMIT:
            waves.append([])
            used = 0
        waves[-1].append(layer)
        used += size
    return waves


def _collect_wave(model: Model, layers: Sequence[Layer], data: Batches, *, seed: int, threads: int,
                  progress: Progress) -> dict[str, Moments]:
    tensors = list(dict.fromkeys(layer.input for layer in layers))
    fed = {i.name for i in model.proto.graph.input}
    session = create_session(with_outputs(model, [t for t in tensors if t not in fed]),
                             options=patient_options(threads=threads), where=model.where)
    sums = {layer.output: MomentAccumulator(layer.spec.patch) for layer in layers}
    # one source of randomness per layer: what is drawn for it depends neither on the other layers nor on the waves
    sources = {layer.output: np.random.default_rng([seed, crc32(layer.output.encode())]) for layer in layers}
    size = _batch_size(model, layers)
    seen = 0
    for batch in data.batches(size):
        count = len(next(iter(batch.values())))
        feeds = padded(batch, size) if fixed_batch(model) else batch
        outputs = [t for t in tensors if t not in feeds]
        found = run(session, feeds, outputs=outputs, where=model.where) if outputs else []  # [] would mean all of them
        values = dict(feeds) | dict(zip(outputs, found, strict=True))
        for layer in layers:
            images = values[layer.input][:count]
            spec = replace(layer.spec, in_size=images.shape[2:])  # real images may have another size than assumed
            per_image = rows_per_image(spec, len(data), per_column=ROWS_PER_COLUMN, least=LEAST_ROWS)
            rows = sample_patches(images, spec, per_image, sources[layer.output])
            sums[layer.output].add(rows)
        seen += count
        progress(min(seen / len(data), 1.0))
    return {output: accumulator.result() for output, accumulator in sums.items()}


def with_outputs(model: Model, tensors: Sequence[str]) -> bytes:
    """The model, serialized, with inner tensors as further outputs."""
    proto = model.inlined()
    have = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(t) for t in tensors if t not in have)
    return model.serialized(proto)


def rows_per_image(spec: ConvSpec, images: int, *, per_column: int, least: int) -> int:
    """Positions to sample in each of so many images, to get a number of rows per column of the layer's patches."""
    return math.ceil(max(per_column * spec.patch, least) / images)


def _batch_size(model: Model, layers: Sequence[Layer]) -> int:
    """As many images as fit, or the batch that the model insists on."""
    if fixed := fixed_batch(model):
        return fixed
    size = sum(4 * math.prod(layer.in_shape[1:]) for layer in layers if layer.in_shape)
    return max(1, min(32, _ACTIVATION_LIMIT // max(size, 1)))


def fixed_batch(model: Model) -> int:
    """Batch size that the model insists on, or 0."""
    fixed = [i.type.tensor_type.shape.dim[0].dim_value for i in fed_inputs(model.proto.graph)
             if i.type.tensor_type.shape.dim]
    return max(int(fixed[0]), 0) if fixed else 0


def padded(feeds: Mapping[str, NDArray[Any]], size: int) -> dict[str, NDArray[Any]]:
    """Repeat the last image until there are `size`: a model with a fixed batch takes no less."""
    return {name: np.concatenate([v, np.repeat(v[-1:], size - len(v), axis=0)]) if len(v) < size else v
            for name, v in feeds.items()}
