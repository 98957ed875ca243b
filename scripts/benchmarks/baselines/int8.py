"""Static int8 quantisation by onnxruntime: QDQ nodes, one scale per output channel, ranges by minimum and maximum.

As the quantisation guide of onnxruntime recommends for CPUs: QDQ format, signed 8-bit weights and activations. Only the
ranges come from data; there is no budget of MACs, their number stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.save import save
from onnxslim1x1.runtime.data import Dataset

from .problem import Problem

_BATCH = 16


class _Reader:
    """Batches in the protocol of onnxruntime's calibration: one at a time, then None."""

    def __init__(self, data: Dataset) -> None:
        self._batches: Iterator[dict[str, NDArray[Any]]] = data.batches(data.fixed_batch or _BATCH)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Feeds of the next batch."""
        return next(self._batches, None)


def quantize(problem: Problem, output: Path) -> None:
    """Write the quantised model."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    logging.getLogger().setLevel(logging.ERROR)  # advice about preprocessing that folding has done already
    with TemporaryDirectory(prefix="compression-") as folder:
        source = Path(folder) / "prepared.onnx"
        save(Model(proto=problem.model.inlined(), path=None, home=None), source)
        quantize_static(source, output, _Reader(problem.data), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                        calibrate_method=CalibrationMethod.MinMax)
