"""Exact global rank of (gate, score, example_id), ascending, as range partition, local sort and prefix sum.

    rank(i) = number of examples whose (gate, score, example_id) is smaller        0 = lowest

Splitters are taken at regular places of the sorted parts, rows are counted per range, and every range is sorted by
one task that knows how many rows lie below it. Cost: O(n log n) spread over the tasks; memory of a task: one part, or
one range of about `ROWS_PER_RANGE` rows. Ties of the score fall to the id, so ranks are unique and layout-free.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raydelt.examples import RANKING_SCHEMA

ROWS_PER_RANGE = 1 << 20
SORT_KEY = [("gate", "ascending"), ("score", "ascending"), ("example_id", "ascending")]

Key = tuple[bool, float, str]


def ranges(rows: int) -> int:
    """How many ranges a corpus of this many rows is ranked in; no function of the cluster."""
    return max(1, -(-rows // ROWS_PER_RANGE))


def key_at(table: pa.Table, row: int) -> Key:
    """The sort key of one row."""
    return bool(table["gate"][row].as_py()), float(table["score"][row].as_py()), str(table["example_id"][row].as_py())


def sample_keys(table: pa.Table, count: int) -> list[Key]:
    """`count` keys at regular places of a sorted table."""
    if table.num_rows == 0:
        return []
    places = np.linspace(0, table.num_rows - 1, count).round().astype(int)
    return [key_at(table, int(place)) for place in places]


def splitters(samples: Sequence[Key], count: int) -> list[Key]:
    """count - 1 keys that cut the sampled keys into `count` equal ranges."""
    ordered = sorted(samples)
    return [ordered[len(ordered) * cut // count] for cut in range(1, count)]


def cut(table: pa.Table, at: Sequence[Key]) -> list[pa.Table]:
    """A sorted table cut before each splitter, in O(splitters log n) look-ups."""
    rows = range(table.num_rows)
    edges = [0, *(bisect.bisect_left(rows, key, key=lambda row: key_at(table, row)) for key in at), table.num_rows]
    return [table.slice(low, high - low) for low, high in itertools.pairwise(edges)]


def ranked(pieces: Sequence[pa.Table], *, below: int, total: int) -> pa.Table:
    """One range in rank order: its rows sorted, with ranks from `below` on, and percentiles in [0, 100]."""
    rows = pa.concat_tables(pieces).sort_by(SORT_KEY)
    rank = np.arange(below, below + rows.num_rows, dtype=np.int64)
    rows = rows.append_column("rank", pa.array(rank))
    rows = rows.append_column("percentile", pa.array(100.0 * (rank + 0.5) / max(total, 1)))
    return rows.select(RANKING_SCHEMA.names).cast(RANKING_SCHEMA)
