"""Distances found by bounds have the bits of those measured one by one, for any numbers and wherever a row stands."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from raydelt.active import distances
from raydelt.active.distances import Shrinking, nearest, to_row
from raydelt.scorers.protocol import Array


def clouds() -> dict[str, Array]:
    """Points [n, d] that are easy, alike, far from the origin, and of sizes that floats can hardly hold."""
    rng = np.random.default_rng(4)
    wide = rng.normal(size=(300, 60))
    lone = wide.copy()
    lone[7] *= 1e9
    return {
        "wide": wide,
        "narrow": rng.normal(size=(300, 3)),
        "whole numbers": rng.integers(0, 2, size=(300, 40)).astype(float),
        "copies": np.repeat(wide[:20], 15, axis=0),
        "constant": np.ones((300, 40)),
        "near copies": wide[:1] + 1e-9 * wide,
        "far away": 1e7 + wide,
        "one outlier": lone,
        "tiny": 1e-160 * wide,
        "huge": 1e130 * wide,
    }


@pytest.mark.parametrize("name", sorted(clouds()))
@pytest.mark.parametrize("k", [1, 9, 150])
def test_the_nearest_centre_is_that_of_all_distances_bit_by_bit(name: str, k: int) -> None:
    x = clouds()[name]
    centres = x[:: len(x) // k][:k]
    expected = cdist(x, centres, "sqeuclidean")
    own, squared = nearest(x, centres)
    assert own.tolist() == expected.argmin(axis=1).tolist()
    assert squared.tobytes() == expected.min(axis=1).tobytes()


def test_the_nearest_centre_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = clouds()["copies"]
    whole = nearest(x, x[:40])
    monkeypatch.setattr(distances, "DISTANCES", 700)
    parts = nearest(x, x[:40])
    assert [own.tobytes() for own in whole] == [own.tobytes() for own in parts]
    assert [own.tolist() for own in nearest(x[:0], x[:40])] == [[], []]


@pytest.mark.parametrize("name", sorted(clouds()))
def test_distances_to_a_growing_set_are_those_to_all_of_it(name: str) -> None:
    x, shrunk = clouds()[name], Shrinking(clouds()[name])
    closest = np.full(len(x), np.inf)
    for rows in ([5], [0, 17, 200], list(range(3, 40, 4)), [299]):
        found = shrunk(rows, closest)
        for row, own in zip(rows, found, strict=True):
            expected = np.minimum(closest, cdist(x, x[row : row + 1], "sqeuclidean")[:, 0])
            assert own.tobytes() == expected.tobytes()
            assert to_row(x, row).tobytes() == cdist(x, x[row : row + 1], "sqeuclidean")[:, 0].tobytes()
        closest = found[-1]
