"""What a model costs, without running or factorising anything.

Nothing heavy is imported here: the answer for a large model takes less time than loading what runs models.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxslim1x1.graph.layers import Layer, find_layers
from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.options import RunOptions
from onnxslim1x1.search.analysis import Analysis, layer_profiles


def costs(model: Model, options: RunOptions, *, digest: bool = False) -> Analysis:
    """Cost and eligibility of every convolution and dense layer.

    Args:
        model: the model.
        options: shapes and progress.
        digest: whether to compute the SHA-256 of the file.

    Raises:
        OptionError: a shape does not fit the model.
        ModelError: an input has no shape at all.
    """
    shapes = options.shapes(model)
    layers = find_layers(model, shapes.tensors)
    return Analysis(path=str(model.path) if model.path else None, sha256=model.sha256() if digest else None,
                    opset=model.opset, environment=None, layers=layer_profiles(layers), profile=None,
                    warnings=(*shapes.notes, *uncounted(layers)))


def uncounted(layers: Sequence[Layer]) -> tuple[str, ...]:
    """A line about layers whose shapes are unknown, if there are any."""
    unknown = sum(layer.spec.macs is None for layer in layers)
    return () if not unknown else (
        f"the MACs of {unknown} layers are not counted: their shapes are unknown without a run",)
