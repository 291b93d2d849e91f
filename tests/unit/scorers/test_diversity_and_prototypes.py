"""Diversity equals the brute force, prototypes come close to scikit-learn, and no partition changes either."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from raydelt.corpus.canonical import fixed_lists
from raydelt.scorers.diversity import DiversityConfig, Transform, unit_rows
from raydelt.scorers.protocol import Reducer, ScoringContext
from raydelt.scorers.prototype import LowestKeys, Prototype, PrototypeConfig


def batch_of(x: np.ndarray, start: int = 0) -> pa.RecordBatch:
    ids = [f"{i:06d}" for i in range(start, start + len(x))]
    keys = np.random.default_rng(1).permutation(100_000)[start : start + len(x)].astype(np.uint64)
    columns = [pa.array(ids), pa.array(keys), fixed_lists(x.astype(np.float32))]
    return pa.record_batch(columns, ["example_id", "draw_key", "x"])


def reduced(reducer: Reducer, x: np.ndarray, cuts: list[int]) -> object:
    state, edges = reducer.zero(), [0, *sorted(cuts), len(x)]
    for low, high in itertools.pairwise(edges):
        if high > low:
            state = reducer.merge(state, reducer.add(reducer.zero(), batch_of(x[low:high], low)))
    return reducer.finish(state)


def context_of(x: np.ndarray, classes: int = 0) -> ScoringContext:
    width = x.shape[1]
    return ScoringContext(0, classes, (width,), np.zeros(width), np.ones(width))


def diversity_of(x: np.ndarray, cuts: list[int] | None = None) -> np.ndarray:
    context = context_of(x)
    scorer = DiversityConfig().build()
    statistic = scorer.fit(lambda reducer: reduced(reducer, x, cuts or []), context)
    scorer.setup(replace(context, statistics={"diversity": statistic}))
    return scorer.score(batch_of(x))["diversity"]


def test_diversity_equals_the_mean_cosine_to_all_others_by_brute_force() -> None:
    x = load_digits().data[:400]
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = units @ units.T
    expected = 1 - (cosines.sum(axis=1) - 1) / (len(x) - 1)
    np.testing.assert_allclose(diversity_of(x), expected, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 100), max_size=6))
def test_no_partition_changes_diversity(cuts: list[int]) -> None:
    x = load_digits().data[:100]
    np.testing.assert_allclose(diversity_of(x, cuts), diversity_of(x), atol=1e-12)


def test_orthogonal_examples_are_wholly_diverse_and_copies_not_at_all() -> None:
    np.testing.assert_allclose(diversity_of(np.eye(6)), np.ones(6))
    np.testing.assert_allclose(diversity_of(np.ones((5, 3))), np.zeros(5), atol=1e-12)


def test_an_example_without_direction_or_without_company_has_diversity_one() -> None:
    assert diversity_of(np.ones((1, 3))).tolist() == [1.0]
    x = np.array([[1.0, 0], [1, 0], [0, 0]])
    np.testing.assert_allclose(diversity_of(x), [0, 0, 1], atol=1e-12)


def fitted(x: np.ndarray, cuts: list[int], **config: int) -> tuple[np.ndarray, np.ndarray]:
    """Centroids and distances."""
    scorer: Prototype = PrototypeConfig(**config).build()
    context = context_of(x)
    centroids = scorer.fit(lambda reducer: reduced(reducer, x, cuts), context)
    scorer.setup(replace(context, statistics={"prototype": centroids}))
    return centroids, scorer.score(batch_of(x))["prototype_distance"]


def test_prototypes_are_within_five_percent_of_scikit_learn() -> None:
    x = load_digits().data - load_digits().data.mean(axis=0)
    _, distances = fitted(x, [700], clusters=10, iterations=50)
    units = unit_rows(x)
    best = KMeans(10, n_init=10, random_state=0).fit(units)
    centres = unit_rows(best.cluster_centers_)
    reference = (1 - (units @ centres.T).max(axis=1)).sum()
    assert distances.sum() <= 1.05 * reference


def test_as_many_clusters_as_distinct_examples_leave_no_distance() -> None:
    x = np.repeat(load_digits().data[:5], 3, axis=0)
    _, distances = fitted(x, [], clusters=9)
    np.testing.assert_allclose(distances, 0, atol=1e-6)


@pytest.mark.parametrize("cuts", [[50], [1, 2, 3], [20, 40, 60, 80]])
def test_no_partition_changes_the_prototypes(cuts: list[int]) -> None:
    x = load_digits().data[:100]
    centroids, distances = fitted(x, [], clusters=4)
    other, others = fitted(x, cuts, clusters=4)
    np.testing.assert_allclose(centroids, other, atol=1e-9)
    np.testing.assert_allclose(distances, others, atol=1e-9)


def test_an_empty_cluster_moves_to_the_farthest_example() -> None:
    from raydelt.scorers.prototype import LloydStep

    x = np.array([[1.0, 0], [0.9, 0.1], [0, 1]])
    start = unit_rows(np.array([[1.0, 0.5], [-1, -1]]))
    moved = reduced(LloydStep(Transform(np.zeros(2), np.ones(2)), start), x, [1])
    np.testing.assert_allclose(moved[1], [0, 1], atol=1e-6)  # type: ignore[index]


def test_the_sample_to_start_from_is_the_lowest_keys_in_any_partition() -> None:
    x = load_digits().data[:60]
    reducer = LowestKeys(Transform(np.zeros(64), np.ones(64)), 10)
    np.testing.assert_array_equal(reduced(reducer, x, []), reduced(reducer, x, [7, 30, 31]))  # type: ignore[arg-type]
