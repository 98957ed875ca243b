"""Two models side by side: which of their layers belong together, and what they cost."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxslim1x1.search.analysis import Analysis, LayerProfile

Found = Literal["name", "output", "input", "order", "removed", "added"]
Number = float | int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A figure of the model before and of the one after.

    Attributes:
        before: of the first model, or None if it is unknown.
        after: of the second model, or None if it is unknown.
    """

    before: float | int | None
    after: float | int | None

    @property
    def ratio(self) -> float | None:
        """After over before, or None if one is unknown or there was nothing before."""
        return None if self.before is None or self.after is None or not self.before else self.after / self.before


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """Layers that stand for one another: one for one, or a chain that took the place of one.

    Attributes:
        found: what they have in common: the name, the tensor that they write, the one that they read, or their
            geometry and place in the order; or that only the first model (removed) or the second (added) has them.
        before: names in the first model, in graph order.
        after: names in the second model, in graph order.
        macs: multiply-accumulates of one run.
        params: weights and biases.
        time_s: measured seconds of one run.
    """

    found: Found
    before: tuple[str, ...]
    after: tuple[str, ...]
    macs: Pair
    params: Pair
    time_s: Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedTotals:
    """Sums over all layers of both models.

    Attributes:
        layers: how many there are.
        macs: multiply-accumulates of one run.
        params: weights and biases.
        layers_s: measured seconds of all layers.
        latency_s: median seconds of a whole run; first one model runs, then the other.
        file_bytes: sizes of the files and of their external data.
    """

    layers: Pair
    macs: Pair
    params: Pair
    layers_s: Pair
    latency_s: Pair
    file_bytes: Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two analyses and how their layers belong together.

    Attributes:
        before: of the first model.
        after: of the second model.
        matches: in the order of the first model; what only the second one has stands behind what it follows there.
    """

    before: Analysis
    after: Analysis
    matches: tuple[Match, ...]

    @property
    def totals(self) -> ComparedTotals:
        """Sums over all layers."""
        def both(figure: Callable[[Analysis], Number]) -> Pair:
            return Pair(before=figure(self.before), after=figure(self.after))

        return ComparedTotals(
            layers=both(lambda a: len(a.layers)), macs=both(lambda a: a.macs), params=both(lambda a: a.params),
            layers_s=both(lambda a: a.time_s), file_bytes=both(lambda a: a.file_bytes),
            latency_s=both(lambda a: a.profile.end_to_end.median_s if a.profile else None))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of both analyses, each once."""
        return tuple(dict.fromkeys(self.before.warnings + self.after.warnings))


def compare(before: Analysis, after: Analysis) -> Comparison:
    """Put two analyses side by side: layers are matched by name, by tensor and by order.

    Their times are of separate runs; `onnxslim1x1.api.validate` measures two models by turns.
    """
    return Comparison(before=before, after=after, matches=matched(before.layers, after.layers))


def matched(before: Sequence[LayerProfile], after: Sequence[LayerProfile]) -> tuple[Match, ...]:
    """Which layers of two models belong together.

    First those that have a name in common, then those that write or read one tensor: for certain where the geometry
    agrees, too (numbers as names may have moved), else with as many output channels. A layer that is not matched and
    feeds a matched one belongs to it if the chain begins at a tensor that the other model has there; a chain whose end
    is called otherwise (a normalization was folded into it, so it writes what that wrote) is found from its beginning.
    What is left is matched where the order of equal geometries agrees, at last by names and tensors alone.
    """
    pairing = _Pairing(before, after)
    pairing.by_key("name", lambda p: (_name(p), _output(p)), _same_outputs)
    pairing.by_key("name", _name, _same_geometry)
    pairing.by_key("output", _output, _same_geometry)
    pairing.by_key("name", _name, _same_outputs)
    pairing.by_key("output", _output, _same_outputs)
    pairing.by_key("input", lambda p: (p.layer.input, _geometry(p)), _same_geometry)
    pairing.gather_chains()
    pairing.follow_chains()
    pairing.by_order()
    pairing.by_key("name", _name, lambda *_: True)
    pairing.by_key("output", _output, lambda *_: True)
    return pairing.result()


