"""What a cluster can do at the same time, and what k times as many machines of its kind could, within its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from raydelt.config import RunConfig
from raydelt.estimate.work import Hands


@dataclass(frozen=True)
class Capacity:
    """CPUs, GPUs, machines and object-store bytes; `most` are the CPUs and GPUs that the autoscaler may grow it to."""

    cpus: int
    gpus: float
    machines: int
    object_store_bytes: int
    most: tuple[float, float] | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Capacity:
        """The capacity that a run's record tells."""
        most = record["most"]
        return cls(
            record["cpus"],
            record["gpus"],
            record["machines"],
            record["object_store_bytes"],
            None if most is None else (most["cpus"], most["gpus"]),
        )

    def times(self, k: int) -> Capacity:
        """This cluster with k times as many machines, or as many as the autoscaler may start."""
        factor = float(k)
        if self.most is not None:
            bounds = [most / own for most, own in zip(self.most, (self.cpus, self.gpus), strict=True) if own]
            factor = max(1.0, min(factor, *bounds))
        return replace(
            self,
            cpus=round(self.cpus * factor),
            gpus=self.gpus * factor,
            machines=max(1, round(self.machines * factor)),
            object_store_bytes=round(self.object_store_bytes * factor),
        )

    def hands(self, config: RunConfig) -> Hands:
        """What of it works for a spec; actors that share a CPU do no more work than it."""
        actors = config.cluster.actors
        most = actors.max or max(actors.min, self.cpus)
        room = [most, int(self.cpus / actors.num_cpus), self.cpus]
        gpus = self.gpus / actors.num_gpus if actors.num_gpus else 0.0
        if actors.num_gpus:
            room.append(int(gpus))
        return Hands(self.cpus, gpus if actors.num_gpus else 0.0, max(1, min(room)))


def limits(config: RunConfig, measured: Capacity, k: int) -> list[str]:
    """What keeps k times as many actors from being there, in words."""
    there, told = measured.times(k), []
    if there.cpus < measured.cpus * k:
        told.append(f"the autoscaler stops at {there.cpus} CPUs and {there.gpus:g} GPUs")
    most = config.cluster.actors.max
    if most is not None and most < measured.hands(config).actors * k:
        told.append(f"cluster.actors.max keeps to {most} actors")
    return told
