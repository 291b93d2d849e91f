"""P-values of many tests at once: Holm's keep the chance of any false alarm, Benjamini-Hochberg's their share.

    Holm: p_(i) -> max_{j <= i} min(1, (k - j + 1) p_(j))        for the k p-values in ascending order

Cost O(k log k). Sources: Holm 1979; Benjamini and Hochberg 1995 (scipy's `false_discovery_control`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.stats import false_discovery_control

from raydelt.scorers.protocol import Array

Correction = Literal["holm", "bh"]


def adjusted(p_values: Array, correction: Correction = "holm") -> Array:
    """Adjusted p-values [k], to be compared with the level itself."""
    p = np.asarray(p_values, np.float64)
    if not len(p):
        return p
    if correction == "bh":
        return np.asarray(false_discovery_control(p))
    order = np.argsort(p, kind="stable")
    found = np.empty(len(p))
    found[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return found
