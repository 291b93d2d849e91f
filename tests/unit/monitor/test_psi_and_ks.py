"""PSI against its closed form and its distribution under no change; KS against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstest

from raydelt.monitor.ks import ks
from raydelt.monitor.psi import SMOOTHING, counts_in, edges_of, psi, shift, shift_of, size_of
from raydelt.monitor.sketch import NOTHING, values_of


def test_two_bins_have_a_closed_form() -> None:
    p, q = ((share + SMOOTHING) / (1 + 2 * SMOOTHING) for share in (0.7, 0.4))
    # (p - q) ln(p / q) + (q - p) ln((1 - p) / (1 - q)) = (p - q) (logit p - logit q)
    expected = (p - q) * (math.log(p / (1 - p)) - math.log(q / (1 - q)))
    assert psi(np.array([40, 60]), np.array([700, 300])) == pytest.approx(expected, rel=1e-12)


def test_it_is_symmetric_and_zero_only_without_change() -> None:
    a, b = np.array([10, 20, 70]), np.array([15, 30, 55])
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, 10 * a) == pytest.approx(0, abs=1e-15)
    assert psi(a, b) > 0
    assert psi(a, np.zeros(3)) == 0


def test_the_rule_of_thumb() -> None:
    assert [size_of(value) for value in (0.0, 0.0999, 0.1, 0.2499, 0.25)] == [
        "stable", "stable", "moderate", "moderate", "large",
    ]  # fmt: skip


def test_p_values_of_no_change_are_uniform() -> None:
    found = []
    for seed in range(500):
        rng = np.random.default_rng(seed)
        a, b = (values_of(rng.normal(size=n)) for n in (2000, 3000))
        found.append(shift_of(a, b).p_value)
    assert kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.025)


def test_small_sets_differ_by_chance_and_the_test_knows() -> None:
    rng = np.random.default_rng(3)
    own = [shift_of(values_of(rng.normal(size=100)), values_of(rng.normal(size=100))) for _ in range(60)]
    assert np.mean([one.size != "stable" for one in own]) > 0.5, "the rule of thumb alarms"
    assert np.mean([one.p_value < 0.01 for one in own]) < 0.1


def test_a_real_change_is_found_at_any_size() -> None:
    rng = np.random.default_rng(0)
    assert shift_of(values_of(rng.normal(size=500)), values_of(rng.normal(0.5, size=500))).p_value < 1e-6


def test_a_value_that_holds_much_has_a_bin_of_its_own() -> None:
    reference = values_of(np.zeros(100))
    assert shift_of(reference, values_of(np.full(100, -1.0))).size == "large"
    assert shift_of(reference, values_of(np.full(100, 1.0))).size == "large"
    assert shift_of(reference, values_of(np.zeros(50))).psi == 0
    mixed = values_of(np.concatenate([np.zeros(50), np.linspace(1, 2, 50)]))
    counts = counts_in(mixed, edges_of(mixed, 10))
    assert counts.sum() == 100
    assert 50 in counts


def test_bins_of_continuous_values_hold_equal_shares() -> None:
    record = values_of(np.random.default_rng(1).normal(size=1000))
    assert counts_in(record, edges_of(record, 10)).tolist() == [100] * 10


def test_a_new_class_is_a_change_and_an_absent_one_is_none() -> None:
    assert shift(np.array([50, 50, 0]), np.array([50, 30, 20])).p_value < 1e-6
    assert shift(np.array([50, 50, 0]), np.array([50, 50, 0])) == shift(np.array([50, 50]), np.array([50, 50]))
    assert shift(np.array([5]), np.array([9])).p_value == 1
    assert shift_of(NOTHING, values_of(np.ones(3))).p_value == 1


@pytest.mark.parametrize(("n", "m", "moved"), [(300, 500, 0.0), (1000, 200, 0.3), (50, 50, 2.0)])
def test_ks_is_that_of_scipy(n: int, m: int, moved: float) -> None:
    rng = np.random.default_rng(n)
    # Rounded, so that there are ties too.
    a, b = (np.round(x, 2).astype(np.float32) for x in (rng.normal(size=n), rng.normal(moved, size=m)))
    expected = ks_2samp(a, b, method="asymp")
    assert ks(values_of(a), values_of(b)) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-12)


def test_ks_of_binned_records_is_close_to_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200_000).astype(np.float32), rng.normal(0.01, size=150_000).astype(np.float32)
    d, _ = ks(values_of(a), values_of(b))
    assert d == pytest.approx(ks_2samp(a, b, method="asymp").statistic, abs=5e-4)


def test_ks_of_nothing_is_no_difference() -> None:
    assert ks(NOTHING, values_of(np.ones(3))) == (0.0, 1.0)
