"""A pool of actors that grows and shrinks with the work, by Ray Data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data

from raydelt import errors, metrics
from raydelt.cluster.failures import plain_errors
from raydelt.cluster.resources import cpus_to_come
from raydelt.config import Actors
from raydelt.errors import RaydeltError

FAILED = "failed"
ROWS = "rows"
SECONDS = "seconds"


def actor_map(
    worker: type, items: Sequence[Mapping[str, Any]], *, options: Mapping[str, Any], actors: Actors, label: str
) -> Iterator[dict[str, Any]]:
    """The row that `worker(**options)` returns for each item, from a Ray Data pool of actors.

    The pool grows from `actors.min` to `actors.max` (default: as many as the CPUs carry); a killed actor is replaced
    and its item done again. An error that is meant for the user ends the map, from an actor's start as from its work.
    `rows` of an item, where it says so, are what it counts for in the metrics.
    """
    most = actors.max or max(actors.min, cpus_to_come())
    pool = ray.data.ActorPoolStrategy(min_size=actors.min, max_size=max(actors.min, min(most, len(items))))
    rows = ray.data.from_items([dict(item) for item in items], override_num_blocks=len(items))
    rows.set_name(label)
    scored = rows.map_batches(
        _Telling,
        batch_size=1,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=actors.num_cpus,
        num_gpus=actors.num_gpus or None,
        fn_constructor_kwargs={"worker": worker, "options": dict(options), "labels": metrics.labels()},
    )
    metrics.queued(len(items))
    with plain_errors():
        for number, row in enumerate(scored.iter_rows(), start=1):
            if row[FAILED]:
                kind, _, text = row[FAILED].partition(":")
                raise getattr(errors, kind)(text)
            metrics.part_done(row[ROWS], row[SECONDS], len(items) - number)
            yield row


class _Telling:
    """An actor's worker whose errors for the user come back as rows.

    Ray starts an actor that cannot start again and again, and an exception out of a Ray Data actor loses its cause on
    the way; a row does neither.
    """

    def __init__(self, worker: type, options: dict[str, Any], labels: dict[str, str]) -> None:
        self.failure, self.work = "", None
        metrics.actor_here(labels)
        try:
            self.work = worker(**options)
        except RaydeltError as error:
            self.failure = _told(error)

    def __call__(self, batch: pa.Table) -> dict[str, list[Any]]:
        counted = sum(batch[ROWS].to_pylist()) if ROWS in batch.column_names else 0
        if self.work is not None:
            started = time.perf_counter()
            try:
                rows: dict[str, list[Any]] = self.work(batch)
                spent = time.perf_counter() - started
                return rows | {FAILED: [""], ROWS: [counted], SECONDS: [spent]}
            except RaydeltError as error:
                self.failure = _told(error)
        return {"done": [""], FAILED: [self.failure], ROWS: [0], SECONDS: [0.0]}


def _told(error: RaydeltError) -> str:
    """An error's kind, as `raydelt.errors` has it, and text."""
    kind = next(base for base in type(error).__mro__ if base.__module__ == errors.__name__)
    return f"{kind.__name__}:{error}"
