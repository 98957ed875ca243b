"""What is found out about two models once their outputs were compared: layers, shifts, pictures of worst images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.validate import StageProgress, ValidationSettings
from onnxslim1x1.runtime.verdict import ValidationReport


def examine(report: ValidationReport, paths: tuple[Path, Path], *, dataset: Dataset | None,
            settings: ValidationSettings, progress: StageProgress | None = None) -> ValidationReport:
    """Add to a report what its settings ask for; nothing where the two models cannot be fed alike.

    Raises:
        OptionError, DataError, RuntimeFailure, ModelError: as in `compare_layers` and `compare_shifted`.
    """
    wanted = settings.accuracy
    if report.worst and dataset is not None:
        from onnxslim1x1.runtime.pictures import with_pictures

        report = replace(report, worst=with_pictures(report.worst, dataset))
    if wanted.per_layer and report.outputs:
        from onnxslim1x1.runtime.layer_errors import compare_layers

        found = compare_layers(paths, dataset=dataset, settings=settings, progress=progress)
        report = replace(report, layers=found.layers, notes=(*report.notes, found.note))
    if wanted.shift and report.outputs:
        from onnxslim1x1.runtime.shifts import compare_shifted

        report = replace(report, shifts=compare_shifted(paths, dataset=dataset, settings=settings, progress=progress))
    return report
