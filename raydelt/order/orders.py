"""Training orders as maps from ranks to positions and back, so that no list of examples is ever held.

With r the rank within the selection (0 = lowest score; n - 1 - r takes its place where the order is descending),
n examples, round(v) = floor(v + 1/2), and P a seeded pseudo-random permutation:

    sorted:    position = r
    shuffled:  position = P(r)
    folding:   L passes from low to high, of every L-th example each;  zigzag: every second pass from high to low
    segment:   the lowest round(n front), the highest round(n back) and those between, shuffled within each
    stair:     sorted, but folded within the windows [p_k - d, p_k + d), p_k = round(n k / S), k = 1..S-1,
               d = round(n reach), each cut to what the window before it leaves;  saw: zigzag within them
    jitter:    after any of these, P_j within the positions [j w, (j + 1) w)

Sources: folding is DELT's (arXiv 2506.21545); zigzag, segment, stair, saw and jitter are those of arXiv 2605.30334.
Cost: O(k) for k ranks; stair and saw take O(S + k log S). Any subset of ranks may be asked.

Caution: order matters for about one epoch.
"""

from __future__ import annotations

import math

import numpy as np

from raydelt.config import Order
from raydelt.errors import SpecError
from raydelt.examples import mix
from raydelt.order.folds import folding, unfolding
from raydelt.order.permutation import Positions, permuted, unpermuted

# What there must be an example for, by method, and the least that a spec may ask of it.
NEEDS = {"folding": ("layers", 1), "zigzag": ("layers", 1), "stair": ("sections", 2), "saw": ("sections", 2)}


def positions(ranks: Positions, n: int, order: Order, *, seed: int) -> Positions:
    """Positions [k] of the ranks [k] among n selected examples; as many layers as examples are the sort.

    Raises:
        SpecError: more layers (folding, zigzag) or more sections (stair, saw) than examples.
    """
    _refuse_too_many(n, order)
    placed = _placed(_mirrored(ranks, n, order), n, order, seed, inverse=False)
    return _jittered(placed, n, order.window, seed, inverse=False)


def ranks_at(positions: Positions, n: int, order: Order, *, seed: int) -> Positions:
    """The ranks [k] of the examples at the positions [k] among n selected ones: the inverse of `positions`.

    Raises:
        SpecError: more layers (folding, zigzag) or more sections (stair, saw) than examples.
    """
    _refuse_too_many(n, order)
    placed = _jittered(positions, n, order.window, seed, inverse=True)
    return _mirrored(_placed(placed, n, order, seed, inverse=True), n, order)


def _refuse_too_many(n: int, order: Order) -> None:
    if n == 0 or order.method not in NEEDS:
        return
    name, least = NEEDS[order.method]
    asked = getattr(order, name)
    if asked > n:
        cure = f"use at most {n}" if n >= least else "select more, or use order.method sorted"
        raise SpecError(f"order.{name} {asked} is more than the {n} selected examples: {cure}")


def _mirrored(ranks: Positions, n: int, order: Order) -> Positions:
    return n - 1 - ranks if order.descending else ranks


def _placed(values: Positions, n: int, order: Order, seed: int, *, inverse: bool) -> Positions:
    """The order's method without mirror and jitter: positions [k] of ranks [k], or the inverse."""
    if order.method == "sorted":
        return values
    if order.method == "shuffled":
        return (unpermuted if inverse else permuted)(values, n, seed, "order")
    if order.method == "segment":
        return _segmented(values, n, order, seed, inverse=inverse)
    if order.method in ("stair", "saw"):
        return _stepped(values, n, order, inverse=inverse)
    assert order.layers is not None
    return (unfolding if inverse else folding)(values, n, order.layers, zigzag=order.method == "zigzag")


def _segmented(values: Positions, n: int, order: Order, seed: int, *, inverse: bool) -> Positions:
    assert order.front is not None
    assert order.back is not None
    front = _rounded(n * order.front)
    back = min(_rounded(n * order.back), n - front)
    result = np.empty_like(values)
    for index, (start, stop) in enumerate([(0, front), (front, n - back), (n - back, n)]):
        own = np.flatnonzero((values >= start) & (values < stop))
        shuffle = unpermuted if inverse else permuted
        result[own] = start + shuffle(values[own] - start, stop - start, seed, "segment", index)
    return result


def _stepped(values: Positions, n: int, order: Order, *, inverse: bool) -> Positions:
    assert order.layers is not None
    starts, stops = _windows(n, order)
    window = np.minimum(np.searchsorted(stops, values, side="right"), len(stops) - 1)
    own = np.flatnonzero((values >= starts[window]) & (values < stops[window]))
    start = starts[window[own]]
    size = stops[window[own]] - start
    fold = unfolding if inverse else folding
    result = values.copy()
    layers = np.minimum(size, order.layers)
    result[own] = start + fold(values[own] - start, size, layers, zigzag=order.method == "saw")
    return result


def _windows(n: int, order: Order) -> tuple[Positions, Positions]:
    """Where the windows around the S - 1 split points start and stop, [S - 1] each; a window may be empty."""
    assert order.sections is not None
    assert order.reach is not None
    k = np.arange(1, order.sections, dtype=np.int64)
    whole, rest = divmod(n, order.sections)
    # n k / S in whole numbers, whose product stays small: a float of it is not exact above 2^53.
    split = whole * k + (2 * rest * k + order.sections) // (2 * order.sections)
    radius = _rounded(n * order.reach)
    stops = np.minimum(split + radius, n)
    before = np.concatenate([[0], stops[:-1]])
    return np.maximum(split - radius, before), stops


def _jittered(values: Positions, n: int, window: int, seed: int, *, inverse: bool) -> Positions:
    """Positions [k] shuffled within consecutive windows; the last one has what the others leave."""
    window = min(window, n)
    if window <= 1:
        return values
    index, offset = np.divmod(values, window)
    keys = mix(index.astype(np.uint64), seed, "jitter")
    last = n // window
    shuffle = unpermuted if inverse else permuted
    result = index * window
    for own, size in [(index < last, window), (index == last, n % window)]:
        result[own] += shuffle(offset[own], size, seed, "jitter", keys=keys[own])
    return result


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)
