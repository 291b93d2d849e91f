"""The interval of the verdict: Welch's in the case that it covers, wide enough where seeds and rows both are noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from raydelt.tune import verdict
from raydelt.tune.verdict import NO_DIFFERENCE, compared


def test_the_interval_is_welchs_over_seeds_and_rows() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((5, 40)), rng.random((5, 40))
    found = compared(ours, theirs, np.ones(40))
    delta = ours - theirs
    welch = stats.ttest_ind(delta.mean(axis=1), delta.mean(axis=0), equal_var=False).confidence_interval()
    assert found.mean == pytest.approx(delta.mean(), rel=1e-12)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(welch.high - welch.low, rel=1e-12)
    assert found.mean - found.low == pytest.approx(found.high - found.mean, rel=1e-12)
    wider = compared(ours, theirs, np.ones(40), looks=4)
    level = stats.ttest_ind(delta.mean(axis=1), delta.mean(axis=0), equal_var=False).confidence_interval(1 - 0.05 / 4)
    assert wider.high - wider.low == pytest.approx(level.high - level.low, rel=1e-12)  # type: ignore[operator]


def test_groups_count_by_their_targets() -> None:
    # A difference per target that is the same everywhere has no noise, however the groups differ in size.
    counts = np.array([1.0, 5.0, 20.0])
    found = compared([counts * 3.0, counts * 3.0], [counts * 2.5, counts * 2.5], counts)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.pairs == 2


def test_nothing_is_claimed_by_chance_more_often_than_stated() -> None:
    rng = np.random.default_rng(4)
    seeds, groups, wrong, alone = 5, 60, 0, 0
    for _ in range(1000):
        delta = (
            0.02 * rng.standard_normal((seeds, 1))
            + 0.3 * rng.standard_normal((1, groups))
            + 0.1 * rng.standard_normal((seeds, groups))
        )
        found = compared(delta, np.zeros_like(delta), np.ones(groups))
        wrong += verdict.told(found, higher_is_better=True) != NO_DIFFERENCE
        alone += stats.ttest_1samp(delta.mean(axis=1), 0.0).pvalue < 0.05
    assert wrong <= 65
    # What an interval over the seeds alone would have claimed.
    assert alone > 300


@pytest.mark.parametrize(("shift", "higher", "word"), [(1.0, True, "better"), (1.0, False, "worse")])
def test_a_difference_beyond_noise_is_told(shift: float, higher: bool, word: str) -> None:
    noise = 0.01 * np.random.default_rng(2).standard_normal((4, 30))
    found = compared(noise + shift, np.zeros((4, 30)), np.ones(30))
    assert verdict.told(found, higher_is_better=higher) == word


def test_equal_arms_are_no_difference() -> None:
    same = np.ones((3, 10))
    found = compared(same, same, np.ones(10))
    assert verdict.told(found, higher_is_better=True) == NO_DIFFERENCE
    assert compared(same[:1], same[:1], np.ones(10)).low is None
