"""The select stage: mark the kept examples in the ranking, and give each its place in the training order.

The ranking is sorted, so a budget becomes a bar on the rank, or on the rank within the class, which follows from the
class counts of the parts above. Three short passes (count, count kept, write); memory of a task: one part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import Order, Select
from raydelt.errors import SpecError
from raydelt.examples import EXAMPLE_ID, LABEL, SELECTION_SCHEMA, column_of
from raydelt.order.orders import positions
from raydelt.scorers.protocol import Array
from raydelt.select.budget import kept, quotas
from raydelt.storage import Manifest, Part, Stage, Store


@dataclass(frozen=True)
class Cut:
    """The decision as data: per class, how many of the highest are kept; or the score at which to cut."""

    select: Select
    total: int
    per_class: Array
    class_counts: Array
    above: Array  # [parts, C]: examples of each class in the parts that rank higher

    def mask(self, part: int, ranking: pa.Table) -> Array:
        """Which rows [n] of a ranking part are kept."""
        if self.select.method == "threshold":
            return column_of(ranking, "gate").astype(bool) & (column_of(ranking, "score") >= self.select.value)
        group = self.groups(ranking)
        from_top = np.empty(len(group), np.int64)
        for c in range(len(self.per_class)):
            rows = np.flatnonzero(group == c)
            from_top[rows] = self.above[part, c] + np.arange(len(rows))[::-1]
        mask: Array = from_top < self.per_class[group]
        return mask

    def groups(self, ranking: pa.Table) -> Array:
        """The quota group [n] of each row: its class, or 0 where there are no quotas."""
        return _groups(ranking, self.select.quotas is not None)

    def reason(self, group: int, gate: bool) -> str:
        """Why an example of this group is kept."""
        if self.select.method == "threshold":
            return f"score at least {self.select.value:g}"
        where = "" if self.select.quotas is None else f" of class {group}"
        text = f"among the highest {int(self.per_class[group])} of {int(self.class_counts[group])}{where}"
        return text if gate else f"{text}, though below the gate"


def select_examples(
    select: Select, order: Order, ranking: Manifest, classes: list[str], stage: Stage, *, seed: int
) -> Manifest:
    """Publish the selection in rank order, each example with its position in the training order.

    Raises:
        SpecError: the budget cannot be met (top_k above n, quotas above k, a threshold that nothing reaches).
    """
    files = [part.file for part in ranking.parts]
    by_class = select.quotas is not None
    groups = max(len(classes), 1) if by_class else 1
    counted = cluster.parallel(_count, [(stage.run, file, by_class, groups) for file in files], label="select: count")
    counts = np.asarray(counted, np.int64).reshape(len(files), groups)
    total = counts.sum(axis=0)
    per_class = np.zeros(groups, np.int64)
    if select.method != "threshold":
        k = kept(select, int(total.sum()))
        per_class = quotas(select.quotas, k, total.tolist()) if select.quotas is not None else np.array([k])
    cut = Cut(select, int(total.sum()), per_class, total, total - np.cumsum(counts, axis=0))
    calls = [(stage.run, cut, index, file) for index, file in enumerate(files)]
    kept_counts = cluster.parallel(_count_kept, calls, label="select: cut")
    n = sum(kept_counts)
    if n == 0:
        raise SpecError(f"select.value {select.value:g}: no example has a score that high: lower the threshold")
    below = np.cumsum([0, *kept_counts])
    writes = [(stage, cut, order, seed, i, file, int(below[i]), n) for i, file in enumerate(files)]
    written = cluster.parallel(_write, writes, label="select: write")
    facts: dict[str, Any] = {
        "kept": n,
        "of": int(total.sum()),
        "below_gate": sum(entry[1] for entry in written),
        "cut_score": min((entry[2] for entry in written if entry[2] is not None), default=None),
    }
    return stage.publish([entry[0] for entry in written], facts)


def _groups(ranking: pa.Table, by_class: bool) -> Array:
    if by_class:
        return column_of(ranking, LABEL).astype(np.int64)
    return np.zeros(ranking.num_rows, np.int64)


def _count(run: Store, file: str, by_class: bool, groups: int) -> list[int]:
    return [int(c) for c in np.bincount(_groups(run.read_table(file, [LABEL]), by_class), minlength=groups)]


def _count_kept(run: Store, cut: Cut, index: int, file: str) -> int:
    return int(np.count_nonzero(cut.mask(index, run.read_table(file, ["gate", "score", LABEL]))))


def _write(
    stage: Stage, cut: Cut, order: Order, seed: int, index: int, file: str, below: int, n: int
) -> tuple[Part, int, float | None]:
    ranking = stage.run.read_table(file)
    chosen = ranking.filter(pa.array(cut.mask(index, ranking)))
    within = np.arange(below, below + chosen.num_rows, dtype=np.int64)
    gates = column_of(chosen, "gate").astype(bool)
    groups = cut.groups(chosen)
    table = pa.table(
        [
            chosen[EXAMPLE_ID],
            chosen["rank"],
            pa.array(positions(within, n, order, seed=seed)),
            pa.array(np.ones(chosen.num_rows)),
            pa.array([cut.reason(int(g), bool(ok)) for g, ok in zip(groups, gates, strict=True)], pa.string()),
            chosen["part"],
            chosen["part_row"],
        ],
        schema=SELECTION_SCHEMA,
    )
    passing = column_of(chosen, "score")[gates]
    lowest = float(passing.min()) if len(passing) else None
    return stage.run.write_table(stage.file("part", index), table), int(np.count_nonzero(~gates)), lowest
