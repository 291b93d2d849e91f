"""Which positions of a materialised order make up the global batch of a step.

The examples of all epochs form one sequence t = 0, 1, 2, ...; the global batch of step s is t in [s B, (s + 1) B),
whatever the number of workers, and worker w of W takes the w-th of W contiguous slices of it. Epoch 0 is the
materialised order; later epochs repeat it, or shuffle first the files and then the rows within each file, by seeded
permutations. A step is a pure function of (order, seed, s), so training goes on anywhere.

Cost: O(1) per example; memory: permutations of the files and of a few files' rows. Caution: with many files, a
shuffled epoch mixes within files only.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass

import numpy as np

from raydelt.order.permutation import permuted
from raydelt.scorers.protocol import Array
from raydelt.storage import fingerprint


@dataclass(frozen=True)
class Plan:
    """The sequence of examples that a training is to see; `order` identifies the materialised order itself."""

    order: str
    rows: int
    rows_per_file: int
    batch_size: int
    seed: int
    shuffle_later_epochs: bool

    @property
    def files(self) -> int:
        return -(-self.rows // self.rows_per_file)

    @property
    def fingerprint(self) -> str:
        """Identifies the whole sequence."""
        return fingerprint(asdict(self))

    def rows_of(self, file: int) -> int:
        """Examples in one file of the order."""
        return min(self.rows_per_file, self.rows - file * self.rows_per_file)

    def slice(self, step: int, worker: int, workers: int) -> tuple[int, int]:
        """The sequence places [low, high) that a worker feeds at a step."""
        start = step * self.batch_size
        return start + self.batch_size * worker // workers, start + self.batch_size * (worker + 1) // workers

    def positions(self, start: int, stop: int) -> Array:
        """Positions in the materialised order of the sequence places [start, stop)."""
        result = np.empty(stop - start, np.int64)
        t = np.arange(start, stop)
        for epoch in np.unique(t // self.rows):
            own = t // self.rows == epoch
            result[own] = self._within(int(epoch), t[own] % self.rows)
        return result

    def _within(self, epoch: int, offset: Array) -> Array:
        if epoch == 0 or not self.shuffle_later_epochs:
            return offset
        turn = _shuffled(self.files, self.seed, "files", epoch)
        sizes = np.minimum(self.rows_per_file, self.rows - turn * self.rows_per_file)
        starts = np.cumsum(sizes) - sizes
        place = np.searchsorted(starts, offset, side="right") - 1
        result = np.empty(len(offset), np.int64)
        for p in np.unique(place):
            own = place == p
            file, size = int(turn[p]), int(sizes[p])
            within = _shuffled(size, self.seed, "rows", epoch, file)[offset[own] - starts[p]]
            result[own] = file * self.rows_per_file + within
        return result


@functools.lru_cache(maxsize=8)
def _shuffled(size: int, seed: int, *salt: int | str) -> Array:
    """The files, or the rows of one, in the order of a later epoch; kept, since the steps of a training share it."""
    return permuted(np.arange(size), size, seed, *salt)
