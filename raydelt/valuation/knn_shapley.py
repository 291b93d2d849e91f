"""The exact Shapley value of each training example for a k-nearest-neighbour model.

The worth of a set of training examples is, for one validation example with target t, from its k nearest in the set

    classification:  (1/k) sum 1[y_j = t]            regression:  -((1/k) sum y_j - t)^2, of all outputs together

(fewer than k still divide by k). With the n training examples in order of their distance, u_i = min(k, i) / i,
a_i = min(k-1, i-1) / (i-1), and b_l = min(k-1, l-2) min(k, l-1) / ((l-1) (l-2)), the values differ by

    classification:  s_i - s_{i+1} = (u_i / k) (1[y_i = t] - 1[y_{i+1} = t])
    regression:      s_i - s_{i+1} = (y_{i+1} - y_i) / k * (u_i ((y_i + y_{i+1} + a_i sum_{l<i} y_l) / k - 2 t)
                                                           + sum_{l>i+1} b_l y_l / k)

from s_{n+1} = 0, an example n + 1 counting as wrong, or as a target of 0. The value is the mean over the validation
set. Cost: O(J n (d + log n)) time, O(n) memory beside the data. Source: Jia et al. 2019 (Efficient task-specific data
valuation for nearest neighbor algorithms); there an empty set of a regression has worth 0, here -t^2, which moves all
values alike.

Caution: distances are those of the given features; where these mean little, so do the values. A large k blurs them.
"""

from __future__ import annotations

import numpy as np

from raydelt.errors import InputError, SpecError
from raydelt.scorers.protocol import Array
from raydelt.valuation.problem import Problem, Values

BLOCK = 1 << 16
# Terms rounded to 2^-40 add up to the same bits in any order, while a sum stays below 2^12.
UNITS = 2.0**40


def knn_shapley(problem: Problem, *, seed: int, k: int = 10) -> Values:
    """Values [n], the mean over the validation set; the seed orders examples at equal distance."""
    total = sums(problem, np.arange(len(problem.val_x)), seed=seed, k=k)
    return Values(total / len(problem.val_x))


def sums(problem: Problem, rows: Array, *, seed: int, k: int = 10) -> Array:
    """The sum of values [n] over some rows of the validation set: such sums can be made anywhere and added."""
    if k < 1:
        raise SpecError(f"{k} neighbours are none: give k of 1 or more")
    if len(rows) and not 0 <= np.min(rows) <= np.max(rows) < len(problem.val_x):
        raise InputError(
            f"row {int(np.max(rows))} is not in the validation set of {len(problem.val_x)} rows: give rows from 0 on"
        )
    total = np.zeros(len(problem.x))
    for row in rows:
        # Equal distances are in random order, a new one for each row, or the place in the file would tell.
        order = np.random.default_rng([seed, int(row)]).permutation(len(problem.x))
        order = order[np.argsort(squared_distances(problem.x, problem.val_x[row])[order], kind="stable")]
        if problem.classes is not None:
            values = of_classes(problem.y[order] == problem.val_y[row], k)
        else:
            target = np.asarray(problem.val_y[row], np.float64).reshape(-1)
            values = of_targets(problem.targets[order], target, k)
        total[order] += np.rint(values * UNITS) / UNITS
    return total


def squared_distances(x: Array, point: Array) -> Array:
    """From rows [n, d] to a point [d], as float64: each row by itself, so that equal rows are equally far."""
    exact = np.asarray(point, np.float64)
    parts = [np.square(x[at : at + BLOCK] - exact).sum(axis=1) for at in range(0, len(x), BLOCK)]
    return np.concatenate(parts)


def of_classes(right: Array, k: int) -> Array:
    """Values [n] of examples in order of distance, from whether each has the class of the validation example."""
    n = len(right)
    place = np.arange(1, n + 1)
    steps = np.append(-np.diff(right.astype(np.float64)), float(right[-1]))
    return _summed(steps * np.minimum(k, place) / (place * k))


def of_targets(y: Array, target: Array, k: int) -> Array:
    """Values [n] of examples in order of distance, from their targets [n, m] and the true one [m]."""
    n = len(y)
    place = np.arange(1, n + 1)[:, None]
    share = np.minimum(k, place) / place
    before = np.vstack([np.zeros_like(y[:1]), np.cumsum(y, axis=0)[:-1]])
    nearer = np.minimum(k - 1, place - 1) / np.maximum(place - 1, 1) * before
    farther = np.minimum(k - 1, place - 2) * np.minimum(k, place - 1) / np.maximum((place - 1) * (place - 2), 1) * y
    farther[:2] = 0.0
    after = np.vstack([np.cumsum(farther[::-1], axis=0)[::-1][2:], np.zeros_like(y[:2])])[:n]
    following = np.vstack([y[1:], np.zeros_like(y[:1])])
    steps = (following - y) / k * (share * ((y + following + nearer) / k - 2 * target) + after / k)
    return _summed(steps.sum(axis=1))


def _summed(steps: Array) -> Array:
    """Values from their steps s_i - s_{i+1}, the last one being s_n."""
    result: Array = np.cumsum(steps[::-1])[::-1]
    return result
