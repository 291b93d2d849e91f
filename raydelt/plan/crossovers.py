"""The budget from which the next wider ratio is better: for the fitted curves, and its interval over the draws.

    crossing of k and k + 1   the last budget of a logarithmic grid at which the best k buckets lose no more than the
                              best k + 1, moved on to where the curves meet, linear in log budget between neighbours

Below the range (already better at its lowest budget) a crossing is 0, beyond it infinite, so that quantiles count the
draws that do not cross. Cost: O(draws x ratios x grid).

Caution: a crossing far beyond the largest training measured is the law's word, and laws disagree about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raydelt.plan.bootstrap import losses
from raydelt.plan.laws import Curves
from raydelt.plan.ratios import Ratios
from raydelt.scorers.protocol import Array

GRID = 241


@dataclass(frozen=True)
class Crossover:
    """From `budget` on, `wider` buckets beat `narrower`; 5 and 95 % of the draws, and the share that cross in range.

    0 is below the range of budgets, infinity beyond it.
    """

    narrower: int
    wider: int
    budget: float
    low: float
    high: float
    share: float


def crossovers(
    curves: Curves, drawn: Sequence[Curves], seen: Array, budgets: Array, ratios: Ratios
) -> list[Crossover]:
    """The crossings of successive ratios, for what each ratio sees, seen [ratios, grid], at budgets [grid]."""
    values = losses([curves, *drawn], seen, ratios.members[: len(seen)], ratios.sizes)
    found = []
    for k in range(len(seen) - 1):
        crossed = np.array([crossing(budgets, value[k] - value[k + 1]) for value in values])
        rest = crossed[1:] if drawn else crossed
        low, high = np.quantile(rest, [0.05, 0.95], method="inverted_cdf")
        inside = float(np.mean((rest > 0) & np.isfinite(rest)))
        found.append(Crossover(k + 1, k + 2, float(crossed[0]), float(low), float(high), inside))
    return found


def crossing(budgets: Array, difference: Array) -> float:
    """Where a difference [grid] turns positive for good: 0 if it always is, infinity if it is not at the end."""
    behind = np.flatnonzero(difference <= 0)
    if not len(behind):
        return 0.0
    last = int(behind[-1])
    if last == len(difference) - 1:
        return float("inf")
    part = -difference[last] / (difference[last + 1] - difference[last])
    return float(budgets[last] * (budgets[last + 1] / budgets[last]) ** part)
