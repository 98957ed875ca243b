"""An analysis as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxslim1x1.report.document import document, jsonable
from onnxslim1x1.report.format import count, geometry, ms, percent, shape
from onnxslim1x1.report.style import WIDE, Table, named_table
from onnxslim1x1.search.analysis import Analysis, LayerProfile
from onnxslim1x1.spec import Ineligible

SORT_KEYS = ("graph", "time", "macs", "params", "gain")


def sorted_layers(analysis: Analysis, key: str, top: int | None) -> list[LayerProfile]:
    """Layers by falling `key` (one of `SORT_KEYS`), the first `top` of them."""
    keys = {
        "time": lambda p: p.time_s or 0.0, "macs": lambda p: p.macs or 0, "params": lambda p: p.params,
        "gain": lambda p: (p.time_s or 0.0) - p.proposal.time_s if p.proposal else 0.0,
    }
    layers = list(analysis.layers)
    if key != "graph":
        layers.sort(key=keys[key], reverse=True)
    return layers[:top]


def analysis_report(analysis: Analysis, layers: Sequence[LayerProfile], *, wide: bool) -> list[str | Table]:
    """Table of `layers`, then the totals; `wide` shows every column."""
    return [_wide_table(analysis, layers) if wide else _narrow_table(analysis, layers), "", *_totals(analysis)]


def _narrow_table(analysis: Analysis, layers: Sequence[LayerProfile]) -> Table:
    rows = []
    for p in layers:
        share = percent(p.time_s, analysis.time_s) if analysis.profile else percent(p.macs, analysis.macs)
        rows.append((p.layer.name, geometry(p.layer.spec), count(p.macs), ms(p.time_s), share, _verdict(p),
                     ms(p.proposal.time_s) if p.proposal else ""))
    return named_table(("layer", "kernel", "MACs", "ms", "share", "rewrite", "ms after"), rows, left=(5,))


def _wide_table(analysis: Analysis, layers: Sequence[LayerProfile]) -> Table:
    rows = []
    for p in layers:
        rate, after = p.gmacs_per_s, p.proposal
        rows.append((
            p.layer.name, p.layer.kind, geometry(p.layer.spec), shape(p.layer.in_shape), shape(p.layer.out_shape),
            count(p.params), count(p.macs), percent(p.macs, analysis.macs), ms(p.time_s),
            percent(p.time_s, analysis.time_s), "-" if rate is None else f"{rate:.1f}", _verdict(p),
            f"{after.error:.3f}" if after else "", count(after.cost.macs) if after else "",
            ms(after.time_s) if after else ""))
    return named_table(("layer", "kind", "kernel", "in", "out", "params", "MACs", "share", "ms", "share", "GMAC/s",
                        "rewrite", "error", "MACs after", "ms after"), rows, left=(1, 11), width=WIDE)


def _verdict(profile: LayerProfile) -> str:
    """The proposal, or the code of the reason against it."""
    if profile.proposal:
        return f"{profile.proposal.strategy} {'x'.join(map(str, profile.proposal.ranks))}"
    return profile.declined.code if profile.declined else "eligible"


def _totals(analysis: Analysis) -> list[str]:
    lines = [f"{len(analysis.layers)} layers, {count(analysis.params)} parameters, {count(analysis.macs)} MACs"]
    profile = analysis.profile
    if profile is not None:
        kernels = profile.total_kernel_s
        others = ", ".join(f"{op} {percent(s, kernels)}" for op, s in other_operators(analysis)[:5])
        environment = analysis.environment
        machine = f" on {environment.cpu}, channel block {environment.block}" if environment else ""
        lines += [
            f"{ms(profile.end_to_end.median_s)} ms per run{machine}; the profiled kernels add up to {ms(kernels)} ms",
            f"these layers take {percent(analysis.time_s, kernels)} of the kernel time; reorders "
            f"{percent(profile.reorder_s, kernels)}, casts {percent(profile.cast_s, kernels)}"
            + (f"; other operators: {others}" if others else ""),
            f"{percent(profile.mapped_s, kernels)} of the kernel time is mapped to nodes of the model"]
        lines += _gain(analysis)
    lines += reasons(p.declined for p in analysis.layers)
    return lines


def _gain(analysis: Analysis) -> list[str]:
    proposals = [p for p in analysis.layers if p.proposal]
    if not proposals or analysis.profile is None or not analysis.saved_s:
        return ["nothing worth rewriting was found from the weights alone; slim --calibration IMAGES looks at the "
                "data, too"]
    before = analysis.profile.total_kernel_s
    return [f"proposed: {len(proposals)} layers, {count(analysis.macs)} -> {count(analysis.macs_after)} MACs, "
            f"kernels {ms(before)} -> {ms(before - analysis.saved_s)} ms (predicted), from the weights alone; "
            "slim --calibration IMAGES finds better factors and checks the result"]


def reasons(declined: Any) -> list[str]:
    """One line per code: how often, and an example of the reason."""
    found: dict[str, list[str]] = {}
    for why in declined:
        if isinstance(why, Ineligible):
            found.setdefault(why.code, []).append(why.reason)
    return [f"  {len(texts):3d} x {code}: {texts[0]}" for code, texts in found.items()]


def other_operators(analysis: Analysis) -> list[tuple[str, float]]:
    """Kernel seconds by operator without the operators of the layers, largest first."""
    own = {p.layer.op_type for p in analysis.layers} | {"ReorderInput", "ReorderOutput"}
    by_op = analysis.profile.by_op if analysis.profile else ()
    return sorted(((op, s) for op, s in by_op if op not in own and s > 0), key=lambda x: -x[1])


def analysis_json(analysis: Analysis, layers: Sequence[LayerProfile]) -> dict[str, Any]:
    """The same as data."""
    profile = analysis.profile
    measured = None if profile is None else {
        "end_to_end": profile.end_to_end, "profiled_s": profile.profiled_s, "kernel_s": profile.total_kernel_s,
        "mapped_s": profile.mapped_s, "reorder_s": profile.reorder_s, "cast_s": profile.cast_s,
        "layers_s": analysis.time_s, "by_op": dict(profile.by_op), "unmapped": profile.unmapped}
    return document("analyze", {
        "model": {"path": analysis.path, "sha256": analysis.sha256, "opset": analysis.opset},
        "environment": analysis.environment,
        "totals": {"layers": len(analysis.layers), "params": analysis.params, "macs": analysis.macs,
                   "macs_after": analysis.macs_after, "saved_s": analysis.saved_s, "measured": measured},
        "layers": [layer_json(p) for p in layers],
        "warnings": analysis.warnings,
    })


def layer_json(profile: LayerProfile) -> dict[str, Any]:
    """One layer as data."""
    layer = profile.layer
    found: dict[str, Any] = jsonable({
        "name": layer.name, "index": layer.index, "op_type": layer.op_type, "kind": layer.kind,
        "output": layer.output, "in_shape": layer.in_shape, "out_shape": layer.out_shape, "spec": layer.spec,
        "params": profile.params, "macs": profile.macs, "time_s": profile.time_s,
        "gmacs_per_s": profile.gmacs_per_s, "declined": profile.declined, "proposal": profile.proposal})
    return found
