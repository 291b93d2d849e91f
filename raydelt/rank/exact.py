"""Exact global rank of (eligible, gate, score, example_id), ascending: range partition, local sort, prefix sum.

    rank(i) = number of examples whose (eligible, gate, score, example_id) is smaller        0 = lowest

A sample of keys, drawn by hash of the id, gives the splitters; every part is read once and dealt out to the ranges;
every range is sorted by one task that knows how many rows lie below it. Cost: O(n log n) spread over the tasks, one
read for the sample, one for the rows. Memory of a task: one part, or one range of about `ROWS_PER_RANGE` rows (a task
that writes several ranges takes them one by one). Pieces travel through the object store, which spills. Sample sort
with a hash for the sample, so that neither ranks nor files depend on the layout of the parts (Frazer, McKellar 1970).

Caution: a range is as large as chance makes it, about 1 +- 0.06 times the mean with 256 sampled keys each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.examples import EXAMPLE_ID, column_of
from raydelt.rank import keys, packing
from raydelt.scorers.protocol import Array

R = TypeVar("R")

ROWS_PER_RANGE = 1 << 20
SAMPLES_PER_RANGE = 256
# Every part hands a piece to every sorting task, and a piece costs some 3 ms to store (30M rows on 2 cores: 16 s with
# 8 tasks, 25 s with 29) and a reference on the driver. So a task takes several ranges once every CPU has tasks enough,
# but no more than the object store can hold for it (8 ranges of ids and scores: 370 MB) unless tasks get too many.
TASKS_PER_CPU = 4
RANGES_PER_TASK = 8
SORTING_TASKS = 256


@dataclass(frozen=True)
class Splitters:
    """The lowest keys [R - 1] of all ranges but the first, ascending."""

    level: Array
    key: Array
    ids: pa.StringArray

    def range_of(self, level: Array, key: Array, ids: pa.StringArray) -> Array:
        """The range [n] of each row: how many splitters are not above it; O(log R) per row."""
        low, high = np.zeros((2, len(key)), np.int64)
        for value in np.unique(level):
            rows = np.flatnonzero(level == value)
            base, end = np.searchsorted(self.level, [value, value + 1])
            low[rows] = base + np.searchsorted(self.key[base:end], key[rows], side="left")
            high[rows] = base + np.searchsorted(self.key[base:end], key[rows], side="right")
        # Where splitters have the row's own level and score, a binary search among their ids decides.
        rows = np.flatnonzero(low < high)
        while len(rows):
            middle = (low[rows] + high[rows]) // 2
            reached = pc.greater_equal(keys.take(ids, rows), keys.take(self.ids, middle))
            reached = reached.to_numpy(zero_copy_only=False)
            low[rows] = np.where(reached, middle + 1, low[rows])
            high[rows] = np.where(reached, high[rows], middle)
            rows = rows[low[rows] < high[rows]]
        return low


def ranges(rows: int, rows_per_range: int = ROWS_PER_RANGE) -> int:
    """How many ranges a corpus of this many rows is ranked in; no function of the cluster."""
    return max(1, -(-rows // rows_per_range))


def rank_rows(
    parts: Sequence[Any],
    read: Callable[[Any], pa.Table],
    write: Callable[[int, pa.Table, int], R],
    *,
    rows: int,
    rows_per_range: int | None = None,
) -> list[R]:
    """What `write(range, sorted rows, rank of the first)` returns for each range, lowest first.

    `read(part)` gives rows with example_id and score, with eligible and gate where there are any, and with whatever is
    to travel along; a part may be an object reference. `rows` is their number.

    Raises:
        InputError: a score is not finite.
    """
    size = rows_per_range or ROWS_PER_RANGE
    count = ranges(rows, size)
    splitters = _splitters(parts, read, count, rows)
    per_task = max(-(-count // SORTING_TASKS), min(RANGES_PER_TASK, -(-count // (TASKS_PER_CPU * cluster.cpus()))))
    tasks = -(-count // per_task)
    calls = [(read, splitters, count, per_task, part) for part in parts]
    dealt = cluster.scatter(_deal, calls, 1 + tasks, label="rank: deal")
    counts = np.array(cluster.fetched([row[0] for row in dealt]), np.int64).reshape(len(parts), count)
    below = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
    sorting = []
    for task in range(tasks):
        own = range(task * per_task, min((task + 1) * per_task, count))
        pieces = [row[1 + task] for row in dealt]
        sorting.append((write, own, counts[:, own.start : own.stop], below[own.start : own.stop], *pieces))
    written = cluster.parallel(_sort, sorting, label="rank: sort")
    return [entry for entries in written for entry in entries]


def in_order(table: pa.Table) -> pa.Table:
    """The rows of a table in ascending order, in one chunk."""
    ids = keys.ids_of(table)
    order = keys.order(keys.levels(table), keys.score_keys(column_of(table, keys.SCORE)), ids)
    return _taken(table, ids, order)


def percentiles(below: int, rows: int, total: int) -> Array:
    """Percentiles [rows] in [0, 100] of ranks from `below` on, each in the middle of its rank."""
    return np.asarray(100.0 * (np.arange(below, below + rows) + 0.5) / max(total, 1))


def _taken(table: pa.Table, ids: pa.Array, order: Array) -> pa.Table:
    """Rows of a table; its ids, which stand in `ids` as one array, move as fixed-width rows where they can."""
    rows = pa.array(order)
    columns = {
        name: packing.take(ids, order) if name == EXAMPLE_ID else _one_chunk(table[name]).take(rows)
        for name in table.column_names
    }
    return pa.table(columns)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array: taking from many chunks is several times slower."""
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _splitters(parts: Sequence[Any], read: Callable[[Any], pa.Table], count: int, rows: int) -> Splitters:
    """The keys at regular places of a sample that only the ids choose."""
    if count == 1:
        return Splitters(np.zeros(0, np.uint8), np.zeros(0, np.uint64), pa.array([], pa.string()))
    share = min(1.0, SAMPLES_PER_RANGE * count / rows)
    sample = pa.concat_tables(cluster.parallel(_sample, [(read, share, part) for part in parts], label="rank: sample"))
    level, key = column_of(sample, "level"), column_of(sample, "key")
    ids = keys.ids_of(sample)
    order = keys.order(level, key, ids)
    at = order[[len(order) * cut // count for cut in range(1, count)]] if len(order) else order
    return Splitters(level[at], key[at], keys.take(ids, at))


def _sample(read: Callable[[Any], pa.Table], share: float, part: Any) -> pa.Table:
    """Level, key and id of the rows whose id hashes into this share."""
    table = read(part)
    ids = keys.ids_of(table)
    chosen = np.flatnonzero((keys.id_hashes(ids) >> np.uint64(32)) < np.uint64(share * 2**32))
    key = keys.score_keys(column_of(table, keys.SCORE)[chosen])
    return pa.table({"level": keys.levels(table)[chosen], "key": key, EXAMPLE_ID: keys.take(ids, chosen)})


def _deal(read: Callable[[Any], pa.Table], splitters: Splitters, count: int, per_task: int, part: Any) -> Any:
    """Rows of one part in each range [R], then one table for each sorting task, its ranges one behind the other."""
    table = read(part)
    ids = keys.ids_of(table)
    own = splitters.range_of(keys.levels(table), keys.score_keys(column_of(table, keys.SCORE)), ids)
    counts = np.bincount(own, minlength=count)
    # 16-bit integers are sorted by radix, the others by comparison: 4 against 60 ms for 1M rows.
    order = np.argsort(own.astype(np.uint16) if count <= 1 << 16 else own, kind="stable")
    edges = np.concatenate([[0], np.cumsum(counts)])[[*range(0, count, per_task), count]]
    light = packing.packed(ids)
    pieces = [_taken(table, light, order[low:high]) for low, high in itertools.pairwise(edges)]
    return counts, *pieces


def _sort(
    write: Callable[[int, pa.Table, int], R], own: range, counts: Array, below: Array, *pieces: pa.Table
) -> list[R]:
    """Sort and write some neighbouring ranges, one by one; counts [parts, ranges] say where each lies in a piece."""
    edges = np.concatenate([np.zeros((len(pieces), 1), np.int64), np.cumsum(counts, axis=1)], axis=1)
    written = []
    for place, index in enumerate(own):
        slices = [piece.slice(at[place], at[place + 1] - at[place]) for piece, at in zip(pieces, edges, strict=True)]
        rows = pa.concat_tables([packing.unpacked(own) for own in slices])
        written.append(write(index, in_order(rows), int(below[place])))
    return written
