"""Pooling two sets of rounds gives the mean and standard error of all rounds together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydelt.errors import SpecError
from raydelt.rank.refine import pooled, pooled_mean
from raydelt.scorers.protocol import over_rounds
from raydelt.specfile import validate


@given(first=st.integers(2, 6), further=st.integers(1, 6), seed=st.integers(0, 99))
def test_pooling_equals_all_rounds_together(first: int, further: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(3.0, 2.0, (first + further, 20))
    own, more, both = (over_rounds("x", part) for part in (values[:first], values[first:], values))
    mean, error = pooled_mean(own["x"], own["x_se"], more["x"], more.get("x_se", np.zeros(20)), (first, further))
    np.testing.assert_allclose(mean, both["x"], rtol=1e-12)
    np.testing.assert_allclose(error, both["x_se"], rtol=1e-9)


def test_only_the_given_rows_and_the_means_over_rounds_change() -> None:
    rng = np.random.default_rng(0)
    ids = pa.array([f"id{i}" for i in range(8)])
    columns = {"a": rng.random(8), "a_se": rng.random(8), "fixed": rng.random(8)}
    scores = pa.table({"example_id": ids} | {name: pa.array(v.astype(np.float32)) for name, v in columns.items()})
    chosen = pa.array([6, 1])
    more = scores.take(chosen).set_column(1, "a", pa.array(np.array([5.0, 7.0], np.float32)))
    more = more.set_column(3, "fixed", pa.array(np.array([9.0, 9.0], np.float32)))
    found = pooled(scores, more, (2, 2))
    assert found["fixed"].equals(scores["fixed"])
    assert found.schema == scores.schema
    before, after = scores["a"].to_numpy(), found["a"].to_numpy()
    assert np.flatnonzero(before != after).tolist() == [1, 6]
    np.testing.assert_allclose(after[[6, 1]], (before[[6, 1]] + [5.0, 7.0]) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": {"refine": {}, "rounds": 1}}, "standard errors"),
        ({"rank": {"refine": {}, "method": "score"}}, "standard errors"),
        ({"rank": {"refine": {}}, "select": {"sample": {"method": "poisson"}}}, "select.sample"),
    ],
)
def test_refining_without_a_cut_or_errors_is_refused(change: dict[str, object], said: str) -> None:
    spec = {"name": "x", "corpus": {"source": "builtin://digits"}, "output": "runs/x"}
    with pytest.raises(SpecError, match=said):
        validate(spec | change)
