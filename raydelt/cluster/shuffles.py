"""Reductions and shuffles over parts, as Ray tasks whose data stays in the object store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray

from raydelt.cluster.tasks import TASK_RETRIES, parallel
from raydelt.scorers.protocol import Reducer

R = TypeVar("R")
S = TypeVar("S")


def reduce_parts(reducer: Reducer[S, R], read: Callable[[int], pa.RecordBatch], parts: int, *, label: str) -> R:
    """`reducer` over all parts: one state per part as a task, merged in the order of the parts."""
    total = reducer.zero()
    for state in parallel(_state_of, [(reducer, read, index) for index in range(parts)], label=label):
        total = reducer.merge(total, state)
    return reducer.finish(total)


def _state_of(reducer: Reducer[S, Any], read: Callable[[int], pa.RecordBatch], index: int) -> S:
    return reducer.add(reducer.zero(), read(index))


def shuffle(
    inputs: Sequence[Any],
    split: Callable[[Any, int], list[pa.Table]],
    merge: Callable[[int, list[pa.Table]], R],
    partitions: int,
    *,
    label: str,
) -> list[R]:
    """Every input is split into `partitions` tables by one task each; every partition is merged by one task.

    `inputs` may be object references. The pieces of a partition arrive in the order of the inputs; a merge that must
    not depend on the layout of its input sorts them. Memory of a task: one input, or one partition.
    """
    return parallel(_merge, _pieces(inputs, split, merge, partitions, label), label=label)


def regroup(
    inputs: Sequence[Any],
    split: Callable[[Any, int], list[pa.Table]],
    merge: Callable[[int, list[pa.Table]], pa.Table],
    partitions: int,
    *,
    label: str,
) -> list[Any]:
    """A shuffle whose merged tables stay in the object store: references, one per partition, for a next step."""
    merger = ray.remote(_merge).options(max_retries=TASK_RETRIES, name=label)
    return [merger.remote(*call) for call in _pieces(inputs, split, merge, partitions, label)]


def _pieces(inputs: Sequence[Any], split: Any, merge: Any, partitions: int, label: str) -> list[tuple[Any, ...]]:
    splitter = ray.remote(_split).options(num_returns=partitions, max_retries=TASK_RETRIES, name=f"{label}: split")
    rows = [splitter.remote(split, item, partitions) for item in inputs]
    return [(merge, index, *(row if partitions == 1 else row[index] for row in rows)) for index in range(partitions)]


def _split(split: Callable[[Any, int], list[pa.Table]], item: Any, partitions: int) -> Any:
    pieces = split(item, partitions)
    return pieces[0] if partitions == 1 else pieces


def _merge(merge: Callable[[int, list[pa.Table]], R], index: int, *pieces: pa.Table) -> R:
    return merge(index, list(pieces))
