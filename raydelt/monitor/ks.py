"""The two-sample Kolmogorov-Smirnov test on records of values, without holding the values.

    D = max_v |F(v) - G(v)|        p = P(D >= d) of the asymptotic distribution, as scipy's ks_2samp(method="asymp")

Cost O(k log k) for k bins of the records. While the records are exact (no more than 65,536 distinct values) so is D;
beyond, it is too low by at most the share of the fullest bin. Caution: ties and common examples make p too high.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import kstwo

from raydelt.monitor.sketch import Values, aligned


def ks(reference: Values, current: Values) -> tuple[float, float]:
    """D and its p-value; (0, 1) where either is empty."""
    m, n = reference.total, current.total
    if not m or not n:
        return 0.0, 1.0
    reference, current = aligned(reference, current)
    at = np.union1d(reference.upper, current.upper)
    d = float(np.abs(reference.below(at) / m - current.below(at) / n).max())
    small, great = sorted((m, n))
    return d, float(np.clip(kstwo.sf(d, np.round(small * great / (small + great))), 0, 1))
