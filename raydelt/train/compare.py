"""Paired comparison of training arms over seeds.

    d_s = a_s - b_s,   mean(d) +- t_{0.975, S-1} sd(d) / sqrt(S)

Runs of one seed share their initial weights, so differences are taken within a seed. Caution: with few seeds the
interval assumes that the differences are close to normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Difference:
    """Mean paired difference with its 95 % interval (low and high are None for a single seed)."""

    mean: float
    low: float | None
    high: float | None
    pairs: int

    def verdict(self, *, higher_is_better: bool = True) -> str:
        """What may be claimed: `better`, `worse`, or `no difference shown`."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if (self.mean > 0) == higher_is_better else "worse"


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The difference a - b of values [S] that are paired by seed."""
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    mean = float(d.mean())
    if len(d) < 2:
        return Difference(mean, None, None, len(d))
    half = float(stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d)))
    return Difference(mean, mean - half, mean + half, len(d))
