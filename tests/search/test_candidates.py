"""Which ranks are worth trying: against a plain loop over every rank, on geometries drawn by hypothesis."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim1x1.search.candidates import Candidate, break_even, cheapest_within, eligible_families, rank_grid
from onnxslim1x1.spec import ConvSpec, Cost, Ineligible
from onnxslim1x1.strategies import STRATEGIES, by_name
from onnxslim1x1.strategies.base import chain_cost

DRAWN = settings(derandomize=True, deadline=None, database=None, max_examples=60)
MOST_RANKS = 32  # promised by the docstring of `rank_grid`
MOST_COMBINATIONS = 36


@st.composite
def convolutions(draw):
    """Ungrouped convolutions of 1 to 3 axes with a kernel larger than 1 somewhere, and an output."""
    axes = draw(st.integers(1, 3))

    def ints(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    kernel = ints(1, 5 if axes < 3 else 3)
    if math.prod(kernel) == 1:
        kernel = (3, *kernel[1:])
    dilation = ints(1, 2)
    in_size = tuple(d * (k - 1) + 1 + more for k, d, more in zip(kernel, dilation, ints(0, 9), strict=True))
    return ConvSpec.make(draw(st.integers(2, 70)), draw(st.integers(1, 70)), kernel=kernel, in_size=in_size,
                         stride=ints(1, 3), dilation=dilation, pads=ints(0, 2) + ints(0, 2), bias=draw(st.booleans()),
                         batch=draw(st.integers(1, 3)))


def families(spec):
    found = [s for s in STRATEGIES if s.check(spec) is None and len(s.max_ranks(spec)) == 1]
    assert found
    return found


def saving_ranks(strategy, spec):
    """Every rank whose chain needs fewer MACs, by trying them all."""
    return [rank for rank in range(1, strategy.max_ranks(spec)[0] + 1)
            if chain_cost(strategy.chain(spec, (rank,))).macs < spec.cost.macs]


@DRAWN
@given(convolutions())
def test_break_even_is_the_largest_rank_that_saves_macs(spec):
    for strategy in families(spec):
        assert break_even(strategy, spec) == max(saving_ranks(strategy, spec), default=0)


def test_break_even_where_a_rank_costs_exactly_as_much_as_the_original():
    # C = 12, O = 12, n = 3, stride 1, same size: r (12 + 36) < 432 holds up to 8, at 9 both are equal
    spec = ConvSpec.make(12, 12, kernel=(3, 1), in_size=(9, 7), pads=(1, 0, 1, 0))
    assert chain_cost(STRATEGIES[0].chain(spec, (9,))).macs == spec.cost.macs
    assert break_even(STRATEGIES[0], spec) == 8


def test_break_even_is_zero_where_the_1x1_alone_costs_too_much():
    # Stride 7: the reduction runs at 49 times as many positions as the convolution behind it.
    spec = ConvSpec.make(40, 2, kernel=(3, 2), in_size=(50, 57), stride=(7, 7))
    assert saving_ranks(STRATEGIES[0], spec) == []
    assert break_even(STRATEGIES[0], spec) == 0
    assert rank_grid(STRATEGIES[0], spec, 1) == ()


@DRAWN
@given(convolutions(), st.sampled_from([1, 3, 4, 8, 16]))
def test_the_grid_holds_multiples_of_the_block_that_save_macs(spec, block):
    for strategy in families(spec):
        grid = rank_grid(strategy, spec, block)
        multiples = [(rank,) for rank in saving_ranks(strategy, spec) if rank % block == 0]
        assert set(grid) <= set(multiples)
        assert list(grid) == sorted(set(grid))
        assert len(grid) <= MOST_RANKS
        if len(multiples) <= MOST_RANKS:
            assert list(grid) == multiples
        else:
            assert (grid[0], grid[-1]) == (multiples[0], multiples[-1])


@pytest.mark.parametrize(("channels", "block"), [(2000, 8), (513, 4), (97, 1), (1024, 16), (333, 5)])
def test_a_long_grid_is_thinned_evenly(channels, block):
    spec = ConvSpec.make(channels, channels + 5, kernel=(5, 3), in_size=(14, 11), pads=(2, 1, 2, 1))
    grid = [rank for (rank,) in rank_grid(STRATEGIES[0], spec, block)]
    assert len(grid) == MOST_RANKS
    gaps = [b - a for a, b in itertools.pairwise(grid)]
    assert max(gaps) - min(gaps) <= block
    assert all(rank % block == 0 for rank in grid)


SEVERAL = [strategy for strategy in STRATEGIES if strategy.needs_data]


@DRAWN
@given(convolutions(), st.sampled_from([1, 3, 8, 16]))
def test_several_ranks_are_multiples_of_the_block_that_save_more_than_half(spec, block):
    for strategy in SEVERAL:
        if strategy.check(spec) is not None:
            continue
        grid = rank_grid(strategy, spec, block)
        assert list(grid) == sorted(set(grid))
        assert len(grid) <= MOST_COMBINATIONS
        for ranks in grid:
            assert all(rank % block == 0 and rank <= limit
                       for rank, limit in zip(ranks, strategy.max_ranks(spec), strict=True))
            chain = strategy.chain(spec, ranks)
            assert chain_cost(chain).macs <= 0.45 * spec.cost.macs
            # a factor cannot fill more channels than its patches have values
            assert all(factor.out_channels <= factor.patch for factor in chain[:-1])


def test_several_ranks_run_in_geometric_progression():
    spec = ConvSpec.make(256, 128, kernel=(3, 3), in_size=(14, 14), pads=(1, 1, 1, 1))
    grids = {strategy.name: rank_grid(strategy, spec, 16) for strategy in SEVERAL}
    # 0.55 of the channels (256 in front of the kernel, at most 128 behind it), and down by the root of 2
    wide, narrow = {32, 48, 64, 96, 144}, {16, 32, 48, 64}
    assert {name: tuple({ranks[seam] for ranks in grid} for seam in (0, 1)) for name, grid in grids.items()} == {
        "tucker2": (wide, narrow), "spatial_expand": (wide, narrow), "reduce_spatial": (wide, wide)}
    assert (144, 64) in grids["tucker2"]  # 0.42 of the MACs
    assert (144, 144) not in grids["reduce_spatial"]  # 0.51 of the MACs


def test_a_factor_gets_no_more_channels_than_it_can_fill():
    spec = ConvSpec.make(128, 128, kernel=(2, 3), in_size=(14, 14), pads=(0, 1, 1, 1))
    grid = rank_grid(by_name("reduce_spatial"), spec, 16)
    assert (16, 32) in grid  # 16 channels at 2 positions
    assert (16, 48) not in grid
    assert (32, 48) in grid


@pytest.mark.parametrize("channels", [8, 11, 17, 20, 23])
def test_too_narrow_names_the_block_and_the_break_even_rank(channels):
    spec = ConvSpec.make(channels, 9, kernel=(3, 2), in_size=(13, 8), stride=(2, 1), pads=(1, 0, 1, 1))
    limits = {strategy: max(saving_ranks(strategy, spec)) for strategy in families(spec)}
    limit = max(limits.values())
    refused = eligible_families(spec, limit + 1)
    assert isinstance(refused, Ineligible)
    assert refused.code == "too_narrow"
    assert str(limit + 1) in refused.reason
    assert f"rank {limit})" in refused.reason
    for block in set(limits.values()):
        assert eligible_families(spec, block, data=False) == tuple(s for s in STRATEGIES if limits.get(s, 0) >= block)
        assert eligible_families(spec, block) == tuple(s for s in STRATEGIES if rank_grid(s, spec, block))


def test_without_data_some_families_are_not_worth_trying():
    spec = ConvSpec.make(64, 48, kernel=(3, 5), in_size=(9, 7))
    assert [s.name for s in eligible_families(spec, 4, data=False)] == ["reduce", "expand", "spatial"]
    assert eligible_families(spec, 4) == STRATEGIES


@pytest.mark.parametrize(("code", "spec"), [
    ("pointwise", ConvSpec.make(64, 1, kernel=(1, 1), in_size=(9, 7))),
    ("dense", ConvSpec.make(64, 1, kernel=(), in_size=())),
    ("depthwise", ConvSpec.make(64, 64, kernel=(3, 5), in_size=(9, 7), groups=64)),
    ("grouped", ConvSpec.make(64, 48, kernel=(3, 5), in_size=(9, 7), groups=4)),
    ("transposed", ConvSpec.make(64, 48, kernel=(3, 5), in_size=(9, 7), transposed=True)),
    ("few_channels", ConvSpec.make(1, 1, kernel=(5, 1), in_size=(9, 7))),
])
def test_a_geometry_that_no_family_serves_keeps_its_own_reason(code, spec):
    refused = eligible_families(spec, 1)
    assert isinstance(refused, Ineligible)
    assert refused.code == code


@pytest.mark.parametrize(("spec", "limit"), [
    (ConvSpec.make(64, 48, kernel=(1, 1), in_size=(9, 7)), 27),  # r (64 + 48) < 64 * 48
    (ConvSpec.make(64, 48, kernel=(), in_size=()), 27),
    # stride 2: both factors run on the output
    (ConvSpec.make(64, 48, kernel=(1, 1), in_size=(9, 7), stride=(2, 2)), 27)])
def test_layers_that_mix_channels_only_are_expanded(spec, limit):
    assert [s.name for s in eligible_families(spec, 8)] == ["expand"]
    assert break_even(by_name("expand"), spec) == limit
    assert rank_grid(by_name("expand"), spec, 8) == ((8,), (16,), (24,))


def test_what_one_family_declines_another_may_serve():
    one_channel = ConvSpec.make(1, 48, kernel=(3, 5), in_size=(9, 7))
    assert [s.name for s in eligible_families(one_channel, 1, data=False)] == [
        s.name for s in STRATEGIES if not s.needs_data and s.check(one_channel) is None
        and saving_ranks(s, one_channel)] != []


@DRAWN
@given(convolutions(), st.data())
def test_a_candidate_counts_what_it_saves(spec, data):
    for strategy in families(spec):
        rank = data.draw(st.integers(1, strategy.max_ranks(spec)[0]))
        found = Candidate.make("conv", spec, strategy, (rank,), error=0.25)
        factors = strategy.chain(spec, (rank,))
        params = sum(math.prod(f.weight_shape) + (f.out_channels if f.bias else 0) for f in factors)
        macs = sum(f.batch * math.prod(f.weight_shape) * math.prod(f.out_size) for f in factors)
        assert found.cost == Cost(params=params, macs=macs)
        assert found.saved_macs == spec.macs - macs
        assert (found.layer, found.strategy, found.ranks, found.error) == ("conv", strategy.name, (rank,), 0.25)
        assert found.loss == 0.0625  # the squared error where nothing better is known
        assert Candidate.make("conv", spec, strategy, (rank,), error=0.25, loss=0.75).loss == 0.75


def candidate(saved, error):
    return Candidate(layer="conv", strategy="reduce", ranks=(1,), cost=Cost(params=1, macs=1), saved_macs=saved,
                     error=error, loss=error**2)


@pytest.mark.parametrize(("limit", "saved"), [
    (0.0, None), (0.04, None), (0.05, 3), (0.0999, 3), (0.1, 9), (0.15, 9), (0.2, 9), (0.35, 12), (0.9, 12), (1.0, 12)])
def test_cheapest_within_takes_the_largest_saving_that_is_allowed(limit, saved):
    found = cheapest_within([candidate(9, 0.1), candidate(3, 0.05), candidate(12, 0.35), candidate(7, 0.2)], limit)
    assert (found and found.saved_macs) == saved
