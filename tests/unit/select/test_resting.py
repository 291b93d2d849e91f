"""Who is retired is left out, never more of a class than its protection allows; whoever is spared stands for all."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raydelt.config.monitor import Retire
from raydelt.examples import EXAMPLE_ID, LABEL
from raydelt.monitor.retirement import STATES
from raydelt.select.resting import identity, settled

RULES = Retire(action="apply", rare_below=0)


def states(cat: int, dog: int = 0, *, spared: int = 0) -> pa.Table:
    """So many retired cats and dogs, all of one draw, and cats that were spared in it."""
    rows = [(f"cat-{i:03d}", "cat", "retired") for i in range(cat)]
    rows += [(f"dog-{i:03d}", "dog", "retired") for i in range(dog)]
    rows += [(f"spared-{i:03d}", "cat", "probation") for i in range(spared)]
    ids, labels, after = ([row[k] for row in rows] for k in range(3))
    n = len(rows)
    return pa.table([ids, labels, [3] * n, after, ["low"] * n, [3] * n], schema=STATES)


def here(table: pa.Table) -> pa.Table:
    retired = table.filter(pa.compute.equal(table["after"], "retired"))
    return retired.select([EXAMPLE_ID, LABEL])


def weights(table: pa.Table) -> dict[str, float]:
    return dict(zip(table[EXAMPLE_ID].to_pylist(), table["weight"].to_pylist(), strict=True))


def test_the_retired_weigh_nothing_and_the_spared_stand_for_all() -> None:
    table = states(5, spared=5)
    found, released = settled(table, here(table), {"cat": 100}, RULES, seed=1)
    own = weights(found)
    assert released == 0
    assert [own[f"cat-{i:03d}"] for i in range(5)] == [0.0] * 5
    assert [own[f"spared-{i:03d}"] for i in range(5)] == [2.0] * 5


def test_a_class_keeps_its_quota_of_what_there_is_now() -> None:
    table = states(30, 4, spared=30)
    found, released = settled(table, here(table), {"cat": 40, "dog": 100}, RULES, seed=1)
    own = weights(found)
    retired = [name for name, weight in own.items() if weight == 0]
    assert released == 10
    assert sum(name.startswith("cat") for name in retired) == 20
    assert sum(name.startswith("dog") for name in retired) == 4
    # 60 were drawn from, and 20 of them rest: the others stand for all of them.
    assert sum(own.get(f"spared-{i:03d}", 1.0) for i in range(30)) == pytest.approx(30 * 60 / 40)


@pytest.mark.parametrize("rules", [{"protect": ["cat"]}, {"rare_below": 41}, {"class_quota": 1.0}])
def test_named_and_rare_classes_keep_all(rules: dict[str, object]) -> None:
    table = states(10)
    found, released = settled(table, here(table), {"cat": 40}, RULES.model_copy(update=rules), seed=1)
    assert (found.num_rows, released) == (0, 10)


def test_the_order_of_the_rows_is_no_matter() -> None:
    table = states(30, spared=7)
    order = pa.array(np.random.default_rng(0).permutation(table.num_rows))
    one = settled(table, here(table), {"cat": 40}, RULES, seed=1)
    other = settled(table.take(order), here(table.take(order)), {"cat": 40}, RULES, seed=1)
    assert one[0].equals(other[0])


def test_who_is_no_longer_in_the_corpus_takes_no_place() -> None:
    table = states(30)
    found, released = settled(table, here(table).slice(0, 20), {"cat": 40}, RULES, seed=1)
    assert (found.num_rows, released) == (20, 0)


def test_what_decides_is_part_of_the_identity() -> None:
    table = states(3)
    own = identity(table, RULES)
    assert own == identity(table.take(pa.array([2, 0, 1])), RULES)
    assert own != identity(states(4), RULES)
    assert own != identity(table, RULES.model_copy(update={"protect": ["cat"]}))
