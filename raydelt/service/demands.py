"""Whether a cluster can ever give what a job asks for: Ray itself would wait for ever.

An entry point and an actor must each fit on one node; the least number of actors must fit on all nodes together. Where
nothing adds nodes, what does not fit is refused; where an autoscaler may, or where the nodes are not known, it is a
warning. The dashboard does not tell an autoscaler's limits: `cluster.most` of the spec does, and what is above is
refused too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raydelt.config import RunConfig
from raydelt.errors import SpecError
from raydelt.service.client import Node, Nodes


@dataclass(frozen=True)
class Entry:
    """What the entry point itself reserves; the actors of a run come on top."""

    num_cpus: float = 0
    num_gpus: float = 0
    memory: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)

    def wanted(self) -> dict[str, tuple[str, float]]:
        """Resource -> (option, amount), of what is asked for."""
        named = {name: (f"--resource {name}", amount) for name, amount in self.resources.items()}
        own = {
            "CPU": ("--num-cpus", self.num_cpus),
            "GPU": ("--num-gpus", self.num_gpus),
            "memory": ("--memory", float(self.memory)),
        }
        return {name: (option, amount) for name, (option, amount) in (own | named).items() if amount > 0}


def check(nodes: Nodes, entry: Entry, config: RunConfig) -> list[str]:
    """Warnings on what may never be given.

    Raises:
        SpecError: what no node of a fixed cluster has.
    """
    if not nodes.alive:
        return ["the cluster does not tell its nodes, so whether it can give what this job asks for is not known"]
    most = config.cluster.most
    if most is not None and not nodes.fixed:
        whole = Node("", {"CPU": float(most.cpus), "GPU": float(most.gpus), "memory": math.inf} | _custom(entry))
        above = _faults([whole], entry, config)
        if above:
            raise SpecError(f"{above[0]} of cluster.most: lower it, or let the cluster grow further")
    faults = _faults(nodes.alive, entry, config)
    if faults and nodes.fixed:
        raise SpecError(f"{faults[0]}: lower it, or add nodes")
    return [f"{fault}; the job waits unless an autoscaler adds such nodes" for fault in faults]


def _custom(entry: Entry) -> dict[str, float]:
    """Resources of names that `cluster.most` does not have, taken for there."""
    return dict.fromkeys(entry.resources, math.inf)


def _faults(nodes: Sequence[Node], entry: Entry, config: RunConfig) -> list[str]:
    actors = config.cluster.actors
    wanted = entry.wanted()
    single = [(name, option, amount) for name, (option, amount) in wanted.items()]
    single += [
        ("GPU", "cluster.actors.num_gpus", actors.num_gpus),
        ("CPU", "cluster.actors.num_cpus", actors.num_cpus),
    ]
    faults = []
    for name, option, amount in single:
        most = max(node.resources.get(name, 0.0) for node in nodes)
        if amount > most:
            faults.append(f"{option} asks for {amount:g} {name} but no node has more than {most:g}")
    if not any(_fits(node.resources, wanted) for node in nodes) and not faults:
        asked = " and ".join(option for option, _ in wanted.values())
        faults.append(f"{asked} ask for more than any one node has together")
    for name, each in (("GPU", actors.num_gpus), ("CPU", actors.num_cpus)):
        total = sum(node.resources.get(name, 0.0) for node in nodes)
        if each * actors.min > total and each <= total:
            faults.append(
                f"cluster.actors (num_{name.lower()}s x min) asks for {each * actors.min:g} {name} "
                f"but the cluster has {total:g}"
            )
    return faults


def _fits(resources: Mapping[str, float], wanted: Mapping[str, tuple[str, float]]) -> bool:
    return all(resources.get(name, 0.0) >= amount for name, (_, amount) in wanted.items())
