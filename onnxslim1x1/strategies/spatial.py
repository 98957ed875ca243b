"""Families that divide the kernel along its axes (Jaderberg et al. 2014, scheme 2), with and without a 1x1."""

from __future__ import annotations

from onnxslim1x1.spec import ConvSpec, Ineligible, Ints
from onnxslim1x1.strategies.base import spatial_refusal
from onnxslim1x1.strategies.chains import Family


class Spatial(Family):
    """Kx1 C->r along the first kernel axis longer than 1, then the other axes r->O."""

    name = "spatial"
    roles: tuple[str, ...] = ("first", "second")

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Decline what has fewer than two axes to divide, and what is grouped."""
        refusal = spatial_refusal(spec)
        if refusal is None and sum(k > 1 for k in spec.kernel) < 2:
            refusal = Ineligible(code="one_axis", reason="the kernel extends along one axis only")
        return refusal

    def groups(self, spec: ConvSpec) -> tuple[Ints, ...]:
        """The first axis that the kernel extends along, then the others."""
        first = next((axis for axis, size in enumerate(spec.kernel) if size > 1), 0)
        return (first,), tuple(axis for axis in range(len(spec.kernel)) if axis != first)
