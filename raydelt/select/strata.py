"""Coverage-centric selection: examples of every difficulty, the hardest aside, for low ratios.

    1. set aside the floor(beta n) examples of the highest scores
    2. cut the score range of the rest into strata of equal width
    3. visit the non-empty strata from the fewest examples to the most (ties: the lower stratum first); each gets
       min(count, floor(budget left / strata left)), the last one all that is left
    4. keep that many of each stratum at random: those of the lowest mix(draw_key, seed, "strata")

The budgets sum to min(k, n): where a stratum fills its share, all after it have at least as many. Passes over the
parts: range, counts (integers that add up), lowest draws. Cost: O(n) and one sort of each part; memory O(strata), and
k draws in the last pass. Source: Zheng et al. 2023, "Coverage-centric Coreset Selection for High Pruning Rates".

Caution: the score must be a difficulty, highest = hardest. Strata of equal width hang on the extremes: one outlier
among the scores that remain leaves most strata empty.
"""

from __future__ import annotations

import numpy as np

from raydelt.examples import UInt64Array, mix
from raydelt.scorers.protocol import Array

STRATA = 50


def set_aside(n: int, beta: float) -> int:
    """How many of n examples are too hard to keep: those of the highest ranks.

    Raises:
        ValueError: beta is outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta {beta:g} must lie in [0, 1), for example 0.1")
    # What is a whole number in exact arithmetic stays one: 0.3 times 10 is 3, and 0.29 times 100 is 29.
    return int(np.floor(beta * n + 1e-9))


def stratum(scores: Array, low: float, high: float, strata: int = STRATA) -> Array:
    """The stratum [n] in 0..strata-1 of scores [n] in [low, high]; all are in 0 where low equals high."""
    if high <= low:
        return np.zeros(len(scores), np.int64)
    # Halves, because a difference of two floats can be above the greatest one.
    half = np.asarray(scores, np.float64) / 2.0
    place = np.floor((half - low / 2.0) / (high / 2.0 - low / 2.0) * strata).astype(np.int64)
    within: Array = np.minimum(place, strata - 1)
    return within


def counts(scores: Array, low: float, high: float, strata: int = STRATA) -> Array:
    """Examples in each stratum, int64 [strata], of scores [n] in [low, high]; those of all parts add up."""
    return np.bincount(stratum(scores, low, high, strata), minlength=strata)


def budgets(counts: Array, k: int) -> Array:
    """Examples to keep of each stratum, int64 [strata], for counts [strata]; they sum to min(k, sum of counts)."""
    found = np.zeros(len(counts), np.int64)
    visited = [int(s) for s in np.argsort(counts, kind="stable") if counts[s] > 0]
    remaining = k
    for left, s in zip(range(len(visited), 0, -1), visited, strict=True):
        found[s] = min(int(counts[s]), remaining // left)
        remaining -= int(found[s])
    return found


def draws(draw_keys: UInt64Array, seed: int) -> UInt64Array:
    """The random order [n] in which the examples of a stratum are kept, lowest first; distinct for distinct keys."""
    return mix(draw_keys, seed, "strata")


def lowest(strata_of: Array, draws: UInt64Array, budgets: Array) -> Array:
    """Which examples [n] have one of the `budgets[s]` lowest draws of their stratum s = strata_of[n].

    Applied to every part, and again to what all parts keep, it keeps what it keeps of everything at once.
    """
    order = np.lexsort((draws, strata_of))
    grouped = strata_of[order]
    place = np.arange(len(order)) - np.searchsorted(grouped, grouped, side="left")
    kept = np.zeros(len(order), np.bool_)
    kept[order] = place < budgets[grouped]
    return kept
