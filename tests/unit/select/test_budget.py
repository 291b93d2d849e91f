"""Budgets sum to what was asked for, and quotas hold their bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydelt.config import Quotas, Select
from raydelt.errors import SpecError
from raydelt.select.budget import kept, quotas


@pytest.mark.parametrize(
    ("value", "n", "expected"), [(0.5, 10, 5), (0.3, 10, 3), (0.25, 10, 3), (0.01, 10, 1), (1.0, 7, 7), (0.5, 1, 1)]
)
def test_a_ratio_keeps_the_nearest_number_and_at_least_one(value: float, n: int, expected: int) -> None:
    assert kept(Select(method="ratio", value=value), n) == expected


def test_top_k_above_n_is_refused_with_the_cure() -> None:
    with pytest.raises(SpecError, match=r"select\.value 11 is more than the 10 ranked examples: use at most 10"):
        kept(Select(method="top_k", value=11), 10)


@given(
    counts=st.lists(st.integers(0, 500), min_size=1, max_size=12).filter(lambda c: sum(c) > 0),
    share=st.sampled_from(["proportional", "balanced"]),
    fraction=st.floats(0.01, 1.0),
)
def test_quotas_sum_to_k_and_never_exceed_a_class(counts: list[int], share: str, fraction: float) -> None:
    k = max(1, round(fraction * sum(counts)))
    found = quotas(Quotas(share=share), k, counts)  # type: ignore[arg-type]
    assert found.sum() == k
    assert (found >= 0).all()
    assert (found <= np.array(counts)).all()


@given(counts=st.lists(st.integers(1, 500), min_size=2, max_size=8), fraction=st.floats(0.05, 0.95))
def test_proportional_quotas_are_within_one_of_the_exact_share(counts: list[int], fraction: float) -> None:
    k = max(1, round(fraction * sum(counts)))
    found = quotas(Quotas(share="proportional"), k, counts)
    assert (np.abs(found - k * np.array(counts) / sum(counts)) < 1 + 1e-9).all()


def test_balanced_quotas_fill_up_from_the_large_classes() -> None:
    assert quotas(Quotas(share="balanced"), 30, [2, 100, 100]).tolist() == [2, 14, 14]


def test_at_least_is_held_where_the_class_has_that_many() -> None:
    assert quotas(Quotas(share="proportional", at_least=5), 20, [100, 8, 3]).tolist() == [12, 5, 3]


def test_a_floor_that_needs_more_than_k_is_refused_with_the_cure() -> None:
    with pytest.raises(SpecError, match=r"select\.quotas\.at_least 10 needs 30 examples but 20 are kept"):
        quotas(Quotas(at_least=10), 20, [50, 50, 50])
