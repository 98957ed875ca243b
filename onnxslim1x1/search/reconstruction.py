"""Fitting the factors of a plan anew, layer by layer, to what the rewritten model really feeds them.

Two tracks of the calibration data go through the original and through the rewritten model, from layer to layer in graph
order. At each layer the targets come from the original and the inputs from the rewritten model (asymmetric
reconstruction, Zhang et al. 2016, section 3.3); a layer in front of an addition also corrects what the shortcut brings,
and a ReLU behind the layer is taken into account. What does not lower the loss on held-out images is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import PlanMismatchError
from onnxslim1x1.graph.edit import GraphEdit, reads
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.segment import Aftermath, aftermath, readers_of
from onnxslim1x1.linalg.refit import Affine, match_moments, refit_behind_relu, regress
from onnxslim1x1.runtime.calibration import Batches
from onnxslim1x1.runtime.pairs import LayerPairs, collect_pairs, inner_rows
from onnxslim1x1.runtime.replay import Replay
from onnxslim1x1.search.plan import ASYMMETRIC, MATCHED, RECTIFIED, FitStep, PlannedLayer
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import ConvFactor, Factorization
from onnxslim1x1.strategies import by_name
from onnxslim1x1.strategies.base import kernel_of, patch_matrix

Judge = Callable[[Model], float]
Progress = Callable[[float], None]
Fit = tuple[FitStep, ...]

_RIDGE = 0.03  # of the mean variance: a few hundred images fit more than they know; 0.01 costs 3 % more KL on others
_ROWS_PER_INPUT = 5
_LEAST_ROWS = 6000


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """Which steps of the reconstruction may be tried; for ablations.

    Attributes:
        weighting: weigh output directions by the covariance of the gradient.
        asymmetric: fit inputs of the rewritten model to outputs of the original one.
        residual: a layer in front of an addition corrects what the shortcut brings (with `asymmetric`).
        rectified: refit the last factor to what a ReLU behind it lets through (with `asymmetric`).
        matched: give outputs back half of the deviation that a least-squares fit takes (with `asymmetric`).
    """

    weighting: bool = True
    asymmetric: bool = True
    residual: bool = True
    rectified: bool = True
    matched: bool = True


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reconstruction:
    """Factors of the planned layers.

    Attributes:
        layers: as planned, with the fit that was kept.
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


def symmetric(bench: Workbench, layers: Sequence[PlannedLayer]) -> dict[str, Factorization]:
    """Factors as they come from the statistics of the original model alone.

    Raises:
        RankError: a rank is out of range.
    """
    return {p.layer: bench.factors(p.layer, p.strategy, p.ranks) for p in layers}


def reconstruct(bench: Workbench, layers: Sequence[PlannedLayer], data: Batches, judge: Judge | None, *,
                steps: Steps | None = None, settings: FitSettings | None = None) -> Reconstruction:
    """Factors for planned layers, each fit kept only where the loss on held-out images falls.

    Args:
        bench: the layers with their statistics.
        layers: what was planned, in graph order.
        data: images to fit to.
        judge: loss of a model on held-out images; without it every layer gets the fit that its plan names.
        steps: what may be tried.
        settings: seed, threads and progress.

    Raises:
        RankError: a rank is out of range.
        PlanMismatchError: there is no judge, and a fit of the plan does not suit its layer.
        RuntimeFailure, DataError, OutputError: the models cannot be run on the data, or the disk is full.
    """
    return _Pass(bench, layers, judge, steps or Steps(), settings or FitSettings()).run(data)


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


