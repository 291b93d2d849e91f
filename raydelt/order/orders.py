"""Training orders as closed-form maps from ranks to positions, so that no list of examples is ever held.

With r the rank within the selection (0 = lowest score) and n examples:

    sorted:      position = r
    folding(L):  layer l = r mod L;  position = sum_{j<l} ceil((n - j) / L) + floor(r / L)
    shuffled:    position = P(r), a seeded pseudo-random permutation of {0..n-1}

`folding` runs L times from low to high scores; the DELT paper's Folding Ordering (arXiv 2506.21545), L = 3 there.
The permutation is an eight-round Feistel network on the next even number of bits, walked until it lands below n (Black
and Rogaway 2002); its expected cost is below 4 evaluations per rank. Caution: order matters for about one epoch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydelt.config import Order
from raydelt.errors import SpecError
from raydelt.examples import mix

Positions = NDArray[np.int64]
FEISTEL_ROUNDS = 8


def positions(ranks: Positions, n: int, order: Order, *, seed: int) -> Positions:
    """Positions [k] of the ranks [k] among n selected examples.

    Raises:
        SpecError: more layers than examples.
    """
    if order.method == "sorted":
        return ranks
    if order.method == "shuffled":
        return permuted(ranks, n, seed, "order")
    if order.layers > max(n, 1):
        raise SpecError(f"order.layers {order.layers} is more than the {n} selected examples: use at most {n}")
    return folding(ranks, n, order.layers)


def folding(ranks: Positions, n: int, layers: int) -> Positions:
    """Positions of ranks under stride-L folding."""
    sizes = np.array([-(-(n - layer) // layers) for layer in range(layers)], np.int64)
    starts = np.cumsum(sizes) - sizes
    result: Positions = starts[ranks % layers] + ranks // layers
    return result


def permuted(values: Positions, n: int, seed: int, *salt: int | str) -> Positions:
    """The images [k] of values [k] in 0..n-1 under the permutation that (seed, salt) names."""
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    result = values.astype(np.uint64)
    outside = np.ones(len(result), bool)
    while outside.any():
        result[outside] = _feistel(result[outside], half, seed, *salt)
        outside[outside] = result[outside] >= n
    return result.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: int, seed: int, *salt: int | str) -> NDArray[np.uint64]:
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for turn in range(FEISTEL_ROUNDS):
        left, right = right, left ^ (mix(right, seed, "feistel", turn, *salt) & mask)
    return (left << np.uint64(half)) | right
