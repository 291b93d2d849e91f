"""Functions as Ray tasks: their results in order, or references to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from raydelt.cluster.failures import plain_errors
from raydelt.cluster.progress import counted
from raydelt.cluster.resources import RELEASE_SECONDS, cpus

R = TypeVar("R")

TASK_RETRIES = 3


def shared(function: Callable[..., Any], *args: Any, label: str, num_gpus: float = 0.0) -> Any:
    """A reference to `function(*args)`, computed by a task and kept in the object store for other tasks to read."""
    return ray.remote(function).options(num_gpus=num_gpus, max_retries=TASK_RETRIES, name=label).remote(*args)


def cancelled(references: Sequence[Any]) -> None:
    """Stop the tasks that these references stand for, running or waiting, and see them end."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(list(references), num_returns=len(references), timeout=RELEASE_SECONDS)


def parallel(
    function: Callable[..., R], calls: Sequence[tuple[Any, ...]], *, label: str, num_gpus: float = 0.0
) -> list[R]:
    """Results of `function(*call)` as Ray tasks, in the order of the calls; object references are resolved by Ray.

    At most four tasks per CPU are in flight, so a long list of calls costs no memory.
    """
    remote = ray.remote(function).options(num_gpus=num_gpus, max_retries=TASK_RETRIES, name=label)
    results: list[Any] = [None] * len(calls)
    waiting = iter(enumerate(calls))
    flying: dict[Any, int] = {}
    with plain_errors(), counted(label, len(calls)) as advance:
        for index, call in itertools.islice(waiting, 4 * cpus()):
            flying[remote.remote(*call)] = index
        while flying:
            [done], _ = ray.wait(list(flying), num_returns=1)
            results[flying.pop(done)] = ray.get(done)
            advance()
            for index, call in itertools.islice(waiting, 1):
                flying[remote.remote(*call)] = index
    return results


def scatter(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], outputs: int, *, label: str) -> list[Any]:
    """References [calls][outputs] to the results of every `function(*call)`, which stay in the object store."""
    remote = ray.remote(function).options(num_returns=outputs, max_retries=TASK_RETRIES, name=label)
    return [remote.remote(*call) for call in calls]


def fetched(references: Sequence[Any]) -> list[Any]:
    """What the references stand for, brought to the driver."""
    with plain_errors():
        return list(ray.get(list(references)))