class _Pass:
    """One walk through the layers."""

    def __init__(self, bench: Workbench, layers: Sequence[PlannedLayer], judge: Judge | None, steps: Steps,
                 settings: FitSettings) -> None:
        self._bench, self._judge, self._steps, self._settings = bench, judge, steps, settings
        self._planned = {p.layer: p for p in layers}
        self._factors = symmetric(bench, layers)
        self._fits: dict[str, Fit] = dict.fromkeys(self._factors, ())
        self._loss = judge(assembled(bench, self._factors)) if judge else None

    def run(self, data: Batches) -> Reconstruction:
        planned = [layer for name, layer in self._bench.layers.items() if name in self._planned]
        pending = [layer for layer in planned if layer.op_type == "Conv"]
        if any(self._may_change(layer) for layer in pending):
            with TemporaryDirectory(prefix="onnxslim1x1-") as folder:
                tracks = _Tracks(self._bench, data, Path(folder), self._settings.threads)
                if planned[0] is not pending[0]:
                    tracks.part()  # dense layers in front are not fitted anew, but they do change what follows
                for number, layer in enumerate(pending):
                    model = assembled(self._bench, self._factors)
                    follow = tracks.advance(model, layer, [x.output for x in pending[number:]],
                                            residual=self._steps.residual)
                    if self._may_change(layer):
                        self._choose(layer, follow, tracks)
                    if self._settings.progress:
                        self._settings.progress((number + 1) / len(pending))
        if self._judge is None:
            self._require_planned()
        layers = tuple(replace(p, fit=self._fits[name]) for name, p in self._planned.items())
        return Reconstruction(layers=layers, factors=self._factors, loss=self._loss)

    def _require_planned(self) -> None:
        for name, planned in self._planned.items():
            if self._fits[name] != planned.fit:
                done = ", ".join(self._fits[name]) or "nothing of that"
                raise PlanMismatchError(
                    f"{self._bench.model.where}: layer {name} cannot be fitted as planned ({', '.join(planned.fit)}), "
                    f"only {done}: {RECTIFIED} needs a convolution and, behind it, a ReLU that reads nothing of what "
                    "is rewritten later; edit its fit")

    def _may_change(self, layer: Layer) -> bool:
        """Whether a layer is fitted anew; all others are walked through just the same, so that every bit repeats."""
        if self._judge is None:
            return self._planned[layer.name].fit != ()
        return self._steps.asymmetric

    def _choose(self, layer: Layer, follow: Aftermath, tracks: _Tracks) -> None:
        pairs = collect_pairs(tracks.original, tracks.rewritten, layer, shortcut=follow.shortcut,
                              seed=self._settings.seed)
        name, wanted = layer.name, self._planned[layer.name].fit
        sample = _Sample(layer, pairs, tracks.rewritten, self._settings.threads)
        if self._judge is not None or ASYMMETRIC in wanted:
            option = self._asymmetric(layer, pairs)
            self._consider(name, (ASYMMETRIC,), option)
            visible = follow.rectified and (follow.shortcut is None or pairs.shortcuts is not None)
            if self._steps.rectified and visible and (self._judge is not None or RECTIFIED in wanted):
                self._consider(name, (ASYMMETRIC, RECTIFIED), sample.rectified(option))
        if self._steps.matched and (self._judge is not None or MATCHED in wanted):
            self._consider(name, (*self._fits[name], MATCHED), sample.matched(self._factors[name]))

    def _consider(self, name: str, fit: Fit, option: Factorization) -> None:
        """Keep an option if it lowers the loss, or if the plan asks for it or for what is built on it."""
        if self._judge is None:
            better = self._planned[name].fit[:len(fit)] == fit
        else:
            loss = self._judge(assembled(self._bench, self._factors | {name: option}))
            better = self._loss is None or loss < self._loss
            self._loss = loss if better else self._loss
        if better:
            self._factors[name], self._fits[name] = option, fit

    def _asymmetric(self, layer: Layer, pairs: LayerPairs) -> Factorization:
        planned = self._planned[layer.name]
        fitted = regress(pairs.joint, patch_matrix(self._bench.weight(layer)), ridge=_RIDGE)
        found = by_name(planned.strategy).decompose(layer.spec, kernel_of(fitted.map.matrix, layer.spec),
                                                    fitted.map.bias, fitted.inputs, self._bench.weighting(layer))
        return found.truncate(planned.ranks)


class _Sample:
    """What the last factor of a layer reads and what it should write, at sampled positions."""

    def __init__(self, layer: Layer, pairs: LayerPairs, track: Replay, threads: int) -> None:
        self._layer, self._pairs, self._track, self._threads = layer, pairs, track, threads
        self._known: tuple[tuple[ConvFactor, ...], NDArray[np.float32]] | None = None

    def _rows(self, found: Factorization) -> NDArray[np.float32]:
        first = found.factors[:-1]
        if self._known is None or not _same(self._known[0], first):
            self._known = first, inner_rows(self._track, self._layer, found.factors, self._pairs.positions,
                                            threads=self._threads)
        return self._known[1]

    def rectified(self, found: Factorization) -> Factorization:
        """The last factor refitted to what the ReLU behind the layer lets through."""
        rows, shortcuts = self._rows(found), self._pairs.shortcuts
        step = max(1, len(rows) // max(_ROWS_PER_INPUT * rows.shape[1], _LEAST_ROWS))  # enough for the refit
        better = refit_behind_relu(rows[::step], self._pairs.targets[::step], _last(found), ridge=_RIDGE,
                                   shortcuts=None if shortcuts is None else shortcuts[::step])
        return _with_last(found, better)

    def matched(self, found: Factorization) -> Factorization:
        """The last factor with the mean, and half of the missing deviation, of the targets restored."""
        return _with_last(found, match_moments(self._rows(found), self._pairs.targets, _last(found)))


def _same(one: Sequence[ConvFactor], other: Sequence[ConvFactor]) -> bool:
    return all(a is b for a, b in zip(one, other, strict=True))


def _last(found: Factorization) -> Affine:
    last = found.factors[-1]
    return Affine(matrix=patch_matrix(last.weight), bias=np.asarray(last.bias, np.float64))


def _with_last(found: Factorization, last: Affine) -> Factorization:
    *first, old = found.factors
    new = ConvFactor(role=old.role, spec=old.spec, weight=kernel_of(last.matrix, old.spec), bias=last.bias)
    return replace(found, factors=(*first, new))


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

    def advance(self, rewritten: Model, layer: Layer, pending: Sequence[str], *, residual: bool) -> Aftermath:
        """Take both models to a layer; returns what follows it, the addition only if it can be corrected for."""
        follow = aftermath(self._model, layer, self._readers)
        if follow.shortcut and not (residual and self._is_ready(follow.shortcut, pending)):
            follow = Aftermath()
        extra = [follow.shortcut] if follow.shortcut else []
        track = self._rewritten
        if track is None:
            self.original.advance(self._model, [layer.input])
            track = self.part()
        self.original.advance(self._model, [layer.output, *extra])
        track.advance(rewritten, [layer.input, *extra])
        return follow

    def _is_ready(self, shortcut: str, pending: Sequence[str]) -> bool:
        """Whether no layer that is still to be fitted, or that reads this one, has a part in the shortcut."""
        found = {shortcut}
        for node in reversed(self._model.proto.graph.node):
            if found.intersection(node.output):
                found |= reads(node)
        return not found.intersection(pending)
