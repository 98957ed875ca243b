"""An analysis as tables and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from onnxslim1x1.report.document import document, jsonable
from onnxslim1x1.report.format import count, fitted, geometry, ms, percent, shape, verdict
from onnxslim1x1.report.spectra import LEGEND, sparkline, spectra_json
from onnxslim1x1.report.style import NARROW, WIDE, named_table
from onnxslim1x1.search.analysis import Analysis, LayerProfile
from onnxslim1x1.spec import Ineligible, LayerSpectra

if TYPE_CHECKING:
    from onnxslim1x1.runtime.profile import ModelProfile
    from onnxslim1x1.runtime.roofline import RoofPlace

SORT_KEYS = ("graph", "time", "macs", "params", "gain")

_SPARK = 6  # characters
_KERNELS = 18
_LEAST_NAME = 5
_GAP = 2  # between columns
_MOST_UNMAPPED = 3
_BUSY = 1.25  # median over 10 % quantile: it is below 1.1 on a quiet machine
_NO_SPECTRA = LayerSpectra(inputs=None, outputs=None, positions=None, separable=None)


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


def analysis_report(analysis: Analysis, layers: Sequence[LayerProfile], *, wide: bool,
                    nodes: bool = False) -> list[str | Table]:
    """Table of `layers`, then the totals; `wide` shows every column, `nodes` every node of the graph, too."""
    table = _wide_table(analysis, layers) if wide else _narrow_table(analysis, layers)
    parts: list[str | Table] = [table, ""]
    if nodes:
        parts += [node_table(analysis, wide=wide), ""]
    return [*parts, *_totals(analysis)]


def _narrow_table(analysis: Analysis, layers: Sequence[LayerProfile]) -> Table:
    if analysis.profile is None:
        return named_table(("layer", "kernel", "MACs", "share", "rewrite"), [
            (p.layer.name, geometry(p.layer.spec), count(p.macs), percent(p.macs, analysis.macs), _verdict(p))
            for p in layers], left=(4,))
    rows = [(p.layer.name, geometry(p.layer.spec), count(p.macs), ms(p.time_s), percent(p.time_s, analysis.time_s),
             _roof(p.roof, short=True), sparkline(_shown(p).inputs, _SPARK), _verdict(p),
             ms(p.proposal.time_s) if p.proposal and p.time_s else "") for p in layers]
    return _fitted_table(("layer", "kernel", "MACs", "ms", "share", "roof", "inputs", "rewrite", "after"), rows,
                         left=("inputs", "rewrite"), optional=("share", "MACs"), width=NARROW)


def _wide_table(analysis: Analysis, layers: Sequence[LayerProfile]) -> Table:
    if analysis.profile is None:
        return named_table(("layer", "kind", "kernel", "in", "out", "params", "MACs", "share", "MAC/B", "rewrite"), [
            (p.layer.name, p.layer.kind, geometry(p.layer.spec), shape(p.layer.in_shape), shape(p.layer.out_shape),
             count(p.params), count(p.macs), percent(p.macs, analysis.macs), _decimal(p.intensity), _verdict(p))
            for p in layers], left=(1, 9), width=WIDE)
    rows = []
    for p in layers:
        after, spectra = p.proposal, _shown(p)
        rows.append((
            p.layer.name, geometry(p.layer.spec), shape(p.layer.in_shape), shape(p.layer.out_shape),
            count(p.params), count(p.macs), ms(p.time_s), percent(p.time_s, analysis.time_s),
            _decimal(p.gmacs_per_s), _decimal(p.intensity), _roof(p.roof),
            sparkline(spectra.inputs, _SPARK), sparkline(spectra.outputs, _SPARK),
            _verdict(p), f"{after.error:.3f}" if after else "", ms(after.time_s) if after and p.time_s else ""))
    return _fitted_table(("layer", "kernel", "in", "out", "params", "MACs", "ms", "share", "GMAC/s", "MAC/B", "roof",
                          "inputs", "outputs", "rewrite", "error", "after"), rows,
                         left=("inputs", "outputs", "rewrite"), optional=("params", "MAC/B", "share"), width=WIDE)


def _fitted_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str],
                  optional: Sequence[str], width: int) -> Table:
    """A table within `width`; `optional` columns are left out, the first of them first, until it fits."""
    columns = dict(zip(headers, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(headers, ())
    droppable = list(optional)
    while droppable and _LEAST_NAME + sum(max(map(len, (header, *cells))) + _GAP for header, cells in columns.items()
                                          if header != headers[0]) > width:
        del columns[droppable.pop(0)]
    return named_table(tuple(columns), list(zip(*columns.values(), strict=True)), width=width,
                       left=[number for number, header in enumerate(columns) if header in left])


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _roof(place: RoofPlace | None, *, short: bool = False) -> str:
    """What limits the layer, and how much of that limit it reaches."""
    if place is None:
        return "-"
    return f"{place.bound[0] if short else place.bound} {percent(place.fraction, digits=0)}"


def _shown(profile: LayerProfile) -> LayerSpectra:
    """The curves that tell most."""
    return profile.activation_spectra or profile.weight_spectra or _NO_SPECTRA


def node_table(analysis: Analysis, *, wide: bool) -> Table:
    """What every node of the graph costs, in graph order."""
    kernels = analysis.profile.total_kernel_s if analysis.profile else None
    rows = []
    for node in analysis.nodes:
        lost = not node.kernels and node.absorbed_into is None and node.provider is not None
        where = f"in {node.absorbed_into}" if node.absorbed_into is not None else "+".join(node.kernels) or (
            "not mapped" if lost else "folded")
        provider = (node.provider or "-").replace("ExecutionProvider", "")
        rows.append((node.name, node.op, "-" if lost else ms(node.seconds),
                     ms(node.inserted_s) if node.inserted_s else "",
                     "-" if lost else percent(node.seconds + node.inserted_s, kernels), provider,
                     where if wide else fitted(where, _KERNELS)))
    return named_table(("node", "operator", "ms", "+ reorders", "share", "provider", "kernels"), rows, left=(1, 5, 6),
                       width=WIDE if wide else NARROW)


def _verdict(profile: LayerProfile) -> str:
    """The proposal, or the code of the reason against it."""
    return verdict(profile.proposal, profile.declined)


def _totals(analysis: Analysis) -> list[str]:
    lines = [f"{len(analysis.layers)} layers, {count(analysis.params)} parameters, {count(analysis.macs)} MACs"]
    if analysis.profile is not None:
        lines += [*_times(analysis, analysis.profile), *_roofline(analysis), *_legend(analysis), *_gain(analysis)]
    lines += reasons(p.declined for p in analysis.layers)
    return lines


def _times(analysis: Analysis, profile: ModelProfile) -> list[str]:
    """Where the time goes, and how it adds up."""
    kernels, whole = profile.total_kernel_s, profile.end_to_end.median_s
    others = ", ".join(f"{op} {percent(s, kernels)}" for op, s in other_operators(analysis)[:5])
    environment = analysis.environment
    machine = f" on {environment.cpu}, channel block {environment.block}" if environment else ""
    p10 = profile.end_to_end.p10_s
    busy = f" ({ms(p10)} ms in the fastest tenth of the runs: the machine is busy)" if whole > _BUSY * p10 else ""
    lines = [
        f"{ms(whole)} ms per run{busy}{machine}; the kernels add up to {ms(kernels)} ms, {percent(kernels, whole)} of "
        + (f"it; recording them adds {ms(profile.profiling_s)} ms to a run" if profile.profiling_s > 0 else
           "it; recording them takes no time that can be measured"),
        f"these layers take {percent(analysis.time_s, kernels)} of the kernel time; reorders "
        f"{percent(profile.reorder_s, kernels)}, casts {percent(profile.cast_s, kernels)}"
        + (f"; other operators: {others}" if others else ""),
        f"{percent(profile.mapped_s, kernels)} of the kernel time is mapped to nodes of the model"
        + _unmapped(profile)]
    providers = Counter(provider for node in analysis.nodes if (provider := node.provider))
    if len(providers) > 1:
        lines.append("nodes by provider: " + ", ".join(f"{name} {n}" for name, n in providers.most_common()))
    return lines


def _unmapped(profile: ModelProfile) -> str:
    """The kernels that belong to no node, the most expensive first."""
    most = sorted(profile.unmapped, key=lambda entry: -entry[2])
    named = ", ".join(f"{name} ({op}, {ms(seconds)} ms)" for name, op, seconds in most[:_MOST_UNMAPPED])
    more = f" and {len(most) - _MOST_UNMAPPED} more" if len(most) > _MOST_UNMAPPED else ""
    return f"; not mapped: {named}{more}" if most else ""


def _roofline(analysis: Analysis) -> list[str]:
    roof = analysis.roofline
    if roof is None:
        return []
    memory = [p for p in analysis.layers if p.roof and p.roof.bound == "memory"]
    cached = any(p.roof and p.roof.fraction > 1 for p in memory)
    return [f"roof of this machine: {roof.peak / 1e9:.1f} GMAC/s, {roof.bandwidth / 1e9:.1f} GB/s, which cross at "
            f"{roof.ridge:.1f} MAC per byte; below that a layer is bound by memory (m): {len(memory)} layers, "
            f"{percent(sum(p.time_s or 0.0 for p in memory), analysis.time_s)} of their time; others by compute (c)"
            + ("; above 100% tensors stayed in a cache" if cached else "")]


def _legend(analysis: Analysis) -> list[str]:
    curves = {"images": [p.activation_spectra for p in analysis.layers],
              "weights alone": [p.weight_spectra for p in analysis.layers]}
    source = next((name for name, found in curves.items() if any(found)), None)
    return [] if source is None else [
        f"inputs, outputs: energy of the response that 1/6, 2/6, ... of a layer's channel directions carry, from the "
        f"{source}: {LEGEND}"]


def _gain(analysis: Analysis) -> list[str]:
    proposals = [p for p in analysis.layers if p.proposal]
    seen = any(p.activation_spectra for p in analysis.layers)
    if not proposals or analysis.profile is None or not analysis.saved_s:
        return ["nothing worth rewriting was found with the images" if seen else
                "nothing worth rewriting was found from the weights alone; slim --calibration IMAGES looks at the "
                "data, too"]
    before = analysis.profile.total_kernel_s
    return [f"proposed: {len(proposals)} layers, {count(analysis.macs)} -> {count(analysis.macs_after)} MACs, "
            f"kernels {ms(before)} -> {ms(before - analysis.saved_s)} ms (predicted), "
            + ("by their output error on the images; slim --calibration fits them to each other and checks the result"
               if seen else "from the weights alone; slim --calibration IMAGES finds better factors and checks the "
               "result")]


def reasons(declined: Any) -> list[str]:
    """One line per code: how often, and an example of the reason."""
    found: dict[str, list[str]] = {}
    for why in declined:
        if isinstance(why, Ineligible):
            found.setdefault(why.code, []).append(why.reason)
    return [f"  {len(texts):3d} x {code}: {texts[0]}" for code, texts in found.items()]


def other_operators(analysis: Analysis) -> list[tuple[str, float]]:
    """Kernel seconds of the nodes that are no layers by operator, largest first."""
    own = {p.layer.index for p in analysis.layers}
    seconds: dict[str, float] = {}
    for node in analysis.nodes:
        if node.index not in own and node.seconds > 0:
            seconds[node.op] = seconds.get(node.op, 0.0) + node.seconds
    return sorted(seconds.items(), key=lambda x: -x[1])


def analysis_json(analysis: Analysis, layers: Sequence[LayerProfile]) -> dict[str, Any]:
    """The same as data."""
    profile = analysis.profile
    measured = None if profile is None else {
        "end_to_end": profile.end_to_end, "profiled_s": profile.profiled_s, "kernel_s": profile.total_kernel_s,
        "mapped_s": profile.mapped_s, "reorder_s": profile.reorder_s, "cast_s": profile.cast_s,
        "layers_s": analysis.time_s, "overhead_s": profile.overhead_s, "profiling_s": profile.profiling_s,
        "by_op": dict(profile.by_op), "unmapped": profile.unmapped}
    return document("analyze", {
        "model": {"path": analysis.path, "sha256": analysis.sha256, "opset": analysis.opset,
                  "file_bytes": analysis.file_bytes},
        "environment": analysis.environment,
        "totals": {"layers": len(analysis.layers), "params": analysis.params, "macs": analysis.macs,
                   "macs_after": analysis.macs_after, "saved_s": analysis.saved_s, "measured": measured},
        "roofline": analysis.roofline and jsonable(analysis.roofline) | {"ridge": analysis.roofline.ridge},
        "layers": [layer_json(p) for p in layers],
        "nodes": analysis.nodes,
        "warnings": analysis.warnings,
    })


def layer_json(profile: LayerProfile) -> dict[str, Any]:
    """One layer as data."""
    layer = profile.layer
    found: dict[str, Any] = jsonable({
        "name": layer.name, "index": layer.index, "op_type": layer.op_type, "kind": layer.kind,
        "output": layer.output, "in_shape": layer.in_shape, "out_shape": layer.out_shape, "spec": layer.spec,
        "params": profile.params, "macs": profile.macs, "bytes": profile.bytes, "intensity": profile.intensity,
        "time_s": profile.time_s, "inserted_s": profile.inserted_s, "gmacs_per_s": profile.gmacs_per_s,
        "provider": profile.provider, "roof": profile.roof,
        "spectra": {"weights": spectra_json(profile.weight_spectra),
                    "activations": spectra_json(profile.activation_spectra)},
        "declined": profile.declined, "proposal": profile.proposal})
    return found
