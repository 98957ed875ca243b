"""What a model costs, layer by layer, and what could be done about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.search.candidates import Candidate, cheapest_within
from onnxslim1x1.search.planner import LEAST_SPEEDUP, Measure
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import Cost, Ineligible, Ints, LayerSpectra
from onnxslim1x1.strategies import STRATEGIES, by_name

if TYPE_CHECKING:
    import onnx

    from onnxslim1x1.runtime.profile import ModelProfile, NodeTime
    from onnxslim1x1.runtime.roofline import Roofline, RoofPlace
    from onnxslim1x1.search.curves import Redundancy

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """The rewrite of one layer that its spectra suggest.

    Attributes:
        strategy: family.
        ranks: one per seam.
        error: relative error of the outputs where images were given, else of the weights, ``||W - F||_F / ||W||_F``.
        cost: of the chain.
        speedup: measured time of the layer alone, old over new.
        time_s: seconds expected in the model, the layer's measured time divided by the speed-up.
    """

    strategy: str
    ranks: Ints
    error: float
    cost: Cost
    speedup: float
    time_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerProfile:
    """One layer: geometry, cost, measured time, and what could be done.

    Attributes:
        layer: the layer.
        params: number of weights and biases.
        macs: multiply-accumulates of one run, or None if a shape is unknown.
        time_s: measured seconds of one run, what onnxruntime fused into it included, or None.
        declined: why it is left alone, or None.
        proposal: what could be done, or None.
        bytes: that its inputs, weights and outputs have, each tensor once and in its own type, or None if unknown.
        inserted_s: measured seconds of the reorders, casts and transposes that onnxruntime put in for it; not part of
            `time_s`.
        provider: execution provider that ran it, or None if it was not measured or has no kernel of its own.
        roof: its place under the roofline of the machine, or None if it was not measured.
        weight_spectra: how many directions carry its response, from the weights alone; None where they were not asked
            for or are not known.
        activation_spectra: the same on calibration images, or None without any.
    """

    layer: Layer
    params: int
    macs: int | None
    time_s: float | None
    declined: Ineligible | None
    proposal: Proposal | None
    bytes: int | None = None
    inserted_s: float | None = None
    provider: str | None = None
    roof: RoofPlace | None = None
    weight_spectra: LayerSpectra | None = None
    activation_spectra: LayerSpectra | None = None

    @property
    def gmacs_per_s(self) -> float | None:
        """Achieved rate, in 1e9 MACs per second."""
        return self.macs / self.time_s / 1e9 if self.macs and self.time_s else None

    @property
    def intensity(self) -> float | None:
        """Arithmetic intensity, in MACs per byte that must be moved; 1 MAC = 2 FLOPs."""
        return self.macs / self.bytes if self.macs and self.bytes else None


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeProfile:
    """What one node of the main graph costs, layer or not.

    Attributes:
        index: of the node in the graph.
        name: of the node, or of its first output where it has none.
        op: operator.
        output: its first output that is there, or empty.
        seconds: of the kernels that compute it and what was fused into them, per run.
        inserted_s: of the reorders, casts and transposes that onnxruntime put in for it, per run.
        absorbed_into: name of the node whose `seconds` contain this one, or None.
        kernels: operators of the kernels that computed it.
        provider: execution provider of its kernels, or None if it has none.
    """

    index: int
    name: str
    op: str
    output: str
    seconds: float
    inserted_s: float
    absorbed_into: str | None
    kernels: tuple[str, ...]
    provider: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """All layers of a model, with totals.

    Attributes:
        path: file, or None for a model in memory.
        sha256: digest of the file, or None if it was not asked for.
        opset: version of the default operator set.
        environment: the machine, or None if nothing was measured.
        layers: in graph order.
        profile: what onnxruntime spent its time on, or None if nothing was measured.
        warnings: one line each.
        roofline: of the machine, or None if nothing was measured.
        nodes: every node of the main graph in its order; empty if nothing was measured.
        file_bytes: size of the file and of its external data, or None if it is unknown.
    """

    path: str | None
    sha256: str | None
    opset: int
    environment: Environment | None
    layers: tuple[LayerProfile, ...]
    profile: ModelProfile | None
    warnings: tuple[str, ...]
    roofline: Roofline | None = None
    nodes: tuple[NodeProfile, ...] = ()
    file_bytes: int | None = None

    @property
    def params(self) -> int:
        """Parameters of all layers."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """MACs of all layers whose shape is known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def macs_after(self) -> int:
        """MACs if every proposal were taken."""
        return sum((p.proposal.cost.macs if p.proposal else p.macs or 0) for p in self.layers)

    @property
    def time_s(self) -> float | None:
        """Measured kernel seconds of all layers, or None."""
        return None if self.profile is None else sum(layer.time_s or 0.0 for layer in self.layers)

    @property
    def saved_s(self) -> float | None:
        """Seconds that all proposals together would save, or None."""
        if self.profile is None:
            return None
        return sum(p.time_s - p.proposal.time_s for p in self.layers if p.proposal and p.time_s)


