"""How well values tell bad examples from good ones: the measures of OpenDataVal.

    detection: the lower cluster of the exact 2-means of the values is called noisy
        F1 = 2 TP / (2 TP + FP + FN)      AUROC, average precision: of the ranking from low to high
    discovery: share of the noisy found among the lowest k values, at k = 0, s, 2 s, ..., n;  s = 5 % of n, 5 at least
    removal:   a score after the highest (or lowest) 0, s, 2 s, ... < n values are taken away
    addition:  a score of the lowest (or highest) s, 2 s, ..., n values alone
    area:      the mean height of a curve (trapezoid rule); of a discovery curve 1 - rate/2 at best, 1/2 at random

For AUROC and discovery equal values count as if in random order; for average precision a threshold takes all of them.
Cost: O(n log n), and one fit per step of a curve of fits. Source: Jiang et al. 2023 (OpenDataVal).

Caution: F1 hangs on the shape of the values. A monotone map changes it, a few outliers spoil it; read AUROC beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from raydelt.errors import InputError, SpecError
from raydelt.scorers.protocol import Array
from raydelt.valuation.problem import Problem, Values

Mask = NDArray[np.bool_]
Curve = tuple[Array, Array]
FitAndScore = Callable[[Array], float]

LEAST_STEP = 5


@dataclass(frozen=True)
class Detection:
    """How well low values find the noisy examples: F1 of the lower cluster, and two measures of the ranking."""

    f1: float
    auroc: float
    average_precision: float


def random_values(problem: Problem, *, seed: int) -> Values:
    """Uniform values [n]: what every method has to beat."""
    return Values(np.random.default_rng(seed).random(len(problem.x)))


def two_means(values: Array) -> Mask:
    """Which values [n] are in the lower of the two clusters of least squared error; none where all are equal.

    Equal values share a cluster; of splits that are equally good, the one with the smaller lower cluster counts.
    """
    values = _checked(values)
    order = np.argsort(values, kind="stable")
    ascending = values[order] - values.mean()
    n, below = len(values), np.arange(1, len(values))
    sums = np.cumsum(ascending)[:-1]
    # With the mean at 0 the squared error is a constant less sums^2 (1 / below + 1 / above).
    explained = np.where(ascending[1:] > ascending[:-1], sums**2 * (1.0 / below + 1.0 / (n - below)), 0.0)
    lower = np.zeros(n, bool)
    if len(explained) and explained.max() > 0:
        lower[order[: 1 + int(np.argmax(explained))]] = True
    return lower


def detection(values: Array, noisy: Array) -> Detection:
    """The three measures for values [n] and the mask of the truly noisy [n]."""
    values, noisy = _checked(values), _marked(values, noisy)
    called = two_means(values)
    bad, good = int(np.count_nonzero(noisy)), int(np.count_nonzero(~noisy))
    f1 = 2 * np.count_nonzero(called & noisy) / (np.count_nonzero(called) + bad)
    auroc = (rankdata(values)[~noisy].sum() - good * (good + 1) / 2) / (bad * good)
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    found = np.bincount(group, weights=noisy)
    precision = np.cumsum(found) / np.cumsum(sizes)
    return Detection(float(f1), float(auroc), float((found * precision).sum() / bad))


def discovery_curve(values: Array, noisy: Array, step: float = 0.05) -> Curve:
    """The share inspected from low values to high, and the share of the noisy found by then."""
    values, noisy = _checked(values), _marked(values, noisy)
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    expected = (np.bincount(group, weights=noisy) / sizes)[np.sort(group)]
    found = np.concatenate([[0.0], np.cumsum(expected)]) / np.count_nonzero(noisy)
    n, size = len(values), _size(len(values), step)
    counts = np.array([*range(0, n, size), n])
    return counts / n, np.minimum(found[counts], 1.0)


def removal_curve(values: Array, fit_and_score: FitAndScore, *, highest_first: bool, step: float = 0.05) -> Curve:
    """The share removed, highest or lowest values first, and the score of the rows that stay."""
    order = np.argsort(_checked(values), kind="stable")
    kept = order if highest_first else order[::-1]
    n, size = len(order), _size(len(order), step)
    removed = range(0, n, size)
    return np.array(removed) / n, _scores(fit_and_score, (kept[: n - count] for count in removed))


def addition_curve(values: Array, fit_and_score: FitAndScore, *, highest_first: bool, step: float = 0.05) -> Curve:
    """The share added, highest or lowest values first, and the score of the rows added."""
    order = np.argsort(_checked(values), kind="stable")
    added = order[::-1] if highest_first else order
    n, size = len(order), _size(len(order), step)
    counts = [*range(size, n, size), n]
    return np.array(counts) / n, _scores(fit_and_score, (added[:count] for count in counts))


def area(curve: Curve) -> float:
    """The mean height of a curve (shares, heights) over the shares it spans."""
    shares, heights = curve
    if len(shares) == 1:
        return float(heights[0])
    return float(np.trapezoid(heights, shares) / (shares[-1] - shares[0]))


def _scores(fit_and_score: FitAndScore, kept: Iterable[Array]) -> Array:
    return np.array([fit_and_score(np.sort(rows)) for rows in kept])


def _size(n: int, step: float) -> int:
    if not 0 < step <= 1:
        raise SpecError(f"a step of {step:g} is no share of the examples: give one above 0 and at most 1")
    return max(round(n * step), LEAST_STEP)


def _checked(values: Array) -> Array:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise InputError(f"values of shape {values.shape} are not one finite number per example: give those [n]")
    return values


def _marked(values: Array, noisy: Array) -> Mask:
    noisy = np.asarray(noisy, bool)
    if noisy.shape != values.shape or noisy.all() or not noisy.any():
        raise InputError(
            f"{np.count_nonzero(noisy)} of {noisy.size} examples are marked noisy, for {len(values)} values: "
            "mark some examples, not all, in a mask as long as the values"
        )
    return noisy
