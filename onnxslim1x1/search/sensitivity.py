"""Single layers swapped for real: what their rewrite costs the network, measured on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.runtime.store import NO_STORE, Shelf
from onnxslim1x1.search.candidates import Candidate, rank_grid
from onnxslim1x1.search.loss import LossModel
from onnxslim1x1.search.workbench import Row, Workbench
from onnxslim1x1.spec import Ineligible
from onnxslim1x1.strategies import Strategy

Judge = Callable[[Model, Layer], float]
Progress = Callable[[float], None]
Point = tuple[float, float]  # predicted and measured loss

KIND = "sensitivity"

_MILD, _STRONG = 0.65, 0.35  # fractions of the layer's MACs to keep in the swaps
_QUICK = "expand"  # family of the strong swap: one small eigenproblem, while the whole table may take seconds
_MISJUDGED = 4.0  # measured over predicted loss; between 1 and 4 where the assumption holds


def measure_sensitivities(bench: Workbench, layers: Sequence[Layer], judge: Judge, *, shelf: Shelf | None = None,
                          progress: Progress | None = None) -> None:
    """Fit the loss model of every layer on the bench to two real swaps of that layer alone.

    The output weighting takes errors at different positions for independent, which fails in front of a global pooling:
    the measured loss is then many times the predicted one. Where that is so, the strong swap is tried without the
    weighting, too, and the better choice is kept.

    Args:
        bench: the layers; its loss models and weightings are updated.
        layers: those to measure, in graph order.
        judge: loss of a model in which a layer was replaced, such as a Kullback-Leibler divergence.
        shelf: where results of earlier runs are taken from, and new ones put.
        progress: is told the fraction that is done.
    """
    place = shelf or NO_STORE.shelf()
    for number, layer in enumerate(layers):
        key = {"layer": layer.output, "weighted": bench.is_weighted(layer)}
        kept = place.value(KIND, **key)
        if kept is None:
            kept = _study(bench, layer, judge)
            place.put_value(KIND, kept, **key)
        else:
            bench.adopt(layer, [Row(**(row | {"ranks": tuple(row["ranks"])})) for row in kept["table"]],
                        weighted=kept["weighted"])
        if kept["points"]:
            bench.loss_models[layer.name] = LossModel.fit([(p, m) for p, m in kept["points"]])
        if progress:
            progress((number + 1) / len(layers))


def _study(bench: Workbench, layer: Layer, judge: Judge) -> dict[str, Any]:
    """Table, weighting and measured losses of one layer, as plain values."""
    families, points = bench.families(layer), list[Point]()
    if not isinstance(families, Ineligible):
        strong = _strong_swap(bench, layer, judge, next((f for f in families if f.name == _QUICK), families[0]))
        points = [_swap(bench, layer, bench.candidates(layer), _MILD, judge), strong]
    return {"weighted": bench.is_weighted(layer), "table": [asdict(row) for row in bench.table(layer)],
            "points": points}


def _strong_swap(bench: Workbench, layer: Layer, judge: Judge, family: Strategy) -> Point:
    """A strong rewrite by a family; the weighting of the layer is forgotten if less is lost without it."""
    def tried() -> Point:
        candidates = [bench.candidate(layer, family, ranks) for ranks in rank_grid(family, layer.spec, bench.block)]
        return _swap(bench, layer, candidates, _STRONG, judge)

    found = tried()
    if bench.is_weighted(layer) and found[1] > _MISJUDGED * found[0]:
        weighting = bench.forget_weighting(layer)
        other = tried()
        if other[1] < found[1]:
            return other
        bench.restore_weighting(layer, weighting)
    return found


def _swap(bench: Workbench, layer: Layer, candidates: Sequence[Candidate], kept: float, judge: Judge) -> Point:
    """The candidate of least loss that keeps no more than a fraction of the MACs (of all, if each keeps more)."""
    limit = kept * layer.spec.cost.macs
    chosen = min([c for c in candidates if c.cost.macs <= limit] or candidates, key=lambda c: c.loss)
    edit = GraphEdit(bench.model)
    replace_layer(edit, layer, bench.factors(layer.name, chosen.strategy, chosen.ranks, draft=True).factors)
    return chosen.loss, judge(edit.result(), layer)
