"""Budgets of strata sum to what was asked for, and what is kept of each is the same in any layout."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydelt.examples import draw_keys
from raydelt.select.strata import budgets, counts, draws, lowest, set_aside, stratum

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def naive_budgets(counts: list[int], k: int) -> list[int]:
    """The rule as published: take the smallest stratum that is left, until none is."""
    found, left = [0] * len(counts), {s: count for s, count in enumerate(counts) if count}
    while left:
        s = min(left, key=lambda i: (left[i], i))
        found[s] = min(left[s], math.floor(k / len(left)))
        k -= found[s]
        del left[s]
    return found


@given(counts=COUNTS, k=st.integers(0, 500))
def test_budgets_sum_to_k_or_all_and_never_exceed_a_stratum(counts: list[int], k: int) -> None:
    found = budgets(np.array(counts), k)
    assert found.sum() == min(k, sum(counts))
    assert (found >= 0).all()
    assert (found <= counts).all()
    assert found.tolist() == naive_budgets(counts, k)


@given(counts=COUNTS, k=st.integers(0, 500))
def test_no_stratum_that_could_give_more_has_a_smaller_budget_than_a_fuller_one_by_more_than_one(
    counts: list[int], k: int
) -> None:
    found = budgets(np.array(counts), k)
    short = found[found < counts]
    if len(short):
        assert found.max() <= short.min() + 1


def test_strata_are_of_equal_width_and_the_highest_score_is_in_the_last() -> None:
    assert stratum(np.array([0.0, 0.19, 0.2, 0.5, 0.99, 1.0]), 0.0, 1.0, 5).tolist() == [0, 0, 1, 2, 4, 4]
    assert counts(np.array([0.0, 0.19, 0.2, 0.5, 0.99, 1.0]), 0.0, 1.0, 5).tolist() == [2, 1, 1, 0, 2]


@given(scores=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_every_finite_score_has_a_stratum_in_the_order_of_the_scores(scores: list[float]) -> None:
    values = np.sort(np.array(scores))
    found = stratum(values, values[0], values[-1], 7)
    assert found.min() >= 0
    assert found.max() <= 6
    assert (np.diff(found) >= 0).all()


def test_equal_scores_are_one_stratum_with_the_whole_budget() -> None:
    found = counts(np.full(30, 0.25), 0.25, 0.25)
    assert budgets(found, 12).tolist() == [12, *[0] * 49]


@pytest.mark.parametrize(
    ("n", "beta", "expected"), [(100, 0.0, 0), (100, 0.5, 50), (100, 0.29, 29), (10, 0.3, 3), (7, 0.5, 3), (1, 0.9, 0)]
)
def test_the_share_set_aside_is_rounded_down(n: int, beta: float, expected: int) -> None:
    assert set_aside(n, beta) == expected


@pytest.mark.parametrize("beta", [-0.1, 1.0, math.nan])
def test_setting_all_aside_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        set_aside(10, beta)


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("k", [1, 100, 333, 500, 1001])
def test_a_coverage_centric_selection_is_the_same_in_any_layout(beta: float, k: int) -> None:
    rng = np.random.default_rng(k)
    scores, keys = rng.gamma(1.5, size=1001), draw_keys([str(i) for i in range(1001)])
    rank = np.argsort(np.argsort(scores))
    rest = rank < len(scores) - set_aside(len(scores), beta)
    low, high = scores[rest].min(), scores[rest].max()
    ready = np.flatnonzero(rest)

    # In one place, example by example.
    whole = stratum(scores[ready], low, high)
    budget = budgets(counts(scores[ready], low, high), k)
    order = {int(i): int(d) for i, d in zip(ready, draws(keys[ready], 3), strict=True)}
    expected = set()
    for s in range(50):
        expected |= set(sorted(ready[whole == s].tolist(), key=order.__getitem__)[: budget[s]])
    assert len(expected) == min(k, len(ready))

    for parts in (1, 2, 7, 60):
        pieces = np.array_split(rng.permutation(ready), parts)
        summed = np.sum([counts(scores[piece], low, high) for piece in pieces], axis=0)
        assert budgets(summed, k).tolist() == budget.tolist()
        kept = [p[lowest(stratum(scores[p], low, high), draws(keys[p], 3), budget)] for p in pieces]
        p = np.concatenate(kept)
        assert set(p[lowest(stratum(scores[p], low, high), draws(keys[p], 3), budget)].tolist()) == expected


def test_within_a_stratum_every_example_is_equally_likely() -> None:
    keys, strata = draw_keys(list("abcdef")), np.array([0, 0, 0, 1, 1, 1])
    kept = np.mean([lowest(strata, draws(keys, seed), np.array([1, 2])) for seed in range(4000)], axis=0)
    np.testing.assert_allclose(kept, [1 / 3] * 3 + [2 / 3] * 3, atol=3.3 * math.sqrt(2 / 9 / 4000))
