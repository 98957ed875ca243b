"""From a model to its analysis."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxslim1x1.errors import DataError, OptionError, RuntimeFailure
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.traffic import moved_bytes
from onnxslim1x1.runtime.inputs import is_excusable, layers_with_shapes
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.search.analysis import Analysis, file_bytes, layer_profiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What an analysis includes.

    Attributes:
        measure: False gives costs and eligibility only, without inference or factorisation.
        digest: whether to compute the SHA-256 of the file.
        max_error: largest relative error of a proposal, of the outputs with calibration, else of the weights; None for
            0.1 or 0.3.
        calibration: real inputs, unlabelled, for spectra and proposals.
    """

    measure: bool = True
    digest: bool = False
    max_error: float | None = None
    calibration: DataOptions | None = None


def inspect(model: Model, wanted: Inspection, options: RunOptions) -> Analysis:
    """Analyse a model.

    Raises:
        RuntimeFailure: onnxruntime cannot run it.
        OptionError: shapes or the provider do not fit, or there are images although nothing is to be run.
        ModelError, DataError: weights or images cannot be used.
    """
    if wanted.calibration is not None and not wanted.measure:
        raise OptionError(f"--calibration {wanted.calibration.path}: contradicts --no-measure, which runs nothing; "
                          "drop one of the two")
    shapes = options.shapes(model)
    layers = layers_with_shapes(model, shapes, run=wanted.measure)
    notes = shapes.notes
    if unknown := sum(layer.spec.macs is None for layer in layers):
        notes += (f"the MACs of {unknown} layers are not counted: their shapes are unknown without a run",)
    plain = Analysis(path=str(model.path) if model.path else None, sha256=model.sha256() if wanted.digest else None,
                     opset=model.opset, environment=None, layers=(), profile=None, warnings=notes,
                     file_bytes=file_bytes(model))
    moved = moved_bytes(model, layers)
    costs = replace(plain, layers=tuple(replace(p, bytes=moved.get(p.layer.name)) for p in layer_profiles(layers)))
    if not wanted.measure:
        return costs
    from onnxslim1x1.search.measuring import Subject, measured_analysis, profiled  # what only measuring needs

    subject = Subject(model=model, layers=layers, shapes=shapes, moved=moved)
    try:
        profile = profiled(subject, options)
    except (RuntimeFailure, DataError) as error:  # what was found without running it is still worth knowing
        if not is_excusable(model, error):
            raise
        return replace(costs, warnings=(*costs.warnings, f"nothing was measured: {error}{shapes.advice}"))
    return measured_analysis(costs, subject, profile, options, calibration=wanted.calibration,
                             max_error=wanted.max_error)
