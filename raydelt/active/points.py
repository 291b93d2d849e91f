"""Points of a pool in parts, and passes over them: a function applied to every part, what it returns merged in order.

Algorithms take `passes`, so they run over Ray tasks or over points that are all here, and give the same. Cost and
memory are those of the function, and of one part. No paper is followed.

Caution: what a function returns needs a `merge`, in which the order of the parts must not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from raydelt.examples import DRAW_KEY, EXAMPLE_ID, UInt64Array, column_of, draw_keys, vectors_of
from raydelt.scorers.protocol import Array


@dataclass(frozen=True)
class Points:
    """Examples as ids [n], draw keys [n] and coordinates float64 [n, d]; merging appends."""

    ids: Array
    keys: UInt64Array
    x: Array

    def take(self, rows: Array) -> Points:
        """These rows."""
        return Points(self.ids[rows], self.keys[rows], self.x[rows])

    def merge(self, other: Points) -> Points:
        """Both, this one first."""
        return Points(*(np.concatenate(pair) for pair in zip(self._parts(), other._parts(), strict=True)))

    def by_id(self) -> Points:
        """The same in the order of the ids."""
        return self.take(np.argsort(self.ids, kind="stable"))

    def _parts(self) -> tuple[Array, Array, Array]:
        return self.ids, self.keys, self.x


class Passes(Protocol):
    """Applies a function to the points of every part, and merges the results in order."""

    def __call__(self, function: Callable[[Points], Any]) -> Any: ...


def points_of(batch: pa.RecordBatch | pa.Table) -> Points:
    """The points of a batch with ids, and vectors or features."""
    ids = column_of(batch, EXAMPLE_ID)
    keys = column_of(batch, DRAW_KEY) if DRAW_KEY in batch.schema.names else draw_keys(ids.tolist())
    return Points(ids, keys, vectors_of(batch).astype(np.float64))


def in_one_part(points: Points) -> Passes:
    """The passes over points that are all here."""
    return lambda function: function(points)
