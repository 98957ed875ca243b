"""`expand`: the convolution to r channels, then a 1x1 expansion (Zhang et al. 2016, section 3.1).

The optimum has a closed form: with U the r leading eigenvectors of ``R W S W^T R`` the chain is ``U^T R W``, then
``R^-1 U`` (reduced-rank regression); the error at every rank is the tail of the eigenvalues.
"""

from __future__ import annotations

from onnxslim1x1.spec import ConvSpec, Ineligible, Ints
from onnxslim1x1.strategies.base import channel_refusal
from onnxslim1x1.strategies.chains import Family


class Expand(Family):
    """KxK C->r with the stride, the padding and the dilation of the original, then 1x1 r->O.

    It also divides what has no spatial kernel: wide 1x1 convolutions and dense layers.
    """

    name = "expand"
    roles = ("kernel", "expand")

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Decline what is grouped, and what has one output channel."""
        refusal = channel_refusal(spec)
        if refusal is None and self.max_ranks(spec)[0] < 2:
            refusal = Ineligible(code="few_channels", reason=f"{spec.out_channels} output channel(s) have no rank")
        return refusal

    def groups(self, spec: ConvSpec) -> tuple[Ints, ...]:
        """All axes, then none."""
        return tuple(range(len(spec.kernel))), ()
