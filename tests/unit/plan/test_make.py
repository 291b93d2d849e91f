"""Plans from points: prices measured by the probes, scoring in the budget's unit, the holdout beside the law."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from raydelt.config import Planning
from raydelt.errors import SpecError
from raydelt.plan.bootstrap import losses
from raydelt.plan.make import Ground, make
from raydelt.plan.points import Points
from tests.unit.plan.buckets import drawn_curves, measure

SPEED, FLOPS = 2e-5, 6e4


def columns(points: Points) -> dict[str, list[Any]]:
    """A table of probes: every example takes so many seconds and operations."""
    return {
        "bucket": [points.names[index] for index in points.bucket],
        "seen": points.seen.tolist(),
        "unique": points.unique.tolist(),
        "loss": points.loss.tolist(),
        "seed": points.seed.tolist(),
        "unit": ["examples"] * len(points.seen),
        "seconds": (SPEED * points.seen).tolist(),
        "flops": [FLOPS] * len(points.seen),
    }


@pytest.fixture(scope="module")
def probes() -> dict[str, list[Any]]:
    rng = np.random.default_rng(3)
    return columns(measure(drawn_curves(rng, 3), rng, seeds=3, point=0.003, run=0.003))


GROUND = Ground(sizes=(1e5, 1e5, 1e5), rows=(100_000,) * 3, scoring_seconds=4.0, device="CPU")


def test_the_same_budget_in_any_unit_gives_the_same_plan(probes: dict[str, list[Any]]) -> None:
    units = {"examples": 1.0, "cpu_hours": SPEED / 3600, "flops": FLOPS}
    plans = {}
    for unit, price in units.items():
        spec = Planning(budgets=[3e5 * price, 2e6 * price], unit=unit, draws=10)
        plans[unit] = make(probes, spec, ground=GROUND).plan
    for unit, price in units.items():
        for one, other in zip(plans[unit].advice, plans["examples"].advice, strict=True):
            assert (one.best, one.recommended, one.verdict) == (other.best, other.recommended, other.verdict)
            assert one.choices[0].seen == pytest.approx(other.choices[0].seen)
            assert one.choices[0].loss == pytest.approx(other.choices[0].loss)
        assert make(probes, Planning(budgets=[1e6 * price], unit=unit, draws=1), ground=GROUND).price.scoring == (
            pytest.approx(4.0 / SPEED * price)
        )


def test_scoring_is_taken_from_every_ratio_but_the_whole_corpus(probes: dict[str, list[Any]]) -> None:
    made = make(probes, Planning(budgets=[1e6], draws=5), ground=GROUND)
    seen = [choice.seen for choice in made.plan.advice[0].choices]
    assert seen == pytest.approx([1e6 - 4.0 / SPEED] * 2 + [1e6])
    free = make(probes, Planning(budgets=[1e6], draws=5, scoring=0), ground=GROUND)
    assert [choice.seen for choice in free.plan.advice[0].choices] == [1e6] * 3
    # Where some examples are ruled out, taking all buckets needs scores too.
    part = make(probes, Planning(budgets=[1e6], draws=5), ground=Ground(**(vars(GROUND) | {"whole": False})))
    assert part.plan.advice[0].choices[-1].seen == pytest.approx(1e6 - 4.0 / SPEED)


def test_what_scoring_costs_is_said_to_be_unknown_where_nothing_tells(probes: dict[str, list[Any]]) -> None:
    made = make(probes, Planning(budgets=[1e6], draws=5))
    assert made.price.scoring == 0
    assert "scoring_unknown" in [caution.code for caution in made.plan.cautions]


def test_a_price_that_the_probes_do_not_tell_is_asked_for(probes: dict[str, list[Any]]) -> None:
    with pytest.raises(SpecError, match=r"gpu_hours: the probes ran on CPUs"):
        make(probes, Planning(budgets=[1], unit="gpu_hours"), ground=GROUND)
    with pytest.raises(SpecError, match=r"give plan\.per_seen"):
        make(probes, Planning(budgets=[1e6], unit="tokens"), ground=GROUND)
    with pytest.raises(SpecError, match=r"plan\.budgets is empty: give at least one, in examples"):
        make(probes, Planning(), ground=GROUND)
    bare = {name: values for name, values in probes.items() if name not in ("seconds", "flops")}
    with pytest.raises(SpecError, match=r"budgets are in flops but points in examples"):
        make(bare, Planning(budgets=[1e9], unit="flops"), ground=GROUND)


def test_a_random_mixture_is_held_to_the_law_of_all_buckets() -> None:
    rng = np.random.default_rng(8)
    curves = drawn_curves(rng, 3)
    table = columns(measure(curves, rng, seeds=3, point=0.002))
    seen = np.array([5e4, 4e5])
    true = losses([curves], seen, [range(3)], np.full(3, 1e5 / 3))[0, 0]
    held = {"seen": np.repeat(seen, 2).tolist(), "unique": [1e5] * 4}
    good = make(
        table, Planning(budgets=[1e6], draws=50), ground=GROUND, holdout=held | {"loss": np.repeat(true, 2).tolist()}
    )
    assert [one.predicted for one in good.holdout] == pytest.approx(true.tolist(), rel=0.01)
    assert [one.seen for one in good.holdout] == seen.tolist()
    wrong = make(table, Planning(budgets=[1e6], draws=50), ground=GROUND, holdout=held | {"loss": [9.0] * 4})
    assert "holdout" in [caution.code for caution in wrong.plan.cautions]
    assert "9.0000 measured" in wrong.text()


def test_a_plan_as_json_says_what_it_was_made_of(probes: dict[str, list[Any]]) -> None:
    made = make(probes, Planning(budgets=[1e6], draws=5), ground=GROUND)
    document = json.loads(json.dumps(made.to_dict()))
    assert document["rows"] == [100_000] * 3
    assert document["price"] == {"unit": "examples", "per_seen": None, "scoring": pytest.approx(4.0 / SPEED)}
    assert document["advice"][0]["verdict"] == made.plan.advice[0].verdict
    assert f"{sum(probes['seen']) / 1e6:.3g} M examples" in made.text()
