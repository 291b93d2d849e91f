"""What the cluster has, and what its autoscaler may grow it to."""

from __future__ import annotations

import gc
import time
from typing import Any

import ray

from raydelt.config.cluster import Most
from raydelt.errors import SpecError

RELEASE_SECONDS = 20
# By resource, what the spec says that an autoscaler may grow the cluster to.
_most: dict[str, float] = {}


def may_grow_to(most: Most | None) -> None:
    """Keep what the spec of this connection says of its autoscaler."""
    _most.clear()
    if most is not None:
        _most.update(CPU=most.cpus, GPU=most.gpus)


def cpus() -> int:
    """CPUs of the cluster, at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def cpus_to_come() -> int:
    """CPUs of the cluster, or those that its autoscaler may grow it to."""
    return max(cpus(), int(_most.get("CPU", 0)))


def capacity() -> dict[str, Any]:
    """CPUs, GPUs, machines and object-store bytes of the cluster; `most` is what its autoscaler may grow it to."""
    there = ray.cluster_resources()
    return {
        "cpus": cpus(),
        "gpus": there.get("GPU", 0.0),
        "machines": max(1, sum(node["Alive"] for node in ray.nodes())),
        "object_store_bytes": int(there.get("object_store_memory", 0)),
        "most": {"cpus": _most["CPU"], "gpus": _most["GPU"]} if _most else None,
    }


def require(resource: str, amount: float, field: str) -> None:
    """Fail at once where the cluster can never satisfy a request that Ray would wait for."""
    there = max(ray.cluster_resources().get(resource, 0.0), _most.get(resource, 0.0))
    if amount > there:
        raise SpecError(f"{field} asks for {amount:g} {resource} but the cluster has {there:g}: lower it or add nodes")


def wait_for_free(resource: str, amount: float) -> None:
    """Give actors of an earlier stage up to `RELEASE_SECONDS` to end, so that a group of workers finds room at once.

    An actor ends with the last handle to it, and Ray Data leaves some of its in cycles; meanwhile it keeps its CPUs,
    and a group that cannot start whole waits a minute between two attempts.
    """
    until = time.monotonic() + RELEASE_SECONDS
    while ray.available_resources().get(resource, 0.0) < amount and time.monotonic() < until:
        gc.collect()
        time.sleep(0.1)
