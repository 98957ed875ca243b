"""Fitting the factors of a plan anew, layer by layer, to what the rewritten model really feeds them.

Two tracks of the calibration data go through the original and through the rewritten model, from layer to layer in graph
order. At each layer the targets come from the original and the inputs from the rewritten model (asymmetric
reconstruction, Zhang et al. 2016, section 3.3), and a layer in front of an addition also corrects what the shortcut
brings. A ridge holds the weights to the original ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from onnxslim1x1.errors import PlanMismatchError
from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.scopes import reads
from onnxslim1x1.graph.segment import readers_of, shortcut_of
from onnxslim1x1.linalg.refit import regress
from onnxslim1x1.runtime.calibration import Batches
from onnxslim1x1.runtime.pairs import collect_pairs, rows_per_column
from onnxslim1x1.runtime.replay import Replay
from onnxslim1x1.search.plan import PlannedLayer, Refit
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import Factorization
from onnxslim1x1.strategies import by_name
from onnxslim1x1.strategies.base import kernel_of, patch_matrix
from onnxslim1x1.strategies.problem import LEAST_OF_DRAFT

Progress = Callable[[float], None]
Along = Callable[[Model, Layer], float]

_RIDGE = 0.05  # to choose it layer by layer, by images that are left out of the fit, gained nothing on other ones
_LEAST_ROWS = 5.0  # per column: with fewer, other images gain nothing (ResNet-18, 4.2: KL 0.122 with, 0.125 without)
_TOLERATED = 1.1  # by how much a refit may exceed the least loss so far: others behind it often make up for it


class Judge(Protocol):
    """Loss of models on held-out images."""

    def __call__(self, model: Model) -> float:
        """Loss of a model."""
        ...

    def along(self, model: Model, folder: Path) -> Along:
        """The same for models that differ from the last one only from a layer on; layers come in graph order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """How a reconstruction runs.

    Attributes:
        seed: of the sampled positions.
        threads: intra-op threads.
        progress: is told the fraction that is done.
    """

    seed: int = 0
    threads: int = 0
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reconstruction:
    """Factors of the planned layers.

    Attributes:
        layers: as planned, with the refit that was kept.
        factors: by layer name.
        loss: of the model with these factors on the held-out images, or None if there was no judge.
    """

    layers: tuple[PlannedLayer, ...]
    factors: Mapping[str, Factorization]
    loss: float | None = None


def assembled(bench: Workbench, factors: Mapping[str, Factorization]) -> Model:
    """The model with layers replaced by their factors."""
    edit = GraphEdit(bench.model)
    for name, found in factors.items():
        replace_layer(edit, bench.layers[name], found.factors)
    return edit.result()


def symmetric(bench: Workbench, layers: Sequence[PlannedLayer], *, draft: bool = False) -> dict[str, Factorization]:
    """Factors as they come from the statistics of the original model alone.

    Args:
        bench: the layers.
        layers: what was planned.
        draft: whether drafts will do (see `Workbench`).

    Raises:
        RankError: a rank is out of range.
    """
    return {p.layer: bench.factors(p.layer, p.strategy, p.ranks, draft=draft) for p in layers}


def judged(layers: Sequence[PlannedLayer], plain: Mapping[str, Factorization]) -> tuple[PlannedLayer, ...]:
    """Planned layers with the errors of their factors from statistics; what chose them may have been a draft."""
    return tuple(replace(p, error=plain[p.layer].error) for p in layers)


