"""`spatial_expand`: a Kx1 convolution to r1 channels, 1xK to r2, then a 1x1 expansion (Zhang et al. 2016)."""

from __future__ import annotations

from onnxslim1x1.spec import ConvSpec, Ints
from onnxslim1x1.strategies.spatial import Spatial


class SpatialExpand(Spatial):
    """Kx1 C->r1, the other axes r1->r2, then 1x1 r2->O."""

    name = "spatial_expand"
    roles = ("first", "second", "expand")

    def groups(self, spec: ConvSpec) -> tuple[Ints, ...]:
        """As `spatial`, then none."""
        return *super().groups(spec), ()
