"""What is to be known of one side of a comparison: the distribution of every column, its classes, its error rate.

All of it adds up over batches and shards in any order: records of values (`sketch.py`), counts by class, and the error
in exact units of 2^-62. A value that is not finite is counted and left out of its column. Cost O(n log n) per batch;
memory up to 0.8 MB a column. No paper is followed.

Caution: a class that only one side has counts with the smallest share that PSI's smoothing allows; it is named too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raydelt.examples import LABEL, UInt64Array, column_of, draw_keys, mix
from raydelt.monitor.history import ERROR
from raydelt.monitor.sketch import NOTHING, Values, merge, values_of
from raydelt.rank.noise import from_units, unit_sum
from raydelt.scorers.protocol import Array


@dataclass(frozen=True)
class Profile:
    """Rows, values by component, counts by class, and (rows, sum, sum of squares) of the error, in exact units."""

    rows: int = 0
    values: dict[str, Values] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    judged: int = 0
    wrong: int = 0
    squares: int = 0

    @property
    def error(self) -> float | None:
        """The error rate, where it is known of any row."""
        return from_units(self.wrong) / self.judged if self.judged else None

    @property
    def error_variance(self) -> float:
        """The sample variance of the error."""
        if self.judged < 2:
            return 0.0
        mean = from_units(self.wrong) / self.judged
        return max(0.0, (from_units(self.squares) - self.judged * mean**2) / (self.judged - 1))


@dataclass(frozen=True)
class ProfileOf:
    """Monoid of profiles over tables with these components."""

    components: tuple[str, ...]

    def zero(self) -> Profile:
        return Profile(values=dict.fromkeys(self.components, NOTHING))

    def add(self, state: Profile, table: pa.Table) -> Profile:
        values, bad, classes = {}, {}, {}
        for name in self.components:
            own = column_of(table, name).astype(np.float32)
            finite = np.isfinite(own)
            values[name], bad[name] = values_of(own[finite]), int((~finite).sum())
        if LABEL in table.column_names:
            known = table[LABEL].drop_null()
            classes = {str(row["values"]): int(row["counts"]) for row in known.value_counts().to_pylist()}
        error = column_of(table, ERROR) if ERROR in table.column_names else np.empty(0)
        error = error[np.isfinite(error)]
        sums = (unit_sum(error), unit_sum(np.square(error)))
        return self.merge(state, Profile(table.num_rows, values, classes, bad, len(error), *sums))

    def merge(self, left: Profile, right: Profile) -> Profile:
        return Profile(
            left.rows + right.rows,
            {name: merge(left.values[name], right.values[name]) for name in self.components},
            _added(left.classes, right.classes),
            _added(left.bad, right.bad),
            left.judged + right.judged,
            left.wrong + right.wrong,
            left.squares + right.squares,
        )

    def finish(self, state: Profile) -> Profile:
        return state


def _added(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in sorted(left.keys() | right.keys())}


@dataclass(frozen=True)
class Sample:
    """Monoid of the rows with the lowest hashes: keys [k] ascending and features [k, d] of at most `rows` examples."""

    rows: int
    seed: int

    def zero(self) -> tuple[UInt64Array, Array]:
        return np.empty(0, np.uint64), np.empty((0, 0), np.float32)

    def add(self, state: tuple[UInt64Array, Array], ids: pa.ChunkedArray, x: Array) -> tuple[UInt64Array, Array]:
        return self.merge(state, (mix(draw_keys(ids.to_pylist()), self.seed, "monitor sample"), np.asarray(x)))

    def merge(self, left: tuple[UInt64Array, Array], right: tuple[UInt64Array, Array]) -> tuple[UInt64Array, Array]:
        held = [side for side in (left, right) if len(side[0])]
        if not held:
            return left
        keys, x = np.concatenate([side[0] for side in held]), np.concatenate([side[1] for side in held])
        order = np.argsort(keys, kind="stable")[: self.rows]
        return keys[order], x[order]

    def finish(self, state: tuple[UInt64Array, Array]) -> tuple[UInt64Array, Array]:
        return state
