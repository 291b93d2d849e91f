"""The noise at the cut equals closed forms and a simulation, and adds up over any parts to the same bits."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from raydelt.rank.noise import Noise, NoiseSums, below_cut, from_units, noise_of, undecided, unit_sum


def finished(sums: NoiseSums) -> Noise:
    found = sums.finish()
    assert found is not None
    return found


def test_the_noise_at_the_cut_is_the_share_of_the_kept_within_their_own_error() -> None:
    scores = np.array([0.1, 0.45, 0.5, 0.55, 0.7, 0.9])
    errors = np.array([0.05, 0.05, 0.0, 0.04, 0.3, np.nan])
    kept = scores >= 0.5
    assert undecided(scores, errors, 0.5).tolist() == [False, True, True, False, True, False]
    found = finished(noise_of(scores, errors, kept, 0.5))
    assert (found.kept, found.undecided_kept, found.undecided_left) == (4, 2, 1)
    assert found.share == 0.5
    assert finished(noise_of(scores, errors, kept, 0.5, z=2.0)).undecided_kept == 3


def test_expected_numbers_on_the_wrong_side_are_normal_tails() -> None:
    scores, errors = np.array([1.0, 2.0, -1.0, 0.0]), np.array([1.0, 1.0, 2.0, 3.0])
    found = finished(noise_of(scores, errors, scores > 0, 0.0))
    assert found.expected_wrong == pytest.approx(norm.sf(1) + norm.sf(2), rel=1e-14)
    assert found.expected_missed == pytest.approx(norm.sf(0.5) + 0.5, rel=1e-14)


def test_a_uniform_stretch_of_scores_loses_se_over_root_two_pi_of_its_density() -> None:
    # integral over s > 0 of Phi(-s / se) ds = se / sqrt(2 pi), on either side of the cut
    step, se = 1e-3, 0.05
    scores = (np.arange(-1000, 1000) + 0.5) * step
    found = finished(noise_of(scores, np.full(2000, se), scores > 0, 0.0))
    assert found.expected_wrong * step == pytest.approx(se / math.sqrt(2 * math.pi), rel=1e-4)
    assert found.expected_missed == pytest.approx(found.expected_wrong, rel=1e-12)


def test_expected_numbers_equal_a_simulation() -> None:
    rng = np.random.default_rng(11)
    scores, errors = rng.normal(size=400), rng.gamma(2.0, 0.1, size=400)
    kept = scores >= 0.5
    found = finished(noise_of(scores, errors, kept, 0.5))
    truth = scores + errors * rng.normal(size=(4000, 400))
    wrong, missed = ((truth < 0.5) & kept).sum(axis=1), ((truth > 0.5) & ~kept).sum(axis=1)
    assert abs(wrong.mean() - found.expected_wrong) <= 3.29 * wrong.std() / math.sqrt(4000)
    assert abs(missed.mean() - found.expected_missed) <= 3.29 * missed.std() / math.sqrt(4000)


def test_exact_scores_are_on_their_side_of_the_cut_for_certain() -> None:
    scores = np.array([-1.0, 0.0, 1.0])
    assert below_cut(scores, np.zeros(3), 0.0).tolist() == [1.0, 0.0, 0.0]
    found = finished(noise_of(scores, np.zeros(3), scores >= 0, 0.0))
    assert (found.expected_wrong, found.expected_missed) == (0.0, 0.0)
    assert (found.undecided_kept, found.undecided_left) == (1, 0)


def test_examples_below_the_gate_count_in_the_size_of_the_kept_set_alone() -> None:
    scores, errors = np.array([0.4, 0.5, 0.6, 0.4]), np.full(4, 0.2)
    gate = np.array([False, True, True, False])
    found = finished(noise_of(scores, errors, np.array([True, True, True, False]), 0.5, gate=gate))
    assert found == Noise(3, 2, 0, 2 / 3, pytest.approx(0.5 + norm.cdf(-0.5)), 0.0)


def test_every_class_can_have_a_cut_of_its_own() -> None:
    scores, errors, cuts = np.array([0.2, 0.8]), np.array([0.1, 0.1]), np.array([0.2, 0.9])
    found = finished(noise_of(scores, errors, np.array([True, False]), cuts))
    assert (found.undecided_kept, found.undecided_left) == (1, 1)
    assert found.expected_wrong == 0.5
    assert found.expected_missed == pytest.approx(norm.cdf(-1.0))


def test_without_any_known_error_there_are_no_figures() -> None:
    assert NoiseSums().finish() is None
    assert noise_of(np.ones(3), np.full(3, np.nan), np.ones(3, np.bool_), 1.0).finish() is None


@pytest.mark.parametrize("parts", [2, 7, 90])
def test_sums_have_the_same_bits_in_any_layout(parts: int) -> None:
    rng = np.random.default_rng(parts)
    scores, errors = rng.normal(size=1001), rng.gamma(2.0, 0.3, size=1001)
    errors[::10] = np.nan
    kept = scores >= 0.3
    pieces = np.array_split(rng.permutation(1001), parts)
    sums = [noise_of(scores[p], errors[p], kept[p], 0.3) for p in pieces]
    assert functools.reduce(NoiseSums.merge, sums, NoiseSums()) == noise_of(scores, errors, kept, 0.3)


@given(values=st.lists(st.floats(0, 1), max_size=50))
def test_a_sum_in_units_is_the_exact_sum_to_the_last_unit(values: list[float]) -> None:
    assert abs(unit_sum(np.array(values)) - sum(map(Fraction, values)) * 2**62) <= len(values) / 2
    assert unit_sum(np.array(values)) == unit_sum(np.array(values[::-1]))
    assert unit_sum(np.ones(len(values))) == len(values) << 62
    assert unit_sum(np.array([0.75, 0.25]) * 2.0**-62) == 1


@given(total=st.integers(0, 2**100))
def test_units_become_the_greatest_float_that_is_not_above_them(total: int) -> None:
    found = from_units(total)
    assert Fraction(found) <= Fraction(total, 2**62) < Fraction(math.nextafter(found, math.inf))
