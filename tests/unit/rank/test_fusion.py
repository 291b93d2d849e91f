"""Fused scores follow their formulas, rise with every component, and see nothing but ranks."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gmean, rankdata

from raydelt.rank.fusion import Fusion, fused, ranks
from raydelt.scorers.composite import Distribution
from raydelt.scorers.protocol import Array

METHODS = get_args(Fusion)


def percentiles_of(columns: dict[str, Array]) -> dict[str, Array]:
    return {name: Distribution.of(x).ecdf(x) for name, x in columns.items()}


def columns_of(n: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=n), "b": rng.integers(0, 5, n).astype(np.float64), "c": rng.gamma(2.0, size=n)}


@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=80))
def test_ranks_count_from_the_best_and_ties_share_the_middle_one(values: list[int]) -> None:
    x = np.array(values, np.float64)
    assert ranks(Distribution.of(x).ecdf(x), len(x)).tolist() == rankdata(-x).tolist()


def test_fusion_is_what_its_formula_says() -> None:
    columns = columns_of(50, 1)
    percentiles, weights = percentiles_of(columns), {"a": 2.0, "b": 1.0, "c": 1.0}
    share = np.array([0.5, 0.25, 0.25])[:, None]
    r = np.stack([rankdata(-columns[name]) for name in "abc"])
    np.testing.assert_allclose(fused(percentiles, weights, n=50), (share / (60 + r)).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        fused(percentiles, weights, n=50, constant=1.0), (share / (1 + r)).sum(axis=0), rtol=1e-12
    )
    np.testing.assert_allclose(
        fused(percentiles, weights, n=50, method="borda"), 1 - (share * r).sum(axis=0) / 50, rtol=1e-12
    )
    table = np.stack([percentiles[name] for name in "abc"])
    expected = gmean(table, axis=0, weights=np.broadcast_to(share, table.shape))
    np.testing.assert_allclose(fused(percentiles, weights, n=50, method="product"), expected, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_example_better_in_one_component_and_equal_in_the_rest_is_better(method: Fusion) -> None:
    columns = columns_of(40, 2)
    percentiles = percentiles_of(columns)
    before = fused(percentiles, {"a": 1.0, "b": 1.0, "c": 0.5}, n=40, method=method)
    for name in "abc":
        raised = dict(percentiles)
        raised[name] = np.minimum(percentiles[name] + 1 / 40, 1 - 1 / 80)
        after = fused(raised, {"a": 1.0, "b": 1.0, "c": 0.5}, n=40, method=method)
        grew = raised[name] > percentiles[name]
        assert (after[grew] > before[grew]).all()


@pytest.mark.parametrize("method", METHODS)
def test_only_ranks_and_relative_weights_count(method: Fusion) -> None:
    columns = columns_of(60, 3)
    weights = {"a": 0.2, "b": 0.3, "c": 0.7}
    one = fused(percentiles_of(columns), weights, n=60, method=method)
    stretched = {"c": np.exp(columns["c"]), "a": columns["a"] ** 3, "b": 10 * columns["b"] - 4}
    scaled = {name: 4 * weight for name, weight in reversed(weights.items())} | {"unused": 0.0}
    assert fused(percentiles_of(stretched), scaled, n=60, method=method).tobytes() == one.tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_a_single_component_keeps_its_order_and_its_ties(method: Fusion) -> None:
    columns = columns_of(60, 4)
    found = fused(percentiles_of(columns), {"b": 3.0}, n=60, method=method)
    assert rankdata(found).tolist() == rankdata(columns["b"]).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_parts_of_any_layout_fuse_to_the_same_bits(method: Fusion) -> None:
    percentiles, weights = percentiles_of(columns_of(101, 5)), {"a": 1.0, "b": 1.0, "c": 1.0}
    whole = fused(percentiles, weights, n=101, method=method)
    order = np.random.default_rng(0).permutation(101)
    found = np.empty(101)
    for piece in np.array_split(order, 9):
        found[piece] = fused({name: p[piece] for name, p in percentiles.items()}, weights, n=101, method=method)
    assert found.tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": -1.0}, r"weight -1 of a must be at least 0"),
        ({"a": float("inf")}, r"weight inf of a"),
        ({"a": 0.0}, r"at least one weight above 0"),
        ({}, r"at least one weight above 0"),
        ({"d": 1.0}, r"weight of d: no such component; there are a, b, c"),
    ],
)
def test_impossible_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fused(percentiles_of(columns_of(5, 6)), weights, n=5)
