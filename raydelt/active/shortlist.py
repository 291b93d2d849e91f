"""The k rows of highest (or lowest) utility over a pool in parts, ties by the lower id: a mergeable state.

    order = (utility descending, id ascending)          state = the first k rows of what was seen, with all columns

so any layout of the parts and any order of merging give the rows of a full sort. Cost: O(n + k log k) per part with
n rows. Memory: k rows, and one part. Textbook; no paper is followed.

Caution: an id that comes twice, as from a part read twice, takes two places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, UInt64Array, column_of
from raydelt.rank import keys

UTILITY = "utility"


@dataclass(frozen=True)
class Shortlist:
    """Monoid of the `size` best rows by column `utility`, ties by id; other columns travel along."""

    size: int
    highest: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"a shortlist of {self.size} rows holds nothing: give a size of at least 1")

    def zero(self) -> pa.Table | None:
        """The state before any part."""
        return None

    def add(self, state: pa.Table | None, batch: pa.RecordBatch | pa.Table) -> pa.Table | None:
        """The state after one more part with columns example_id and utility.

        Raises:
            InputError: a column is missing, or a utility is not finite.
        """
        missing = {EXAMPLE_ID, UTILITY} - set(batch.schema.names)
        if missing:
            raise InputError(f"the part has no column {sorted(missing)[0]!r}: a shortlist needs ids and utilities")
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        return self.merge(state, self._best(table))

    def merge(self, left: pa.Table | None, right: pa.Table | None) -> pa.Table | None:
        """The state of two sets of parts together."""
        if left is None or right is None:
            return right if left is None else left
        return self._best(pa.concat_tables([left, right]))

    def finish(self, state: pa.Table | None) -> pa.Table:
        """The rows, best first; fewer than `size` where the pool is smaller.

        Raises:
            InputError: there was no part at all.
        """
        if state is None:
            raise InputError("the pool has no parts: there is nothing to put on a shortlist")
        return state

    def _best(self, table: pa.Table) -> pa.Table:
        key = self._keys(table)
        if len(key) > self.size:
            rows = np.flatnonzero(key <= np.partition(key, self.size - 1)[self.size - 1])
            table, key = table.take(rows), key[rows]
        order = keys.order(np.zeros(len(key), np.uint8), key, keys.ids_of(table))
        return table.take(order[: self.size]).combine_chunks()

    def _keys(self, table: pa.Table) -> UInt64Array:
        found = keys.score_keys(column_of(table, UTILITY))
        return ~found if self.highest else found
