"""What to ask for (a budget) and what was decided (a plan).

A plan is also the structure of a plan file: every field of these classes is a key of it, with the description that
stands in the docstring (see `onnxslim1x1.search.plan_file`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from onnxslim1x1.errors import OptionError
from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.preprocess import Preprocess, preprocess
from onnxslim1x1.spec import Cost, Ints

PLAN_SCHEMA_VERSION = 1



@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a rewrite may cost in accuracy, or must save in work.

    Attributes:
        max_error: largest relative error of any layer, in (0, 1].
        target_macs: fraction of the model's MACs to keep, in (0, 1).
        target_params: fraction of the parameters of all layers to keep, in (0, 1).
        target_speedup: time per run of the original over that of the result, above 1.
        max_drop: how much of the top-1 accuracy may be lost, in (0, 1); for outputs that are no class scores, the
            squared error relative to the variance of the output over the images.
        ranks: explicit rank per layer name.
        include: shell patterns of layer names that may change; all layers without any.
        exclude: shell patterns of layer names that may not.

    Raises:
        OptionError: a number is out of its range.
    """

    max_error: float | None = None
    target_macs: float | None = None
    target_params: float | None = None
    target_speedup: float | None = None
    max_drop: float | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_error is not None and not 0 < self.max_error <= 1:
            raise OptionError(f"--max-error {self.max_error:g}: must lie in (0, 1]; 0.1 loses 1 % of the energy")
        for option, value in (("--target-macs", self.target_macs), ("--target-params", self.target_params)):
            if value is not None and not 0 < value < 1:
                raise OptionError(f"{option} {value:g}: must lie between 0 and 1; 0.67 keeps two thirds")
        if self.target_speedup is not None and not 1 < self.target_speedup < math.inf:
            raise OptionError(f"--target-speedup {self.target_speedup:g}: must be above 1; 1.5 makes the model half as "
                              "fast again")
        if self.max_drop is not None and not 0 < self.max_drop < 1:
            raise OptionError(f"--max-drop {self.max_drop:g}: must lie between 0 and 1; 0.01 is one point")
        given = [option for option, value in (("--target-macs", self.target_macs),
                                              ("--target-params", self.target_params),
                                              ("--target-speedup", self.target_speedup)) if value is not None]
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)}: one target at a time; drop the others")

    @property
    def has_target(self) -> bool:
        """Whether it says how much is to be saved."""
        return (self.target_macs, self.target_params, self.target_speedup) != (None, None, None)

    @property
    def counts_work(self) -> bool:
        """Whether MACs or parameters are to be saved, rather than time."""
        return (self.target_macs, self.target_params) != (None, None)

    @property
    def needs_times(self) -> bool:
        """Whether candidates are chosen by the time that they save."""
        return self.target_speedup is not None or (self.max_drop is not None and not self.counts_work)

    @property
    def is_open(self) -> bool:
        """Whether it says nothing about how far to go."""
        return not (self.ranks or self.has_target) and self.max_error is None and self.max_drop is None

    @property
    def only_explicit(self) -> bool:
        """Whether nothing but the named layers is to be rewritten."""
        return bool(self.ranks) and self.max_error is None and self.max_drop is None and not self.has_target


