"""Orders by their definitions: lists of ranks in the order of emission, cut and glued together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from raydelt.config import Order
from raydelt.examples import mix
from raydelt.order.permutation import permuted

REACHES = (0.05, 0.075, 0.225, 0.5)
SHARES = (0.0, 0.1, 0.33, 0.5)


def emission(n: int, order: Order, seed: int) -> list[int]:
    """Ranks in the order of emission."""
    ranks = list(range(n))
    if order.descending:
        ranks.reverse()
    return jittered(_emitted(ranks, order, seed), order.window, seed)


def _emitted(ranks: list[int], order: Order, seed: int) -> list[int]:
    if order.method == "shuffled":
        return _shuffled(ranks, seed, "order")
    if order.method == "segment":
        return _segmented(ranks, order, seed)
    if order.method in ("stair", "saw"):
        return _stepped(ranks, order)
    if order.method in ("folding", "zigzag"):
        assert order.layers is not None
        return _folded(ranks, order.layers, zigzag=order.method == "zigzag")
    return ranks


def jittered(ranks: list[int], window: int, seed: int) -> list[int]:
    """The emission with consecutive windows shuffled within themselves."""
    if window == 1:
        return ranks
    emitted: list[int] = []
    for index in range(-(-len(ranks) // window)):
        own = ranks[index * window : (index + 1) * window]
        emitted += _moved(own, _places_in_window(index, len(own), seed))
    return emitted


@lru_cache(4096)
def _places_in_window(index: int, size: int, seed: int) -> tuple[int, ...]:
    key = mix(np.array([index], np.uint64), seed, "jitter")
    return tuple(permuted(np.arange(size), size, seed, "jitter", keys=np.repeat(key, size)).tolist())


def _shuffled(items: list[int], seed: int, *salt: int | str) -> list[int]:
    return _moved(items, permuted(np.arange(len(items)), len(items), seed, *salt).tolist())


def _moved(items: list[int], places: Sequence[int]) -> list[int]:
    result = [-1] * len(items)
    for place, item in zip(places, items, strict=True):
        result[place] = item
    return result


def _folded(items: list[int], layers: int, *, zigzag: bool) -> list[int]:
    emitted: list[int] = []
    for layer in range(layers):
        own = items[layer::layers]
        emitted += own[::-1] if zigzag and layer % 2 else own
    return emitted


def _segmented(items: list[int], order: Order, seed: int) -> list[int]:
    assert order.front is not None
    assert order.back is not None
    front = math.floor(len(items) * order.front + 0.5)
    back = min(math.floor(len(items) * order.back + 0.5), len(items) - front)
    middle = len(items) - back
    segments = [items[:front], items[front:middle], items[middle:]]
    return [rank for i, segment in enumerate(segments) for rank in _shuffled(segment, seed, "segment", i)]


def _stepped(items: list[int], order: Order) -> list[int]:
    assert order.layers is not None
    assert order.sections is not None
    assert order.reach is not None
    n, emitted = len(items), []
    radius = math.floor(n * order.reach + 0.5)
    for k in range(1, order.sections):
        split = math.floor(n * k / order.sections + 0.5)
        start, stop = max(split - radius, len(emitted)), min(split + radius, n)
        emitted += items[len(emitted) : start]
        own = items[start:stop]
        emitted += _folded(own, max(1, min(order.layers, len(own))), zigzag=order.method == "saw")
    return emitted + items[len(emitted) :]


def grid(n: int) -> Iterator[Order]:
    """Every method with every combination of a few values of its options, as far as n examples allow."""
    layers = sorted({1, 2, 3, 5, 7, n})
    yield Order(method="sorted")
    yield Order(method="shuffled")
    for front in SHARES:
        yield from (Order(method="segment", front=front, back=back) for back in SHARES)
    for number in layers:
        if number <= n:
            yield Order(method="folding", layers=number)
            yield Order(method="zigzag", layers=number)
        for sections in (2, 3, 5):
            if sections <= n:
                for reach in REACHES:
                    yield Order(method="stair", layers=number, sections=sections, reach=reach)
                    yield Order(method="saw", layers=number, sections=sections, reach=reach)
