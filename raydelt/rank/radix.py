"""Exact cuts of the descending order (level, key, id) without sorting: the lowest example that each group keeps.

A pass counts, for the rows that still tie with the cut, the next `bits` of their key, as Ray tasks that read one part
at a time; the counts add up on the driver, and the bin in which the budget runs out becomes the prefix of the next
pass. Once at most `GATHER` rows are left in the deciding bins, those rows alone are fetched and decide.

    count:  the budget is a number of examples k_g        keep the k_g highest of group g
    weight: the budget is a total weight W_g              keep the longest prefix of the order with sum <= W_g

Cost: O(n) per pass and one column of scores read; uniform scores need one pass up to 2^24 rows and two beyond, equal
scores four more and then the ids. Memory of a task: one part and 2^22 counts; of the driver: as many, and `GATHER`
rows. Counts are integers, so no layout of the parts changes the result. Radix selection is textbook (Knuth, TAOCP 3).

Caution: ids must be unique, else no cut keeps exactly k examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, column_of
from raydelt.rank import keys
from raydelt.rank.cuts import Bar, Cut, groups_of
from raydelt.rank.keys import BEST, ELIGIBLE, GATE, LEVELS, SCORE, WORD
from raydelt.scorers.protocol import Array

GATHER = 1 << 20
COUNTS = 1 << 22
TASKS = 512
LEVEL_COLUMNS = (ELIGIBLE, GATE)

Read = Callable[[Any, Sequence[str]], pa.Table]


@dataclass(frozen=True)
class Source:
    """Rows in parts: `read(part, columns)` gives a table of the columns that exist; a part may be an object reference.

    `group` names a column of group indices in [0, groups), `weight` one of whole weights; None: one group, weight 1.
    """

    parts: Sequence[Any]
    read: Read
    group: str | None = None
    groups: int = 1
    weight: str | None = None

    def columns(self, *own: str) -> list[str]:
        """Columns of a pass: its own, and those that say which group, level and weight a row has."""
        return [*LEVEL_COLUMNS, *own, *(name for name in (self.group, self.weight) if name)]

    def group_of(self, table: pa.Table) -> Array:
        """The group [n] int64 of each row."""
        return groups_of(table, self.group)

    def weight_of(self, table: pa.Table) -> Array:
        """The weight [n] int64 of each row."""
        return column_of(table, self.weight).astype(np.int64) if self.weight else np.ones(table.num_rows, np.int64)


@dataclass(frozen=True)
class Census:
    """Examples and total weights per group and level [G, 4], int64."""

    counts: Array
    weights: Array

    @property
    def eligible(self) -> Array:
        """Examples [G] that may be kept."""
        return np.asarray(self.counts[:, LEVELS // 2 :].sum(axis=1))


@dataclass(frozen=True)
class _Search:
    """Where the search stands: the level and the settled bits of each group [G], and the budget left among its ties.

    The key of a row is its score key (depth 0), then the words of its id behind the `start` bytes that all ties share.
    """

    active: Array
    level: Array
    words: tuple[Array, ...]  # settled words, each [G] uint64
    part: Array  # the settled leading bits of the next word, [G] uint64
    settled: int
    left: Array
    tied: int
    start: int = 0
    longest: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether every byte of every tied id is settled: what still ties differs in trailing NULs alone."""
        return len(self.words) > 1 and self.start + WORD * (len(self.words) - 1) >= self.longest


def census(source: Source) -> Census:
    """Count all examples per group and level, without their scores."""
    found = cluster.parallel(_census_of, [(source, *own) for own in _batches(source.parts)], label="cut: census")
    zero = np.zeros((source.groups, LEVELS), np.int64)
    return Census(sum((entry[0] for entry in found), zero), sum((entry[1] for entry in found), zero))


