"""Paired differences agree with scipy, and never claim more than the interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from raydelt.train.compare import paired


def test_the_interval_is_the_one_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.01, 12), rng.normal(0.89, 0.01, 12)
    found = paired(a.tolist(), b.tolist())
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx((a - b).mean())


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([0.9, 0.91, 0.92], [0.8, 0.81, 0.82], "better"),
        ([0.8, 0.81, 0.82], [0.9, 0.91, 0.921], "worse"),
        ([0.9, 0.8, 0.7], [0.7, 0.8, 0.9], "no difference shown"),
        ([0.9], [0.1], "no difference shown"),
    ],
)
def test_a_gain_is_claimed_only_when_the_interval_excludes_zero(a: list[float], b: list[float], verdict: str) -> None:
    assert paired(a, b).verdict() == verdict


def test_equal_arms_differ_by_nothing() -> None:
    found = paired([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert (found.mean, found.low, found.high, found.verdict()) == (0.0, 0.0, 0.0, "no difference shown")
