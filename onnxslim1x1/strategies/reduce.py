"""`reduce`: a 1x1 reduction to r channels in front of the KxK convolution (GoogLeNet, Szegedy et al. 2014)."""

from __future__ import annotations

from onnxslim1x1.spec import ConvSpec, Ineligible, Ints
from onnxslim1x1.strategies.base import spatial_refusal
from onnxslim1x1.strategies.chains import Family


class Reduce(Family):
    """1x1 C->r, then KxK r->O with the stride, the padding and the dilation of the original."""

    name = "reduce"
    roles = ("reduce", "kernel")

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Decline what has no spatial kernel, what is grouped, and what has too few channels to reduce."""
        refusal = spatial_refusal(spec)
        if refusal is None and self.max_ranks(spec)[0] < 2:
            refusal = Ineligible(code="few_channels", reason=f"{spec.in_channels} input channel(s) cannot be reduced")
        return refusal

    def groups(self, spec: ConvSpec) -> tuple[Ints, ...]:
        """No axes, then all."""
        return (), tuple(range(len(spec.kernel)))
