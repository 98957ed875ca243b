"""What to ask for (a budget) and what was decided (a plan)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxslim1x1.errors import OptionError
from onnxslim1x1.spec import Cost, Ints

PLAN_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a rewrite may cost in accuracy, or must save in work.

    Attributes:
        max_error: largest relative error of any layer, in (0, 1].
        target_macs: fraction of the model's MACs to keep, in (0, 1).
        ranks: explicit rank per layer name.
        include: shell patterns of layer names that may change; all layers without any.
        exclude: shell patterns of layer names that may not.

    Raises:
        OptionError: a number is out of its range.
    """

    max_error: float | None = None
    target_macs: float | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_error is not None and not 0 < self.max_error <= 1:
            raise OptionError(f"--max-error {self.max_error:g}: must lie in (0, 1]; 0.1 loses 1 % of the energy")
        if self.target_macs is not None and not 0 < self.target_macs < 1:
            raise OptionError(f"--target-macs {self.target_macs:g}: must lie between 0 and 1; 0.67 keeps two thirds")

    @property
    def is_open(self) -> bool:
        """Whether it says nothing about how far to go."""
        return not self.ranks and self.max_error is None and self.target_macs is None

    @property
    def only_explicit(self) -> bool:
        """Whether nothing but the named layers is to be rewritten."""
        return bool(self.ranks) and self.max_error is None and self.target_macs is None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLayer:
    """One layer that is rewritten.

    Attributes:
        layer: name.
        strategy: family.
        ranks: one per seam.
        error: predicted relative error of the layer's output (of its weights if there was no data).
        before: cost of the original.
        after: cost of the chain.
        speedup: measured time of the layer alone, old over new, or None if it was not measured.
        weighted: whether its output directions were weighted by what the network does with them.
    """

    layer: str
    strategy: str
    ranks: Ints
    error: float
    before: Cost
    after: Cost
    speedup: float | None = None
    weighted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedLayer:
    """One layer that is left alone, with a stable code and a reason."""

    layer: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RewritePlan:
    """Layers to rewrite and layers to leave, for one model.

    Attributes:
        schema_version: version of this structure.
        tool: name and version of the maker.
        model_sha256: digest of the model file that it was made for.
        seed: seed of the sampled statistics.
        block: channel block of the machine that it was made on.
        data: what the factors were fitted to.
        layers: to rewrite.
        skipped: to leave alone.
    """

    schema_version: int = PLAN_SCHEMA_VERSION
    tool: str
    model_sha256: str
    seed: int
    block: int
    data: str
    layers: tuple[PlannedLayer, ...]
    skipped: tuple[SkippedLayer, ...]
