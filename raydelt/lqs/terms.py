"""From products and norms at the visited steps to an example's scores: which steps count, and what divides them.

With S the visited steps in rising order, d their distance, p_t = <lambda_{t+1}, g_t>, n_t = ||g_t||:

    pds       eta sum_{t in S, t < T} p_t
    lqs       eta sum_{t in S, 0 < t, t + d <= T} p_t / n_{t+d}
    released  eta sum_{t in S, t < T} p_t / n_{t+d},  the last one undivided

`released` is what the published annotation code intended; as published it divides by another sample's norm. An example
without a gradient at t contributes nothing there. Sources: arXiv 2506.21545 eq. 6, 7, 9; arXiv 2410.07064.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from raydelt.scorers.protocol import Array

Mode = Literal["lqs", "pds", "released"]


def columns_of(mode: Mode) -> tuple[str, ...]:
    """The columns of a mode, its score first."""
    return ("pds", "quality", "learnability") if mode == "pds" else ("lqs", "quality", "learnability", "pds")


def visited(mode: Mode, steps: int, interval: int) -> list[int]:
    """The steps at which examples are evaluated, in rising order; those of `mode: lqs` end with a denominator's."""
    last = steps if mode == "lqs" else steps - 1
    return list(range(0, last + 1, interval))


def scores(
    mode: Mode, visits: Sequence[int], products: Array, norms: Array, lengths: Array, *, steps: int, lr: float
) -> dict[str, Array]:
    """The columns [B] from products [V, B] and norms [V, B] at the visited steps, and lengths [V] of lambda_{t+1}.

    Products and lengths at step T, where there is no lambda, are not read.
    """
    before = [i for i, t in enumerate(visits) if t < steps]
    followed = [i for i in before if i + 1 < len(visits) and (visits[i] > 0 or mode != "lqs")]
    own = followed if mode == "lqs" else before
    divided = _ratio(products[followed], norms[[i + 1 for i in followed]]).sum(axis=0)
    if mode == "released":
        divided = divided + products[before[-1]]
    columns = {
        "lqs": lr * divided,
        "quality": _ratio(products[own], norms[own] * lengths[own, None]).sum(axis=0),
        "learnability": _ratio(norms[followed], norms[[i + 1 for i in followed]]).sum(axis=0),
        "pds": lr * products[before].sum(axis=0),
    }
    return {name: columns[name] for name in columns_of(mode)}


def _ratio(above: Array, below: Array) -> Array:
    """above / below, and 0 where both are 0: an example that has no gradient asks for nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = np.where((above == 0) & (below == 0), 0.0, above / below)
    return result
