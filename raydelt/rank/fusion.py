"""Rank fusion: one score out of several components by their ranks alone. Pure functions.

With p the mid-rank distribution function of a component over all n examples, r = n (1 - p) + 1/2 its rank (1 = the
best, ties share the middle one), and weights w >= 0 that are scaled to sum 1, higher is better in

    reciprocal = sum_c w_c / (constant + r_c)
    borda      = sum_c w_c (n - r_c) / n             the mean rank, turned round
    product    = exp(sum_c w_c ln p_c)               the geometric mean of the percentiles

Only ranks enter, so an increasing function of a component changes nothing. Cost: O(n) time and memory for each
component. Sources: Cormack, Clarke and Buettcher 2009 for reciprocal ranks and constant = 60; Borda 1781.

Caution: they reward different things. Reciprocal ranks keep what any one component puts at its very top (for
n >> constant the rest hardly counts), a product leaves out what any one component puts at its bottom. Borda orders as
the weighted sum of distribution functions does, so it adds nothing to `combine: {normalise: ecdf}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from raydelt.scorers.protocol import Array

Fusion = Literal["reciprocal", "borda", "product"]


def fused(
    percentiles: Mapping[str, Array],
    weights: Mapping[str, float],
    *,
    n: int,
    method: Fusion = "reciprocal",
    constant: float = 60.0,
) -> Array:
    """Fused scores [m], higher better, of m of the n examples from percentiles [m] in (0, 1) by component.

    Raises:
        ValueError: a weight is negative or has no component, or none is above 0.
    """
    shares = _shares(weights, percentiles)
    parts = [share * _points(percentiles[name], n, method, constant) for name, share in shares.items()]
    total: Array = np.sum(parts, axis=0)
    return np.exp(total) if method == "product" else total


def ranks(percentiles: Array, n: int) -> Array:
    """Ranks [m] among n examples, 1 for the best and ties sharing the middle one, from mid-rank percentiles [m]."""
    # Twice a mid-rank is a whole number: rounding it takes the division's error away, so that ties stay ties.
    found: Array = n + 0.5 - np.rint(2.0 * n * percentiles) / 2.0
    return found


def _points(percentiles: Array, n: int, method: Fusion, constant: float) -> Array:
    points: Array
    if method == "reciprocal":
        points = 1.0 / (constant + ranks(percentiles, n))
    elif method == "borda":
        points = (n - ranks(percentiles, n)) / n
    else:
        # A value below all others, as one less its standard error may be, has the fused score 0.
        with np.errstate(divide="ignore"):
            points = np.log(percentiles)
    return points


def _shares(weights: Mapping[str, float], percentiles: Mapping[str, Array]) -> dict[str, float]:
    """The weights above 0, scaled to sum 1, by name: sums then do not depend on the order of the mapping."""
    for name, weight in weights.items():
        if not 0 <= weight < np.inf:
            raise ValueError(f"weight {weight:g} of {name} must be at least 0 and finite")
        if weight > 0 and name not in percentiles:
            raise ValueError(f"weight of {name}: no such component; there are {', '.join(sorted(percentiles))}")
    total = math.fsum(weights.values())
    if total <= 0:
        raise ValueError("fusion needs at least one weight above 0")
    return {name: weights[name] / total for name in sorted(weights) if weights[name] > 0}
