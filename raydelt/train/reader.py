"""Reading a materialised order step by step: which examples a worker feeds to the model at a given step.

The examples of all epochs form one sequence t = 0, 1, 2, ...; the global batch of step s is t in [s B, (s + 1) B),
whatever the number of workers, and worker w of W takes the w-th of W contiguous slices of it. Epoch 0 is the
materialised order; later epochs repeat it, or shuffle first the files and then the rows within each file, by seeded
permutations. A step is a pure function of (order, seed, s), so training resumes anywhere.

Memory: the two files that a batch can touch. Caution: with many files, a shuffled epoch mixes within files only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from raydelt.examples import LABEL, column_of, features_of
from raydelt.order.orders import permuted
from raydelt.scorers.protocol import Array
from raydelt.storage import Store

CACHED_FILES = 2


@dataclass(frozen=True)
class Batch:
    """A worker's slice of one global batch: features [b, width], labels [b], weights [b], ids [b]."""

    x: Array
    y: Array
    weight: Array
    ids: Array


@dataclass
class OrderedReader:
    """Slices of global batches from the files of one order."""

    run: Store
    files: Sequence[str]
    rows: int
    rows_per_file: int
    batch_size: int
    seed: int
    shuffle_later_epochs: bool
    _cache: OrderedDict[int, Batch] = field(default_factory=OrderedDict, repr=False)

    def places(self, start: int, stop: int) -> Array:
        """Positions in the materialised order of the sequence places [start, stop)."""
        result = np.empty(stop - start, np.int64)
        t = np.arange(start, stop)
        for epoch in np.unique(t // self.rows):
            own = t // self.rows == epoch
            result[own] = self._epoch_positions(int(epoch), t[own] % self.rows)
        return result

    def step(self, s: int, *, worker: int = 0, workers: int = 1) -> Batch:
        """What this worker feeds at step s."""
        start = s * self.batch_size
        low = start + self.batch_size * worker // workers
        high = start + self.batch_size * (worker + 1) // workers
        positions = self.places(low, high)
        files = positions // self.rows_per_file
        pieces: list[tuple[Array, Batch]] = []
        for file in np.unique(files):
            own = np.flatnonzero(files == file)
            held = self._load(int(file))
            rows = positions[own] - int(file) * self.rows_per_file
            pieces.append((own, Batch(held.x[rows], held.y[rows], held.weight[rows], held.ids[rows])))
        if len(pieces) == 1:
            return pieces[0][1]
        back = np.argsort(np.concatenate([own for own, _ in pieces]))
        names = ("x", "y", "weight", "ids")
        return Batch(*(np.concatenate([getattr(batch, name) for _, batch in pieces])[back] for name in names))

    def _epoch_positions(self, epoch: int, offset: Array) -> Array:
        if epoch == 0 or not self.shuffle_later_epochs:
            return offset
        count = len(self.files)
        turn = permuted(np.arange(count), count, self.seed, "files", epoch)
        sizes = np.minimum(self.rows_per_file, self.rows - turn * self.rows_per_file)
        starts = np.cumsum(sizes) - sizes
        place = np.searchsorted(starts, offset, side="right") - 1
        result = np.empty(len(offset), np.int64)
        for p in np.unique(place):
            own = place == p
            file, size = int(turn[p]), int(sizes[p])
            within = permuted(offset[own] - starts[p], size, self.seed, "rows", epoch, file)
            result[own] = file * self.rows_per_file + within
        return result

    def _load(self, file: int) -> Batch:
        if file not in self._cache:
            table = self.run.read_table(self.files[file])
            self._cache[file] = Batch(
                features_of(table),
                column_of(table, LABEL).astype(np.int64),
                column_of(table, "weight").astype(np.float32),
                column_of(table, "example_id"),
            )
            if len(self._cache) > CACHED_FILES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(file)
        return self._cache[file]
