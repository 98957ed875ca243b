"""Numbers, shapes and geometries as short text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # formatting is known before what is formatted is loaded
    from onnxslim1x1.search.analysis import Proposal
    from onnxslim1x1.search.comparison import Pair
    from onnxslim1x1.spec import ConvSpec, Ineligible

TIME_NOISE = 0.05  # relative difference of times in two runs that is not worth a word
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float | None) -> str:
    """1,814,073,344 as ``1.81G``; None as ``?``."""
    if value is None:
        return "?"
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{_three_digits(value / size)}{prefix}"
    return f"{value:.0f}"


def size_bytes(value: int) -> str:
    """Bytes as ``46.7 MB``."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{_three_digits(value / size)} {prefix}B"
    return f"{value} B"


def _three_digits(value: float) -> str:
    """With three digits and no exponent: 999.5 would become 1e+03."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def ms(seconds: float | None) -> str:
    """Seconds as milliseconds with three digits."""
    if seconds is None:
        return "-"
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 999.5 else f"{value:.3g}" if value >= 0.01 else f"{value:.3f}"


def percent(part: float | None, whole: float | None = 1.0, digits: int = 1) -> str:
    """Part of a whole in per cent."""
    return "-" if part is None or not whole else f"{100 * part / whole:.{digits}f}%"


def fitted(name: str, width: int) -> str:
    """Name within a width; its middle gives way, since prefix and suffix tell layers apart."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[:width - 1 - tail]}…{name[-tail:]}"


def shape(sizes: Sequence[int] | None) -> str:
    """``1x64x56x56``."""
    return "?" if sizes is None else "x".join(map(str, sizes)) or "-"


def decibel(value: float) -> str:
    """Signal-to-noise ratio; infinite for identical outputs."""
    return "identical" if math.isinf(value) and value > 0 else f"{value:.1f} dB"


def verdict(proposal: Proposal | None, declined: Ineligible | None) -> str:
    """A proposed family with its ranks, or the code of the reason against a rewrite."""
    if proposal:
        return f"{proposal.strategy} {shape(proposal.ranks)}"
    return declined.code if declined else "eligible"


def change(pair: Pair, *, noise: float = 0.005) -> str:
    """``1.50x less``, ``1.20x more``, ``the same``, or empty if it is unknown; within `noise`, ``about the same``."""
    ratio = pair.ratio
    if ratio is None:
        return ""
    if ratio == 0:
        return "gone"
    if max(ratio, 1 / ratio) <= 1 + noise:
        return "the same" if ratio == 1 else "about the same"
    return f"{1 / ratio:.2f}x less" if ratio < 1 else f"{ratio:.2f}x more"


def geometry(spec: ConvSpec) -> str:
    """Kernel, stride, dilation and groups: ``3x3/2 d2 g32``."""
    if not spec.kernel:
        return "dense"
    parts = [shape(spec.kernel)]
    if max(spec.stride) > 1:
        uneven = len(set(spec.stride)) > 1
        parts[0] += "/" + ("x".join(map(str, spec.stride)) if uneven else str(spec.stride[0]))
    if max(spec.dilation) > 1:
        uneven = len(set(spec.dilation)) > 1
        parts.append("d" + ("x".join(map(str, spec.dilation)) if uneven else str(spec.dilation[0])))
    if spec.groups > 1:
        parts.append(f"g{spec.groups}")
    return " ".join(parts)
