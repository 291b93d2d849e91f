"""How many examples are kept, over all and per class. Pure functions of counts.

    ratio:  k = max(1, round(value n)) of n eligible examples         top_k: k = value
    proportional quotas: k_c = k n_c / n       balanced: k_c = k / C, capped by n_c and the rest shared out again

Fractions are settled by largest remainder (ties to the lower class), so that the quotas sum to k exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raydelt.config import Quotas, Select
from raydelt.errors import SpecError
from raydelt.scorers.protocol import Array


def kept(select: Select, n: int, *, excluded: int = 0) -> int:
    """The number of examples to keep of n eligible ones, for ratio and top_k; `excluded` more are not eligible.

    Raises:
        SpecError: top_k asks for none, or for more than there are.
    """
    if select.method == "ratio":
        return max(1, min(n, int(np.floor(select.value * n + 0.5))))
    if select.value < 1:
        raise SpecError(f"select.value {select.value:g} keeps nothing: use at least 1")
    if select.value > n and excluded:
        raise SpecError(
            f"select.value {select.value:g} is more than the {n} examples that rank.combine.exclude and "
            f"monitor.retire leave of {n + excluded}: use at most {n}, or exclude fewer"
        )
    if select.value > n:
        raise SpecError(f"select.value {select.value:g} is more than the {n} ranked examples: use at most {n}")
    return int(select.value)


def quotas(spec: Quotas, k: int, counts: Sequence[int]) -> Array:
    """Examples to keep of each class [C], for class counts [C]; they sum to k.

    Raises:
        SpecError: `at_least` for every class adds up to more than k.
    """
    available = np.asarray(counts, np.int64)
    floor = np.minimum(spec.at_least, available)
    if floor.sum() > k:
        raise SpecError(
            f"select.quotas.at_least {spec.at_least} needs {int(floor.sum())} examples but {k} are kept: "
            "lower it or keep more"
        )
    weights = available if spec.share == "proportional" else (available > 0).astype(np.int64)
    exact = _filled(weights.astype(np.float64), k, floor, available)
    base = np.floor(exact + 1e-9).astype(np.int64)
    remainder = np.where(base < available, exact - base, -1.0)
    order = np.lexsort((np.arange(len(base)), -remainder))
    base[order[: k - base.sum()]] += 1
    return base


def _filled(weights: Array, total: int, floor: Array, ceiling: Array) -> Array:
    """Real shares clip(level * weights, floor, ceiling) at the level where they sum to `total`, by bisection."""
    low, high = 0.0, float(np.max(ceiling / np.where(weights > 0, weights, 1.0)))
    for _ in range(100):
        level = (low + high) / 2
        if np.clip(level * weights, floor, ceiling).sum() < total:
            low = level
        else:
            high = level
    filled: Array = np.clip(high * weights, floor, ceiling)
    return filled