def cut(source: Source, budget: Array, counted: Census, *, gather: int = GATHER) -> Cut:
    """The cut at which every group [G] keeps its budget of eligible examples, or of weight if the source has one.

    Raises:
        InputError: ids are not unique, or a score is not finite.
    """
    by_weight = source.weight is not None
    search, whole = _start(budget, counted, by_weight)
    while search.tied > gather and not search.exhausted:
        search = _step(source, search)
    bars: list[Bar | None] = [Bar(LEVELS // 2, 0) if everything else None for everything in whole]
    if search.active.any():
        calls = [(source, search, *own) for own in _batches(source.parts)]
        tied = pa.concat_tables(cluster.parallel(_tied, calls, label="cut: decide"))
        for group in np.flatnonzero(search.active):
            own = tied.filter(pa.array(column_of(tied, "group") == group))
            bars[group] = _decide(own, int(search.level[group]), int(search.left[group]), by_weight)
    return Cut(tuple(bars), source.group)


def _start(budget: Array, counted: Census, by_weight: bool) -> tuple[_Search, Array]:
    """The level in which each group's budget runs out, and the groups [G] that keep all their eligible examples."""
    size = (counted.weights if by_weight else counted.counts)[:, ::-1][:, : LEVELS // 2]
    reached = np.cumsum(size, axis=1)
    total, budget = reached[:, -1], np.asarray(budget, np.int64)
    some = counted.eligible > 0
    whole = some & (budget >= total)
    active = some & ~whole & (by_weight | (budget > 0))
    deciding = (reached <= budget[:, None]) if by_weight else (reached < budget[:, None])
    place = np.where(active, deciding.sum(axis=1), 0)
    rows = np.arange(len(budget))
    level = BEST - place
    zero = np.zeros(len(budget), np.uint64)
    left = budget - (reached - size)[rows, place]
    return _Search(active, level, (), zero, 0, left, int(counted.counts[rows, level][active].sum())), whole


def _step(source: Source, search: _Search) -> _Search:
    """One pass: settle the next bits of every active group."""
    batches = _batches(source.parts)
    if len(search.words) == 1 and not search.settled:
        spans = cluster.parallel(_span, [(source, search, *own) for own in batches], label="cut: ids")
        ends = [end for own, _ in spans for end in own]
        shared, longest = _shared(min(ends), max(ends)), max(length for _, length in spans)
        search = replace(search, start=shared, longest=longest)
    bits = _bits(len(search.active))
    calls = [(source, search, bits, *own) for own in batches]
    counts, sizes = np.zeros((2, len(search.active) << bits), np.int64)
    for codes, number, size in cluster.parallel(_histogram, calls, label="cut: count"):
        counts[codes] += number
        sizes[codes] += size
    shape = (len(search.active), 1 << bits)
    return _narrowed(search, counts.reshape(shape), sizes.reshape(shape), bits, source.weight is not None)


def _narrowed(search: _Search, counts: Array, sizes: Array, bits: int, by_weight: bool) -> _Search:
    """The search within the bins [G] in which the budgets run out, from counts and weights [G, bins]."""
    groups, top = np.arange(len(counts)), counts.shape[1] - 1
    reached = np.cumsum(sizes[:, ::-1], axis=1)
    passed = (reached <= search.left[:, None]) if by_weight else (reached < search.left[:, None])
    place = np.where(search.active, np.minimum(passed.sum(axis=1), top), 0)
    bins = top - place
    left = search.left - (reached[groups, place] - sizes[groups, bins])
    part, settled = (search.part << np.uint64(bits)) | bins.astype(np.uint64), search.settled + bits
    words = search.words
    if settled == 64:
        words, part, settled = (*words, part), np.zeros_like(part), 0
    tied = int(counts[groups, bins][search.active].sum())
    return replace(search, words=words, part=part, settled=settled, left=left, tied=tied)


def _decide(tied: pa.Table, level: int, left: int, by_weight: bool) -> Bar:
    """The bar of one group among the rows that tie to the end."""
    key, ids = column_of(tied, "key").astype(np.uint64), keys.ids_of(tied)
    order = keys.order(np.zeros(len(key), np.uint8), key, ids)[::-1]
    place = left - 1
    if by_weight:
        place = int(np.searchsorted(np.cumsum(column_of(tied, "weight")[order]), left, side="right"))
    row, below = int(order[place]), order[place + 1 :][:1]
    if len(below) and key[row] == key[below[0]] and ids[row] == ids[below[0]]:
        raise InputError(f"example id {ids[row].as_py()!r} stands more than once: make corpus.id_column unique")
    return Bar(level, int(key[row]), ids[row].as_py(), kept=not by_weight)


def _shared(low: bytes, high: bytes) -> int:
    """Leading bytes that two ids share, and with them all ids between."""
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def _bits(groups: int) -> int:
    """Bits that a pass settles: as many as keep its counts within `COUNTS`."""
    return next((bits for bits in (16, 8) if groups << bits <= COUNTS), 4)


def _batches(parts: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The parts shared out to at most `TASKS` tasks."""
    size = max(1, -(-len(parts) // TASKS))
    return [tuple(parts[low : low + size]) for low in range(0, len(parts), size)]


def _census_of(source: Source, *parts: Any) -> tuple[Array, Array]:
    counts, weights = np.zeros((2, source.groups, LEVELS), np.int64)
    for part in parts:
        table = source.read(part, source.columns())
        code = source.group_of(table) * LEVELS + keys.levels(table)
        counts += np.bincount(code, minlength=counts.size).reshape(counts.shape)
        if source.weight:
            weights += _sums(code, source.weight_of(table), counts.size).reshape(counts.shape)
    return counts, weights if source.weight else counts


def _sums(code: Array, weight: Array, size: int) -> Array:
    """Sums [size] of whole weights by code; exact while they stay below 2^53."""
    return np.bincount(code, weights=weight, minlength=size).astype(np.int64)


def _histogram(source: Source, search: _Search, bits: int, *parts: Any) -> tuple[Array, Array, Array]:
    """Codes (group, next bits) that occur among the tied rows, how often, and their weight."""
    size = len(search.active) << bits
    counts, sizes = np.zeros((2, size), np.int64)
    shift, low = np.uint64(64 - search.settled - bits), np.uint64((1 << bits) - 1)
    for part in parts:
        table, rows, word = _ties(source, search, part)
        code = (source.group_of(table)[rows] << bits) | ((word >> shift) & low).astype(np.int64)
        counts += np.bincount(code, minlength=size)
        if source.weight:
            sizes += _sums(code, source.weight_of(table)[rows], size)
    codes = np.flatnonzero(counts)
    return codes, counts[codes], (sizes if source.weight else counts)[codes]


def _ties(source: Source, search: _Search, part: Any) -> tuple[pa.Table, Array, Array]:
    """A part's columns, its rows [m] that tie with the cut so far, and their word [m] that is being settled."""
    own = (SCORE, EXAMPLE_ID) if search.words else (SCORE,)
    table = source.read(part, source.columns(*own))
    group, word = source.group_of(table), keys.score_keys(column_of(table, SCORE))
    rows = np.flatnonzero(search.active[group] & (keys.levels(table) == search.level[group]))
    word, ids = word[rows], keys.ids_of(table) if search.words else None
    for depth, settled in enumerate(search.words):
        same = word == settled[group[rows]]
        rows = rows[same]
        word = keys.id_words(keys.take(ids, rows), depth, start=search.start)
    if search.settled:
        same = (word >> np.uint64(64 - search.settled)) == search.part[group[rows]]
        rows, word = rows[same], word[same]
    return table, rows, word


def _span(source: Source, search: _Search, *parts: Any) -> tuple[list[bytes], int]:
    """The least and the greatest id, as UTF-8, among the tied rows of each part that has any; the longest's bytes."""
    ends, longest = [], 0
    for part in parts:
        table, rows, _ = _ties(source, search, part)
        if len(rows):
            ids = keys.take(keys.ids_of(table), rows)
            ends += [end.encode() for end in pc.min_max(ids).as_py().values()]
            longest = max(longest, int(keys.id_lengths(ids).max()))
    return ends, longest


def _tied(source: Source, search: _Search, *parts: Any) -> pa.Table:
    """Group, key, id and weight of the rows that tie to the end."""
    tables = []
    for part in parts:
        table, rows, _ = _ties(source, search, part)
        if len(rows) and not search.words:
            table = source.read(part, source.columns(SCORE, EXAMPLE_ID))
        ids = keys.take(keys.ids_of(table), rows) if len(rows) else pa.array([], pa.string())
        tables.append(
            pa.table(
                {
                    "group": source.group_of(table)[rows],
                    "key": keys.score_keys(column_of(table, SCORE)[rows]),
                    EXAMPLE_ID: ids,
                    "weight": source.weight_of(table)[rows],
                }
            )
        )
    return pa.concat_tables(tables)
