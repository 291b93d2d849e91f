"""A cut of the order (eligible, gate, score, example_id): the bar that decides, row by row, what each group keeps.

    kept(i) = (level_i, key_i, id_i) >= bar(group_i)        or > where the bar itself is left

Levels and keys are those of `raydelt.rank.keys`. Cost: O(n), vectorised; ids are compared only where level and score
equal the bar's. Memory: a few arrays of the table's length.

Caution: ids must be unique, else rows that equal the bar are all kept or all left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.examples import column_of
from raydelt.rank import keys
from raydelt.rank.keys import LEVELS, SCORE
from raydelt.scorers.protocol import Array


@dataclass(frozen=True)
class Bar:
    """The lowest kept example of a group, or, where `kept` is false, the highest one that is left."""

    level: int
    key: int
    example_id: str = ""
    kept: bool = True


@dataclass(frozen=True)
class Cut:
    """One bar per group; None where the group keeps nothing. `group` names the column of the group index."""

    bars: tuple[Bar | None, ...]
    group: str | None = None

    def ties(self, table: pa.Table) -> bool:
        """Whether any row of a table has a bar's level and score, so that `mask` needs the ids too."""
        return bool(self._compared(table)[1].any())

    def mask(self, table: pa.Table) -> Array:
        """Which rows [n] of a table with levels and scores, and with ids where `ties` says so, are kept."""
        kept, tied = self._compared(table)
        rows = np.flatnonzero(tied)
        if len(rows):
            group = groups_of(table, self.group)[rows]
            ids = keys.take(keys.ids_of(table), rows)
            bars = pa.array(["" if bar is None else bar.example_id for bar in self.bars], pa.string()).take(group)
            own = np.array([bar is not None and bar.kept for bar in self.bars])[group]
            above, at = (f(ids, bars).to_numpy(zero_copy_only=False) for f in (pc.greater, pc.equal))
            kept[rows] = above | (at & own)
        return kept

    def _compared(self, table: pa.Table) -> tuple[Array, Array]:
        """Which rows [n] lie above the bar of their group by level and score, and which tie with it."""
        level, key, group = keys.levels(table), keys.score_keys(column_of(table, SCORE)), groups_of(table, self.group)
        # A group that keeps nothing has its bar above the best level.
        levels = np.array([LEVELS if bar is None else bar.level for bar in self.bars])[group]
        scores = np.array([0 if bar is None else bar.key for bar in self.bars], np.uint64)[group]
        beside = level == levels
        return (level > levels) | (beside & (key > scores)), beside & (key == scores)


def groups_of(table: pa.Table, group: str | None) -> Array:
    """The group index [n] int64 of each row; 0 where there are no groups."""
    if group is None:
        return np.zeros(table.num_rows, np.int64)
    return column_of(table, group).astype(np.int64)
