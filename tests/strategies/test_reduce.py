"""The family `reduce`: what it declines, what it costs, and what its factors are."""

import math

import numpy as np
import pytest

from onnxslim1x1.errors import OptionError
from onnxslim1x1.linalg.moments import MomentAccumulator, Moments
from onnxslim1x1.spec import ConvSpec
from onnxslim1x1.strategies import STRATEGIES, by_name
from onnxslim1x1.strategies.base import chain_cost, describe
from onnxslim1x1.strategies.reduce import Reduce

REDUCE = Reduce()
SPEC = ConvSpec.make(6, 5, kernel=(3, 2), stride=(2, 1), dilation=(1, 2), pads=(1, 0, 2, 3), in_size=(9, 11))

DECLINED = {
    "transposed": ConvSpec.make(6, 4, kernel=(3, 2), transposed=True, in_size=(5, 7)),
    "dense": ConvSpec.make(6, 4, kernel=(), in_size=()),
    "depthwise": ConvSpec.make(6, 12, kernel=(3, 3), groups=6, in_size=(5, 7)),
    "grouped": ConvSpec.make(6, 4, kernel=(3, 3), groups=2, in_size=(5, 7)),
    "pointwise": ConvSpec.make(6, 4, kernel=(1, 1), stride=(2, 1), in_size=(5, 7)),
    "few_channels": ConvSpec.make(1, 4, kernel=(3, 3), in_size=(5, 7)),
}


@pytest.mark.parametrize("code", DECLINED)
def test_declines_have_stable_codes_and_a_reason(code):
    refusal = REDUCE.check(DECLINED[code])
    assert refusal is not None
    assert refusal.code == code
    assert refusal.reason
    assert "\n" not in refusal.reason


@pytest.mark.parametrize("spec", [
    SPEC, ConvSpec.make(2, 1, kernel=(2,)), ConvSpec.make(4, 4, kernel=(1, 2, 1)),
    ConvSpec.make(8, 3, kernel=(3, 3), auto_pad="SAME_LOWER", in_size=None)], ids=describe)
def test_ungrouped_convolutions_with_a_spatial_kernel_are_accepted(spec):
    assert REDUCE.check(spec) is None


def test_the_textbook_case_costs_what_the_textbook_says():
    spec = ConvSpec.make(480, 48, kernel=(5, 5), pads=(2, 2, 2, 2), in_size=(14, 14), bias=False)
    assert spec.macs == 112_896_000
    first, second = (s.macs for s in REDUCE.chain(spec, (16,)))
    assert (first, second) == (1_505_280, 3_763_200)
    assert chain_cost(REDUCE.chain(spec, (16,))).macs == 5_268_480
    assert chain_cost(REDUCE.chain(spec, (16,))).params == 480 * 16 + 16 * 48 * 25 + 48


def test_the_reduction_runs_at_the_input_size_and_the_kernel_keeps_the_geometry():
    first, second = REDUCE.chain(SPEC, (4,))
    assert first == ConvSpec.make(6, 4, kernel=(1, 1), in_size=(9, 11), bias=False)
    assert second == ConvSpec.make(4, 5, kernel=(3, 2), stride=(2, 1), dilation=(1, 2), pads=(1, 0, 2, 3),
                                   in_size=(9, 11), bias=True)
    assert second.out_size == SPEC.out_size == (5, 12)


@pytest.mark.parametrize(("spec", "limit"), [
    (SPEC, 6), (ConvSpec.make(9, 2, kernel=(2, 2)), 8), (ConvSpec.make(9, 2, kernel=(5,)), 9)])
def test_the_largest_rank_is_that_of_the_unfolding(spec, limit):
    assert REDUCE.max_ranks(spec) == (limit,)


def test_the_factors_from_weights_are_the_truncated_svd():
    weight = np.random.default_rng(0).standard_normal(SPEC.weight_shape)
    unfolded = np.stack([weight[:, c].ravel() for c in range(6)])  # (C, O*n)
    singular = np.linalg.svd(unfolded, compute_uv=False)
    decomposition = REDUCE.decompose(SPEC, weight)
    np.testing.assert_allclose(decomposition.spectrum.fractions, singular**2 / np.sum(singular**2), rtol=1e-12)
    for rank in range(1, 6):
        factorization = decomposition.truncate((rank,))
        down = factorization.factors[0].weight.reshape(rank, 6)
        np.testing.assert_allclose(down @ down.T, np.eye(rank), atol=1e-14)
        # the tail of an SVD is the least error that any r channels can reach (Eckart and Young)
        assert factorization.rel_error == pytest.approx(
            math.sqrt(np.sum(singular[rank:] ** 2) / np.sum(singular**2)), rel=1e-10)


