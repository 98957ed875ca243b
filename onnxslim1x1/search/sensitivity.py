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
from onnxslim1x1.search.candidates import Candidate
from onnxslim1x1.search.loss import LossModel
from onnxslim1x1.search.workbench import Row, Workbench

Judge = Callable[[Model, Layer], float]
Progress = Callable[[float], None]

KIND = "sensitivity"

_PROBES = (0.65, 0.35)  # fractions of the layer's MACs to keep in the swaps: a mild and a strong rewrite
_MISJUDGED = 4.0  # measured over predicted loss; between 1 and 4 where the assumption holds


def measure_sensitivities(bench: Workbench, layers: Sequence[Layer], judge: Judge, *, shelf: Shelf | None = None,
                          progress: Progress | None = None) -> None:
    """Fit the loss model of every layer on the bench to two real swaps of that layer alone.

    The output weighting takes errors at different positions for independent, which fails in front of a global pooling:
    the measured loss is then many times the predicted one. Where that is so, the swaps are tried without the weighting,
    too, and the better choice is kept.

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
    probes = _probes(bench.candidates(layer), layer)
    measured = [_swap(bench, layer, probe, judge) for probe in probes]
    if probes and bench.is_weighted(layer) and measured[-1] > _MISJUDGED * probes[-1].loss:
        probes, measured = _without_weighting(bench, layer, judge, (probes, measured))
    return {"weighted": bench.is_weighted(layer), "table": [asdict(row) for row in bench.table(layer)],
            "points": [[probe.loss, value] for probe, value in zip(probes, measured, strict=True)]}


def _without_weighting(bench: Workbench, layer: Layer, judge: Judge,
                       kept: tuple[list[Candidate], list[float]]) -> tuple[list[Candidate], list[float]]:
    """The same swaps without the weighting if the strong one is better then, else `kept`, weighting included."""
    table, weighting = bench.table(layer), bench.forget_weighting(layer)
    probes = _probes(bench.candidates(layer), layer)
    strong = _swap(bench, layer, probes[-1], judge)
    if strong < kept[1][-1]:
        return probes, [*(_swap(bench, layer, probe, judge) for probe in probes[:-1]), strong]
    bench.restore_weighting(layer, weighting)
    bench.adopt(layer, table, weighted=True)
    return kept


def _probes(candidates: Sequence[Candidate], layer: Layer) -> list[Candidate]:
    """For each fraction the candidate of least loss that keeps no more than it, mild ones first, none twice."""
    found: list[Candidate] = []
    for kept in _PROBES:
        limit = kept * layer.spec.cost.macs
        fitting = [c for c in candidates if c.cost.macs <= limit] or list(candidates)
        best = min(fitting, key=lambda c: c.loss, default=None)
        if best is not None and best not in found:
            found.append(best)
    return found


def _swap(bench: Workbench, layer: Layer, candidate: Candidate, judge: Judge) -> float:
    edit = GraphEdit(bench.model)
    replace_layer(edit, layer, bench.factors(candidate.layer, candidate.strategy, candidate.ranks, draft=True).factors)
    return judge(edit.result(), layer)
