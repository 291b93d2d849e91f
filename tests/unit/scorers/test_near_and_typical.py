"""Cosines within a cluster equal the brute force, large clusters fall apart in one way, scores follow from cosines."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from raydelt.scorers import neighbours
from raydelt.scorers.near_duplicates import NearDuplicatesConfig
from raydelt.scorers.neighbours import split_large, within
from raydelt.scorers.typicality import TypicalityConfig


def units_of(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def brute_force(x: np.ndarray, nearest: int) -> tuple[list[float], list[float], list[int]]:
    """The same three numbers per row, one pair at a time in float64."""
    units = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    knn, earlier, who = [], [], []
    for i, own in enumerate(units):
        cosines = [float(own @ other) for other in units]
        others = sorted(cosines[:i] + cosines[i + 1 :], reverse=True)[:nearest]
        knn.append(sum(others) / len(others) if others else 0.0)
        earlier.append(max(cosines[:i], default=-1.0))
        who.append(cosines.index(earlier[-1]) if i else -1)
    return knn, earlier, who


@pytest.mark.parametrize("block", [1 << 24, 1000, 1])
def test_cosines_equal_the_brute_force_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_COSINES", block)
    x = load_digits().data[:300]
    knn, earlier, who = within(units_of(x), 10)
    expected = brute_force(x, 10)
    np.testing.assert_allclose(knn, expected[0], atol=1e-6)
    np.testing.assert_allclose(earlier, expected[1], atol=1e-6)
    assert who.tolist() == expected[2]


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 14), nearest=st.integers(1, 12), seed=st.integers(0, 99))
def test_few_rows_have_as_many_neighbours_as_there_are(rows: int, nearest: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, 3))
    for found, expected in zip(within(units_of(x), nearest), brute_force(x, nearest), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_of_equally_close_rows_the_first_is_the_neighbour() -> None:
    _, earlier, who = within(units_of(np.ones((4, 2))), 2)
    assert who.tolist() == [-1, 0, 0, 0]
    assert earlier[0] == -1
    np.testing.assert_allclose(earlier[1:], 1, atol=1e-6)


def test_what_fits_is_one_group() -> None:
    assert [group.tolist() for group in split_large(np.eye(4, dtype=np.float32), 4)] == [[0, 1, 2, 3]]


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 60), largest=st.integers(1, 20), copies=st.booleans(), seed=st.integers(0, 99))
def test_a_large_cluster_falls_into_groups_that_fit(rows: int, largest: int, copies: bool, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, 4))
    groups = split_large(units_of(np.ones_like(x) if copies else x), largest)
    assert max(len(group) for group in groups) <= largest
    assert all((np.diff(group) > 0).all() for group in groups)
    assert sorted(np.concatenate(groups).tolist()) == list(range(rows))


def test_a_large_cluster_is_cut_where_it_is_thin() -> None:
    random = np.random.default_rng(0)
    cloud = random.permutation(np.repeat(np.arange(4), 50))
    groups = split_large(units_of(np.eye(8)[cloud] + 0.05 * random.normal(size=(200, 8))), 60)
    assert sorted(sorted(set(cloud[group].tolist())) for group in groups) == [[0], [1], [2], [3]]


def batch_of(**columns: list[float]) -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(values, pa.float32()) for name, values in columns.items()})


def test_typicality_is_the_inverse_distance_with_a_floor() -> None:
    scored = TypicalityConfig().build().score(batch_of(knn_cosine=[0.9, 0.0, -1.0, 1.0, 0.9999, np.nan]))
    np.testing.assert_allclose(scored["typicality"], [10, 1, 0.5, 1000, 1000, np.nan], rtol=1e-5)


def test_an_example_within_epsilon_of_an_earlier_one_is_its_duplicate() -> None:
    batch = batch_of(earlier_cosine=[-1.0, 0.94, 0.96, 1.0, 0.0, np.nan])
    scored = NearDuplicatesConfig().build().score(batch)
    np.testing.assert_allclose(scored["novelty"], [2, 0.06, 0.04, 0, 1, np.nan], atol=1e-6)
    np.testing.assert_array_equal(scored["near_duplicate"], [0, 0, 1, 1, 0, np.nan])
    strict = NearDuplicatesConfig(epsilon=0.01).build().score(batch)
    np.testing.assert_array_equal(strict["near_duplicate"], [0, 0, 0, 1, 0, np.nan])


def test_a_dense_neighbourhood_is_more_typical_than_an_outlier() -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([np.eye(8)[0] + 0.1 * random.normal(size=(30, 8)), -np.eye(8)[:1]])
    knn, _, _ = within(units_of(x), 10)
    typicality = TypicalityConfig().build().score(batch_of(knn_cosine=knn.tolist()))["typicality"]
    assert typicality.argmin() == 30


@pytest.mark.parametrize("epsilon", [0, 1, -0.1])
def test_an_epsilon_without_meaning_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        NearDuplicatesConfig(epsilon=epsilon)