def test_a_layer_without_bias_gets_a_zero_bias():
    weight = np.random.default_rng(0).standard_normal(SPEC.weight_shape)
    np.testing.assert_array_equal(REDUCE.decompose(SPEC, weight).truncate((2,)).factors[-1].bias, np.zeros(5))


def test_from_weights_the_bias_is_kept():
    weight, bias = np.random.default_rng(0).standard_normal(SPEC.weight_shape), np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(REDUCE.decompose(SPEC, weight, bias).truncate((2,)).factors[-1].bias, bias)


def test_the_mean_that_the_bottleneck_loses_goes_into_the_bias():
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal(SPEC.weight_shape), rng.standard_normal(5)
    mean = rng.uniform(1, 2, (3, 2, 6))  # (position, position, channel)
    moments = Moments(mean=mean.ravel(), covariance=np.diag(rng.uniform(1, 2, 36)), count=10**6)
    down, up = REDUCE.decompose(SPEC, weight, bias, moments).truncate((2,)).factors
    lost = weight - np.einsum("orhw,rc->ochw", up.weight, down.weight[:, :, 0, 0])
    # float64 rounding
    np.testing.assert_allclose(up.bias, bias + np.einsum("ochw,hwc->o", lost, mean), rtol=1e-12)
    assert np.abs(up.bias - bias).max() > 0.1


def test_channels_that_carry_two_sources_need_rank_two():
    rng = np.random.default_rng(2)
    weight = rng.standard_normal(SPEC.weight_shape)
    sources = rng.standard_normal((4000, 6, 2)) @ rng.standard_normal((2, 6))  # (patch, position, channel)
    accumulator = MomentAccumulator(36)
    accumulator.add(sources.reshape(4000, 36) + 5)
    with_data = REDUCE.decompose(SPEC, weight, None, accumulator.result())
    assert with_data.error((1,)) > 0.2
    assert with_data.error((2,)) < 0.02  # the ridge is all that is left
    assert REDUCE.decompose(SPEC, weight).error((2,)) > 0.5
    assert sum(with_data.spectrum.fractions[:2]) > 0.999


@pytest.mark.parametrize("scale", [0.0, 1e-20], ids=["zero", "denormal"])
def test_weights_without_energy_give_zero_factors(scale):
    weight = scale * np.random.default_rng(0).standard_normal(SPEC.weight_shape)
    factorization = REDUCE.decompose(SPEC, weight).truncate((3,))
    np.testing.assert_array_equal(factorization.factors[1].weight, np.zeros((5, 3, 3, 2)))


def test_zero_weights_lose_nothing():
    moments = Moments(mean=np.ones(36), covariance=np.eye(36), count=1000)
    for statistics in (None, moments):
        decomposition = REDUCE.decompose(SPEC, np.zeros(SPEC.weight_shape), None, statistics)
        assert decomposition.error((1,)) == 0
        assert decomposition.truncate((1,)).rel_error == 0


def test_inputs_that_never_change_are_served_by_any_rank():
    rng = np.random.default_rng(4)
    weight, mean = rng.standard_normal(SPEC.weight_shape), rng.uniform(1, 2, 36)
    moments = Moments(mean=mean, covariance=np.zeros((36, 36)), count=50)
    down, up = REDUCE.decompose(SPEC, weight, None, moments).truncate((1,)).factors
    kernel = np.einsum("orhw,rc->ochw", up.weight, down.weight[:, :, 0, 0])
    of_mean = [np.einsum("ochw,hwc->o", w, mean.reshape(3, 2, 6)) for w in (weight, kernel)]
    # float64 rounding: all of the output is in the bias
    np.testing.assert_allclose(of_mean[1] + up.bias, of_mean[0], atol=1e-12)


def test_families_are_found_by_name():
    assert by_name("reduce") is STRATEGIES[0]
    with pytest.raises(OptionError, match=r"^family tucker9: unknown; choose from .*reduce"):
        by_name("tucker9")
