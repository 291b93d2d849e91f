"""The population stability index: how far a distribution has moved from a reference, and whether that is chance.

    PSI = sum_b (p_b - q_b) ln(p_b / q_b)        p, q shares of the current and the reference set in B bins,
                                                 each (count / n + e) / (1 + B e) with e = 1e-4
    under one distribution    PSI ~ (1/n + 1/m) chi2_{B-1}        so p = P(chi2_{B-1} >= PSI / (1/n + 1/m))

Bins are between the quantiles of the reference set; a value that holds a bin's share by itself gets a bin of its own.
Bins that are empty in both sets do not count. Rule of thumb beside the test: below 0.1 stable, below 0.25 moderate,
above it large. Cost O(bins). Sources: the index is folklore of credit scoring; its distribution: Yurdakul 2018.

Caution: the rule of thumb knows no sample sizes. With 200 and 200 rows and 10 bins PSI is 0.09 on average by chance
alone; with millions a PSI of 0.001 is no chance and no matter. Read both columns. The test takes the sets for
independent; where both hold the same examples it errs on the side of no drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import chi2

from raydelt.monitor.sketch import Values, aligned
from raydelt.scorers.protocol import Array

SMOOTHING = 1e-4
MODERATE = 0.1
LARGE = 0.25

Size = Literal["stable", "moderate", "large"]


@dataclass(frozen=True)
class Shift:
    """PSI, the p-value of no change, and what the rule of thumb calls it."""

    psi: float
    p_value: float
    size: Size


def psi(reference: Array, current: Array) -> float:
    """The index of counts [B] in the same bins; 0 where either set is empty."""
    p, q = (np.asarray(counts, np.float64) for counts in (current, reference))
    if not p.sum() or not q.sum():
        return 0.0
    p, q = ((c / c.sum() + SMOOTHING) / (1 + len(c) * SMOOTHING) for c in (p, q))
    return float(((p - q) * np.log(p / q)).sum())


def shift(reference: Array, current: Array) -> Shift:
    """The index of counts [B] with its test; bins that are empty in both sets are left out."""
    filled = (np.asarray(reference) + np.asarray(current)) > 0
    counts = np.asarray(reference)[filled], np.asarray(current)[filled]
    found, (m, n) = psi(*counts), (int(c.sum()) for c in counts)
    p_value = 1.0
    if len(counts[0]) > 1 and m and n:
        p_value = float(chi2.sf(found / (1 / n + 1 / m), len(counts[0]) - 1))
    return Shift(found, p_value, size_of(found))


def size_of(value: float) -> Size:
    """The rule of thumb."""
    if value < MODERATE:
        return "stable"
    return "moderate" if value < LARGE else "large"


def edges_of(reference: Values, bins: int) -> Array:
    """Ascending inner edges float32 [<= 2 (bins - 1)] of the reference's quantile bins (edge, next edge]."""
    levels = np.arange(1, bins) / bins
    edges = np.unique(reference.quantiles(levels))
    lower = np.nextafter(edges, np.float32(-np.inf))
    mass = (reference.below(edges) - reference.below(lower)) * bins >= reference.total
    return np.unique(np.concatenate([edges, lower[mass]]))


def counts_in(values: Values, edges: Array) -> Array:
    """Counts int64 [len(edges) + 1] in the bins between the edges."""
    reached = values.below(edges)
    return np.diff(np.concatenate([[0], reached, [values.total]])).astype(np.int64)


def shift_of(reference: Values, current: Values, bins: int = 10) -> Shift:
    """The index of two columns in the quantile bins of the reference; no change where either is empty."""
    if not len(reference.keys) or not len(current.keys):
        return Shift(0.0, 1.0, "stable")
    reference, current = aligned(reference, current)
    edges = edges_of(reference, bins)
    return shift(counts_in(reference, edges), counts_in(current, edges))
