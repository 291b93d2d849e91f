"""k-means over a pool in parts, for a cold start: k-means|| seeds, Lloyd steps, and the real examples nearest to them.

    phi = sum_i d_i^2, d_i the distance of example i to the nearest candidate
    a round draws every i with probability min(1, l d_i^2 / phi), by hash of (seed, round, id);   l = 2 k
    the candidates, weighted by how many examples are nearest to each, are reduced to k by greedy k-means++

Sums are integers: squared distances in units of 2^-62 of the greatest there can be, coordinates in units of 2^-62 of
the greatest one. So seeds, centres and cost have the same bits in any layout of the parts that `passes` go over.
With k' < k distinct examples there are k' centres. An empty cluster moves to the example farthest from its centre.

Cost: rounds passes of O(n r l d), then iterations of O(n k d). Memory: 2^22 distances, rounds l candidates. k-means||,
Bahmani et al. 2012; k-means++, Arthur and Vassilvitskii 2007.

Caution: it is Euclidean on the features as they come, so standardise or normalise them first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from raydelt.active.distances import DISTANCES, Shrinking, nearest
from raydelt.active.plus_plus import d2_picks
from raydelt.active.points import Passes, Points
from raydelt.errors import InputError
from raydelt.examples import draw_keys, mix, uniform
from raydelt.rank.noise import HALF_BITS, from_units, unit_sum
from raydelt.scorers.protocol import Array

GREATEST = 1e140
SMALLEST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class First:
    """How many examples there are, the greatest coordinate, and the example with the lowest (draw, id)."""

    count: int
    extent: float
    draw: tuple[int, str]
    row: Array | None

    def merge(self, other: First) -> First:
        """That of both sets of parts."""
        low = min(self, other, key=lambda own: (own.row is None, own.draw))
        return First(self.count + other.count, max(self.extent, other.extent), low.draw, low.row)


def first(points: Points, seed: int) -> First:
    """The first centre, a uniform draw, and the extent of the coordinates.

    Raises:
        InputError: a coordinate is not finite, or is beyond 1e140.
    """
    if len(points.x) == 0:
        return First(0, 0.0, (0, ""), None)
    extent = float(np.abs(points.x).max(initial=0.0))
    if not extent < GREATEST:
        row = int(np.flatnonzero(~(np.abs(points.x) < GREATEST).all(axis=1))[0])
        raise InputError(
            f"example {points.ids[row]!r} has a coordinate that is not finite or beyond {GREATEST:g}: "
            "drop or repair it"
        )
    draws = mix(points.keys, seed, "first centre")
    low = min(np.flatnonzero(draws == draws.min()).tolist(), key=lambda row: str(points.ids[row]))
    return First(len(points.x), extent, (int(draws[low]), str(points.ids[low])), points.x[low])


@dataclass(frozen=True)
class Cost:
    """A sum of squared distances, in units of 2^-62 of `scale`."""

    units: int
    scale: float

    @property
    def value(self) -> float:
        """The sum."""
        return from_units(self.units) * self.scale

    def merge(self, other: Cost) -> Cost:
        """That of both sets of parts."""
        return Cost(self.units + other.units, self.scale)


def cost(points: Points, centres: Array, extent: float) -> Cost:
    """The sum over points [n, d] of the squared distance to the nearest of the centres [k, d]."""
    scale = _scale(extent, centres.shape[1])
    return Cost(unit_sum(nearest(points.x, centres)[1] / scale), scale)


def drawn(points: Points, centres: Array, phi: float, l: float, seed: int, round: int) -> Points:  # noqa: E741
    """The points that a round draws, each with probability min(1, l d^2 / phi)."""
    squared = nearest(points.x, centres)[1]
    draws = uniform(points.keys, seed, "k-means||", round)
    return points.take(np.flatnonzero(draws * phi < l * squared))


@dataclass(frozen=True)
class Sums:
    """Of each cluster the count [k] and coordinate sums [2, k, d], coarse and fine; the cost, and the farthest point.

    Sums are in units of 2^-31 and 2^-62 of a power of two no less than any coordinate, `unit`.
    """

    counts: Array
    parts: Array
    unit: float
    cost: Cost
    farthest: tuple[float, str, Array | None]

    def merge(self, other: Sums) -> Sums:
        """That of both sets of parts."""
        far = min(self.farthest, other.farthest, key=lambda entry: entry[:2])
        merged = self.cost.merge(other.cost)
        return Sums(self.counts + other.counts, self.parts + other.parts, self.unit, merged, far)

    def moved(self, centres: Array) -> Array:
        """The means [k, d]; the first empty cluster takes the farthest point, and other empty ones stay."""
        total = (self.parts[0] * 2.0**HALF_BITS + self.parts[1]) * 2.0 ** (-2 * HALF_BITS) * self.unit
        means = np.where(self.counts[:, None] > 0, total / np.maximum(self.counts, 1)[:, None], centres)
        empty = np.flatnonzero(self.counts == 0)
        if len(empty) and self.farthest[2] is not None and self.farthest[0] < 0:
            means[empty[0]] = self.farthest[2]
        return means


def lloyd_sums(points: Points, centres: Array, extent: float) -> Sums:
    """What one Lloyd step needs of points [n, d] at centres [k, d]."""
    k, d = centres.shape
    own, squared = nearest(points.x, centres)
    unit, scale = _power_of_two(extent), _scale(extent, d)
    coarse = np.floor(scaled := points.x / unit * 2.0**HALF_BITS)
    fine = np.rint((scaled - coarse) * 2.0**HALF_BITS)
    member = csr_array((np.ones(len(own), np.int64), (own, np.arange(len(own)))), shape=(k, len(own)))
    parts = np.stack([member @ half.astype(np.int64) for half in (coarse, fine)])
    far: tuple[float, str, Array | None] = (math.inf, "", None)
    if len(own):
        rows = np.flatnonzero(squared == squared.max())
        row = min(rows.tolist(), key=lambda row: str(points.ids[row]))
        far = (-float(squared[row]), str(points.ids[row]), points.x[row])
    total = Cost(unit_sum(squared / scale), scale)
    return Sums(np.bincount(own, minlength=k), parts, unit, total, far)


def k_means_parallel(passes: Passes, k: int, *, seed: int, rounds: int = 5) -> Array:
    """Seeds [k', d] by k-means||: distinct examples, k of them unless the pool has fewer distinct ones.

    A pool of at most 2 k rounds examples is taken whole for the candidates.

    Raises:
        InputError: k or rounds is below 1, the pool is empty, or a coordinate is not finite.
    """
    if k < 1 or rounds < 1:
        raise InputError(f"k-means|| got k {k} and rounds {rounds}: both must be at least 1")
    start = _start(passes, seed)
    assert start.row is not None
    x, ids = start.row[None], [start.draw[1]]
    if start.count <= 2 * k * rounds:
        everyone = passes(_same).by_id()
        x, ids = everyone.x, everyone.ids.tolist()
    step = 0
    while start.count > 2 * k * rounds and (step < rounds or len(ids) < k):
        phi = passes(partial(cost, centres=x, extent=start.extent)).value
        if phi == 0:
            break
        found = passes(partial(drawn, centres=x, phi=phi, l=2.0 * k, seed=seed, round=step)).by_id()
        x, ids = np.concatenate([x, found.x]), [*ids, *found.ids.tolist()]
        step += 1
    weights = passes(partial(lloyd_sums, centres=x, extent=start.extent)).counts
    picks = d2_picks(
        Shrinking(x),
        draw_keys([str(entry) for entry in ids]),
        k,
        seed=seed,
        weights=weights.astype(np.float64),
        trials=2 + int(math.log(k)),
    )
    return np.asarray(x[picks])


@dataclass(frozen=True)
class Clustering:
    """Centres [k, d], the examples [k] nearest to each, the sum of squared distances, and Lloyd steps taken."""

    centres: Array
    counts: Array
    cost: float
    steps: int


def lloyd(passes: Passes, centres: Array, *, iterations: int = 100) -> Clustering:
    """Lloyd steps from centres [k, d] until nothing moves, at most `iterations` of them; one pass each."""
    extent = max(_start(passes, 0).extent, float(np.abs(centres).max(initial=0.0)))
    for step in range(iterations + 1):
        sums: Sums = passes(partial(lloyd_sums, centres=centres, extent=extent))
        moved = sums.moved(centres)
        if step == iterations or np.array_equal(moved, centres):
            break
        centres = moved
    return Clustering(centres, sums.counts, sums.cost.value, step)


@dataclass(frozen=True)
class Nearest:
    """Of each centre the nearest example: (squared distance, id) [k]; (inf, "") where there is none."""

    best: tuple[tuple[float, str], ...]

    def merge(self, other: Nearest) -> Nearest:
        """That of both sets of parts."""
        return Nearest(tuple(map(min, self.best, other.best)))


def nearest_rows(points: Points, centres: Array, taken: frozenset[str]) -> Nearest:
    """The nearest of the points [n, d] that are not taken to each of the centres [k, d], the lowest id of equals."""
    points = points.take(np.flatnonzero([entry not in taken for entry in points.ids.tolist()])).by_id()
    best = [(math.inf, "")] * len(centres)
    step = max(1, DISTANCES // max(len(centres), 1))
    for low in range(0, len(points.x), step):
        distances = cdist(points.x[low : low + step], centres, "sqeuclidean")
        rows = distances.argmin(axis=0)
        own = [(float(distances[row, c]), str(points.ids[low + row])) for c, row in enumerate(rows)]
        best = list(map(min, best, own))
    return Nearest(tuple(best))


def nearest_examples(passes: Passes, centres: Array) -> list[str]:
    """The id of the nearest example to each of the centres [k, d], all different; fewer only if the pool is smaller.

    Where centres share their nearest example the closest gets it, and the others take the next in a further pass.
    """
    found: dict[int, str] = {}
    while len(found) < len(centres):
        taken = frozenset(found.values())
        left = [c for c in range(len(centres)) if c not in found]
        best = passes(partial(nearest_rows, centres=centres[left], taken=taken)).best
        offers = sorted((*offer, c) for offer, c in zip(best, left, strict=True) if offer[1])
        if not offers:
            break
        given = set(taken)
        for _, example_id, c in offers:
            if example_id not in given:
                given.add(example_id)
                found[c] = example_id
    return [found[c] for c in sorted(found)]


def _start(passes: Passes, seed: int) -> First:
    found: First = passes(partial(first, seed=seed))
    if found.count == 0:
        raise InputError("the pool is empty: there is nothing to cluster")
    return found


def _same(points: Points) -> Points:
    return points


def _power_of_two(value: float) -> float:
    """The least power of two that is no less; 1 for 0."""
    return math.ldexp(1.0, math.frexp(value)[1]) if value > 0 else 1.0


def _scale(extent: float, width: int) -> float:
    """No less than the squared distance of two points whose coordinates are within the extent."""
    return max(4.0 * _power_of_two(extent) ** 2 * _power_of_two(float(max(width, 1))), SMALLEST)
