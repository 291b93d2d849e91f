"""k-means over a pool in parts, for a cold start: k-means|| seeds, Lloyd steps, and the real examples nearest to them.

    phi = sum_i d_i^2, d_i the distance of example i to the nearest candidate
    a round draws every i with probability min(1, l d_i^2 / phi), by hash of (seed, round, id);   l = 2 k
    the candidates, weighted by how many examples are nearest to each, are reduced to k by greedy k-means++

Sums are integers: squared distances in units of 2^-62 of the greatest there can be, coordinates in units of 2^-62 of
the greatest one. So seeds, centres and cost have the same bits in any layout of the parts. A driver takes `passes`, a
callable that applies a function to the `Points` of every part and merges what it returns in order: over Ray, or here.
With k' < k distinct examples there are k' centres. An empty cluster moves to the example farthest from its centre.

Cost: rounds passes of O(n r l d), then iterations of O(n k d). Memory: 2^22 distances, rounds l candidates. k-means||,
Bahmani et al. 2012; k-means++, Arthur and Vassilvitskii 2007.

Caution: it is Euclidean on the features as they come, so standardise or normalise them first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from raydelt.errors import InputError
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, UInt64Array, column_of, draw_keys, mix, uniform, vectors_of
from raydelt.rank.noise import HALF_BITS, from_units, unit_sum
from raydelt.scorers.protocol import Array

DISTANCES = 1 << 22
GREATEST = 1e140
SMALLEST = float(np.finfo(np.float64).tiny)

M = TypeVar("M")


@dataclass(frozen=True)
class Points:
    """Examples as ids [n], draw keys [n] and coordinates float64 [n, d]; merging appends."""

    ids: Array
    keys: UInt64Array
    x: Array

    def take(self, rows: Array) -> Points:
        """These rows."""
        return Points(self.ids[rows], self.keys[rows], self.x[rows])

    def merge(self, other: Points) -> Points:
        """Both, this one first."""
        return Points(*(np.concatenate(pair) for pair in zip(self._parts(), other._parts(), strict=True)))

    def by_id(self) -> Points:
        """The same in the order of the ids."""
        return self.take(np.argsort(self.ids, kind="stable"))

    def _parts(self) -> tuple[Array, Array, Array]:
        return self.ids, self.keys, self.x


class Passes(Protocol):
    """Applies a function to the points of every part, and merges the results in order."""

    def __call__(self, function: Callable[[Points], Any]) -> Any: ...


def points_of(batch: pa.RecordBatch | pa.Table) -> Points:
    """The points of a batch with ids, and vectors or features."""
    ids = column_of(batch, EXAMPLE_ID)
    keys = column_of(batch, DRAW_KEY) if DRAW_KEY in batch.schema.names else draw_keys(ids.tolist())
    return Points(ids, keys, vectors_of(batch).astype(np.float64))


def in_one_part(points: Points) -> Passes:
    """The passes over points that are all here."""
    return lambda function: function(points)


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


def nearest(x: Array, centres: Array) -> tuple[Array, Array]:
    """The nearest centre [n] of each point [n, d], the lowest of equals, and the squared distance [n] to it."""
    own, squared = np.zeros(len(x), np.int64), np.zeros(len(x))
    step = max(1, DISTANCES // max(len(centres), 1))
    for low in range(0, len(x), step):
        # Not by the matrix product: its last bits depend on a row's place in the block, and copies come out apart.
        distances = cdist(x[low : low + step], centres, "sqeuclidean")
        own[low : low + step] = distances.argmin(axis=1)
        squared[low : low + step] = distances.min(axis=1)
    return own, squared


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
        lambda row: cdist(x, x[row : row + 1], "sqeuclidean")[:, 0],
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


def d2_picks(
    distances_to: Callable[[int], Array],
    keys: UInt64Array,
    k: int,
    *,
    seed: int,
    weights: Array | None = None,
    start: int | None = None,
    trials: int = 1,
    fill: bool = False,
) -> Array:
    """Rows [<= k] by k-means++: each next one with probability proportional to weight times squared distance [m].

    `distances_to(row)` gives the squared distances [m]; rows come in an order that no layout changes. The draw is a
    race of hashes of (seed, step, key), so it does not depend on the order either. Of several `trials` that one stays
    that leaves the least cost. Once every distance is 0 it ends, or with `fill` goes on with uniform draws.
    """
    own = np.ones(len(keys)) if weights is None else weights
    closest, picks = np.full(len(keys), np.inf), list[int]()
    while len(picks) < min(k, len(keys)):
        mass = own * closest if picks else own.copy()
        mass[picks] = 0.0
        if not (mass > 0).any():
            if not fill:
                break
            mass = np.ones(len(keys))
            mass[picks] = 0.0
        tried = _race(mass, keys, trials if picks else 1, seed, len(picks))
        if start is not None and not picks:
            tried = [start]
        options = [np.minimum(closest, distances_to(row)) for row in tried]
        best = min(range(len(tried)), key=lambda t: float(own @ options[t])) if len(tried) > 1 else 0
        closest = options[best]
        picks.append(tried[best])
    return np.array(picks, np.int64)


def _race(mass: Array, keys: UInt64Array, count: int, seed: int, step: int) -> list[int]:
    """Rows with mass above 0 that come first when each runs for an exponential time of rate mass."""
    rows = np.flatnonzero(mass > 0)
    times = -np.log(np.minimum(uniform(keys[rows], seed, "k-means++", step), np.nextafter(1.0, 0.0)))
    order = np.argsort(np.log(times) - np.log(mass[rows]), kind="stable")
    return [int(row) for row in rows[order[:count]]]


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
