"""What the cluster has, and what its autoscaler may grow it to."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from raydelt.config.cluster import Most
from raydelt.errors import SpecError

RELEASE_SECONDS = 20
# Shares such as 0.1 are not exact: ten of them are one.
ROUNDING = 1e-6
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


def places(each: Mapping[str, float]) -> int:
    """How many workers that take `each`, all of it on one node, the cluster can ever have at a time."""
    if not _most:
        return carried([node["Resources"] for node in ray.nodes() if node["Alive"]], each)
    # Of the sizes of the nodes that may come nothing is known.
    there = ray.cluster_resources()
    return carried([{name: max(there.get(name, 0.0), most) for name, most in _most.items()}], each)


def carried(nodes: Sequence[Mapping[str, float]], each: Mapping[str, float]) -> int:
    """How many workers that take `each` nodes of these resources carry."""
    wanted = {name: amount for name, amount in each.items() if amount > 0}
    return sum(min(int(node.get(name, 0.0) / amount + ROUNDING) for name, amount in wanted.items()) for node in nodes)


def require_places(each: Mapping[str, float], count: int, field: str) -> None:
    """Fail at once where so many workers, each whole on one node, never find room together."""
    there = places(each)
    if count > there:
        asked = " and ".join(f"{amount:g} {name}" for name, amount in each.items() if amount > 0)
        raise SpecError(
            f"{field} asks for {count} x ({asked}), each on one node, but the nodes have room for {there}: lower it, "
            "or add nodes"
        )


def wait_for_free(resource: str, amount: float) -> None:
    """Give actors of an earlier stage up to `RELEASE_SECONDS` to end, so that a group of workers finds room at once.

    An actor ends with the last handle to it, and Ray Data leaves some of its in cycles; meanwhile it keeps its CPUs,
    and a group that cannot start whole waits a minute between two attempts.
    """
    until = time.monotonic() + RELEASE_SECONDS
    while ray.available_resources().get(resource, 0.0) < amount and time.monotonic() < until:
        gc.collect()
        time.sleep(0.1)
