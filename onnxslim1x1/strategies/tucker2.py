"""`tucker2`: a 1x1 reduction, the KxK convolution between fewer channels, a 1x1 expansion (Kim et al. 2016).

The channels are reduced as in `reduce`; behind them the expansion has the closed form of `expand`, so the last factor
is the best for the first. Without data that is one truncated HOSVD, taken one mode after the other (Vannieuwenhoven et
al. 2012).
"""

from __future__ import annotations

from onnxslim1x1.spec import ConvSpec, Ineligible, Ints
from onnxslim1x1.strategies.base import spatial_refusal
from onnxslim1x1.strategies.chains import Family


class Tucker2(Family):
    """1x1 C->r1, KxK r1->r2 with the stride, the padding and the dilation of the original, then 1x1 r2->O."""

    name = "tucker2"
    roles = ("reduce", "kernel", "expand")

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Decline what has no spatial kernel, what is grouped, and what has too few channels on either side."""
        refusal = spatial_refusal(spec)
        if refusal is None and min(self.max_ranks(spec)) < 2:
            refusal = Ineligible(code="few_channels", reason=f"{spec.in_channels} input and {spec.out_channels} output "
                                                             "channels cannot both be reduced")
        return refusal

    def groups(self, spec: ConvSpec) -> tuple[Ints, ...]:
        """No axes, then all, then none."""
        return (), tuple(range(len(spec.kernel))), ()
