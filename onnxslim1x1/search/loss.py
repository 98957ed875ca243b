"""How the predicted loss of a single layer maps to the measured loss of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_EXPONENTS = (0.7, 1.6)  # beyond them two noisy points say more about the noise than about the layer
_LEAST = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class LossModel:
    """``measured = scale * predicted ** exponent``."""

    scale: float
    exponent: float

    def predict(self, loss: float) -> float:
        """Measured loss to expect."""
        return float(self.scale * max(loss, 0.0) ** self.exponent)

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]]) -> LossModel:
        """Fit to (predicted, measured) pairs, a straight line between logarithms; one point gives exponent 1."""
        logs = [(math.log(max(p, _LEAST)), math.log(max(m, _LEAST))) for p, m in points]
        (p1, m1), (p2, m2) = logs[0], logs[-1]
        exponent = min(max((m2 - m1) / (p2 - p1), _EXPONENTS[0]), _EXPONENTS[1]) if abs(p2 - p1) > 1e-3 else 1.0
        level = sum(m - exponent * p for p, m in logs) / len(logs)
        return cls(scale=math.exp(level), exponent=exponent)
