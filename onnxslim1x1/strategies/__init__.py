"""Families of factorisations, one file each; `STRATEGIES` lists them all."""

from onnxslim1x1.errors import OptionError
from onnxslim1x1.strategies.base import Decomposition, Strategy
from onnxslim1x1.strategies.expand import Expand
from onnxslim1x1.strategies.reduce import Reduce
from onnxslim1x1.strategies.reduce_spatial import ReduceSpatial
from onnxslim1x1.strategies.spatial import Spatial
from onnxslim1x1.strategies.spatial_expand import SpatialExpand
from onnxslim1x1.strategies.tucker2 import Tucker2

STRATEGIES: tuple[Strategy, ...] = (Reduce(), Expand(), Spatial(), Tucker2(), SpatialExpand(), ReduceSpatial())


def by_name(name: str) -> Strategy:
    """Look a family up.

    Raises:
        OptionError: there is none of that name.
    """
    for strategy in STRATEGIES:
        if strategy.name == name:
            return strategy
    known = ", ".join(s.name for s in STRATEGIES)
    raise OptionError(f"family {name}: unknown; choose from {known}")


__all__ = ["STRATEGIES", "Decomposition", "Strategy", "by_name"]
