"""The selection in training order as a torch `IterableDataset`, shared out over ranks and `DataLoader` workers.

    worker w of W on rank r of R takes the positions p with p mod (R W) = r + R w

Every position is yielded once over all readers, so R ranks together see R consecutive positions at a time. Cost: every
reader decodes every file of the order, one after another. Memory: one file (65,536 rows) for each reader.

Caution: ranks may differ by one example; give `drop_last` where all must take the same number of steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from raydelt.ask import files
from raydelt.ask.run import Run
from raydelt.examples import EXAMPLE_ID, FEATURES, LABEL, column_of, matrix_of


class OrderedDataset(IterableDataset[dict[str, Any]]):
    """The kept examples in training order, a dictionary each: example_id, position, weight, x, label, text, tokens.

    `rank` and `world` are those of torch.distributed, or of the environment (RANK, WORLD_SIZE), unless they are given.
    A loader without workers on one rank yields exactly the training order; workers deal their batches in turn.
    """

    def __init__(
        self, run: Run, *, rank: int | None = None, world: int | None = None, drop_last: bool = False
    ) -> None:
        self.run = run
        self.parts = run.manifest("ordered").parts
        self.rows = sum(part.rows for part in self.parts)
        self.drop_last = drop_last
        self._rank, self._world = rank, world

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rank, world = self._place()
        worker = get_worker_info()
        own, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        index, readers = rank + world * own, world * workers
        usable = self.rows - self.rows % world if self.drop_last else self.rows
        start = 0
        for part in self.parts:
            rows = np.arange(start + (index - start) % readers, min(start + part.rows, usable), readers) - start
            if len(rows):
                yield from self._rows(part, rows)
            start += part.rows

    def __len__(self) -> int:
        """Examples that all workers of this rank yield together."""
        rank, world = self._place()
        return self.rows // world if self.drop_last else (self.rows - rank + world - 1) // world

    def _place(self) -> tuple[int, int]:
        if self._world is not None:
            return self._rank or 0, self._world
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    def _rows(self, part: Any, rows: Any) -> Iterator[dict[str, Any]]:
        table = files.read(self.run.store, part)
        ids, position, weight = (column_of(table, name) for name in (EXAMPLE_ID, "position", "weight"))
        x = matrix_of(table, FEATURES) if FEATURES in table.column_names else None
        named = [name for name in (LABEL, "text", "tokens", "loss_from") if name in table.column_names]
        for row in rows.tolist():
            entry: dict[str, Any] = {
                EXAMPLE_ID: ids[row],
                "position": int(position[row]),
                "weight": float(weight[row]),
            }
            if x is not None:
                entry[FEATURES] = torch.from_numpy(x[row].copy())
            for name in named:
                value = table[name][row].as_py()
                entry[name] = torch.tensor(value) if name == "tokens" else value
            yield entry
