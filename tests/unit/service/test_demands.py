"""Resources: what no node has fails at once where the cluster cannot grow, and warns where it might."""

from __future__ import annotations

from typing import Any

import pytest

from raydelt.errors import SpecError
from raydelt.service.client import Node, Nodes
from raydelt.service.demands import Entry, check
from raydelt.specfile import validate

HEAD, WORKER = (
    Node("10.0.0.1", {"CPU": 4.0, "memory": 8e9}),
    Node("10.0.0.2", {"CPU": 8.0, "GPU": 2.0, "memory": 16e9}),
)


def config(**actors: Any) -> Any:
    return validate(
        {"name": "x", "corpus": {"source": "builtin://digits"}, "output": "o", "cluster": {"actors": actors}}
    )


def test_what_fits_is_silent() -> None:
    entry = Entry(num_cpus=8, num_gpus=2, memory=int(16e9))
    assert check(Nodes([HEAD, WORKER], True), entry, config(num_gpus=1, min=2)) == []


@pytest.mark.parametrize(
    ("entry", "actors", "told"),
    [
        (Entry(num_gpus=4), {}, "--num-gpus asks for 4 GPU but no node has more than 2"),
        (Entry(num_cpus=9), {}, "--num-cpus asks for 9 CPU but no node has more than 8"),
        (Entry(memory=int(32e9)), {}, "--memory asks for 3.2e+10 memory but no node has more than 1.6e+10"),
        (Entry(resources={"tpu": 1}), {}, "--resource tpu asks for 1 tpu but no node has more than 0"),
        (Entry(), {"num_gpus": 3}, "cluster.actors.num_gpus asks for 3 GPU but no node has more than 2"),
        (Entry(), {"num_cpus": 12}, "cluster.actors.num_cpus asks for 12 CPU but no node has more than 8"),
        (Entry(), {"num_gpus": 1, "min": 3}, "(num_gpus x min) asks for 3 GPU but the cluster has 2"),
    ],
)
def test_what_no_node_has_is_refused_on_a_fixed_cluster_and_a_warning_elsewhere(
    entry: Entry, actors: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpecError) as caught:
        check(Nodes([HEAD, WORKER], True), entry, config(**actors))
    assert told in str(caught.value)
    for fixed in (False, None):
        [warning] = check(Nodes([HEAD, WORKER], fixed), entry, config(**actors))
        assert told in warning
        assert "autoscaler" in warning


def test_what_only_different_nodes_have_does_not_fit_one_entry_point() -> None:
    apart = Nodes([Node("a", {"CPU": 8.0}), Node("b", {"CPU": 2.0, "GPU": 1.0})], True)
    with pytest.raises(SpecError, match="--num-cpus and --num-gpus ask for more than any one node has together"):
        check(apart, Entry(num_cpus=4, num_gpus=1), config())


def test_unknown_nodes_are_a_warning() -> None:
    assert check(Nodes([], None), Entry(num_gpus=64), config())


def test_an_autoscaler_is_held_to_what_the_spec_says_that_it_may_grow_to() -> None:
    def growing(**actors: Any) -> Any:
        cluster = {"most": {"cpus": 64, "gpus": 8}, "actors": actors}
        return validate({"name": "x", "corpus": {"source": "builtin://digits"}, "output": "o", "cluster": cluster})

    head = Nodes([HEAD], False)
    [warning] = check(head, Entry(), growing(num_gpus=1, min=8))
    assert "cluster.actors.num_gpus asks for 1 GPU but no node has more than 0" in warning
    with pytest.raises(SpecError, match=r"asks for 9 GPU but the cluster has 8 of cluster\.most"):
        check(head, Entry(), growing(num_gpus=1, min=9))
    with pytest.raises(SpecError, match=r"--num-gpus asks for 16 GPU but no node has more than 8 of cluster\.most"):
        check(head, Entry(num_gpus=16), growing())
    assert check(head, Entry(num_cpus=2, resources={}), growing()) == []
