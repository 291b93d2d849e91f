"""Seeded pseudo-random permutations of {0..n-1} as functions of single values, with their inverses.

    (left, right) <- (right, left xor F_turn(right)),  turn = 0..7,  F_turn(x) = mix(x xor key, seed, turn, salt)

is a Feistel network on the next even number of bits: a permutation whatever F is, undone by its turns in reverse.
It is repeated on a value until the value lands below n (cycle walking; Black and Rogaway 2002), which takes at most
about 4 networks per value in the mean. A key per value gives many permutations of the same n in one call.

Caution: n is shared by the values of a call, because the number of bits follows from it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydelt.examples import UInt64Array, mix

Positions = NDArray[np.int64]
FEISTEL_ROUNDS = 8


def permuted(values: Positions, n: int, seed: int, *salt: int | str, keys: UInt64Array | None = None) -> Positions:
    """The images [k] of values [k] in 0..n-1 under the permutation that (seed, salt), and a value's key [k], name."""
    return _walked(values, n, keys, seed, salt, inverse=False)


def unpermuted(values: Positions, n: int, seed: int, *salt: int | str, keys: UInt64Array | None = None) -> Positions:
    """The values [k] in 0..n-1 that `permuted` maps to these [k]."""
    return _walked(values, n, keys, seed, salt, inverse=True)


def _walked(
    values: Positions, n: int, keys: UInt64Array | None, seed: int, salt: tuple[int | str, ...], *, inverse: bool
) -> Positions:
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    # The key 0 leaves the round function as it is without keys.
    own = np.zeros(len(values), np.uint64) if keys is None else keys
    result = values.astype(np.uint64)
    outside = np.ones(len(result), bool)
    while outside.any():
        result[outside] = _feistel(result[outside], own[outside], half, seed, salt, inverse=inverse)
        outside[outside] = result[outside] >= n
    return result.astype(np.int64)


def _feistel(
    values: UInt64Array, keys: UInt64Array, half: int, seed: int, salt: tuple[int | str, ...], *, inverse: bool
) -> UInt64Array:
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    # With its halves swapped, a network is undone by its own turns in reverse order.
    if inverse:
        left, right = right, left
    for turn in reversed(range(FEISTEL_ROUNDS)) if inverse else range(FEISTEL_ROUNDS):
        left, right = right, left ^ (mix(right ^ keys, seed, "feistel", turn, *salt) & mask)
    if inverse:
        left, right = right, left
    return (left << np.uint64(half)) | right
