"""Accuracy and KL against latency, one column per model, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .methods import METHODS, ORIGINAL
from .ours import ABLATION, OURS
from .store import Row

_ABLATION = {label for label, _ in ABLATION}
_NUMBERS = {method.name: number for number, method in enumerate(METHODS)}
_MARKERS = "osv^D<>pPXh*"
_LEAST_KL = 1e-5  # a logarithmic axis has no place for 0


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw all rows that have a latency.

    The x axis is the latency at one thread: that of the original, measured once, over the interleaved speed-up, so
    that drift of the machine between rows moves no point.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "onnxslim1x1"  # the same figures give the same file
    from matplotlib import pyplot

    shown = [r for r in rows if r.get("latency") and r.get("classification") and r["seed"] is None
             and r["method"] not in _ABLATION]  # as fast as `ours`, all of them
    models = list(dict.fromkeys(r["model"] for r in shown))
    figure, axes = pyplot.subplots(2, max(len(models), 1), figsize=(4.5 * max(len(models), 1), 7), squeeze=False,
                                   layout="constrained", sharex="col")
    for column, model in enumerate(models):
        own = [r for r in shown if r["model"] == model]
        if any(r["method"] == ORIGINAL for r in own):
            _panels(axes[:, column], model, own)
    handles = {label: handle for axis in axes.flat
               for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _panels(axes: Any, model: str, rows: Sequence[Row]) -> None:
    """Top-1 above, KL below."""
    upper, lower = axes
    base = next(r for r in rows if r["method"] == ORIGINAL)["latency"]["1"]["original"]["median_s"] * 1e3
    methods = list(dict.fromkeys(r["method"] for r in rows))
    for method in methods:
        number = _NUMBERS[method]  # the same marker and colour in every panel
        own = sorted((r for r in rows if r["method"] == method), key=lambda r: float(r["latency"]["1"]["speedup"]))
        x = [base / r["latency"]["1"]["speedup"] for r in own]
        style: dict[str, Any] = {"marker": _MARKERS[number % len(_MARKERS)], "label": method, "markersize": 5,
                                 "linewidth": 2.0 if method == OURS else 0.8,
                                 "color": {ORIGINAL: "black", OURS: "crimson"}.get(method, f"C{number % 10}")}
        upper.plot(x, [100 * (r["classification"]["top1_rewritten"] or 0) for r in own], **style)
        if method == ORIGINAL:
            lower.axvline(base, color="black", linewidth=0.8, linestyle=":")
            continue
        lower.plot(x, [max(r["classification"]["kl"] or 0.0, _LEAST_KL) for r in own], **style)
    upper.set(title=model, ylabel="top-1 (%)")
    lower.set(xlabel="milliseconds per image, one thread", ylabel="KL to the original (nats)", yscale="log")
    for axis in axes:
        axis.grid(visible=True, linewidth=0.3)
