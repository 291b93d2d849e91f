"""A part of the sources for a trial: so many rows, spread over them, the rest unread where that can be helped.

Every k-th row is taken where the number of rows is known before reading (Parquet, IDX, files of one example each,
bundled sets), the first rows of a file otherwise (JSON lines, CSV, paragraphs). Up to `SPREAD` units are opened, or
as many as hold the rows that are asked for.

Caution: the first rows of a file that is sorted by class hold few classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from raydelt.corpus.formats import rows_in
from raydelt.corpus.sources import Item

SPREAD = 16


def limited(units: Sequence[Item], limit: int) -> list[Item]:
    """Units of at most `limit` rows of the corpus and as many of the pool; sources of held-out splits stay whole."""
    chosen = [unit for unit in units if unit.split not in ("corpus", "pool")]
    for split in ("corpus", "pool"):
        chosen += _limited([unit for unit in units if unit.split == split], limit)
    return chosen


def _limited(units: Sequence[Item], limit: int) -> Iterator[Item]:
    known = [rows_in(unit) for unit in units]
    total = sum(rows for rows in known if rows is not None)
    if None not in known and total <= limit:
        yield from units
        return
    # Members are files of their own: those that are left out cost nothing, so all units can give some.
    least = len(units) if units[0].members else SPREAD
    share = 0.0 if None in known else limit / total
    count = min(len(units), limit, max(least, math.ceil(len(units) * share)))
    places = evenly(len(units), count)
    for place, (low, high) in zip(places, itertools.pairwise(_edges(limit, count)), strict=True):
        yield _first(units[place], known[place], high - low)


def _first(unit: Item, rows: int | None, most: int) -> Item:
    """A unit of at most `most` rows."""
    if unit.members:
        kept = tuple(unit.members[place] for place in evenly(len(unit.members), min(most, len(unit.members))))
        return replace(unit, members=kept, size=unit.size * len(kept) // len(unit.members))
    return replace(unit, every=max(1, (rows or 0) // most), most=most)


def evenly(total: int, count: int) -> list[int]:
    """`count` places of `total`, evenly spaced."""
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def _edges(total: int, count: int) -> list[int]:
    return [index * total // count for index in range(count + 1)]
