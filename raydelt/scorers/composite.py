"""Combining stored components into one score: normalisation, weights, gate, dynamic weights. Pure functions.

    score = sum_c w_c N_c(component_c),   w >= 0, sum w = 1          or a fusion of ranks (`raydelt.rank.fusion`)

N is the mid-rank empirical distribution function (count below + half the ties, over n), the raw value, a z-score, or
a robust z-score. Re-weighting never re-scores: components are stored, the combination is a projection of them.

Dynamic weights follow the recent improvement I = mean(last w) - mean(previous w) of a performance history:
`article` steps between two vectors at I = 0.01; `smooth` blends them by a logistic in I, averages over time, and keeps
every weight above a floor. Cost: O(n log n) once for the distribution function, O(n) after.

Caution: difficulty and consistency both follow p_y and partly cancel in a sum; the gate was measured to do better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raydelt.config import Combine, Dynamic
from raydelt.errors import SpecError
from raydelt.rank.fusion import fused
from raydelt.scorers.protocol import Array

ARTICLE_COMPONENTS = ("difficulty", "diversity", "consistency")
EXPLORE = np.array([0.3, 0.5, 0.2])
DEEPEN = np.array([0.5, 0.3, 0.2])
FLOOR = 0.05


@dataclass(frozen=True)
class Distribution:
    """The empirical distribution of one component: distinct values, ascending, and how often each occurs."""

    values: Array
    counts: Array

    @staticmethod
    def of(values: Array) -> Distribution:
        return Distribution(*np.unique(values, return_counts=True))

    def merge(self, other: Distribution) -> Distribution:
        values, inverse = np.unique(np.concatenate([self.values, other.values]), return_inverse=True)
        counts = np.bincount(inverse, weights=np.concatenate([self.counts, other.counts]), minlength=len(values))
        return Distribution(values, counts.astype(np.int64))

    def ecdf(self, x: Array) -> Array:
        """Mid-rank distribution function at x [n]: 0.5 in the middle, equal values alike, strictly inside (0, 1)."""
        below = np.concatenate([[0], np.cumsum(self.counts)])
        left = below[np.searchsorted(self.values, x, side="left")]
        right = below[np.searchsorted(self.values, x, side="right")]
        middle: Array = (left + right) / (2.0 * below[-1])
        return middle

    def quantile(self, q: float) -> float:
        """The value at which the distribution function reaches q."""
        cumulative = np.cumsum(self.counts)
        return float(self.values[np.searchsorted(cumulative, q * cumulative[-1], side="left")])

    def moments(self) -> tuple[float, float]:
        """Mean and population standard deviation."""
        mean = float(np.average(self.values, weights=self.counts))
        return mean, float(np.sqrt(np.average((self.values - mean) ** 2, weights=self.counts)))


def normalised(x: Array, distribution: Distribution, method: str) -> Array:
    """Component values [n] on the common scale that `method` names."""
    if method == "ecdf":
        return distribution.ecdf(x)
    if method == "z":
        mean, spread = distribution.moments()
        return (x - mean) / (spread or 1.0)
    if method == "robust":
        spread = distribution.quantile(0.75) - distribution.quantile(0.25)
        return (x - distribution.quantile(0.5)) / (spread or 1.0)
    return x.astype(np.float64)


def combined(
    components: Mapping[str, Array],
    errors: Mapping[str, Array],
    distributions: Mapping[str, Distribution],
    weights: Mapping[str, float],
    combine: Combine,
) -> tuple[Array, Array]:
    """Score [n] and its standard error [n] from components [n] and those of their standard errors that are known.

    The error that a component brings is half the change of the score between its value - se and its value + se;
    components count as independent of each other, and one without a known error as exact.
    """
    raw = {name: components[name].astype(np.float64) for name in weights}
    values = {name: normalised(x, distributions[name], combine.normalise) for name, x in raw.items()}

    def score(moved: Mapping[str, Array]) -> Array:
        known = {**values, **moved}
        if combine.fusion == "sum":
            total: Array = np.sum([weight * known[name] for name, weight in weights.items()], axis=0)
            return total
        n = int(distributions[next(iter(weights))].counts.sum())
        return fused(known, weights, n=n, method=combine.fusion)

    variance = np.zeros(len(next(iter(raw.values()))))
    for name in weights:
        if name in errors:
            se = errors[name].astype(np.float64)
            high, low = (normalised(raw[name] + step, distributions[name], combine.normalise) for step in (se, -se))
            variance += ((score({name: high}) - score({name: low})) / 2.0) ** 2
    return score({}), np.sqrt(variance)


def effective_weights(combine: Combine, history: Sequence[float]) -> dict[str, float]:
    """The weights that a combination really uses, summing to 1: dynamic ones applied, the gate's component set aside.

    Raises:
        SpecError: dynamic weights are asked for without the three components that they are defined on.
    """
    weights = {name: weight for name, weight in combine.weights.items() if weight > 0}
    if combine.dynamic is not None:
        missing = [name for name in ARTICLE_COMPONENTS if name not in weights]
        if missing:
            raise SpecError(
                f"rank.combine.dynamic needs weights above 0 for {', '.join(ARTICLE_COMPONENTS)}; "
                f"missing: {', '.join(missing)}"
            )
        total = sum(weights.values())
        share = sum(weights[name] for name in ARTICLE_COMPONENTS)
        start = np.array([weights[name] for name in ARTICLE_COMPONENTS]) / share
        followed = dynamic_weights(combine.dynamic.history or history, combine.dynamic, start)
        weights = {name: weight / total for name, weight in weights.items()}
        weights.update(zip(ARTICLE_COMPONENTS, followed * share / total, strict=True))
    if combine.gate is not None and len(weights) > 1:
        weights.pop(combine.gate.component, None)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def improvement(history: Sequence[float], window: int) -> float | None:
    """Mean of the last `window` values minus the mean of those before; None below two windows. NaNs are dropped."""
    values = [value for value in history if np.isfinite(value)]
    if len(values) < 2 * window:
        return None
    return float(np.mean(values[-window:]) - np.mean(values[-2 * window : -window]))


def dynamic_weights(history: Sequence[float], dynamic: Dynamic, start: Array) -> Array:
    """Weights [3] of (difficulty, diversity, consistency) after a history of accuracies, oldest first."""
    if dynamic.mode == "article":
        gain = improvement(history, dynamic.window)
        if gain is None:
            return start
        return EXPLORE if gain < dynamic.threshold else DEEPEN
    weights, deepening = start, None
    for end in range(2 * dynamic.window, len(history) + 1):
        gain = improvement(history[:end], dynamic.window)
        if gain is None:
            continue
        # Hysteresis: inside the band of 20 % around the threshold the last direction stands.
        if gain > 1.2 * dynamic.threshold or deepening is None:
            deepening = gain >= dynamic.threshold
        elif gain < 0.8 * dynamic.threshold:
            deepening = False
        scale = dynamic.threshold / 4.0
        blend = 1.0 / (1.0 + np.exp(-np.clip((gain - dynamic.threshold) / scale, -50, 50)))
        blend = max(blend, 0.5) if deepening else min(blend, 0.5)
        target = blend * DEEPEN + (1 - blend) * EXPLORE
        weights = simplex(0.5 * weights + 0.5 * target, floor=FLOOR)
    return weights


def simplex(v: Array, *, floor: float = 0.0) -> Array:
    """The nearest vector with entries >= floor that sum to 1 (Euclidean projection)."""
    room = 1.0 - floor * len(v)
    shifted = (v - floor) / room
    ordered = np.sort(shifted)[::-1]
    excess = (np.cumsum(ordered) - 1.0) / np.arange(1, len(v) + 1)
    theta = excess[np.flatnonzero(ordered - excess > 0)[-1]]
    projected: Array = floor + room * np.maximum(shifted - theta, 0.0)
    return projected
