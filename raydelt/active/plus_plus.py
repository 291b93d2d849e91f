"""k-means++: rows drawn one after the other, each with probability proportional to the cost that it would save.

    P(i) = w_i d_i^2 / sum_j w_j d_j^2      d_i the distance to the nearest row drawn before;   the first by w_i alone

Cost: O(k t m d) for k of m rows in d coordinates and t trials. Memory O(t m). Arthur and Vassilvitskii 2007.

Caution: outliers are drawn early; that is what it is for in a batch, and what trials temper in a clustering.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from raydelt.examples import UInt64Array, uniform
from raydelt.scorers.protocol import Array

Shrunk = Callable[[Sequence[int], Array], Sequence[Array]]
"""Of each of some rows on its own: squared distances [m] to the nearest of it and those drawn, given [m] to those."""


def d2_picks(
    shrunk: Shrunk,
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

    Rows come in an order that no layout changes. The draw is a race of hashes of (seed, step, key), so it does not
    depend on the order either. Of several `trials` that one stays that leaves the least cost. Once every distance is 0
    it ends, or with `fill` goes on with uniform draws.
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
        options = shrunk(tried, closest)
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
