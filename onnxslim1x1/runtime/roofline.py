"""The roofline of a machine: the best rate and the best bandwidth that onnxruntime reaches on it.

A layer of intensity I (MACs per byte that it must move) can reach ``min(peak, bandwidth * I)`` (Williams, Waterman and
Patterson 2009). Left of the ridge ``peak / bandwidth`` it is bound by memory, right of it by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Bound = Literal["compute", "memory"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoofPlace:
    """Where a layer is under the roofline.

    Attributes:
        bound: what limits a layer of its intensity.
        limit: MACs per second that are attainable at its intensity.
        fraction: achieved MACs per second over `limit`. It may exceed 1: tensors that stay in a cache move faster than
            memory does.
    """

    bound: Bound
    limit: float
    fraction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Roofline:
    """Measured limits of a machine.

    Attributes:
        peak: MACs per second of the fastest of a few well-shaped layers.
        bandwidth: bytes per second that large elementwise operators read and write, from and to memory.
        provider: execution provider.
        threads: intra-op threads that were asked for; 0 leaves the choice to onnxruntime.
        cases: name and rate of everything that was timed: MACs per second, or bytes per second.
    """

    peak: float
    bandwidth: float
    provider: str
    threads: int
    cases: tuple[tuple[str, float], ...] = ()

    @property
    def ridge(self) -> float:
        """Intensity in MACs per byte from which on arithmetic is the limit."""
        return self.peak / self.bandwidth

    def place(self, *, macs: int | None, moved_bytes: int | None, seconds: float | None) -> RoofPlace | None:
        """Where a layer is that does `macs` on `moved_bytes` in `seconds`; None if one of them is unknown or 0."""
        if not macs or not moved_bytes or not seconds:
            return None
        intensity = macs / moved_bytes
        limit = min(self.peak, self.bandwidth * intensity)
        return RoofPlace(bound="compute" if intensity >= self.ridge else "memory", limit=limit,
                         fraction=macs / seconds / limit)
