"""`spatial`: a Kx1 convolution to r channels, then 1xK (Jaderberg et al. 2014, scheme 2)."""

from __future__ import annotations

from onnxslim1x1.spec import ConvSpec, Ineligible, Ints
from onnxslim1x1.strategies.base import spatial_refusal
from onnxslim1x1.strategies.folds import TwoFactors


class Spatial(TwoFactors):
    """Kx1 C->r along the first kernel axis longer than 1, then the other axes r->O."""

    name = "spatial"
    roles = ("first", "second")

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Decline what has fewer than two axes to divide, and what is grouped."""
        refusal = spatial_refusal(spec)
        if refusal is None and sum(k > 1 for k in spec.kernel) < 2:
            refusal = Ineligible(code="one_axis", reason="the kernel extends along one axis only")
        return refusal

    def first_axes(self, spec: ConvSpec) -> Ints:
        """The first axis that the kernel extends along."""
        return (next((i for i, k in enumerate(spec.kernel) if k > 1), 0),)
