"""Decay rates against scipy and pandas; sums that add up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress
from scipy.stats import t as student

from raydelt.monitor.decay import FLOOR, DecaySums, relative


def fitted(u: np.ndarray, times: np.ndarray, half_life: float = 2.0):  # type: ignore[no-untyped-def]
    sums = DecaySums(len(u), half_life, reference=float(times[-1]))
    state = sums.zero()
    for t, own in zip(times, u.T, strict=True):
        state = sums.add(state, float(t), own)
    return sums.finish(state)


def test_an_exact_exponential_gives_its_rate() -> None:
    t = np.array([0.0, 1.0, 2.5, 4.0])
    kappa, start = np.array([0.3, 0.0, -0.2]), np.array([2.0, 1.0, 0.5])
    found = fitted(start[:, None] * np.exp(-kappa[:, None] * t), t)
    assert found.kappa == pytest.approx(kappa, abs=1e-12)
    assert found.start == pytest.approx(start)
    assert found.se == pytest.approx([0, 0, 0], abs=1e-7)


def test_rates_errors_and_intervals_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    t, u = np.arange(7.0), rng.lognormal(size=(5, 7))
    found = fitted(u, t)
    for i, own in enumerate(u):
        expected = linregress(t, np.log(own))
        half = student.ppf(0.975, 5) * expected.stderr
        assert found.kappa[i] == pytest.approx(-expected.slope)
        assert found.se[i] == pytest.approx(expected.stderr)
        assert (found.low[i], found.high[i]) == pytest.approx((-expected.slope - half, -expected.slope + half))


def test_intervals_hold_what_they_say() -> None:
    rng = np.random.default_rng(1)
    t = np.arange(6.0)
    found = fitted(np.exp(-0.1 * t + rng.normal(0, 0.3, size=(4000, 6))), t)
    assert np.mean((found.low < 0.1) & (found.high > 0.1)) == pytest.approx(0.95, abs=0.015)


def test_the_moving_average_is_that_of_pandas() -> None:
    rng = np.random.default_rng(0)
    t, u = np.arange(6.0), rng.random((3, 6))
    expected = [pd.Series(own).ewm(halflife=2.0, adjust=True).mean().iloc[-1] for own in u]
    assert fitted(u, t).ema == pytest.approx(expected)


def test_fewer_than_three_versions_give_no_rate_and_gaps_are_left_out() -> None:
    t, nan = np.arange(4.0), np.nan
    found = fitted(np.array([[1.0, nan, nan, 2.0], [nan] * 4, [1.0, nan, np.exp(-1), np.exp(-1.5)]]), t)
    assert found.points.tolist() == [2, 0, 3]
    assert np.isnan(found.kappa[:2]).all()
    assert np.isnan(found.ema[1])
    assert found.kappa[2] == pytest.approx(0.5)


def test_sums_of_versions_add_up() -> None:
    rng = np.random.default_rng(0)
    u, sums = rng.random((10, 8)), DecaySums(10, 2.0)
    states = [sums.add(sums.zero(), float(t), u[:, t]) for t in range(8)]
    left = right = sums.zero()
    for state in states:
        left = sums.merge(left, state)
    for state in states[::-1]:
        right = sums.merge(right, state)
    assert sums.finish(left).kappa == pytest.approx(sums.finish(right).kappa)
    assert left == pytest.approx(right)


def test_what_happens_to_all_is_no_decay() -> None:
    """Gradients shrink as a model learns: relative to the median nobody loses."""
    base = np.array([1.0, 2.0, 3.0])
    u = np.stack([relative(base * scale, float(np.median(base * scale))) for scale in (1.0, 0.1, 0.001)], axis=1)
    assert fitted(u, np.arange(3.0)).kappa == pytest.approx([0, 0, 0], abs=1e-12)


def test_zeros_count_as_the_floor_and_a_median_of_zero_as_nothing() -> None:
    found = fitted(np.array([[1.0, FLOOR, 0.0]]), np.arange(3.0))
    assert np.isfinite(found.kappa).all()
    assert np.isnan(relative(np.array([0.0, 1.0]), 0.0)).all()
    assert relative(np.array([-4.0]), 2.0).tolist() == [2.0]
