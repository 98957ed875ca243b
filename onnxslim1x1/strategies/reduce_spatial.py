"""`reduce_spatial`: a 1x1 reduction to r1 channels, a Kx1 convolution to r2, then 1xK."""

from __future__ import annotations

from onnxslim1x1.spec import ConvSpec, Ints
from onnxslim1x1.strategies.spatial import Spatial


class ReduceSpatial(Spatial):
    """1x1 C->r1, Kx1 r1->r2 along the first kernel axis longer than 1, then the other axes r2->O."""

    name = "reduce_spatial"
    roles = ("reduce", "first", "second")

    def groups(self, spec: ConvSpec) -> tuple[Ints, ...]:
        """None, then as `spatial`."""
        return (), *super().groups(spec)