def reconstruct(bench: Workbench, layers: Sequence[PlannedLayer], data: Batches, judge: Judge, *,
                settings: FitSettings | None = None) -> Reconstruction:
    """Factors for planned layers, convolutions fitted anew where that serves held-out images.

    A refit that raises their loss by more than a tenth is not kept; if the loss is not lower than without any refit in
    the end, none is.

    Args:
        bench: the layers with their statistics.
        layers: what was planned, in graph order.
        data: images to fit to.
        judge: loss of a model on held-out images.
        settings: seed, threads and progress.

    Raises:
        RankError: a rank is out of range.
        RuntimeFailure, DataError, OutputError: the models cannot be run on the data, or the disk is full.
    """
    able = [p for p in layers if can_be_fitted(bench.layers[p.layer], len(data))]
    settled = symmetric(bench, [p for p in layers if p not in able])
    drafts = settled | symmetric(bench, able, draft=True)
    before = judge(assembled(bench, drafts))
    walk = _Walk(bench, layers, settings or FitSettings(), judge=judge, drafts=drafts, settled=settled, loss=before)
    walk.run(data)
    factors, refits = walk.factors, walk.refits
    loss = judge(assembled(bench, factors)) if refits else before
    if not loss < before:  # nor if it is no number
        factors, refits, loss = (settled | symmetric(bench, able) if refits else factors), {}, before
    unclear = [p for p in layers if p.layer in refits and drafts[p.layer].error <= LEAST_OF_DRAFT]
    told = {**drafts, **{n: f for n, f in factors.items() if n not in refits}, **symmetric(bench, unclear)}
    return Reconstruction(layers=tuple(replace(p, refit=refits.get(p.layer)) for p in judged(layers, told)),
                          factors=factors, loss=loss)


def can_be_fitted(layer: Layer, images: int) -> bool:
    """Whether so many images hold enough samples of a layer to decide about a refit; only convolutions have any."""
    return layer.op_type == "Conv" and rows_per_column(layer.spec, images) >= _LEAST_ROWS


def carry_out(bench: Workbench, layers: Sequence[PlannedLayer], data: Batches,
              settings: FitSettings | None = None) -> Mapping[str, Factorization]:
    """Factors of a plan, with the refits that it names.

    Raises:
        RankError: a rank is out of range.
        PlanMismatchError: a refit of the plan does not suit its layer.
        RuntimeFailure, DataError, OutputError: the models cannot be run on the data, or the disk is full.
    """
    walk = _Walk(bench, layers, settings or FitSettings())
    walk.run(data)
    return walk.factors


