"""Reading a materialised order step by step: the examples that a worker feeds to the model at a step of the plan.

A file is decoded once and its rows are picked by position, so a batch costs a few copies of its own size. Memory: the
two files that a batch can touch. A file that is missing, cut short, or whose positions are not those of its place in
the order is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, column_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Store
from raydelt.train.certificate import marks_of
from raydelt.train.plan import Plan

CACHED_FILES = 2
Columns = Mapping[str, Array]
Decode = Callable[[pa.Table], Columns]


@dataclass(frozen=True)
class Batch:
    """A worker's slice of one global batch: columns [b, …] of the model's, weights [b], ids [b], marks [b, 2]."""

    columns: Columns
    weight: Array
    ids: Array
    marks: Array

    def pick(self, rows: Array) -> Batch:
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Batch(columns, self.weight[rows], self.ids[rows], self.marks[rows])

    def idle(self) -> Batch:
        """One row without weight, for a worker that has fewer rows than passes to take with the others."""
        first = self.pick(np.arange(1))
        return Batch(first.columns, np.zeros(1), first.ids, first.marks)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class OrderedReader:
    """Slices of global batches from the files of one order; `decode` says what the model needs of a file."""

    run: Store
    files: Sequence[str]
    plan: Plan
    decode: Decode
    _cache: OrderedDict[int, Batch] = field(default_factory=OrderedDict, repr=False)

    def step(self, s: int, *, worker: int = 0, workers: int = 1) -> Batch:
        """What this worker feeds at step s.

        Raises:
            InputError: a file of the order is not whole.
        """
        positions = self.plan.positions(*self.plan.slice(s, worker, workers))
        files = positions // self.plan.rows_per_file
        pieces: list[tuple[Array, Batch]] = []
        for file in np.unique(files):
            own = np.flatnonzero(files == file)
            pieces.append((own, self._load(int(file)).pick(positions[own] - int(file) * self.plan.rows_per_file)))
        if len(pieces) == 1:
            return pieces[0][1]
        back = np.argsort(np.concatenate([own for own, _ in pieces]))
        return _joined([batch for _, batch in pieces]).pick(back)

    def _load(self, file: int) -> Batch:
        if file not in self._cache:
            table = read_ordered(self.run, self.files[file], file, self.plan)
            ids = column_of(table, EXAMPLE_ID)
            weight = column_of(table, "weight").astype(np.float64)
            self._cache[file] = Batch(self.decode(table), weight, ids, marks_of(ids))
            if len(self._cache) > CACHED_FILES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(file)
        return self._cache[file]


def _joined(batches: Sequence[Batch]) -> Batch:
    columns = {name: np.concatenate([batch.columns[name] for batch in batches]) for name in batches[0].columns}
    rest = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("weight", "ids", "marks"))
    return Batch(columns, *rest)


def read_ordered(run: Store, name: str, file: int, plan: Plan, columns: Sequence[str] | None = None) -> pa.Table:
    """One file of an order, whole.

    Raises:
        InputError: it is missing or damaged, or its positions have a gap.
    """
    try:
        table = run.read_table(name, columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{run.path(name)} of the training order cannot be read ({' '.join(str(error).split())[:120]}): "
            "delete the folder `ordered` of the run and run again"
        ) from error
    first, rows = file * plan.rows_per_file, plan.rows_of(file)
    if not np.array_equal(column_of(table, "position"), np.arange(first, first + rows)):
        raise InputError(
            f"{run.path(name)} should hold the positions {first} to {first + rows - 1} of the training order, each "
            "once and in order, and does not: delete the folder `ordered` of the run and run again"
        )
    return table
