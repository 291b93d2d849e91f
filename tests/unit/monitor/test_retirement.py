"""Retirement: transitions by the table, limits that always hold, weights that keep sums, and all of it reversible."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydelt.errors import InputError, SpecError
from raydelt.monitor.look import label_counts
from raydelt.monitor.retirement import (
    EVENTS,
    Census,
    Facts,
    Rules,
    draw,
    moves,
    probes,
    restore,
    states_of,
    weights,
)


@dataclass
class World:
    """Examples over versions: the driver of the pure functions."""

    n: int
    classes: int = 2
    rules: Rules = field(default_factory=lambda: Rules(rare_below=0))
    seed: int = 3
    events: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = pa.array([f"e{i:04d}" for i in range(self.n)])
        self.labels = pa.array([str(i % self.classes) for i in range(self.n)])

    def facts(self, order: np.ndarray | None = None, **flags: np.ndarray) -> Facts:
        order = np.arange(self.n) if order is None else order
        none = np.zeros(self.n, np.bool_)
        own = {name: flags.get(name, none)[order] for name in ("low", "doubted", "expired", "recovered", "held_out")}
        return Facts(self.ids.take(pa.array(order)), self.labels.take(pa.array(order)), **own)

    def decide(self, version: int, order: np.ndarray | None = None, **flags: np.ndarray) -> pa.Table:
        states = states_of(self.events, before=version)
        found, candidates = moves(self.facts(order, **flags), states, version, self.rules, seed=self.seed)
        census = Census(self.n, Counter(self.labels.to_pylist()), label_counts(states, "retired"))
        drawn = draw(candidates, census, version, self.rules, seed=self.seed)
        return pa.concat_tables([found, drawn]).sort_by("example_id")

    def step(self, version: int, **flags: np.ndarray) -> pa.Table:
        self.events.append(self.decide(version, **flags))
        return self.events[-1]

    def states(self) -> dict[str, str]:
        table = states_of(self.events)
        return dict(zip(table["example_id"].to_pylist(), table["after"].to_pylist(), strict=True))

    def total_weight(self) -> float:
        """The weights of all who do not rest, and one for everybody who was not wanted."""
        states, own = states_of(self.events), weights(states_of(self.events))
        rests = states.filter(pc.equal(states["after"], "retired"))
        unweighted = self.n - rests.num_rows - own.num_rows
        return unweighted + rests["draw"].null_count + sum(own["weight"].to_pylist())


def mask(n: int, rows: list[int] | range) -> np.ndarray:
    found = np.zeros(n, np.bool_)
    found[list(rows)] = True
    return found


def retired_world(n: int = 200, **rules: object) -> World:
    """Forty low examples; ten of them retire in version 2 (5 % of 200), and thirty are spared."""
    world = World(n, rules=Rules(rare_below=0, **rules))  # type: ignore[arg-type]
    for version in (1, 2):
        world.step(version, low=mask(n, range(40)))
    return world


def test_low_examples_go_on_probation_and_retire_a_version_later() -> None:
    world = World(200)
    first = world.step(1, low=mask(200, range(40)))
    assert set(first["after"].to_pylist()) == {"probation"}
    assert set(first["reason"].to_pylist()) == {"low for 3 versions"}
    world.step(2, low=mask(200, range(40)))
    assert Counter(world.states().values()) == {"retired": 10, "probation": 30}


@pytest.mark.parametrize(("flag", "words"), [("doubted", "doubted"), ("expired", "window"), ("low", "low for")])
def test_every_probation_has_its_reason(flag: str, words: str) -> None:
    [reason] = set(World(50).step(1, **{flag: mask(50, range(5))})["reason"].to_pylist())
    assert words in reason


@pytest.mark.parametrize("flag", ["doubted", "expired"])
def test_what_is_not_wanted_retires_outright_and_nobody_stands_for_it(flag: str) -> None:
    world = World(200)
    for version in (1, 2):
        world.step(version, **{flag: mask(200, range(8))})
    assert world.states() == {f"e{i:04d}": "retired" for i in range(8)}
    assert weights(states_of(world.events)).num_rows == 0
    world.step(3, low=mask(200, range(8, 48)))
    world.step(4, low=mask(200, range(8, 48)))
    assert Counter(world.states().values()) == {"retired": 18, "probation": 30}
    assert world.total_weight() == pytest.approx(200)


def test_a_doubt_that_has_passed_retires_nobody() -> None:
    world = World(200)
    world.step(1, doubted=mask(200, range(8)))
    world.step(2)
    assert set(world.states().values()) == {"probation"}


def test_who_recovers_on_probation_is_active_again_unless_doubted() -> None:
    world = World(60)
    world.step(1, low=mask(60, range(6)))
    world.step(2, recovered=mask(60, range(4)), doubted=mask(60, [3]))
    states = world.states()
    assert [states[f"e{i:04d}"] for i in range(4)][:3] == ["active"] * 3
    assert states["e0003"] != "active"


def test_between_the_levels_nothing_moves_but_the_draw() -> None:
    """Hysteresis: neither low enough to enter nor well enough to leave."""
    world = World(60, rules=Rules(rare_below=0, share=0.0))
    world.step(1, low=mask(60, range(6)))
    assert world.step(2).num_rows == 0


def test_only_probed_examples_come_back() -> None:
    world = retired_world(probe=0.5)
    retired = {k for k, v in world.states().items() if v == "retired"}
    ids = pa.array(sorted(retired))
    expected = set(ids.filter(pa.array(probes(ids, 3, world.rules, seed=world.seed))).to_pylist())
    world.step(3, low=mask(200, range(40)), recovered=mask(200, range(200)))
    back = {k for k in retired if world.states()[k] == "active"}
    assert back == expected
    assert 0 < len(back) < 10


def test_probes_are_a_share_and_change_from_version_to_version() -> None:
    ids, rules = pa.array([f"x{i}" for i in range(20_000)]), Rules()
    found = [probes(ids, version, rules, seed=1) for version in (1, 2)]
    assert found[0].mean() == pytest.approx(0.02, abs=0.004)
    assert (found[0] & found[1]).mean() < 0.002


def test_protected_rare_and_held_out_examples_never_retire() -> None:
    n = 100
    low = mask(n, range(n))
    named = World(n, rules=Rules(rare_below=0, share=1.0, protect=("0",)))
    held = World(n, rules=Rules(rare_below=0, share=1.0))
    rare = World(n, rules=Rules(rare_below=51, share=1.0))
    for version in (1, 2, 3):
        named.step(version, low=low)
        held.step(version, low=low, held_out=mask(n, range(0, n, 4)))
        rare.step(version, low=low)
    gone = {k for k, v in named.states().items() if v == "retired"}
    assert gone
    assert all(int(k[1:]) % 2 == 1 for k in gone)
    gone = {k for k, v in held.states().items() if v == "retired"}
    assert gone
    assert all(int(k[1:]) % 4 for k in gone)
    assert "retired" not in rare.states().values()


def test_who_is_protected_later_comes_back() -> None:
    world = retired_world()
    world.rules = Rules(rare_below=0, protect=("0", "1"))
    world.step(3)
    assert set(world.states().values()) == {"active"}
    assert world.total_weight() == pytest.approx(200)


def test_a_restored_example_is_active_and_nothing_else_changes() -> None:
    world = retired_world()
    before = world.states()
    one = next(k for k, v in before.items() if v == "retired")
    world.events.append(restore(states_of(world.events), [one], 2))
    assert world.states() == before | {one: "active"}
    assert world.total_weight() == pytest.approx(200)
    with pytest.raises(InputError, match="neither on probation nor retired"):
        restore(states_of(world.events), [one], 2)


def test_spared_examples_stand_for_the_retired_and_all_weights_sum_to_the_corpus() -> None:
    world = retired_world()
    own = weights(states_of(world.events))
    drawn = states_of(world.events).filter(pc.is_valid(states_of(world.events)["draw"]))
    by = Counter(zip(drawn["label"].to_pylist(), drawn["after"].to_pylist(), strict=True))
    expected = [20 / by[label, "probation"] for label in ("0", "1")]
    assert sorted(set(own["weight"].to_pylist())) == pytest.approx(sorted(set(expected)))
    assert world.total_weight() == pytest.approx(200)


def test_weighted_sums_are_unbiased_over_draws() -> None:
    """The mean over seeds of the weighted gradient of who remains is the gradient of all."""
    gradient = np.random.default_rng(0).normal(size=60) + np.arange(60) / 20
    found = []
    for seed in range(400):
        world = World(60, rules=Rules(rare_below=0, share=0.2), seed=seed)
        for version in (1, 2):
            world.step(version, low=mask(60, range(20)))
        w = np.ones(60)
        states, own = world.states(), weights(states_of(world.events))
        for example, weight in zip(own["example_id"].to_pylist(), own["weight"].to_pylist(), strict=True):
            w[int(example[1:])] = weight
        for example, state in states.items():
            w[int(example[1:])] *= state != "retired"
        found.append(w @ gradient)
    error = np.std(found) / math.sqrt(len(found))
    assert error > 0
    assert np.mean(found) == pytest.approx(gradient.sum(), abs=4 * error)


flags = st.integers(0, 2**32 - 1)


@given(flags, st.integers(20, 90), st.integers(1, 4), st.sampled_from([0.02, 0.1, 0.5, 1.0]), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_limits_weights_and_order_hold_in_any_world(
    seed: int, n: int, classes: int, share: float, quota: float
) -> None:
    rng = np.random.default_rng(seed)
    rules = Rules(share=share, class_quota=quota, ratio=0.7, probe=0.5, rare_below=3)
    world = World(n, classes, rules, seed)
    per_class = Counter(world.labels.to_pylist())
    for version in range(1, 8):
        low = rng.random(n) < 0.4
        own = {"low": low, "recovered": ~low & (rng.random(n) < 0.5), "doubted": rng.random(n) < 0.1}
        shuffled = world.decide(version, order=rng.permutation(n), **own)
        found = world.step(version, **own)
        assert shuffled.equals(found), "the order of the rows changes nothing"
        assert world.decide(version, **own).equals(found), "deciding again changes nothing"
        gone = found.filter(pc.equal(found["after"], "retired")).num_rows
        assert gone <= share * n + 1e-9
        assert pc.count_distinct(found["example_id"]).as_py() == found.num_rows
        resting = label_counts(states_of(world.events), "retired")
        for label, count in resting.items():
            assert per_class[label] - count >= quota * per_class[label] - 1e-9
        own_weights = weights(states_of(world.events))["weight"].to_pylist()
        assert max([1.0, *own_weights]) <= 1 / (1 - 0.7) + 1e-9
        assert min([1.0, *own_weights]) >= 1.0
        assert world.total_weight() == pytest.approx(n)


def test_states_are_a_fold_that_any_layout_of_the_events_gives() -> None:
    world = retired_world(probe=0.5)
    world.step(3, recovered=mask(200, range(200)))
    whole = states_of(world.events)
    assert states_of([pa.concat_tables(world.events)]).equals(whole)
    by_parts = [table.slice(start, 7) for table in world.events for start in range(0, table.num_rows, 7)]
    assert states_of(by_parts).equals(whole)
    assert states_of(world.events, before=3).equals(states_of(world.events[:2]))
    assert states_of([]).num_rows == 0


def test_events_that_do_not_follow_from_each_other_are_refused() -> None:
    world = retired_world()
    with pytest.raises(InputError, match="begins probation where the one before it ended active"):
        states_of(world.events[1:])
    assert world.events[0].schema.equals(EVENTS)


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(SpecError, match=r"monitor\.retire\.share 2"):
        Rules(share=2)
    with pytest.raises(SpecError, match="low <= recover"):
        Rules(low=0.3, recover=0.2)
    with pytest.raises(SpecError, match="ratio below 1"):
        Rules(ratio=1.0)
