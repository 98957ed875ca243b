"""What all families share: a chain of convolutions, each with the kernel axes of its group.

A family says which axes each factor covers; a factor that covers none is 1x1. `reduce` is ((), all), `expand` is
(all, ()), `spatial` is ((first,), others), and so on. The kernel becomes a tensor train (Oseledets 2011), whose seams
are found one after the other from the input on, see `onnxslim1x1.strategies.seams`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from onnxslim1x1.linalg.bounds import least_tail
from onnxslim1x1.linalg.spectra import fractions
from onnxslim1x1.spec import ConvFactor, ConvSpec, Factorization, Ineligible, Ints, Spectrum
from onnxslim1x1.strategies.base import Array, Decomposition, divided_chain, factor, kernel_of, require_ranks
from onnxslim1x1.strategies.problem import LayerProblem, Matrix
from onnxslim1x1.strategies.seams import Seam, solved_seam
from onnxslim1x1.strategies.unfolding import Blocks

if TYPE_CHECKING:
    from onnxslim1x1.linalg.moments import Moments
    from onnxslim1x1.linalg.weighting import OutputWeighting


class Family:
    """A family that divides the kernel axes among its factors; `groups` says how.

    Chains of three are worth trying only with data: on weights alone they were better than the best of two (by 5 to
    25 %) only where both lost half of the layer's energy (ResNet-18).
    """

    name: str
    roles: tuple[str, ...]

    @property
    def needs_data(self) -> bool:
        """Whether the chain has more than one seam."""
        return len(self.roles) > 2

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Why the family cannot serve this geometry, or None."""
        raise NotImplementedError

    def groups(self, spec: ConvSpec) -> tuple[Ints, ...]:
        """Kernel axes of each factor, in the order of execution; every axis belongs to one of them."""
        raise NotImplementedError

    def max_ranks(self, spec: ConvSpec) -> Ints:
        """Per seam the smaller of what leads to it and what it leads to: C and O times the positions on their side."""
        covered = [math.prod(spec.kernel[a] for a in axes) for axes in self.groups(spec)]
        before = list(accumulate(covered, operator.mul))
        return tuple(min(spec.in_channels * n, spec.out_channels * (before[-1] // n)) for n in before[:-1])

    def chain(self, spec: ConvSpec, ranks: Ints) -> tuple[ConvSpec, ...]:
        """Each factor keeps stride, padding and dilation on its own axes; only the last has a bias.

        Raises:
            RankError: a rank is out of range.
        """
        require_ranks(self, spec, ranks)
        return divided_chain(spec, self.groups(spec), ranks)

    def decompose(self, spec: ConvSpec, weight: Array, bias: Array | None = None,
                  statistics: Moments | None = None, weighting: OutputWeighting | None = None, *,
                  draft: bool = False) -> Decomposition:
        """See `onnxslim1x1.strategies.base.Strategy.decompose`."""
        return _Chain(self, shared_work(spec, weight, bias=bias, statistics=statistics, weighting=weighting,
                                        draft=draft))

    def least_error(self, spec: ConvSpec, weight: Array, rank: int, *, enough: float) -> float:
        """Lower bound of the relative error from the weights alone; 0 for chains with more than one seam."""
        if len(self.roles) > 2:
            return 0.0
        blocks = Blocks(spec.kernel, spec.in_channels, axes=self.groups(spec)[0], outputs=spec.out_channels)
        patches: Array = np.moveaxis(np.asarray(weight, dtype=np.float32), 1, -1).reshape(spec.out_channels, -1)
        return math.sqrt(least_tail(blocks.rows(patches).reshape(-1, blocks.size), rank, enough=enough**2))


class Work:
    """What the families have in common on one layer: the problem, and its first seams.

    Attributes:
        weight: kernel as it was given.
        problem: the layer as a least-squares problem.
    """

    def __init__(self, spec: ConvSpec, weight: Array, *, bias: Array | None, statistics: Moments | None,
                 weighting: OutputWeighting | None, draft: bool) -> None:
        self.weight = weight
        self.problem = LayerProblem(spec, weight, bias, statistics=statistics, weighting=weighting, draft=draft)
        self._given = (statistics, weighting)
        self._first: dict[Ints, Seam] = {}

    def first_seam(self, axes: Ints, rank: int, *, more: bool) -> Seam:
        """The seam behind a first factor on some axes, solved at least up to a rank; see `solved_seam` for `more`."""
        known = self._first.get(axes)
        if known is None or known.rank < min(rank, known.capacity):
            known = self._first[axes] = solved_seam(self.problem, axes, rank=rank, more=more)
        return known


_works: WeakValueDictionary[tuple[ConvSpec, int, int, bool], Work] = WeakValueDictionary()


def shared_work(spec: ConvSpec, weight: Array, *, bias: Array | None, statistics: Moments | None,
                weighting: OutputWeighting | None, draft: bool = False) -> Work:
    """The work on a layer that the decomposition of another family still holds, or a new one.

    Statistics and weighting are the same if they are the same objects: a work holds them, so that no other object takes
    their identity as long as it lives.
    """
    key = (spec, id(statistics), id(weighting), draft)
    known = _works.get(key)
    if known is not None and np.array_equal(known.weight, weight) and known.problem.has_bias(bias):
        return known
    work = _works[key] = Work(spec, weight, bias=bias, statistics=statistics, weighting=weighting, draft=draft)
    return work


class _Chain:
    """All ranks of one family on one layer.

    A seam behind the first depends on the ranks in front of it. What it keeps is remembered for each of them; the
    seam itself, which is large, is not.
    """

    def __init__(self, family: Family, work: Work) -> None:
        self._family, self._work, self._problem = family, work, work.problem
        self._groups = family.groups(work.problem.spec)
        self._kept: dict[Ints, _Kept] = {}

    @property
    def spectrum(self) -> Spectrum:
        return Spectrum(fractions=fractions(self._work.first_seam(self._groups[0], 1, more=True).energies))

    def error(self, ranks: Ints) -> float:
        return self._problem.error(self._at(ranks)[0])

    def loss(self, ranks: Ints) -> float:
        return self._problem.loss(self._at(ranks)[1])

    def _at(self, ranks: Ints) -> tuple[float, float]:
        """Energy and weighted energy that the chain keeps."""
        require_ranks(self._family, self._problem.spec, ranks)
        kept = self._kept.get(ranks[:-1])
        if kept is None or len(kept.plain) <= min(ranks[-1], kept.capacity):
            last = self._seams(ranks, more=True)[-1]
            kept = self._kept[ranks[:-1]] = _Kept(last.kept, last.kept_weighted, last.capacity)
        rank = min(ranks[-1], kept.capacity)
        return kept.plain[rank], kept.weighted[rank]

    def _seams(self, ranks: Ints, *, more: bool) -> list[Seam]:
        """The seams from the input on, each behind the ranks in front of it."""
        found = [self._work.first_seam(self._groups[0], ranks[0], more=more)]
        for axes, (before, rank) in zip(self._groups[1:], pairwise(ranks), strict=False):
            rest = found[-1].rest(min(before, found[-1].capacity))
            found.append(solved_seam(rest, axes, rank=rank, more=more))
        return found

    def truncate(self, ranks: Ints) -> Factorization:
        require_ranks(self._family, self._problem.spec, ranks)
        problem, seams = self._problem, self._seams(ranks, more=False)
        used = tuple(min(rank, seam.capacity) for rank, seam in zip(ranks, seams, strict=True))
        kernels = [seam.front(rank) for seam, rank in zip(seams[:-1], used, strict=False)]
        kernels += seams[-1].factors(used[-1])
        behind = kernels[-1]  # (O, P, r)
        for seam, front in zip(reversed(seams), reversed(kernels[:-1]), strict=True):
            behind = seam.composed(front, behind)
        composed = behind.reshape(len(behind), -1)
        rel_error, output_rel_error = problem.errors(composed, seams[-1].kept[used[-1]])
        kernels[-1] = kernels[-1] * problem.scale
        factors = self._factors(ranks, used, kernels=kernels, bias=problem.shifted_bias(composed))
        return Factorization(strategy=self._family.name, ranks=ranks, factors=factors, rel_error=rel_error,
                             output_rel_error=output_rel_error)

    def _factors(self, ranks: Ints, used: Ints, *, kernels: Sequence[Matrix], bias: Array) -> tuple[ConvFactor, ...]:
        """Factors of the ranks that were asked for; channels that the seams before cannot fill are zero."""
        spec, family = self._problem.spec, self._family
        factors = []
        for role, wanted, have, kernel in zip(family.roles, family.chain(spec, ranks),
                                              divided_chain(spec, self._groups, used), kernels, strict=True):
            weight = kernel_of(kernel, have)
            if wanted != have:
                weight = np.pad(weight, [(0, a - b) for a, b in zip(wanted.weight_shape, weight.shape, strict=True)])
            factors.append(factor(role, wanted, weight, bias if wanted.bias else None))
        return tuple(factors)


class _Kept(NamedTuple):
    """What a seam keeps at every rank, and the rank from which on nothing is gained."""

    plain: list[float]
    weighted: list[float]
    capacity: int
