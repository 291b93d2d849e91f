"""How fast examples lose their use: the utility of each over the versions of its scores, relative to all.

    U_i(t) = |utility of i| / median over the examples of version t
    EMA_i  = sum_k w_k U_i(t_k) / sum_k w_k,   w_k = 2^((t_k - T) / h)          T any reference: it cancels
    U_i(t) ~ U0_i exp(-kappa_i t)    by least squares on the logarithms, from n, sum t, t^2, y, y^2, t y  (y = ln U_i)
    se(kappa)^2 = RSS / (n - 2) / sum (t - mean t)^2,     interval by Student's t with n - 2 degrees of freedom

Dividing by the median leaves out what happens to all: gradients shrink as a model learns, and that must not retire
everybody. Utilities below 1e-6 of the median count as that. The sums of two sets of versions add up, so a version can
be added without reading earlier ones. Cost: O(1) per example and version; memory 64 bytes an example.

Caution: three points give an interval from one degree of freedom (its half-width is 12.7 standard errors): read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from raydelt.scorers.protocol import Array

LEAST_POINTS = 3
FLOOR = 1e-6
FIELDS = 8


@dataclass(frozen=True)
class Fit:
    """Of each example [n]: versions seen, U0, kappa, its standard error and interval (NaN below 3 points), EMA."""

    points: Array
    start: Array
    kappa: Array
    se: Array
    low: Array
    high: Array
    ema: Array


@dataclass(frozen=True)
class DecaySums:
    """Monoid over versions of the sums float64 [8, n] for n examples; `reference` is the T of the moving average."""

    examples: int
    half_life: float
    reference: float = 0.0
    level: float = 0.95

    def zero(self) -> Array:
        return np.zeros((FIELDS, self.examples))

    def add(self, state: Array, t: float, utility: Array) -> Array:
        """With relative utilities [n] at time t; NaN for examples that the version lacks."""
        there = np.isfinite(utility)
        u = np.where(there, utility, 1.0).astype(np.float64)
        y, one = np.log(np.maximum(u, FLOOR)), np.ones(len(u))
        weight = 2.0 ** ((t - self.reference) / self.half_life)
        terms = np.stack([one, t * one, t * t * one, y, y * y, t * y, weight * one, weight * u])
        found: Array = state + np.where(there, terms, 0.0)
        return found

    def merge(self, left: Array, right: Array) -> Array:
        found: Array = left + right
        return found

    def finish(self, state: Array) -> Fit:
        n, st, stt, sy, syy, sty, w, wu = state
        with np.errstate(divide="ignore", invalid="ignore"):
            sxx, sxy = stt - st * st / n, sty - st * sy / n
            enough = (n >= LEAST_POINTS) & (sxx > 0)
            slope = np.where(enough, sxy / sxx, np.nan)
            rss = np.maximum(syy - sy * sy / n - slope * sxy, 0.0)
            se = np.sqrt(rss / (n - 2) / sxx)
            half = se * student.ppf((1 + self.level) / 2, np.where(enough, n - 2, np.nan))
            start = np.exp(sy / n - slope * st / n)
            ema = np.where(n > 0, wu / w, np.nan)
        return Fit(n.astype(np.int64), start, -slope, se, -slope - half, -slope + half, ema)


def relative(utility: Array, median: float) -> Array:
    """Sizes [n] of utilities in units of the version's median; all NaN where that is 0, since no unit is left."""
    if median <= 0:
        return np.full(len(utility), np.nan)
    found: Array = np.abs(np.asarray(utility, np.float64)) / median
    return found