def _name(profile: LayerProfile) -> str:
    return profile.layer.name


def _output(profile: LayerProfile) -> str:
    return profile.layer.output


def _geometry(profile: LayerProfile) -> tuple[object, ...]:
    spec = profile.layer.spec
    return (spec.in_channels, spec.out_channels, spec.kernel, spec.stride, spec.dilation, spec.groups, spec.transposed)


def _same_geometry(one: LayerProfile, other: LayerProfile) -> bool:
    return _geometry(one) == _geometry(other)


def _same_outputs(one: LayerProfile, other: LayerProfile) -> bool:
    return one.layer.spec.out_channels == other.layer.spec.out_channels


@dataclass(slots=True)
class _Group:
    """Positions of layers that belong together."""

    found: Found
    before: list[int]
    after: list[int]


class _Pairing:
    """Groups of layers as they are found; a layer is in one group at most."""

    def __init__(self, before: Sequence[LayerProfile], after: Sequence[LayerProfile]) -> None:
        self._sides = (before, after)
        self._groups: list[_Group] = []
        self._taken: tuple[dict[int, _Group], dict[int, _Group]] = ({}, {})

    def _free(self, side: int) -> list[int]:
        return [i for i in range(len(self._sides[side])) if i not in self._taken[side]]

    def _join(self, found: Found, before: list[int], after: list[int]) -> None:
        group = _Group(found, before, after)
        self._groups.append(group)
        for taken, members in zip(self._taken, (before, after), strict=True):
            taken.update(dict.fromkeys(members, group))

    def by_key(self, found: Found, key: Callable[[LayerProfile], object],
               fits: Callable[[LayerProfile, LayerProfile], bool]) -> None:
        """Join free layers that have a key in common; where several have it, in their order."""
        before, after = self._sides
        places: dict[object, list[int]] = {}
        for j in reversed(self._free(1)):
            places.setdefault(key(after[j]), []).append(j)
        for i in self._free(0):
            left = places.get(key(before[i]))
            if left and fits(before[i], after[left[-1]]):
                self._join(found, [i], [left.pop()])

    def gather_chains(self) -> None:
        """Add the free layers that lead to a matched one, back to the first tensor that both models have there."""
        producers = [{_output(p): i for i, p in enumerate(side)} for side in self._sides]
        for group in self._groups:
            leads = [self._lead(side, members[0], producers[side])
                     for side, members in enumerate((group.before, group.after))]
            common = min(((i, j) for i, one in enumerate(leads[0]) for j, other in enumerate(leads[1])
                          if one[1] == other[1]), key=sum, default=(0, 0))
            for side, members in enumerate((group.before, group.after)):
                chain = [layer for layer, _ in leads[side][common[side]:0:-1]]
                members[:0] = chain
                self._taken[side].update(dict.fromkeys(chain, group))

    def _lead(self, side: int, end: int, producers: dict[str, int]) -> list[tuple[int, str]]:
        """A layer and the free layers that feed it in a row, backwards, each with the tensor that it reads."""
        layers = self._sides[side]
        lead = [(end, layers[end].layer.input)]
        while (found := producers.get(lead[-1][1])) is not None and found not in self._taken[side]:
            lead.append((found, layers[found].layer.input))
        return lead

    def follow_chains(self) -> None:
        """Join a free layer with free ones in a row that read what it reads and end with what it writes."""
        for side in (1, 0):
            readers = self._readers(side)
            others = self._readers(1 - side)
            for single in self._free(1 - side):
                wanted = self._sides[1 - side][single]
                if self._is_inside(1 - side, single, others):
                    continue
                chains = (self._chain(side, start, readers, wanted) for start in readers.get(wanted.layer.input, ()))
                chain = next(filter(None, chains), None)
                if chain:
                    self._join("input", *(([single], chain) if side else (chain, [single])))

    def _readers(self, side: int) -> dict[str, list[int]]:
        """Free layers by the tensor that they read."""
        found: dict[str, list[int]] = {}
        for position in self._free(side):
            found.setdefault(self._sides[side][position].layer.input, []).append(position)
        return found

    def _chain(self, side: int, start: int, readers: dict[str, list[int]], wanted: LayerProfile) -> list[int]:
        """Free layers from `start` on, each fed by the one before, up to one with the output of `wanted`, or none."""
        chain = [start]
        while chain[-1] not in self._taken[side]:
            last = self._sides[side][chain[-1]]
            if not self._is_inside(side, chain[-1], readers) and _same_outputs(last, wanted) and (
                    last.layer.out_shape == wanted.layer.out_shape):
                return chain
            following = readers.get(_output(last))
            if not following:
                break
            chain.append(following[0])
        return []

    def _is_inside(self, side: int, position: int, readers: dict[str, list[int]]) -> bool:
        """Whether a layer is called like a part of the one that it feeds, as `graph.rewrite.replace_layer` does it."""
        layer = self._sides[side][position]
        return any(_name(layer).startswith(f"{_name(self._sides[side][reader])}/")
                   for reader in readers.get(_output(layer), ()))

    def by_order(self) -> None:
        """Join free layers of equal geometry where the order of everything around them agrees."""
        if not (self._free(0) and self._free(1)):
            return
        keys = [[self._key(side, i) for i in range(len(self._sides[side]))] for side in (0, 1)]
        for i, j in _aligned(*keys):
            if i not in self._taken[0] and j not in self._taken[1]:
                self._join("order", [i], [j])

    def _key(self, side: int, position: int) -> tuple[object, ...]:
        group = self._taken[side].get(position)
        if group is not None:
            members = (group.before, group.after)[side]
            return (id(group), len(members) - members.index(position))
        return _geometry(self._sides[side][position])

    def result(self) -> tuple[Match, ...]:
        """All groups, and every layer that is in none."""
        alone = [_Group("removed", [i], []) for i in self._free(0)] + [_Group("added", [], [j]) for j in self._free(1)]
        return tuple(map(self._match, sorted(self._groups + alone, key=self._place)))

    def _place(self, group: _Group) -> tuple[int, int]:
        if group.before:
            return group.before[0], -1
        earlier = (self._taken[1][j].before[-1] for j in range(group.after[0], -1, -1) if j in self._taken[1])
        return next(earlier, -1), group.after[0]

    def _match(self, group: _Group) -> Match:
        before, after = ([side[i] for i in members]
                         for side, members in zip(self._sides, (group.before, group.after), strict=True))

        def both(figure: Callable[[LayerProfile], Number]) -> Pair:
            return Pair(before=_sum(map(figure, before)), after=_sum(map(figure, after)))

        return Match(found=group.found, before=tuple(map(_name, before)), after=tuple(map(_name, after)),
                     macs=both(lambda p: p.macs), params=both(lambda p: p.params), time_s=both(lambda p: p.time_s))


def _sum(values: Iterable[Number]) -> Number:
    """Sum, or None if there is nothing or something is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if found and len(known) == len(found) else None


def _aligned(one: Sequence[object], other: Sequence[object]) -> list[tuple[int, int]]:
    """Positions of equal items in an alignment of two sequences.

    What is alike at the beginning costs one look: for thousands of like items, difflib alone would need the square.
    """
    start = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    matcher = difflib.SequenceMatcher(None, one[start:], other[start:], autojunk=False)
    blocks = ((start + i, start + j, size) for i, j, size in matcher.get_matching_blocks())
    return [(k, k) for k in range(start)] + [(i + k, j + k) for i, j, size in blocks for k in range(size)]
