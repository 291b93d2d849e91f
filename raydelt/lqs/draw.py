"""The examples of a trajectory's steps, drawn by id.

Step t of trajectory s takes places [t B, (t + 1) B) of the corpus in the random order that (seed, s, epoch) gives to
the ids; a new epoch, with an order of its own, where it ends.

Cost: one reading of the ids for each trajectory; memory of the driver: T B places for each part of the corpus at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.corpus.tokens import usable
from raydelt.errors import SpecError
from raydelt.examples import DRAW_KEY, column_of, mix
from raydelt.scorers.before import PartReader
from raydelt.scorers.protocol import Array
from raydelt.storage import Part, Stage

STEP = "step"
PLACE = "place"


def draw_batches(reader: PartReader, stage: Stage, trajectory: int, *, steps: int, batch_size: int, seed: int) -> Part:
    """Write the T B examples of a trajectory, in order, with their step.

    Raises:
        SpecError: fewer usable examples than a batch.
    """
    parts, wanted = len(reader.files), steps * batch_size
    counting = [(reader, index) for index in range(parts)]
    count = sum(cluster.parallel(_count_usable, counting, label="trajectory: count"))
    if count < batch_size:
        raise SpecError(
            f"score.lqs.batch_size {batch_size} is more than the {count} examples that can be used: lower it"
        )
    epochs = -(-wanted // count)
    calls = [(reader, index, seed, trajectory, epochs, min(wanted, count)) for index in range(parts)]
    found = cluster.parallel(_lowest, calls, label="trajectory: draw")
    order = np.concatenate(found)
    order = order[np.lexsort((order["key"], order["draw"], order["epoch"]))][:wanted]
    rows = [np.flatnonzero(order["part"] == index) for index in range(parts)]
    pieces = [
        cluster.shared(_take, reader, index, order["row"][own], own, label="trajectory: batches")
        for index, own in enumerate(rows)
        if len(own)
    ]
    [part] = cluster.parallel(_write, [(stage, trajectory, batch_size, *pieces)], label="trajectory: batches")
    return part


PLACES = np.dtype([("epoch", "<i4"), ("draw", "<u8"), ("key", "<u8"), ("part", "<i4"), ("row", "<i4")])


def _count_usable(reader: PartReader, index: int) -> int:
    return int(np.count_nonzero(usable(reader.columns(index, [DRAW_KEY]))))


def _lowest(reader: PartReader, index: int, seed: int, trajectory: int, epochs: int, count: int) -> Array:
    """The places of one part that may be among the first `count` of an epoch."""
    table = reader.columns(index, [DRAW_KEY])
    rows = np.flatnonzero(usable(table))
    keys = column_of(table, DRAW_KEY).astype(np.uint64)[rows]
    found = []
    for epoch in range(epochs):
        draws = mix(keys, seed, "lqs", trajectory, epoch)
        first = np.lexsort((keys, draws))[:count]
        own = np.empty(len(first), PLACES)
        own["epoch"], own["part"], own["row"] = epoch, index, rows[first]
        own["draw"], own["key"] = draws[first], keys[first]
        found.append(own)
    return np.concatenate(found)


def _take(reader: PartReader, index: int, rows: Array, places: Array) -> pa.Table:
    return reader.table(index).take(pa.array(rows)).append_column(PLACE, pa.array(places))


def _write(stage: Stage, trajectory: int, batch_size: int, *pieces: pa.Table) -> Part:
    table = pa.concat_tables(pieces).sort_by(PLACE)
    step = column_of(table, PLACE) // batch_size
    return stage.run.write_table(stage.file("batches", trajectory), table.append_column(STEP, pa.array(step)))


def batches_of(table: pa.Table, *, steps: int) -> Sequence[pa.RecordBatch]:
    """The T batches of a written trajectory."""
    size = table.num_rows // steps
    return [table.slice(t * size, size).combine_chunks().to_batches()[0] for t in range(steps)]
