"""Room for workers is counted node by node: what two nodes have together, one worker cannot take."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import ray

from raydelt import cluster
from raydelt.cluster import resources
from raydelt.config.cluster import Most
from raydelt.errors import SpecError

TWO = ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0})


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ({"CPU": 0.5, "GPU": 2.0}, 0),
        ({"CPU": 0.5, "GPU": 1.0}, 2),
        ({"CPU": 1.0, "GPU": 0.1}, 16),
        ({"CPU": 0.1, "GPU": 0.1}, 20),
        ({"CPU": 10.0, "GPU": 0.0}, 6),
        ({"CPU": 10.0, "GPU": 0.5}, 0),
    ],
)
def test_a_worker_is_whole_on_one_node(each: Mapping[str, float], expected: int) -> None:
    assert resources.carried(TWO, each) == expected


def test_what_no_node_carries_is_refused_unless_the_cluster_may_grow_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": TWO[0]}, {"Alive": True, "Resources": TWO[1]}]
    nodes.append({"Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 2.0})
    each = {"CPU": 0.5, "GPU": 2.0}
    with pytest.raises(SpecError, match=r"cluster\.actors asks for 1 x \(0\.5 CPU and 2 GPU\), each on one node"):
        cluster.require_places(each, 1, "cluster.actors")
    resources.may_grow_to(Most(cpus=32, gpus=4))
    try:
        cluster.require_places(each, 2, "cluster.actors")
        with pytest.raises(SpecError, match="room for 2"):
            cluster.require_places(each, 3, "cluster.actors")
    finally:
        resources.may_grow_to(None)
