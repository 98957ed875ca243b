"""Specs, costs, spectra and factorizations as values."""

import dataclasses

import numpy as np
import pytest

from onnxslim1x1.spec import ConvFactor, ConvSpec, Cost, Factorization, Ineligible, Spectrum

SPEC = ConvSpec.make(6, 10, kernel=(3, 2), stride=(2, 3), dilation=(2, 1), pads=(1, 0, 2, 3), groups=2,
                     in_size=(13, 17), batch=4)


def test_derived_sizes():
    assert (SPEC.positions, SPEC.patch, SPEC.weight_shape) == (6, 18, (10, 3, 3, 2))
    assert SPEC.out_size == ((13 + 1 + 2 - 2 * 2 - 1) // 2 + 1, (17 + 0 + 3 - 1 - 1) // 3 + 1) == (6, 7)
    assert SPEC.params == 10 * 3 * 3 * 2 + 10
    assert SPEC.macs == 4 * 10 * 6 * 7 * 18
    assert SPEC.cost == Cost(params=190, macs=30240)


def test_a_missing_bias_costs_nothing():
    assert dataclasses.replace(SPEC, bias=False).params == 180


def test_a_transposed_convolution_multiplies_at_its_input():
    spec = ConvSpec.make(6, 10, kernel=(3, 2), stride=(2, 3), groups=2, in_size=(5, 7), batch=4, transposed=True)
    assert spec.weight_shape == (6, 5, 3, 2)
    assert spec.params == 6 * 5 * 3 * 2 + 10
    assert spec.macs == 4 * 5 * 7 * 6 * 5 * 3 * 2
    assert spec.out_size is None


def test_a_dense_layer_is_a_convolution_without_axes():
    spec = ConvSpec.make(7, 5, kernel=(), in_size=(), batch=3)
    assert (spec.positions, spec.weight_shape, spec.out_size) == (1, (5, 7), ())
    assert (spec.macs, spec.params, spec.is_pointwise) == (3 * 5 * 7, 5 * 7 + 5, True)


def test_an_unknown_size_leaves_the_work_unknown():
    spec = ConvSpec.make(7, 5, kernel=(3, 3))
    assert (spec.out_size, spec.macs, spec.params) == (None, None, 5 * 7 * 9 + 5)
    with pytest.raises(ValueError, match="needs its input size"):
        _ = spec.cost


@pytest.mark.parametrize(("mode", "pads"), [
    ("NOTSET", (9, 8, 7, 6)), ("VALID", (0, 0, 0, 0)),
    # 11 at stride 3 gives 4 positions: (4 - 1) * 3 + 4 - 11 = 2; 14 at stride 2 gives 7: 6 * 2 + 3 - 14 = 1
    ("SAME_UPPER", (1, 0, 1, 1)), ("SAME_LOWER", (1, 1, 1, 0))])
def test_automatic_padding(mode, pads):
    spec = ConvSpec.make(2, 3, kernel=(4, 3), stride=(3, 2), pads=(9, 8, 7, 6), auto_pad=mode, in_size=(11, 14))
    assert spec.explicit_pads == pads


def test_same_padding_is_never_negative():
    spec = ConvSpec.make(2, 3, kernel=(2, 1), stride=(5, 3), auto_pad="SAME_UPPER", in_size=(11, 14))
    # 11 at stride 5: 2 * 5 + 2 - 11 = 1; 14 at stride 3: 4 * 3 + 1 - 14 < 0
    assert (spec.explicit_pads, spec.out_size) == ((0, 0, 1, 0), (3, 5))


def test_same_padding_counts_the_dilation():
    spec = ConvSpec.make(2, 3, kernel=(3,), dilation=(4,), auto_pad="SAME_LOWER", in_size=(11,))
    assert (spec.explicit_pads, spec.out_size) == ((4, 4), (11,))


def test_same_padding_needs_a_size():
    spec = ConvSpec.make(2, 3, kernel=(3,), auto_pad="SAME_UPPER")
    with pytest.raises(ValueError, match="known input size"):
        _ = spec.explicit_pads
    assert spec.macs is None


@pytest.mark.parametrize(("changes", "text"), [
    ({"stride": (1,)}, "same number of axes"), ({"dilation": (1, 1, 1)}, "same number of axes"),
    ({"pads": (0, 0)}, "same number of axes"), ({"pads": (0,) * 5}, "same number of axes"),
    ({"in_size": (5,)}, "does not have the 2 axes"), ({"stride": (0, 1)}, "positive"), ({"kernel": (3, 0)}, "positive"),
    ({"dilation": (1, -1)}, "positive"), ({"batch": 0}, "positive"), ({"groups": 0}, "positive"),
    ({"in_channels": 0}, "positive"), ({"groups": 4}, "4 groups do not divide"), ({"groups": 5}, "do not divide"),
    ({"groups": 3}, "do not divide")])
def test_geometry_that_contradicts_itself(changes, text):
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(SPEC, **changes)


def test_kinds():
    assert ConvSpec.make(6, 12, kernel=(3, 3), groups=6).is_depthwise
    assert not SPEC.is_depthwise
    assert not ConvSpec.make(1, 4, kernel=(3, 3)).is_depthwise  # one channel in one group
    assert ConvSpec.make(6, 4, kernel=(1, 1), stride=(2, 1)).is_pointwise
    assert not ConvSpec.make(6, 4, kernel=(1, 2)).is_pointwise


def test_a_pointwise_companion():
    assert SPEC.pointwise(6, 4, size=(13, 17), bias=False) == ConvSpec.make(
        6, 4, kernel=(1, 1), in_size=(13, 17), bias=False, batch=4)


def test_specs_are_frozen_and_hash():
    assert len({SPEC, dataclasses.replace(SPEC), dataclasses.replace(SPEC, batch=5)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.batch = 2


def test_costs_add_up():
    costs = [Cost(params=1, macs=20), Cost(params=3, macs=400)]
    assert costs[0] + costs[1] == Cost.total(costs) == Cost.total(iter(costs)) == Cost(params=4, macs=420)
    assert Cost.total([]) == Cost(params=0, macs=0)


@pytest.mark.parametrize(("rank", "tail"), [(0, 1.0), (1, 0.375), (2, 0.125), (3, 0.0), (9, 0.0)])
def test_the_tail_of_a_spectrum(rank, tail):
    assert Spectrum(fractions=(0.625, 0.25, 0.125)).tail(rank) == tail  # exact in binary


def test_rounding_does_not_make_a_tail_negative():
    assert Spectrum(fractions=(1.0, -1e-18)).tail(1) == 0


def test_a_factorization_counts_its_factors_and_knows_its_error():
    down = ConvSpec.make(6, 2, kernel=(1, 1), in_size=(5, 7), bias=False)
    first = ConvFactor(role="a", spec=down, weight=np.zeros(0))
    second = ConvFactor(role="b", spec=ConvSpec.make(2, 3, kernel=(2, 3), in_size=(5, 7)), weight=np.zeros(0))
    chain = Factorization(strategy="s", ranks=(2,), factors=(first, second), rel_error=0.5)
    assert chain.cost == Cost(params=12 + 36 + 3, macs=5 * 7 * 12 + 4 * 5 * 36)
    assert chain.error == 0.5
    assert dataclasses.replace(chain, output_rel_error=0.25).error == 0.25
    assert dataclasses.replace(chain, output_rel_error=0.0).error == 0.0


def test_declines_are_values():
    assert Ineligible(code="grouped", reason="2 groups") == Ineligible(code="grouped", reason="2 groups")
