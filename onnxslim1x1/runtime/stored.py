"""Statistics of a model's layers that are kept between runs: taken where they are there, else collected and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import Shape
from onnxslim1x1.linalg.moments import Moments
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.runtime import calibration
from onnxslim1x1.runtime.gradients import output_weightings
from onnxslim1x1.runtime.options import RunOptions
from onnxslim1x1.runtime.store import NO_STORE, Shelf

MOMENTS, WEIGHTING = "moments", "weighting"

_ROOT = Path(__file__).parents[1]
_PREPARING = ("graph/prepare.py", "graph/fold.py")
MOMENTS_CODE = (*_PREPARING, "linalg/moments.py", "runtime/calibration.py", "runtime/patches.py")
_WEIGHTING_CODE = (*_PREPARING, "graph/backward.py", "runtime/gradients.py", "runtime/parts.py")


class Samples(calibration.Batches, Protocol):
    """Batches that know what they hold."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the model is fed."""
        ...


def model_shelf(model: Model, options: RunOptions) -> Shelf:
    """Where results about a model are kept: weights in external files count, unlike in its `sha256`.

    Raises:
        ModelError: a file of weights cannot be read.
    """
    if options.store.folder is None:
        return NO_STORE.shelf()
    total = hashlib.sha256(model.sha256().encode())
    try:
        for path in model.external_files():
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise ModelError(f"{error.filename}: weights cannot be read ({error.strerror}); put the file beside the "
                         "model") from error
    return options.store.shelf(model=total.hexdigest())


def moments_of(model: Model, layers: Sequence[Layer], data: Samples, *, shelf: Shelf,
               options: RunOptions) -> dict[str, Moments]:
    """Moments of `collect_moments`; those that are on the shelf are taken from there, the others put there.

    They are put there wave by wave, so a run that is cut off goes on after its last wave.

    Args:
        model: the prepared model.
        layers: those that moments are wanted for.
        data: what it is fed.
        shelf: of the model.
        options: give seed, threads and progress.

    Raises:
        DataError, RuntimeFailure: as in `collect_moments`.
    """
    place = _place(shelf, data, options, MOMENTS_CODE).at(rows_per_column=calibration.ROWS_PER_COLUMN,
                                                           least_rows=calibration.LEAST_ROWS)
    found: dict[str, Moments] = {}
    for layer in layers:
        kept = place.arrays(MOMENTS, layer=layer.output)
        if kept is not None:
            found[layer.output] = Moments(mean=kept["mean"], covariance=kept["covariance"], count=int(kept["count"]))
    missing = [layer for layer in layers if layer.output not in found]
    for wave in calibration.moment_waves(model, missing, data, seed=options.seed, threads=options.threads,
                                         progress=options.stage("statistics")):
        for output, moments in wave.items():
            place.put_arrays(MOMENTS, {"mean": moments.mean, "covariance": moments.covariance,
                                       "count": np.array(moments.count)}, layer=output)
        found |= wave
    return {layer.output: found[layer.output] for layer in layers}


def weightings_of(model: Model, layers: Sequence[Layer], data: Samples, *, shapes: Mapping[str, Shape], shelf: Shelf,
                  options: RunOptions) -> dict[str, OutputWeighting]:
    """Weightings of `output_weightings`; those that are on the shelf are taken from there, the others put there.

    Args:
        model: the prepared model.
        layers: those that weightings are wanted for.
        data: what it is fed.
        shapes: of its tensors.
        shelf: of the model.
        options: give seed and progress.

    Raises:
        RuntimeFailure, ModelError: as in `output_weightings`.
    """
    place = _place(shelf, data, options, _WEIGHTING_CODE)
    kept = {layer.output: place.arrays(WEIGHTING, layer=layer.output) for layer in layers}
    missing = [layer for layer in layers if kept[layer.output] is None]
    made = output_weightings(model, missing, data, shapes=shapes, seed=options.seed,
                             progress=options.stage("gradients")) if missing else {}
    for layer in missing:  # nothing is kept for a layer that no gradient reaches, and that is kept, too
        weighting = made.get(layer.output)
        place.put_arrays(WEIGHTING, {"covariance": weighting.covariance} if weighting else {}, layer=layer.output)
    found = made | {output: OutputWeighting(covariance=have["covariance"]) for output, have in kept.items() if have}
    return {layer.output: found[layer.output] for layer in layers if layer.output in found}


def _place(shelf: Shelf, data: Samples, options: RunOptions, code: tuple[str, ...]) -> Shelf:
    """The part of a shelf for statistics on these data by this code."""
    if shelf.store.folder is None:
        return shelf
    return shelf.at(data=data.digest, seed=options.seed, code=code_digest(*code))


@cache
def code_digest(*names: str) -> str:
    """SHA-256 of source files of the package, for keys: what other code of the same version made is not taken then.

    Args:
        names: files, or folders of them, relative to the package; those that an installation lacks do not count.
    """
    files = [path for name in names for path in (sorted((_ROOT / name).rglob("*.py")) or [_ROOT / name])]
    parts = (hashlib.sha256(path.read_bytes()).digest() for path in files if path.is_file())
    return hashlib.sha256(b"".join(parts)).hexdigest()
