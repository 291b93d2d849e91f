"""Reductions over the same parts again and again, by actors that read their parts once and keep what fits.

What is fitted on the corpus as a whole takes a pass for every step of it, and reading is most of a pass. Part i is
always with actor i mod `cpus()`, which keeps up to `KEPT_BYTES` of its parts and reads the rest again. States are
merged in the order of the parts, so a result does not depend on the number of actors; one that dies reads again.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import ray

from raydelt.cluster.failures import plain_errors
from raydelt.cluster.progress import counted
from raydelt.cluster.resources import cpus
from raydelt.cluster.tasks import TASK_RETRIES
from raydelt.scorers.protocol import Reducer

R = TypeVar("R")
S = TypeVar("S")

KEPT_BYTES = 512 << 20
IN_FLIGHT = 4
# Of a CPU: enough to stay off nodes that have none.
LITTLE = 0.01


class Reduce(Protocol):
    """One pass over the parts."""

    def __call__(self, reducer: Reducer[Any, R]) -> R: ...


@contextlib.contextmanager
def passes(read: Callable[[int], pa.RecordBatch], parts: int, *, label: str) -> Iterator[Reduce]:
    """A function that reduces all parts, as often as it is called; the actors end with the context."""
    holders: list[Any] = []

    def reduce(reducer: Reducer[S, R]) -> R:
        if not holders:
            # They work while the driver waits for them, and must not keep a CPU from tasks that others wait for.
            holder = ray.remote(_Holder).options(
                num_cpus=LITTLE, scheduling_strategy="SPREAD", max_restarts=-1, max_task_retries=TASK_RETRIES
            )
            holders.extend(holder.remote(read, KEPT_BYTES) for _ in range(min(cpus(), max(1, parts))))
        return _reduced(reducer, holders, parts, label)

    try:
        yield reduce
    finally:
        for held in holders:
            ray.kill(held)


def _reduced(reducer: Reducer[S, R], holders: list[Any], parts: int, label: str) -> R:
    total, sent, flying = reducer.zero(), ray.put(reducer), deque[Any]()
    with plain_errors(), counted(label, parts) as advance:
        for index in range(parts):
            flying.append(holders[index % len(holders)].state.remote(sent, index))
            while len(flying) > (IN_FLIGHT * len(holders) if index + 1 < parts else 0):
                total = reducer.merge(total, ray.get(flying.popleft()))
                advance()
    return reducer.finish(total)


class _Holder:
    """Reads parts, keeps the first of them that fit, and reduces them one at a time."""

    def __init__(self, read: Callable[[int], pa.RecordBatch], most: int) -> None:
        self.read, self.room = read, most
        self.kept: dict[int, pa.RecordBatch] = {}

    def state(self, reducer: Reducer[S, Any], index: int) -> S:
        batch = self.kept.get(index)
        if batch is None:
            batch = self.read(index)
            if batch.nbytes <= self.room:
                self.kept[index] = batch
                self.room -= batch.nbytes
        return reducer.add(reducer.zero(), batch)
