"""Correlations equal scipy's on all examples at once, redundancy equals a regression's R^2, for any parts."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.linear_model import LinearRegression

from raydelt.rank.agreement import ROWS, Agreement, AgreementReducer, exact_products, redundancy, top_thresholds
from raydelt.scorers.composite import Distribution
from raydelt.scorers.protocol import Array


def corpus(n: int, seed: int) -> dict[str, Array]:
    """Five components: continuous, correlated with it, heavily tied, opposite with ties, and float32 on its own."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return {
        "a": a,
        "b": a + 0.5 * rng.normal(size=n),
        "tied": rng.integers(0, 4, n).astype(np.float64),
        "opposite": np.round(-a, 1),
        "alone": rng.gamma(1.0, size=n).astype(np.float32),
    }


def reducer_of(columns: dict[str, Array], ratio: float = 0.3) -> AgreementReducer:
    distributions = {name: Distribution.of(x) for name, x in columns.items()}
    return AgreementReducer(distributions, top_thresholds(distributions, ratio))


def batch_of(columns: dict[str, Array], rows: Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({name: x[rows] for name, x in columns.items()})


def agreement_of(columns: dict[str, Array], pieces: list[Array], ratio: float = 0.3) -> Agreement:
    reducer = reducer_of(columns, ratio)
    states = [reducer.add(reducer.zero(), batch_of(columns, piece)) for piece in pieces]
    return reducer.finish(functools.reduce(reducer.merge, states))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 300), seed=st.integers(0, 999))
def test_correlations_are_spearmans_with_ties(n: int, seed: int) -> None:
    columns = corpus(n, seed)
    found = agreement_of(columns, [np.arange(n)])
    with np.errstate(invalid="ignore"):
        ranks = np.stack([rankdata(x) for x in columns.values()])
        expected = np.corrcoef(ranks) if (np.ptp(ranks, axis=1) > 0).all() else None
    if expected is not None:
        np.testing.assert_allclose(found.spearman, expected, atol=1e-12)
        for a, x in enumerate(columns.values()):
            for b, y in enumerate(columns.values()):
                assert found.spearman[a, b] == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert found.rows == n


def test_redundancy_is_the_r2_of_a_regression_on_the_others() -> None:
    columns = corpus(500, 3)
    found = agreement_of(columns, [np.arange(500)])
    ranks = np.stack([rankdata(x) for x in columns.values()], axis=1)
    for a in range(ranks.shape[1]):
        others = np.delete(ranks, a, axis=1)
        expected = LinearRegression().fit(others, ranks[:, a]).score(others, ranks[:, a])
        assert found.redundancy[a] == pytest.approx(expected, abs=1e-10)


def test_redundancy_of_duplicates_is_one_and_leaves_the_others_as_they_are() -> None:
    columns = corpus(500, 4)
    plain = agreement_of(columns, [np.arange(500)])
    copies = {"again": columns["tied"], "turned": -columns["tied"], "scaled": 3 * columns["tied"]}
    doubled = agreement_of(columns | copies, [np.arange(500)])
    assert doubled.redundancy[[2, 5, 6, 7]] == pytest.approx(1.0, abs=1e-9)
    assert doubled.redundancy[[0, 1, 3, 4]] == pytest.approx(plain.redundancy[[0, 1, 3, 4]], abs=1e-9)
    pairs = {pair[:2]: pair[2] for pair in doubled.redundant(1 - 1e-12)}
    assert {pair: round(rho) for pair, rho in pairs.items()} == {
        ("tied", "again"): 1,
        ("tied", "turned"): -1,
        ("tied", "scaled"): 1,
        ("again", "turned"): -1,
        ("again", "scaled"): 1,
        ("turned", "scaled"): -1,
    }


def test_redundancy_of_one_component_is_zero() -> None:
    assert redundancy(np.ones((1, 1))).tolist() == [0.0]


def test_a_constant_component_is_nan_and_is_left_out_of_the_others() -> None:
    columns = corpus(200, 5)
    plain = agreement_of(columns, [np.arange(200)])
    found = agreement_of(columns | {"flat": np.full(200, 0.5)}, [np.arange(200)])
    assert np.isnan(found.spearman[5]).all()
    assert np.isnan(found.redundancy[5])
    np.testing.assert_array_equal(found.spearman[:5, :5], plain.spearman)
    np.testing.assert_array_equal(found.redundancy[:5], plain.redundancy)
    assert all("flat" not in pair for pair in found.redundant(0.0))


def test_redundant_pairs_count_opposites_and_come_strongest_first() -> None:
    found = agreement_of(corpus(400, 6), [np.arange(400)])
    pairs = found.redundant(0.8)
    assert pairs[0][:2] == ("a", "opposite")
    assert {pair[:2] for pair in pairs[1:]} == {("a", "b"), ("b", "opposite")}
    assert np.all(np.diff([abs(pair[2]) for pair in pairs]) <= 0)
    assert pairs[0][2] < -0.99
    assert found.redundant() == pairs[:1]


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 1.0])
def test_overlap_is_that_of_the_sets_of_highest_values(ratio: float) -> None:
    columns = corpus(230, 7)
    found = agreement_of(columns, [np.arange(230)], ratio)
    k = max(1, round(ratio * 230))
    tops = [set(np.flatnonzero(x >= np.sort(x)[-k]).tolist()) for x in columns.values()]
    assert len(tops[0]) == k
    expected = [[len(one & other) / len(one | other) for other in tops] for one in tops]
    np.testing.assert_allclose(found.overlap, expected, rtol=1e-15)


@pytest.mark.parametrize("parts", [2, 7, 100])
def test_figures_have_the_same_bits_in_any_layout(parts: int) -> None:
    columns = corpus(777, 8)
    whole = agreement_of(columns, [np.arange(777)])
    found = agreement_of(columns, np.array_split(np.random.default_rng(parts).permutation(777), parts))
    for name in ("spearman", "redundancy", "overlap"):
        assert getattr(found, name).tobytes() == getattr(whole, name).tobytes()


def test_a_batch_longer_than_a_chunk_is_summed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = corpus(300, 9)
    whole = agreement_of(columns, [np.arange(300)])
    monkeypatch.setattr("raydelt.rank.agreement.ROWS", 64)
    assert agreement_of(columns, [np.arange(300)]).spearman.tobytes() == whole.spearman.tobytes()


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.integers(-(2**36) + 1, 2**36 - 1)] * 3), min_size=1, max_size=40),
)
def test_products_of_large_integers_are_exact(rows: list[tuple[int, int, int]]) -> None:
    expected = [[sum(row[a] * row[b] for row in rows) for b in range(3)] for a in range(3)]
    assert exact_products(np.array(rows, np.int64)).tolist() == expected


def test_products_are_exact_in_the_worst_case_of_a_full_chunk() -> None:
    d = np.random.default_rng(1).integers(2**36 - 2**17, 2**36, (ROWS, 2))
    d[:, 1] *= -1
    exact = d.astype(object)
    assert exact_products(d).tolist() == (exact.T @ exact).tolist()


def test_no_examples_have_no_figures() -> None:
    reducer = reducer_of(corpus(10, 0))
    found = reducer.finish(reducer.zero())
    assert found.rows == 0
    assert np.isnan(found.spearman).all()
    assert np.isnan(found.overlap).all()
    assert found.redundant() == []