def node_profiles(nodes: Sequence[onnx.NodeProto], times: Sequence[NodeTime]) -> tuple[NodeProfile, ...]:
    """Names and times of all nodes of a graph, in its order; one that was absorbed has the provider of the other."""
    names = [node.name or _output(node) for node in nodes]
    found = []
    for node, name, time in zip(nodes, names, times, strict=True):
        into = time.absorbed_into
        providers = time.providers if into is None else times[into].providers
        found.append(NodeProfile(
            index=time.index, name=name, op=node.op_type, output=_output(node), seconds=time.seconds,
            inserted_s=time.inserted_s, absorbed_into=None if into is None else names[into], kernels=time.kernels,
            provider=", ".join(providers) or None))
    return tuple(found)


def _output(node: onnx.NodeProto) -> str:
    """The first output that is not left out, or nothing."""
    return next((name for name in node.output if name), "")


def placed(profile: LayerProfile, node: NodeProfile, *, roofline: Roofline,
           redundancy: Redundancy) -> LayerProfile:
    """A measured profile with what the machine and the weights say about the layer: see `LayerProfile`.

    Args:
        profile: with its cost, time and bytes.
        node: what the node of the layer costs.
        roofline: of the machine.
        redundancy: curves of the layer.
    """
    return replace(
        profile, inserted_s=node.inserted_s, provider=node.provider,
        roof=roofline.place(macs=profile.macs, moved_bytes=profile.bytes, seconds=profile.time_s),
        weight_spectra=redundancy.weights, activation_spectra=redundancy.activations)


def layer_profiles(layers: Sequence[Layer], *, times: Mapping[int, float] | None = None,
                   bench: Workbench | None = None, max_error: float = 1.0, measure: Measure | None = None,
                   progress: Progress | None = None) -> tuple[LayerProfile, ...]:
    """Profile of every layer; with a bench and a measure also a proposal.

    Args:
        layers: in graph order.
        times: measured seconds by node index; a node that is missing was not measured.
        bench: gives the spectra.
        max_error: largest relative error of a proposal.
        measure: speed-up (old/new) of a chain over a layer.
        progress: is told the fraction of layers that are done.
    """
    result = []
    for number, layer in enumerate(layers):
        time_s = None if times is None else times.get(layer.index)
        declined: Ineligible | None = layer.ineligible or _declined(layer)
        proposal = None
        if bench is not None and measure is not None and declined is None:
            found = _propose(bench, layer, max_error=max_error, measure=measure, time_s=time_s or 0.0)
            declined, proposal = (found, None) if isinstance(found, Ineligible) else (None, found)
        result.append(LayerProfile(layer=layer, params=layer.spec.params, macs=layer.spec.macs, time_s=time_s,
                                   declined=declined, proposal=proposal))
        if progress:
            progress((number + 1) / len(layers))
    return tuple(result)


def file_bytes(model: Model) -> int | None:
    """Size of a model file and of its external data; None for a model in memory, or if a data file is missing."""
    if model.path is None:
        return None
    try:
        return sum(file.stat().st_size for file in (model.path, *model.external_files()))
    except OSError:
        return None


def _declined(layer: Layer) -> Ineligible | None:
    """Reason of the first family if every family declines the geometry."""
    refusals = [strategy.check(layer.spec) for strategy in STRATEGIES]
    return refusals[0] if all(r is not None for r in refusals) else None


def _propose(bench: Workbench, layer: Layer, *, max_error: float, measure: Measure,
             time_s: float) -> Proposal | Ineligible:
    families = bench.families(layer)
    if isinstance(families, Ineligible):
        return families
    candidates = bench.candidates(layer)
    best: Candidate | None = cheapest_within(candidates, max_error)
    if best is None:
        least = min(c.error for c in candidates)
        return Ineligible(code="flat_spectrum", reason=f"no rank that saves MACs keeps the error within "
                                                       f"{max_error:g} (least {least:.3f})")
    speedup = measure(layer.spec, by_name(best.strategy).chain(layer.spec, best.ranks))
    ranks = ",".join(map(str, best.ranks))
    if speedup < LEAST_SPEEDUP:
        return Ineligible(code="not_faster", reason=f"{best.strategy} at rank {ranks} runs at "
                                                    f"{speedup:.2f}x of the original layer, measured")
    return Proposal(strategy=best.strategy, ranks=best.ranks, error=best.error, cost=best.cost, speedup=speedup,
                    time_s=time_s / speedup)