class _Walk:
    """One walk through the layers, which decides about their refits with a judge, or carries out what is planned.

    Attributes:
        pending: convolutions that are still to come. Those that are not fitted are walked through just the same, so
            that every bit repeats when a plan is carried out.
        factors: by name, of the layers behind which the walk is, and of all that are no convolutions.
        refits: what was done, by name.

    Args:
        bench: the layers.
        layers: what was planned.
        settings: seed, threads and progress.
        judge: loss of a model.
        drafts: factors with which the judge sees the layers that are still to come.
        settled: factors from statistics alone that are known already.
        loss: of the model with those.
    """

    def __init__(self, bench: Workbench, layers: Sequence[PlannedLayer], settings: FitSettings, *,
                 judge: Judge | None = None, drafts: Mapping[str, Factorization] | None = None,
                 settled: Mapping[str, Factorization] | None = None, loss: float = math.inf) -> None:
        self._bench, self._settings, self._judge, self._least = bench, settings, judge, loss
        self._planned, self._drafts, self._settled = {p.layer: p for p in layers}, drafts or {}, settled or {}
        self.factors, self.refits = dict[str, Factorization](), dict[str, Refit]()
        self.pending = [layer for name, layer in bench.layers.items()
                        if name in self._planned and layer.op_type == "Conv"]
        if judge is None:
            self._require_convolutions()

    def _require_convolutions(self) -> None:
        for name, planned in self._planned.items():
            if planned.refit is not None and self._bench.layers[name] not in self.pending:
                self._refuse(name, "it is not a convolution; set its refit to null")

    def _is_over(self, images: int) -> bool:
        return not any(self._is_fitted(layer, images) for layer in self.pending)

    def _is_fitted(self, layer: Layer, images: int) -> bool:
        """Whether a layer is to be fitted anew: as planned, or if there are enough samples to decide about."""
        if self._judge is None:
            return self._planned[layer.name].refit is not None
        return can_be_fitted(layer, images)

    def run(self, data: Batches) -> None:
        """Find the factors of all layers."""
        coming = {layer.name for layer in self.pending}
        self._settle(name for name in self._planned if name not in coming)
        if not self._is_over(len(data)):
            self._walk(data)
        self._settle(layer.name for layer in self.pending)

    def _settle(self, names: Iterable[str]) -> None:
        """Take the factors that come from statistics alone."""
        for name in names:
            known = self._settled.get(name)
            self.factors |= symmetric(self._bench, [self._planned[name]]) if known is None else {name: known}

    def _walk(self, data: Batches) -> None:
        total = len(self.pending)
        with TemporaryDirectory(prefix="onnxslim1x1-") as folder:
            tracks = _Tracks(self._bench, data, Path(folder), self._settings.threads)
            along = self._judge.along(self._bench.model, Path(folder) / "judging") if self._judge else None
            if next(name for name in self._bench.layers if name in self._planned) != self.pending[0].name:
                tracks.part()  # what is rewritten in front is not fitted anew, but it does change what follows
            while not self._is_over(len(data)):
                self._visit(self.pending[0], tracks, along)
                self.pending.pop(0)
                self._report(1 - len(self.pending) / total)
        if self.pending:
            self._report(1.0)

    def _report(self, done: float) -> None:
        if self._settings.progress:
            self._settings.progress(done)

    def _visit(self, layer: Layer, tracks: _Tracks, along: Along | None) -> None:
        planned = self._planned[layer.name]
        wanted = planned.refit if along is None else None
        shortcut = tracks.shortcut(layer, [x.output for x in self.pending])
        if wanted and wanted.residual and shortcut is None:
            self._refuse(layer.name, "nothing is added to what it writes, or something that is rewritten later; set "
                                     "residual to false")
        if wanted and not wanted.residual:
            shortcut = None
        tracks.advance(assembled(self._bench, self.factors), layer, shortcut)
        if not self._is_fitted(layer, len(tracks.original)):
            self._settle([layer.name])
            return
        joint = collect_pairs(tracks.original, tracks.rewritten, layer, shortcut=shortcut, seed=self._settings.seed)
        ridge = wanted.ridge if wanted else _RIDGE
        fitted = regress(joint, patch_matrix(self._bench.weight(layer)), ridge=ridge)
        found = by_name(planned.strategy).decompose(layer.spec, kernel_of(fitted.matrix, layer.spec),
                                                    fitted.bias, fitted.inputs.shrunk(), self._bench.weighting(layer))
        self._keep(layer, found.truncate(planned.ranks), Refit(ridge=ridge, residual=shortcut is not None), along)

    def _keep(self, layer: Layer, found: Factorization, refit: Refit, along: Along | None) -> None:
        """Take new factors, unless the judge is against them."""
        fitted = self.factors | {layer.name: found}
        if along is not None:
            loss = along(assembled(self._bench, {**self._drafts, **fitted}), layer)
            if not loss <= _TOLERATED * self._least:  # nor if it is no number
                self._settle([layer.name])
                return
            self._least = min(self._least, loss)
        self.factors, self.refits[layer.name] = fitted, refit

    def _refuse(self, name: str, reason: str) -> None:
        raise PlanMismatchError(f"{self._bench.model.where}: layer {name} cannot be refitted as planned: {reason}")


class _Tracks:
    """The data on its way through the original and the rewritten model."""

    def __init__(self, bench: Workbench, data: Batches, folder: Path, threads: int) -> None:
        self._model = bench.model
        self._readers = readers_of(bench.model.proto.graph.node)
        self._folder = folder
        self.original = Replay(bench.model, data, folder / "original", threads=threads)
        self._rewritten: Replay | None = None

    @property
    def rewritten(self) -> Replay:
        """The track of the rewritten model; up to the first layer both are one."""
        return self.original if self._rewritten is None else self._rewritten

    def part(self) -> Replay:
        """Let the track of the rewritten model go its own way from here on."""
        self._rewritten = self.original.fork(self._folder / "rewritten")
        return self._rewritten

    def shortcut(self, layer: Layer, pending: Sequence[str]) -> str | None:
        """What is added to the output of a layer, if no layer that writes a pending tensor has a part in it."""
        found = shortcut_of(self._model, layer, self._readers)
        return found if found and self._is_ready(found, pending) else None

    def advance(self, rewritten: Model, layer: Layer, shortcut: str | None) -> None:
        """Take both models to a layer."""
        extra = [shortcut] if shortcut else []
        track = self._rewritten
        if track is None:
            self.original.advance(self._model, [layer.input])
            track = self.part()
        self.original.advance(self._model, [layer.output, *extra])
        track.advance(rewritten, [layer.input, *extra])

    def _is_ready(self, shortcut: str, pending: Sequence[str]) -> bool:
        found = {shortcut}
        for node in reversed(self._model.proto.graph.node):
            if found.intersection(node.output):
                found |= reads(node)
        return not found.intersection(pending)
