"""The layers of one model on the bench: weights read, decomposed once, candidates listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.layers import Layer, constants
from onnxslim1x1.graph.model import Model
from onnxslim1x1.linalg.moments import Moments
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.search.candidates import Candidate, eligible_families, rank_grid
from onnxslim1x1.search.loss import LossModel
from onnxslim1x1.spec import Factorization, Ineligible, Ints, LayerSpectra
from onnxslim1x1.strategies import Decomposition, Strategy, by_name
from onnxslim1x1.strategies.redundancy import layer_spectra

T = TypeVar("T")

_MOST_HELD = 1 << 24  # parameters of the layers whose decompositions are held at once, without data


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One family at given ranks on a layer: relative error, and loss as the decomposition predicts it."""

    strategy: str
    ranks: Ints
    error: float
    loss: float


class Workbench:
    """Decompositions of the layers of a model, each made when it is first asked for.

    Attributes:
        model: where the weights are read from.
        layers: by name, in graph order.
        block: channel block; ranks are multiples of it.
        loss_models: how the predicted loss of a layer maps to the measured one, by name.

    Args:
        drafts: make the tables of layers whose inputs are known in single precision, which takes half the time.
    """

    def __init__(self, model: Model, layers: Sequence[Layer], *, block: int,
                 moments: Mapping[str, Moments] | None = None,
                 weightings: Mapping[str, OutputWeighting] | None = None, drafts: bool = False) -> None:
        self.model = model
        self.layers = {layer.name: layer for layer in layers}
        self.block = block
        self.loss_models: dict[str, LossModel] = {}
        self._moments = moments or {}
        self._weightings = dict(weightings or {})
        self._drafts, self._exact = drafts, set[str]()
        self._constants = constants(model)
        self._decompositions: dict[tuple[str, str, bool], Decomposition] = {}
        self._tables: dict[str, tuple[Row, ...]] = {}

    def families(self, layer: Layer) -> tuple[Strategy, ...] | Ineligible:
        """Families that can serve a layer with a rank worth trying, or why none can."""
        return layer.ineligible or eligible_families(layer.spec, self.block, data=layer.output in self._moments)

    def decomposition(self, layer: Layer, strategy: Strategy, *, draft: bool = False) -> Decomposition:
        """Decomposition of a layer by a family, in single precision if it is a `draft`.

        Raises:
            ModelError: the weights cannot be read, or are not finite.
        """
        key = (layer.name, strategy.name, draft)
        if key not in self._decompositions:
            # each holds its weights in double precision, and with data matrices as large as the statistics
            held = sum(self.layers[name].spec.params for name in {k[0] for k in self._decompositions} | {layer.name})
            if self._moments or held > _MOST_HELD:
                self._decompositions = {k: v for k, v in self._decompositions.items() if k[0] == layer.name}
            self._decompositions[key] = strategy.decompose(
                layer.spec, self.weight(layer), self.bias(layer), self._moments.get(layer.output),
                self.weighting(layer), draft=draft)
        return self._decompositions[key]

    def _roughly(self, layer: Layer, strategy: Strategy, use: Callable[[Decomposition], T]) -> T:
        """What is made of a draft, or of the exact decomposition where drafts are not wanted or cannot be made."""
        if self._drafts and layer.output in self._moments and layer.name not in self._exact:
            try:
                return use(self.decomposition(layer, strategy, draft=True))
            except np.linalg.LinAlgError:
                self._exact.add(layer.name)
        return use(self.decomposition(layer, strategy))

    def least_error(self, layer: Layer, *, enough: float) -> float:
        """Lower bound of the error of all families and ranks worth trying, where it is at least `enough`; else 0.

        Raises:
            ModelError: the weights cannot be read, or are not finite.
        """
        families = self.families(layer)
        if isinstance(families, Ineligible) or layer.output in self._moments or self.is_weighted(layer):
            return 0.0
        weight, least = self.weight(layer), 1.0
        for strategy in families:
            (rank,) = rank_grid(strategy, layer.spec, self.block)[-1]
            least = min(least, strategy.least_error(layer.spec, weight, rank, enough=enough))
            if least < enough:
                return 0.0
        return least

    def weight(self, layer: Layer) -> NDArray[Any]:
        """Kernel of a layer.

        Raises:
            ModelError: the values cannot be read, or are not finite.
        """
        values = self._values(layer.weight, layer)
        return values.T if layer.stored_transposed else values

    def bias(self, layer: Layer) -> NDArray[Any] | None:
        """Bias of a layer, if it has one.

        Raises:
            ModelError: the values cannot be read, or are not finite.
        """
        return None if layer.bias is None else self._values(layer.bias, layer)

    def spectra(self, layer: Layer, *, data: bool) -> LayerSpectra | None:
        """How many directions carry the response of a layer, on calibration images or from its weights alone.

        Returns:
            None for weights that are computed while running or are no floats, and where there are no images.

        Raises:
            ModelError: the values cannot be read, or are not finite.
        """
        moments = self._moments.get(layer.output)
        if layer.weight not in self._constants or (data and moments is None):
            return None
        weight = self.weight(layer)
        if "float" not in weight.dtype.name:
            return None
        return layer_spectra(layer.spec, weight, self._shared_bias(layer), moments if data else None)

    def _shared_bias(self, layer: Layer) -> NDArray[Any] | None:
        """Bias of a layer that can be decomposed."""
        return self.bias(layer) if layer.ineligible is None else None

    def weighting(self, layer: Layer) -> OutputWeighting | None:
        """How the output directions of a layer are weighed, or None for alike."""
        return self._weightings.get(layer.output)

    def forget_weighting(self, layer: Layer) -> OutputWeighting:
        """Treat all output directions of a layer alike from now on; returns the weighting that it had.

        Raises:
            KeyError: it had none.
        """
        self._drop(layer)
        return self._weightings.pop(layer.output)

    def restore_weighting(self, layer: Layer, weighting: OutputWeighting) -> None:
        """Weigh the output directions of a layer from now on."""
        self._drop(layer)
        self._weightings[layer.output] = weighting

    def _drop(self, layer: Layer) -> None:
        self._decompositions = {k: v for k, v in self._decompositions.items() if k[0] != layer.name}
        self._tables.pop(layer.name, None)

    def table(self, layer: Layer) -> tuple[Row, ...]:
        """Errors and predicted losses of all families and ranks worth trying on a layer; none if it is ineligible.

        Raises:
            ModelError: as in `decomposition`.
        """
        if layer.name not in self._tables:
            families = self.families(layer)
            self._tables[layer.name] = () if isinstance(families, Ineligible) else tuple(
                self._row(layer, strategy, ranks)
                for strategy in families for ranks in rank_grid(strategy, layer.spec, self.block))
        return self._tables[layer.name]

    def adopt(self, layer: Layer, table: Sequence[Row], *, weighted: bool) -> None:
        """Take the table of a layer from an earlier run, and its weighting only if that was `weighted`."""
        if self.is_weighted(layer) and not weighted:
            self.forget_weighting(layer)
        self._tables[layer.name] = tuple(table)

    def _row(self, layer: Layer, strategy: Strategy, ranks: Ints) -> Row:
        error, loss = self._roughly(layer, strategy, lambda found: (found.error(ranks), found.loss(ranks)))
        return Row(strategy=strategy.name, ranks=ranks, error=error, loss=loss)

    def is_weighted(self, layer: Layer) -> bool:
        """Whether the output directions of a layer are weighted."""
        return layer.output in self._weightings

    def candidates(self, layer: Layer) -> tuple[Candidate, ...]:
        """All families and ranks worth trying on a layer; none if it is ineligible.

        Raises:
            ModelError: as in `decomposition`.
        """
        return tuple(self._candidate(layer, row) for row in self.table(layer))

    def candidate(self, layer: Layer, strategy: Strategy, ranks: Ints) -> Candidate:
        """One family at given ranks on a layer.

        Raises:
            RankError: a rank is out of range.
            ModelError: as in `decomposition`.
        """
        known = next((r for r in self._tables.get(layer.name, ()) if (r.strategy, r.ranks) == (strategy.name, ranks)),
                     None)
        return self._candidate(layer, known or self._row(layer, strategy, ranks))

    def _candidate(self, layer: Layer, row: Row) -> Candidate:
        model = self.loss_models.get(layer.name)
        return Candidate.make(layer.name, layer.spec, by_name(row.strategy), row.ranks, error=row.error,
                              loss=model.predict(row.loss) if model else row.loss)

    def factors(self, layer: str, strategy: str, ranks: Ints, *, draft: bool = False) -> Factorization:
        """Factors of a layer; with `draft`, to try it with: in single precision where drafts are made.

        Raises:
            RankError: a rank is out of range.
            ModelError: as in `decomposition`.
        """
        found, family = self.layers[layer], by_name(strategy)
        if draft:
            return self._roughly(found, family, lambda decomposition: decomposition.truncate(ranks))
        return self.decomposition(found, family).truncate(ranks)

    def _values(self, name: str, layer: Layer) -> NDArray[Any]:
        values = self.model.array(self._constants[name])
        with np.errstate(invalid="ignore"):  # of old versions of numpy, for NaN
            finite = np.isfinite(values.min(initial=0)) and np.isfinite(values.max(initial=0))  # needs no second array
        if not finite:
            bad = int(values.size - np.isfinite(values).sum())
            raise ModelError(f"{self.model.where}: layer {layer.name} has {bad} NaN or infinite values in {name}; "
                             "export the model again from a sound checkpoint, or leave the layer out with --exclude")
        return values
