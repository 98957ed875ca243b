"""What families share: the work on a layer is done once, and nobody sees the work of another layer."""

import gc
import weakref

import numpy as np
import pytest

from onnxslim1x1.linalg.moments import MomentAccumulator
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.spec import ConvSpec
from onnxslim1x1.strategies import STRATEGIES, by_name
from onnxslim1x1.strategies.chains import shared_work

SPEC = ConvSpec.make(6, 5, kernel=(3, 2), stride=(2, 1), dilation=(1, 2), pads=(1, 0, 2, 3), in_size=(9, 11))
WEIGHT = np.random.default_rng(0).standard_normal(SPEC.weight_shape)
BIAS = np.random.default_rng(1).standard_normal(5)


def moments(seed=2):
    rng = np.random.default_rng(seed)
    sums = MomentAccumulator(SPEC.patch)
    sums.add(rng.standard_normal((900, 36)) @ rng.standard_normal((36, 36)) + 1)
    return sums.result()


def weighting(seed=3):
    root = np.random.default_rng(seed).standard_normal((5, 5))
    return OutputWeighting(covariance=root @ root.T)


def assert_same_factors(found, expected):
    for one, other in zip(found.factors, expected.factors, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.bias, other.bias)


@pytest.mark.parametrize("data", [False, True], ids=["weights", "data"])
@pytest.mark.parametrize("family", STRATEGIES, ids=lambda family: family.name)
def test_factors_do_not_depend_on_the_families_that_came_before(family, data):
    ranks = tuple(max(1, limit // 2) for limit in family.max_ranks(SPEC))
    given = (moments(), weighting()) if data else (None, None)
    alone = family.decompose(SPEC, WEIGHT, BIAS, *given).truncate(ranks)
    held = [other.decompose(SPEC, WEIGHT, BIAS, *given) for other in STRATEGIES]
    for other, decomposition in zip(STRATEGIES, held, strict=True):
        decomposition.error(other.max_ranks(SPEC))
    found = family.decompose(SPEC, WEIGHT, BIAS, *given).truncate(ranks)
    for one, other in zip(found.factors, alone.factors, strict=True):
        # float64 rounding of a solve that holds more ranks, under a covariance with a condition of about 1e4
        np.testing.assert_allclose(one.weight, other.weight, rtol=0, atol=1e-9 * np.abs(other.weight).max())
        np.testing.assert_array_equal(one.bias is None, other.bias is None)


@pytest.mark.parametrize("family", STRATEGIES, ids=lambda family: family.name)
def test_a_layer_of_the_same_geometry_has_its_own_factors(family):
    ranks = tuple(2 for _ in family.max_ranks(SPEC))
    other = np.random.default_rng(7).standard_normal(SPEC.weight_shape)
    expected = family.decompose(SPEC, other, BIAS).truncate(ranks)
    held = family.decompose(SPEC, WEIGHT, BIAS)
    assert_same_factors(family.decompose(SPEC, other, BIAS).truncate(ranks), expected)
    assert_same_factors(family.decompose(SPEC, WEIGHT, BIAS).truncate(ranks), held.truncate(ranks))
    assert (expected.factors[0].weight != held.truncate(ranks).factors[0].weight).any()


def test_the_work_is_shared_as_long_as_everything_is_the_same():
    known, scale = moments(), weighting()
    work = shared_work(SPEC, WEIGHT, bias=BIAS, statistics=known, weighting=scale)
    assert shared_work(SPEC, WEIGHT.copy(), bias=BIAS.copy(), statistics=known, weighting=scale) is work
    differing = [
        shared_work(SPEC, WEIGHT + 1, bias=BIAS, statistics=known, weighting=scale),
        shared_work(SPEC, WEIGHT, bias=None, statistics=known, weighting=scale),
        shared_work(SPEC, WEIGHT, bias=BIAS + 1, statistics=known, weighting=scale),
        shared_work(SPEC, WEIGHT, bias=BIAS, statistics=moments(), weighting=scale),
        shared_work(SPEC, WEIGHT, bias=BIAS, statistics=None, weighting=scale),
        shared_work(SPEC, WEIGHT, bias=BIAS, statistics=known, weighting=None)]
    assert all(other is not work for other in differing)


def test_a_zero_bias_is_no_bias():
    work = shared_work(SPEC, WEIGHT, bias=None, statistics=None, weighting=None)
    assert shared_work(SPEC, WEIGHT, bias=np.zeros(5), statistics=None, weighting=None) is work


def test_the_work_ends_with_the_last_decomposition():
    first = by_name("reduce").decompose(SPEC, WEIGHT, BIAS, moments())
    first.truncate((2,))
    work = weakref.ref(shared_work(SPEC, WEIGHT, bias=BIAS, statistics=None, weighting=None))
    gc.collect()
    assert work() is None
    second = by_name("tucker2").decompose(SPEC, WEIGHT, BIAS)
    work = weakref.ref(shared_work(SPEC, WEIGHT, bias=BIAS, statistics=None, weighting=None))
    assert work() is not None
    del first, second
    gc.collect()
    assert work() is None


def test_families_of_one_rank_need_no_data():
    assert [family.name for family in STRATEGIES if not family.needs_data] == ["reduce", "expand", "spatial"]
    assert all(family.needs_data == (len(family.max_ranks(SPEC)) > 1) for family in STRATEGIES)
