"""Exact squared Euclidean distances, measured only where bounds from a matrix product leave anything open.

    measured   sum over coordinates, one after the other: the same bits wherever a row stands, and 0 for copies
    bound      |x|^2 + |c|^2 - 2 x.c, off from the measured distance by less than e
    e          2 (d + 4) (eps (|x| + |c|)^2 + tiny)

What counts is always measured; the product's last bits depend on a row's place in its block, so it only says what need
not be. Cost: n k d in a matrix product, and measured distances for the n nearest and what is within 2 e of them.
Memory: 2^22 distances. e is the standard bound of a dot product's rounding error (Higham 2002, section 3.1), doubled.

Caution: far from the origin in comparison with their spread, points are within e of each other, and all are measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from raydelt.scorers.protocol import Array

DISTANCES = 1 << 22
FEWEST, NARROWEST = 8, 32
EPSILON, TINY = float(np.finfo(np.float64).eps), float(np.finfo(np.float64).tiny)


def to_row(x: Array, row: int) -> Array:
    """Squared distances [n] of points [n, d] to one of them."""
    # The single row comes first: the other way about is three times slower, and has the same bits.
    found: Array = cdist(x[row : row + 1], x, "sqeuclidean")[0]
    return found


def nearest(x: Array, centres: Array) -> tuple[Array, Array]:
    """The nearest centre [n] of each point [n, d], the lowest of equals, and the squared distance [n] to it."""
    own, squared = np.zeros(len(x), np.int64), np.zeros(len(x))
    one = _measured if len(centres) < FEWEST or centres.shape[1] < NARROWEST else _bounded
    step = max(1, DISTANCES // max(len(centres), 1))
    for low in range(0, len(x), step):
        own[low : low + step], squared[low : low + step] = one(x[low : low + step], centres)
    return own, squared


def _measured(x: Array, centres: Array) -> tuple[Array, Array]:
    distances = cdist(x, centres, "sqeuclidean")
    return distances.argmin(axis=1), distances.min(axis=1)


def _bounded(x: Array, centres: Array) -> tuple[Array, Array]:
    lengths, others = (np.square(points).sum(axis=1) for points in (x, centres))
    bounds = lengths[:, None] + others[None] - 2.0 * (x @ centres.T)
    error = _error(lengths, others.max(), x.shape[1])
    near, rows = np.nonzero(~(bounds > (bounds.min(axis=1) + 2.0 * error)[:, None]).T)
    own, squared = np.zeros(len(x), np.int64), np.full(len(x), np.inf)
    edges = np.flatnonzero(np.diff(near, prepend=-1, append=-1))
    for low, high in itertools.pairwise(edges.tolist()):
        centre, mine = near[low], rows[low:high]
        distances = cdist(centres[centre : centre + 1], x[mine], "sqeuclidean")[0]
        closer = distances < squared[mine]
        own[mine[closer]], squared[mine[closer]] = centre, distances[closer]
    return own, squared


class Shrinking:
    """Points [n, d] whose distances to a growing set of them are looked for: `(rows, closest)` gives, for each of
    the rows on its own, the squared distance [n] to the nearest of the set and it, from that to the set [n]."""

    def __init__(self, x: Array) -> None:
        self.x, self.lengths = x, np.square(x).sum(axis=1)

    def __call__(self, rows: Sequence[int], closest: Array) -> list[Array]:
        if len(rows) == 1 or self.x.shape[1] < NARROWEST or not np.isfinite(closest).all():
            return [np.minimum(closest, to_row(self.x, row)) for row in rows]
        chosen = self.x[list(rows)]
        bounds = self.lengths[:, None] + self.lengths[list(rows)] - 2.0 * (self.x @ chosen.T)
        near = bounds - _error(self.lengths, self.lengths[list(rows)].max(), self.x.shape[1])[:, None]
        found = []
        for place in range(len(rows)):
            own, mine = closest.copy(), np.flatnonzero(near[:, place] < closest)
            own[mine] = np.minimum(own[mine], cdist(chosen[place : place + 1], self.x[mine], "sqeuclidean")[0])
            found.append(own)
        return found


def _error(lengths: Array, longest: float, width: int) -> Array:
    """How far bounds [n] can be off, from squared lengths [n] and the greatest squared length of the others."""
    error: Array = 2.0 * (width + 4) * (EPSILON * np.square(np.sqrt(lengths) + np.sqrt(longest)) + TINY)
    return error
