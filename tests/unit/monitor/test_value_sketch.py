"""The record of a column's values: exact while they are few, the same in any order, bounded when they are many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydelt.monitor.sketch import NOTHING, Values, merge, values_of

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def same(left: Values, right: Values) -> bool:
    return left.shift == right.shift and all(
        np.array_equal(a, b) for a, b in ((left.keys, right.keys), (left.counts, right.counts))
    )


@given(st.lists(floats, min_size=1, max_size=60), st.lists(st.floats(0.001, 1), min_size=1, max_size=5))
def test_quantiles_and_counts_are_those_of_the_values(values: list[float], levels: list[float]) -> None:
    x = np.array(values, np.float32)
    record = values_of(x)
    expected = np.quantile(x, levels, method="inverted_cdf")
    assert np.array_equal(record.quantiles(np.array(levels)), expected)
    assert record.below(x).tolist() == [int((x <= value).sum()) for value in x]


@given(st.lists(floats, max_size=80), st.integers(0, 80), st.integers(1, 20), st.randoms())
def test_the_state_depends_on_neither_order_nor_parts(values: list[float], cut: int, limit: int, rng: object) -> None:
    whole = values_of(np.array(values, np.float32), limit=limit)
    mixed = list(values)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    parts = [np.array(part, np.float32) for part in (mixed[:cut], mixed[cut:])]
    left, right = (values_of(part, limit=limit) for part in parts)
    assert same(merge(left, right, limit=limit), whole)
    assert same(merge(right, left, limit=limit), whole)
    assert same(merge(whole, NOTHING, limit=limit), whole)
    assert len(whole.keys) <= limit
    assert whole.total == len(values)


def test_many_values_are_binned_finely_and_quantiles_stay_close() -> None:
    x = np.random.default_rng(0).lognormal(size=300_000).astype(np.float32)
    record = values_of(x)
    assert 32_768 <= len(record.keys) <= 65_536
    levels = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
    assert record.quantiles(levels) == pytest.approx(np.quantile(x, levels), rel=1e-3)


def test_signs_and_zeros_are_in_order() -> None:
    record = values_of(np.array([-1.5, -0.0, 0.0, 2.0, -3e38, 3e38], np.float32))
    assert record.upper.tolist() == pytest.approx([-3e38, -1.5, 0.0, 2.0, 3e38])
    assert record.counts.tolist() == [1, 1, 2, 1, 1]


def test_nothing_has_no_quantiles() -> None:
    with pytest.raises(ValueError, match="no values"):
        NOTHING.quantiles(np.array([0.5]))
