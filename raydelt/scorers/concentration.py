"""How unequally gradient norms are shared among the examples: Lorenz curve, Gini coefficient, share of the top fifth.

    L(q) = sum of the smallest q n norms / sum of all        Gini = 1 - 2 integral of L
    top_share = 1 - L(0.8)

Exact, by one sort: 8 bytes per example in one task. Source: Lorenz 1905, Gini 1912; the claim that a fifth of the
examples makes four fifths of the update is the popular article's on choosing useful examples.

Caution: concentration grows as training goes on, so these figures mean nothing without the number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raydelt.examples import column_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Store

POINTS = 101
TOP = 0.2


def concentration_of(run: Store, files: Sequence[str], column: str) -> dict[str, Any]:
    """The figures of one component over published score files."""
    return concentration(np.concatenate([column_of(run.read_table(file, [column]), column) for file in files]))


def concentration(values: Array) -> dict[str, Any]:
    """`lorenz` at 101 equal steps of the share of examples, `gini` and `top_share` of values [n] >= 0."""
    total = float(values.sum(dtype=np.float64))
    if len(values) == 0 or total <= 0:
        return {"lorenz": np.linspace(0, 1, POINTS).tolist(), "gini": 0.0, "top_share": TOP}
    sums = np.concatenate([[0.0], np.cumsum(np.sort(values), dtype=np.float64)]) / total
    shares = np.linspace(0, 1, len(sums))
    lorenz = np.interp(np.linspace(0, 1, POINTS), shares, sums)
    return {
        "lorenz": lorenz.tolist(),
        "gini": 1.0 - float((sums[1:] + sums[:-1]).sum()) / len(values),
        "top_share": 1.0 - float(np.interp(1.0 - TOP, shares, sums)),
    }
