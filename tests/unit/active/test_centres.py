"""k-means|| is as good as many restarts, draws as it says, and has the same bits in any layout of the pool."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chisquare
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from raydelt.active.centres import (
    cost,
    drawn,
    first,
    k_means_parallel,
    lloyd,
    lloyd_sums,
    nearest_examples,
)
from raydelt.active.distances import Shrinking, nearest
from raydelt.active.plus_plus import d2_picks
from raydelt.active.points import Points, in_one_part, points_of
from raydelt.errors import InputError
from raydelt.examples import draw_keys
from raydelt.scorers.protocol import Array


def points(x: Array) -> Points:
    ids = np.array([f"{i:06d}" for i in range(len(x))], object)
    return Points(ids, draw_keys(ids.tolist()), np.asarray(x, np.float64))


def in_parts(parts: list[Points]) -> Callable[[Callable[[Points], Any]], Any]:
    return lambda function: functools.reduce(lambda left, right: left.merge(right), map(function, parts))


def shuffled(whole: Points, count: int, seed: int) -> list[Points]:
    order = np.random.default_rng(seed).permutation(len(whole.x))
    return [whole.take(rows) for rows in np.array_split(order, count)]


DIGITS = points(load_digits().data)
FIVE = np.array([[0.0], [1.0], [2.0], [4.0], [-3.0]])


def test_inertia_on_digits_is_that_of_scikit_learn_with_ten_restarts() -> None:
    reference = KMeans(10, n_init=10, random_state=0).fit(DIGITS.x).inertia_
    for seed in range(3):
        found = lloyd(in_one_part(DIGITS), k_means_parallel(in_one_part(DIGITS), 10, seed=seed))
        assert found.cost <= 1.05 * reference
        assert found.counts.sum() == len(DIGITS.x)
        assert found.cost == pytest.approx(
            np.square(DIGITS.x - found.centres[nearest(DIGITS.x, found.centres)[0]]).sum()
        )


def test_a_lloyd_step_moves_to_the_means() -> None:
    centres = DIGITS.x[:4]
    moved = lloyd_sums(DIGITS, centres, 16.0).moved(centres)
    own = nearest(DIGITS.x, centres)[0]
    assert moved == pytest.approx(np.stack([DIGITS.x[own == c].mean(axis=0) for c in range(4)]), rel=1e-14)


@pytest.mark.parametrize("count", [2, 7])
def test_any_layout_gives_the_same_bits(count: int) -> None:
    irrational = Points(DIGITS.ids, DIGITS.keys, np.sqrt(DIGITS.x) * np.pi)
    one, several = in_one_part(irrational), in_parts(shuffled(irrational, count, count))
    seeds = k_means_parallel(one, 12, seed=4)
    assert np.array_equal(seeds, k_means_parallel(several, 12, seed=4))
    whole, parted = lloyd(one, seeds), lloyd(several, seeds)
    assert np.array_equal(whole.centres, parted.centres)
    assert (whole.cost, whole.counts.tolist(), whole.steps) == (parted.cost, parted.counts.tolist(), parted.steps)
    assert nearest_examples(one, whole.centres) == nearest_examples(several, whole.centres)
    assert not np.array_equal(seeds, k_means_parallel(one, 12, seed=5))


def test_as_many_centres_as_examples_cost_nothing() -> None:
    own = DIGITS.take(np.arange(120))
    passes = in_one_part(own)
    seeds = k_means_parallel(passes, 120, seed=1)
    assert lloyd(passes, seeds).cost == 0.0
    assert sorted(nearest_examples(passes, seeds)) == own.ids.tolist()


@pytest.mark.parametrize("copies", [3, 40])
def test_fewer_distinct_examples_than_centres_give_one_centre_each(copies: int) -> None:
    whole = points(np.tile(FIVE, (copies, 1)))
    seeds = k_means_parallel(in_parts(shuffled(whole, 3, 0)), 9, seed=2)
    assert sorted(seeds[:, 0]) == sorted(FIVE[:, 0])
    assert lloyd(in_one_part(whole), seeds).cost == 0.0


def test_a_far_outlier_does_not_keep_the_others_from_being_drawn() -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=(300, 2)), [[1e9, 0.0]]])
    assert len(k_means_parallel(in_one_part(points(x)), 20, seed=3)) == 20


def test_constant_features_have_one_centre() -> None:
    for n in (5, 500):
        assert k_means_parallel(in_one_part(points(np.full((n, 3), 2.5))), 4, seed=0).tolist() == [[2.5] * 3]


def test_an_empty_cluster_moves_to_the_farthest_example() -> None:
    x = np.array([[0.0], [1.0], [10.0], [100.0]])
    found = lloyd(in_one_part(points(x)), np.array([[0.5], [40.0], [-500.0]]))
    assert sorted(found.centres[:, 0]) == [0.5, 10.0, 100.0]


def test_k_means_plus_plus_draws_by_weighted_squared_distance() -> None:
    weights = np.array([1.0, 2.0, 1.0, 0.5, 3.0])
    second = np.zeros(5)
    for seed in range(4000):
        keys = draw_keys([f"{seed} {i}" for i in range(5)])
        picks = d2_picks(Shrinking(FIVE), keys, 2, seed=seed, weights=weights, start=0)
        second[picks[1]] += 1
    mass = weights * np.square(FIVE[:, 0])
    assert second[0] == 0
    assert chisquare(second[1:], 4000 * mass[1:] / mass.sum()).pvalue > 1e-3


def test_the_first_centre_is_a_uniform_draw() -> None:
    counts = np.bincount([int(first(points(FIVE), seed).draw[1]) for seed in range(4000)])
    assert chisquare(counts).pvalue > 1e-3


def test_the_first_centre_and_the_extent_do_not_depend_on_the_layout() -> None:
    whole = first(DIGITS, 3)
    for count in (2, 5):
        for seed in range(3):
            found = in_parts(shuffled(DIGITS, count, seed))(lambda part: first(part, 3))
            assert (found.count, found.extent, found.draw) == (whole.count, whole.extent, whole.draw)
            assert np.array_equal(found.row, whole.row)


def test_candidates_weigh_as_many_examples_as_are_nearest_to_them() -> None:
    heavy = in_one_part(points(np.repeat([[0.0], [1.0]], [180, 20], axis=0)))
    own = [k_means_parallel(heavy, 1, seed=seed)[0, 0] for seed in range(300)]
    assert abs(np.mean(own) - 0.1) <= 3.3 * np.sqrt(0.09 / 300)


def test_a_round_draws_each_example_with_its_probability() -> None:
    squared = np.square(FIVE[:, 0] - 0.0)
    phi = cost(points(FIVE), np.zeros((1, 1)), 4.0).value
    assert phi == squared.sum()
    counts = np.zeros(5)
    for seed in range(3000):
        for name in drawn(points(FIVE), np.zeros((1, 1)), phi, 2.0, seed, 1).ids:
            counts[int(name)] += 1
    expected = np.minimum(1.0, 2.0 * squared / phi)
    assert (np.abs(counts / 3000 - expected) <= 3.3 * np.sqrt(expected * (1 - expected) / 3000)).all()


def test_nearest_examples_are_distinct_and_the_closest_gets_a_shared_one() -> None:
    passes = in_parts([points(FIVE).take(np.array(rows)) for rows in ([4, 1], [0, 3], [2])])
    assert nearest_examples(passes, np.array([[1.4], [1.125], [0.75]])) == ["000002", "000001", "000000"]
    assert len(nearest_examples(passes, np.linspace(0, 1, 8)[:, None])) == 5


def test_points_come_from_a_batch_with_or_without_draw_keys() -> None:
    x = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0], pa.float32()), 2)
    table = pa.table({"example_id": ["b", "a"], "x": x})
    found = points_of(table.to_batches()[0])
    assert (found.x.tolist(), found.ids.tolist()) == ([[1.0, 2.0], [3.0, 4.0]], ["b", "a"])
    assert found.keys.tolist() == draw_keys(["b", "a"]).tolist()
    keyed = table.append_column("draw_key", pa.array([7, 8], pa.uint64()))
    assert points_of(keyed).keys.tolist() == [7, 8]


def test_empty_parts_change_nothing_and_an_empty_pool_is_refused() -> None:
    empty = DIGITS.take(np.arange(0))
    small = DIGITS.take(np.arange(50))
    parted = in_parts([empty, small, empty])
    seeds = k_means_parallel(parted, 3, seed=0)
    assert np.array_equal(seeds, k_means_parallel(in_one_part(small), 3, seed=0))
    assert nearest_examples(parted, seeds) == nearest_examples(in_one_part(small), seeds)
    with pytest.raises(InputError, match="pool is empty"):
        k_means_parallel(in_one_part(empty), 3, seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_coordinates_that_are_not_finite_are_refused(value: float) -> None:
    x = FIVE.copy()
    x[3] = value
    with pytest.raises(InputError, match="'000003'"):
        k_means_parallel(in_one_part(points(x)), 2, seed=0)


def test_fewer_than_one_centre_or_round_is_refused() -> None:
    for k, rounds in ((0, 5), (3, 0)):
        with pytest.raises(InputError, match="at least 1"):
            k_means_parallel(in_one_part(DIGITS), k, seed=0, rounds=rounds)