@dataclass(frozen=True, kw_only=True, slots=True)
class Refit:
    """How the weights of a layer are fitted to what the rewritten model feeds it, before they are factorised.

    Attributes:
        ridge: how strongly they are held to the original ones, relative to the mean variance of the inputs.
        residual: whether they also correct the error of the shortcut that is added to the layer's output.
    """

    ridge: float
    residual: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLayer:
    """One layer that is rewritten.

    Name, family, ranks, weighting and refit are what `apply` carries out. The rest is what is expected of it, for
    readers: `apply` computes it anew, and forgets the speed-up, which it does not measure.

    Attributes:
        layer: name.
        strategy: family.
        ranks: one per seam.
        error: predicted relative error of the layer's output (of its weights if there was no data), to single precision
            for a layer that is refitted.
        before: cost of the original.
        after: cost of the chain.
        speedup: measured time of the layer alone, old over new, or None if it was not measured.
        weighted: whether its output directions were weighted by what the network does with them.
        refit: how its weights are fitted to what it reads in the rewritten model; null: the factors come from the
            statistics of the original model alone.
    """

    layer: str
    strategy: str
    ranks: Ints
    error: float
    before: Cost
    after: Cost
    speedup: float | None = None
    weighted: bool = False
    refit: Refit | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedLayer:
    """One layer that is left alone.

    Attributes:
        layer: name.
        code: the kind of reason, for machines.
        reason: the reason, for people.
    """

    layer: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What was asked for, and what came of it before the final comparison.

    Attributes:
        max_drop: accuracy that may be lost, or None.
        held_out_drop: upper bound of what is lost on calibration images that nothing was fitted to, or None.
        predicted_loss: sum of the losses that were predicted for the layers, or None without calibration data.
        held_out_loss: measured on held-out images (Kullback-Leibler divergence in nats for class scores, else squared
            relative error), or None without calibration data.
        target_speedup: speed-up that was asked for, or None.
        measured_speedup: of the chosen geometries before they had their weights, or None without a target.
    """

    max_drop: float | None = None
    held_out_drop: float | None = None
    predicted_loss: float | None = None
    held_out_loss: float | None = None
    target_speedup: float | None = None
    measured_speedup: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedModel:
    """The model that a plan is for.

    Attributes:
        path: its file name, or None if it was never a file.
        sha256: digest of the file.
    """

    path: str | None
    sha256: str

    @classmethod
    def of(cls, model: Model) -> PlannedModel:
        """Describe a model."""
        return cls(path=model.path.name if model.path else None, sha256=model.sha256())


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedData:
    """The images that the factors are fitted to.

    Attributes:
        path: where they were, as it was given.
        preprocess: what is done to them.
        limit: how many of them at most, evenly spread, or None.
        images: how many were used.
        sha256: digest of what the model is fed.
    """

    path: str
    preprocess: Preprocess
    limit: int | None
    images: int
    sha256: str

    @classmethod
    def of(cls, options: DataOptions, data: Dataset) -> PlannedData:
        """Describe opened data.

        Raises:
            DataError: a file cannot be read.
        """
        return cls(path=str(options.path), preprocess=options.preprocess or preprocess(), limit=options.limit,
                   images=len(data), sha256=data.digest)

    @property
    def name(self) -> str:
        """File or folder name."""
        return Path(self.path).name

    def options(self, path: Path | None = None) -> DataOptions:
        """How to open them again, here or at another place."""
        return DataOptions(path=path or Path(self.path), preprocess=self.preprocess, limit=self.limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewritePlan:
    """Layers to rewrite and layers to leave, for one model.

    Attributes:
        schema_version: version of this structure.
        tool: name and version of the maker.
        model: what it was made for; another model is refused.
        environment: the machine that it was made on.
        blas_threads: threads of the linear algebra, which the last digits depend on; 0: unknown.
        seed: seed of the sampled statistics.
        input_shapes: shapes of inputs that were given, by name.
        dims: sizes of free dimensions that were given, by name.
        budget: what was asked for; where that was nothing, the default limit.
        data: what the factors are fitted to, or None: to the weights alone.
        before: cost of all layers of the original.
        after: predicted cost of all layers of the result.
        promise: what was asked for, predicted and measured.
        notes: what was assumed, and what else changes, one line each.
        layers: to rewrite.
        skipped: to leave alone.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    schema_version: int = PLAN_SCHEMA_VERSION
    tool: str
    model: PlannedModel
    environment: Environment
    blas_threads: int = 0
    seed: int
    input_shapes: Mapping[str, Ints] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    budget: Budget
    data: PlannedData | None
    before: Cost
    after: Cost
    promise: Promise = field(default_factory=Promise)
    notes: tuple[str, ...] = ()
    layers: tuple[PlannedLayer, ...]
    skipped: tuple[SkippedLayer, ...]

    def run_options(self, given: RunOptions | None = None) -> RunOptions:
        """How to run the model so that the plan means the same: only threads and progress may be given."""
        run = given or RunOptions()
        return replace(run, threads=run.threads or self.environment.threads, seed=self.seed, provider=None,
                       input_shapes=self.input_shapes, dims=self.dims)


def cost_after(before: Cost, layers: Iterable[PlannedLayer]) -> Cost:
    """Cost of all layers once these are rewritten; `before` is that of all layers of the original."""
    planned = tuple(layers)
    return Cost(params=before.params + sum(p.after.params - p.before.params for p in planned),
                macs=before.macs + sum(p.after.macs - p.before.macs for p in planned))
