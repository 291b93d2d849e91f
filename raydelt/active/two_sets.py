"""Two sets of examples in one order and one set of folds, as a comparison of them needs.

Rows are put in the order of their groups' keys, and a group (equal keys) shares its fold, its draws and its samples,
all of them hashes of (seed, key): no order of the input changes what is found. Cost: O(n log n). Memory: both sets as
float64. No paper is followed.

Caution: rows without groups need keys of their own, or they share a fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydelt.errors import InputError, SpecError
from raydelt.examples import UInt64Array, mix
from raydelt.scorers.protocol import Array

LEAST_ROWS = 10


@dataclass(frozen=True)
class Settings:
    """Sizes and bounds; `rows` and `permutation_rows` are the most per set, drawn by hash."""

    folds: int = 5
    rows: int = 100_000
    trees: int = 100
    leaves: int = 8
    learning_rate: float = 0.1
    bootstraps: int = 500
    level: float = 0.95
    permutations: int = 199
    permutation_rows: int = 2000
    frequencies: int = 128
    ridge: float = 1e-2
    warn: float = 0.6
    alarm: float = 0.75
    clip: float = 20.0
    top: int = 10
    importance_rows: int = 2000

    def __post_init__(self) -> None:
        least = {"folds": 2, "rows": LEAST_ROWS, "trees": 1, "leaves": 2, "bootstraps": 2, "permutations": 1}
        least |= {"permutation_rows": LEAST_ROWS, "frequencies": 1, "top": 0, "importance_rows": LEAST_ROWS}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise SpecError(f"adversarial.{name} {getattr(self, name)} must be at least {low}")
        inside = 0 < self.level < 1 and self.learning_rate > 0 and self.ridge > 0 and self.clip > 1
        if not (inside and 0.5 <= self.warn <= self.alarm <= 1):
            raise SpecError(
                "adversarial needs 0 < level < 1, learning_rate and ridge above 0, clip above 1, and "
                "0.5 <= warn <= alarm <= 1"
            )


@dataclass(frozen=True)
class Rows:
    """Both sets in one order: x [n, d], whether of b [n], group keys [n], fold [n], original row [n]."""

    x: Array
    y: Array
    keys: UInt64Array
    fold: Array
    row: Array

    def take(self, rows: Array) -> Rows:
        return Rows(self.x[rows], self.y[rows], self.keys[rows], self.fold[rows], self.row[rows])


def together(a: Array, b: Array, keys_a: UInt64Array, keys_b: UInt64Array, s: Settings, seed: int) -> Rows:
    """Both sets [n, d] and [m, d] with the keys of their groups, in folds by group.

    Raises:
        InputError: a set has fewer than 10 rows or than folds, widths or lengths differ, or a number is not finite.
    """
    for name, x, keys in (("first", a, keys_a), ("second", b, keys_b)):
        if np.ndim(x) != 2 or len(x) != len(keys):
            raise InputError(f"the {name} set has shape {list(np.shape(x))} and {len(keys)} keys: give [n, d] and n")
        if len(x) < max(LEAST_ROWS, s.folds):
            raise InputError(f"the {name} set has {len(x)} rows: give at least {max(LEAST_ROWS, s.folds)}")
        if not np.isfinite(x).all():
            raise InputError(f"the {name} set holds values that are not finite: drop or repair those rows")
    if a.shape[1] != b.shape[1]:
        raise InputError(f"the sets have widths {a.shape[1]} and {b.shape[1]}: give both the same features")
    x, keys = np.concatenate([a, b]).astype(np.float64), np.concatenate([keys_a, keys_b])
    y = np.arange(len(x)) >= len(a)
    order = _order(x, y, keys)
    groups, inverse = np.unique(keys, return_inverse=True)
    rank = np.empty(len(groups), np.int64)
    rank[np.lexsort((groups, mix(groups, seed, "adversarial fold")))] = np.arange(len(groups))
    row = np.concatenate([np.arange(len(a)), np.arange(len(b))])
    return Rows(x[order], y[order], keys[order], (rank % s.folds)[inverse][order], row[order])


def _order(x: Array, y: Array, keys: UInt64Array) -> Array:
    """Indices [n] by (key, set), and by the features where those tie: no order of the input changes the problem."""
    order = np.lexsort((y, keys))
    same = (keys[order][1:] == keys[order][:-1]) & (y[order][1:] == y[order][:-1])
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))
    own = order[tied]
    order[tied] = own[np.lexsort((*x[own].T[::-1], y[own], keys[own]))]
    return order


def lowest(rows: Rows, most: int, seed: int) -> Array:
    """Rows, in order, with the lowest hashes: at most so many of either set."""
    draws = mix(rows.keys, seed, "adversarial sample")
    kept = []
    for side in (False, True):
        own = np.flatnonzero(rows.y == side)
        kept.append(own[np.argsort(draws[own], kind="stable")[:most]])
    return np.sort(np.concatenate(kept))
