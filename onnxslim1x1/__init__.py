"""Make convolutional ONNX models measurably faster on CPUs with 1x1 reduction bottlenecks.

The functions of `onnxslim1x1.api` are loaded when they are first used, so importing the package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxslim1x1.api import (
        Bisection,
        Budget,
        Check,
        DataOptions,
        Front,
        RewritePlan,
        RunOptions,
        SlimResult,
        Tolerance,
        ValidationSettings,
        analyze,
        apply,
        bisect,
        compare,
        explore,
        load_plan,
        plan,
        save_plan,
        slim,
        validate,
    )

__version__ = "0.1.0"

__all__ = ["Bisection", "Budget", "Check", "DataOptions", "Front", "RewritePlan", "RunOptions", "SlimResult",
           "Tolerance", "ValidationSettings", "__version__", "analyze", "apply", "bisect", "compare", "explore",
           "load_plan", "plan", "save_plan", "slim", "validate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from onnxslim1x1 import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
