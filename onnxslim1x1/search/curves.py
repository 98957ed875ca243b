"""How redundant the layers on a bench are: their curves, and the table of what families reach, from the same work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.runtime.store import Shelf
from onnxslim1x1.search.workbench import Row, Workbench
from onnxslim1x1.spec import EnergyCurve, Ineligible, LayerSpectra

KIND = "redundancy"
CODE = ("linalg", "strategies", "search/curves.py", "search/candidates.py", "search/workbench.py")

_WIDEST = 1024  # directions of a layer that no family serves: more take seconds, and nothing comes of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Redundancy:
    """Curves of one layer: of its weights alone, and of its response on calibration images."""

    weights: LayerSpectra | None
    activations: LayerSpectra | None


def study(bench: Workbench, layers: Sequence[Layer], place: Shelf, *,
          progress: Callable[[float], None] | None = None) -> dict[str, Redundancy]:
    """Curves of every layer by its name; the tables of the bench are filled on the way.

    Layers whose weights are computed while running, are no floats or not finite have none; neither have those that no
    family can serve if they are wider than 1024 channels.

    Args:
        bench: the layers, with the moments of their patches where there are images.
        layers: those to study.
        place: where results of earlier runs are taken from, and new ones put; for the model, the images and the block.
        progress: is told the fraction that is done.

    Raises:
        ModelError: the weights of a layer that could be rewritten cannot be read, or are not finite.
    """
    found = {}
    for number, layer in enumerate(layers):
        kept = place.value(KIND, layer=layer.name)
        if kept is None:
            redundancy = _study(bench, layer)
            place.put_value(KIND, asdict(redundancy) | {"table": [asdict(row) for row in bench.table(layer)]},
                            layer=layer.name)
        else:
            bench.adopt(layer, [Row(**(row | {"ranks": tuple(row["ranks"])})) for row in kept["table"]], weighted=False)
            redundancy = Redundancy(weights=_spectra(kept["weights"]), activations=_spectra(kept["activations"]))
        found[layer.name] = redundancy
        if progress:
            progress((number + 1) / len(layers))
    return found


def _study(bench: Workbench, layer: Layer) -> Redundancy:
    """Curves and table of one layer; what they have in common is worked out once while the decompositions live."""
    families = bench.families(layer)
    if isinstance(families, Ineligible) and not _is_small(layer):
        return Redundancy(weights=None, activations=None)
    held = [] if isinstance(families, Ineligible) else [bench.decomposition(layer, family) for family in families]
    try:
        redundancy = Redundancy(weights=bench.spectra(layer, data=False), activations=bench.spectra(layer, data=True))
    except ModelError:
        if held:
            raise
        redundancy = Redundancy(weights=None, activations=None)
    bench.table(layer)
    return redundancy


def _is_small(layer: Layer) -> bool:
    spec = layer.spec
    inside, outside = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    return max(min(inside, spec.positions * outside), min(outside, spec.positions * inside)) <= _WIDEST


def _spectra(kept: Mapping[str, Any] | None) -> LayerSpectra | None:
    """From what `asdict` made and JSON kept."""
    if kept is None:
        return None
    curves = {field.name: kept[field.name] for field in fields(LayerSpectra)}
    return LayerSpectra(**{name: curve and EnergyCurve(size=curve["size"], kept=tuple(curve["kept"]))
                           for name, curve in curves.items()})
