"""Does the winner beat the spec as it is, beyond noise, on a split that the search never saw.

    D = sum_{s,g} (a_sg - b_sg) / (S sum_g n_g)                   over S seeds and G groups of test rows
    V = var_s(d_s) / S + var_g(e_g) / G          d_s: D of one seed,   e_g = (mean_s(a_sg - b_sg) - D n_g) / n
    D +- t sqrt(V),   degrees of freedom V^2 / (V_seeds^2 / (S - 1) + V_rows^2 / (G - 1))

with a, b the summed metric (hits or losses) of both arms, n_g the targets of a group and n their mean. Seeds and rows
are two sources of noise that cross: either one alone makes the interval too narrow, their sum errs on the wide side
(what they share is counted twice). The degrees of freedom are Welch's and Satterthwaite's. The k-th comparison that
looks at the test split of a run gets an interval at 1 - 0.05 / k (Bonferroni). Cost: O(S G).

Caution: it says what these settings are worth for this corpus, not that they are the best ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from raydelt.scorers.protocol import Array
from raydelt.train.compare import Difference

NO_DIFFERENCE = "no difference beyond noise"


def compared(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], counts: Sequence[float], *, looks: int = 1
) -> Difference:
    """The difference of sums [S, G] per target, of which groups hold counts [G], with its interval."""
    delta = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    size = np.asarray(counts, np.float64)
    seeds, groups = delta.shape
    mean = float(delta.sum() / (seeds * size.sum()))
    if seeds < 2 or groups < 2:
        return Difference(mean, None, None, seeds)
    rows = (delta.mean(axis=0) - mean * size) / size.mean()
    half = _half_width(_squared_error(delta.sum(axis=1) / size.sum()), _squared_error(rows), seeds, groups, looks)
    return Difference(mean, mean - half, mean + half, seeds)


def told(difference: Difference, *, higher_is_better: bool) -> str:
    """What may be claimed: `better`, `worse`, or `no difference beyond noise`."""
    found = difference.verdict(higher_is_better=higher_is_better)
    return found if found in ("better", "worse") else NO_DIFFERENCE


def _squared_error(values: Array) -> float:
    """The squared standard error of the mean of values [n]."""
    return float(values.var(ddof=1) / len(values))


def _half_width(of_seeds: float, of_rows: float, seeds: int, groups: int, looks: int) -> float:
    both = of_seeds + of_rows
    if both == 0:
        return 0.0
    freedom = both**2 / (of_seeds**2 / (seeds - 1) + of_rows**2 / (groups - 1))
    return float(stats.t.ppf(1.0 - 0.025 / looks, freedom) * math.sqrt(both))
