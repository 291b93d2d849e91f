"""Batches are what the strategies say, from any order of the shortlist; copies and outliers end as they must."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import chisquare

from raydelt.active.batch import (
    STRATEGIES,
    Candidates,
    badge,
    choose,
    gradient_distances,
    gradients,
    k_center,
    k_means_pp,
    random,
    typical,
    typicality,
)
from raydelt.errors import InputError, SpecError
from raydelt.scorers.protocol import Array

RNG = np.random.default_rng(8)
H = RNG.normal(size=(60, 5))
P = RNG.dirichlet(np.ones(4), size=60)
SEEN = RNG.normal(size=(7, 5))
IDS = np.array([f"{i:03d}" for i in range(60)], object)
NAMES = sorted(STRATEGIES)


def ids_of(candidates: Candidates, rows: Array) -> list[str]:
    return [str(candidates.ids[row]) for row in rows]


def outer(delta: Array, h: Array) -> Array:
    return (delta[:, :, None] * h[:, None, :]).reshape(len(h), -1)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_factorised_distances_are_those_of_the_gradients(d: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, delta = rng.normal(size=(8, d)), gradients(rng.dirichlet(np.ones(classes), size=8))
    expected = cdist(outer(delta, h), outer(delta, h), "sqeuclidean")
    for row in range(8):
        assert gradient_distances(delta, h, row) == pytest.approx(expected[row], rel=1e-9, abs=1e-12)


def test_near_copies_keep_their_small_distance_and_copies_have_none() -> None:
    h, p = 1e3 * H[:3].copy(), P[:3].copy()
    h[1], p[1] = h[0], p[0]
    h[2], p[2] = h[0] * (1 + 1e-9), p[0]
    found = gradient_distances(gradients(p), h, 0)
    assert found[:2].tolist() == [0.0, 0.0]
    exact = np.square(outer(gradients(p)[2:], h[2:] - h[0])).sum()
    assert found[2] == pytest.approx(exact, rel=1e-4)


def test_gradients_are_those_at_the_most_probable_class() -> None:
    assert gradients(np.array([[0.2, 0.8], [0.5, 0.5]])).tolist() == [
        pytest.approx([0.2, -0.2]),
        pytest.approx([-0.5, 0.5]),
    ]


def test_badge_begins_with_the_longest_gradient_and_goes_on_by_squared_distance() -> None:
    h, p = H[:6], P[:6]
    delta = gradients(p)
    longest = int(np.square(outer(delta, h)).sum(axis=1).argmax())
    counts = np.zeros(6)
    for seed in range(3000):
        picks = badge(Candidates(IDS[:6], h, p), 2, seed=seed)
        assert picks[0] == longest
        counts[picks[1]] += 1
    mass = gradient_distances(delta, h, longest)
    others = np.arange(6) != longest
    assert counts[longest] == 0
    assert chisquare(counts[others], 3000 * mass[others] / mass.sum()).pvalue > 1e-3


def test_k_center_is_the_naive_greedy_and_a_2_approximation() -> None:
    picks = k_center(Candidates(IDS, H, labelled=SEEN), 6, seed=0)
    chosen: list[int] = []
    for _ in range(6):
        distance = cdist(H, np.concatenate([SEEN, H[chosen]])).min(axis=1)
        chosen.append(int(distance.argmax()))
    assert picks.tolist() == chosen
    small = H[:9]
    own = k_center(Candidates(IDS[:9], small), 3, seed=1)
    radius = cdist(small, small[own]).min(axis=1).max()
    best = min(cdist(small, small[[a, b, c]]).min(axis=1).max() for a in range(9) for b in range(a) for c in range(b))
    assert radius <= 2 * best


def blobs() -> tuple[Array, Array]:
    """Three clusters of 30, 20 and 10 examples, and which each belongs to."""
    centres = np.repeat(np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]]), [30, 20, 10], axis=0)
    return centres + np.random.default_rng(1).normal(size=(60, 2)), np.repeat([0, 1, 2], [30, 20, 10])


def test_typical_takes_the_densest_of_each_cluster_largest_first() -> None:
    h, cluster = blobs()
    density = typicality(h, cluster)
    for seed in range(5):
        picks = typical(Candidates(IDS, h), 3, seed=seed)
        assert cluster[picks].tolist() == [0, 1, 2]
        for pick in picks:
            assert density[pick] == density[cluster == cluster[pick]].max()


def test_typical_leaves_clusters_with_labels_for_last() -> None:
    h, cluster = blobs()
    picks = typical(Candidates(IDS, h, labelled=np.array([[0.1, 0.1], [49.9, 0.2]])), 1, seed=0)
    assert cluster[picks].tolist() == [2]


def test_typicality_is_one_over_the_mean_distance_to_the_nearest_in_the_cluster() -> None:
    x = np.array([[0.0], [1.0], [3.0], [100.0], [7.0], [7.0]])
    clusters = np.array([0, 0, 0, 1, 2, 2])
    assert typicality(x, clusters, neighbours=1).tolist() == [1.0, 1.0, 0.5, 0.0, np.inf, np.inf]
    assert typicality(x, clusters)[:3] == pytest.approx([2 / 4, 2 / 3, 2 / 5])


@pytest.mark.parametrize("name", NAMES)
def test_any_order_of_the_shortlist_gives_the_same_examples(name: str) -> None:
    whole = Candidates(IDS, H, P, SEEN)
    expected = ids_of(whole, choose(name, whole, 9, seed=3))
    assert len(set(expected)) == 9
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(60)
        other = Candidates(IDS[order], H[order], P[order], SEEN[np.random.default_rng(seed).permutation(7)])
        assert ids_of(other, choose(name, other, 9, seed=3)) == expected


@pytest.mark.parametrize("name", ["badge", "k_means_pp", "random"])
def test_another_seed_gives_other_examples(name: str) -> None:
    whole = Candidates(IDS, H, P)
    assert choose(name, whole, 9, seed=3).tolist() != choose(name, whole, 9, seed=4).tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("labelled", [None, SEEN])
def test_a_batch_above_the_pool_is_all_of_it(name: str, labelled: Array | None) -> None:
    small = Candidates(IDS[:4], H[:4], P[:4], labelled)
    assert sorted(choose(name, small, 9, seed=0)) == [0, 1, 2, 3]
    empty = Candidates(IDS[:0], H[:0], P[:0], labelled)
    assert choose(name, empty, 9, seed=0).tolist() == []


@pytest.mark.parametrize("name", NAMES)
def test_constant_features_still_give_different_examples(name: str) -> None:
    flat = Candidates(IDS, np.ones((60, 5)), np.full((60, 4), 0.25), np.ones((2, 5)))
    assert len(set(choose(name, flat, 20, seed=0).tolist())) == 20


def test_k_means_plus_plus_begins_uniformly_and_goes_on_by_squared_distance() -> None:
    h, counts = H[:5], np.zeros((5, 5))
    for seed in range(6000):
        first, second = k_means_pp(Candidates(IDS[:5], h), 2, seed=seed)
        counts[first, second] += 1
    assert chisquare(counts.sum(axis=1)).pvalue > 1e-3
    mass = cdist(h, h, "sqeuclidean")
    expected = counts.sum(axis=1, keepdims=True) * mass / mass.sum(axis=1, keepdims=True)
    apart = ~np.eye(5, dtype=bool)
    assert np.diag(counts).sum() == 0
    assert chisquare(counts[apart], expected[apart], ddof=4).pvalue > 1e-3


def test_copies_come_last_in_k_means_plus_plus() -> None:
    h = np.repeat(H[:5], 12, axis=0)
    picks = k_means_pp(Candidates(IDS, h), 8, seed=2)
    assert len({pick // 12 for pick in picks[:5].tolist()}) == 5
    assert len(set(picks.tolist())) == 8


def test_a_random_batch_is_uniform() -> None:
    small = Candidates(IDS[:5], H[:5])
    counts = np.bincount(np.concatenate([random(small, 2, seed=seed) for seed in range(2000)]), minlength=5)
    assert (np.abs(counts / 2000 - 0.4) <= 3.3 * np.sqrt(0.24 / 2000)).all()


def test_badge_without_probabilities_is_refused() -> None:
    with pytest.raises(InputError, match="needs probabilities"):
        badge(Candidates(IDS, H), 3, seed=0)


def test_an_unknown_strategy_and_a_batch_of_nothing_are_refused() -> None:
    with pytest.raises(SpecError, match="'best'"):
        choose("best", Candidates(IDS, H), 3, seed=0)
    with pytest.raises(SpecError, match="at least 1"):
        random(Candidates(IDS, H), 0, seed=0)


def test_shortlists_that_do_not_fit_are_refused() -> None:
    bad = H.copy()
    bad[2, 1] = np.nan
    twice = IDS.copy()
    twice[1] = twice[0]
    for match, build in (
        ("one row per id", lambda: Candidates(IDS[:3], H)),
        ("probabilities", lambda: Candidates(IDS, H, P[:3])),
        ("same features", lambda: Candidates(IDS, H, P, SEEN[:, :2])),
        ("twice", lambda: Candidates(twice, H)),
        ("not finite", lambda: Candidates(IDS, bad)),
    ):
        with pytest.raises(InputError, match=match):
            build()
