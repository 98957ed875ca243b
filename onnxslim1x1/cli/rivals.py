"""Which options take the place of others: what is said later switches off what it contradicts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_TARGETS = ("target_macs", "target_params", "target_speedup")
GATES = ("min_agreement", "min_snr", "min_speedup", "gate")
_PIXELS = ("mean", "std", "scale", "resize", "crop", "layout", "channel_order")
_PROOF = ("data", "labels", *GATES, "junit", "summary", "sarif")

# an option that was given, and those of a lower level that go with it
_RIVALS: Mapping[str, tuple[str, ...]] = {
    **{target: (*(t for t in _TARGETS if t != target), "explore", "plot") for target in _TARGETS},
    "output": ("explore", "plot"),
    "explore": ("output", *_TARGETS, "max_drop", *_PROOF, "no_validate", "keep_failed", "fail_if_unchanged"),
    "no_validate": GATES,
    **dict.fromkeys(("data", *GATES), ("no_validate",)),
    "data": ("labels", "no_validate"),  # labels belong to their images
    "preprocess": _PIXELS,
    "cache": ("no_cache",),
    "no_cache": ("cache",),
    "nodes": ("no_measure", "other"),
    "no_measure": ("nodes",),
    "other": ("nodes",),
}
# what a file says about the files of its model does not hold for another model that is given on the command line
_OF_THE_MODEL: Mapping[str, tuple[str, ...]] = {"model": ("output", "other"), "original": ("rewritten", "baseline")}


def overlaid(upper: Collection[str], lower: Mapping[str, Any], *, typed: bool = False) -> dict[str, Any]:
    """What is left of a lower level under the options of an upper one.

    Args:
        upper: names of the options of the upper level.
        lower: options of the lower level.
        typed: whether the upper level is the command line, rather than a part of the file.
    """
    rivals = {**_RIVALS, **_OF_THE_MODEL} if typed else _RIVALS
    gone = {rival for name in upper for rival in rivals.get(name, ())}.union(upper)
    return {name: value for name, value in lower.items() if name not in gone}
