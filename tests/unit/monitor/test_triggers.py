"""Triggers fire when they should, wait for confirmation and rest, and never pass the budget."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydelt.errors import InputError, SpecError
from raydelt.monitor.triggers import DAY, Decision, Observation, Rules, Scope, decide, replay

NONE, NEW, ALL = Scope.NOTHING, Scope.NEW_ROWS, Scope.EVERYTHING


def seen(day: float, **more: object) -> Observation:
    return Observation(time=day * DAY, rows=1000, **more)  # type: ignore[arg-type]


def scope(*history: Observation, rules: Rules | None = None) -> Scope:
    return decide(history, rules).scope


def test_nothing_happens_without_a_reason() -> None:
    assert decide([seen(0), seen(1)]) == Decision(NONE, "no trigger fires")


@pytest.mark.parametrize(("new", "expected"), [(0, NONE), (9, NONE), (10, NEW), (1000, NEW)])
def test_enough_new_rows_are_scored(new: int, expected: Scope) -> None:
    assert scope(seen(0, new_rows=new)) is expected


def test_amounts_by_number_and_off() -> None:
    assert scope(seen(0, new_rows=5), rules=Rules(new_rows=5)) is NEW
    assert scope(seen(0, new_rows=1000), rules=Rules(new_share=None)) is NONE
    assert scope(Observation(0.0, rows=3, new_rows=0)) is NONE, "at least one row must be new"


def test_time_counts_since_everything_was_scored() -> None:
    rules = Rules(every_days=7)
    assert scope(seen(0), seen(6.9), rules=rules) is NONE
    assert scope(seen(0), seen(7), rules=rules) is ALL
    assert scope(seen(0), seen(7, decided=ALL), seen(13), rules=rules) is NONE
    assert scope(seen(0), seen(7, decided=NEW), seen(8), rules=rules) is ALL, "new rows alone are not everything"


def test_a_drift_must_be_confirmed() -> None:
    drift = {"drift": "arrivals (score)"}
    assert scope(seen(0, **drift)) is NONE
    assert scope(seen(0, **drift), seen(1)) is NONE
    assert scope(seen(0, **drift), seen(1), seen(2, **drift)) is NONE
    found = decide([seen(0), seen(1, **drift), seen(2, **drift)])
    assert (found.scope, found.fired) == (ALL, ("drift",))
    assert "arrivals (score)" in found.reason
    assert scope(seen(1, **drift), seen(2, **drift, decided=ALL), seen(3, **drift)) is NONE, "confirmed anew"
    assert scope(seen(1, **drift), seen(2, **drift), rules=Rules(drift=False)) is NONE
    assert scope(seen(2, **drift), rules=Rules(confirmations=1)) is ALL


def test_performance_is_compared_with_what_it_was_after_the_last_rescore() -> None:
    errors = [0.10, 0.13, 0.13]
    history = [seen(day, error=error) for day, error in enumerate(errors)]
    assert scope(*history) is ALL
    assert scope(*history[:2]) is NONE
    assert scope(*history, rules=Rules(rise=0.05)) is NONE
    assert scope(*history[:2], seen(2)) is NONE, "what is not known confirms nothing"
    acted = [*history[:2], replace(history[2], decided=ALL)]
    assert scope(*acted, seen(3, error=0.13), seen(4, error=0.14)) is NONE
    assert scope(*acted, seen(3, error=0.13), seen(4, error=0.15), seen(5, error=0.15)) is ALL


def test_it_rests_after_every_decision() -> None:
    rules = Rules(rest_days=2)
    found = decide([seen(0, decided=NEW), seen(1.5, new_rows=500)], rules)
    assert (found.scope, found.fired) == (NONE, ("amount",))
    assert "2 days" in found.reason
    assert scope(seen(0, decided=NEW), seen(2, new_rows=500), rules=rules) is NEW


def test_the_budget_narrows_the_scope_or_stops_it() -> None:
    rules = Rules(every_days=7, budget=100, budget_days=30)
    due = seen(20, new_rows=100, cost=60.0)
    assert scope(seen(0), due, rules=rules) is ALL
    spent = seen(1, decided=ALL, spent=50.0)
    narrowed = decide([seen(0), spent, due], rules)
    assert (narrowed.scope, narrowed.fired) == (NEW, ("time", "amount"))
    assert scope(seen(0), spent, replace(due, new_rows=0), rules=rules) is NONE
    assert scope(seen(0), replace(spent, spent=99.0), due, rules=rules) is NONE
    assert scope(seen(0), spent, replace(due, time=31.5 * DAY), rules=rules) is ALL, "the window has passed"
    unknown = decide([seen(0), spent, replace(due, cost=None)], rules)
    assert unknown.scope is ALL
    assert "not known" in unknown.reason


observed = st.lists(
    st.tuples(st.floats(0, 3), st.integers(0, 30), st.booleans(), st.floats(0.1, 0.2), st.floats(0, 50)), max_size=25
)


@given(observed, st.floats(0, 5), st.floats(0, 120), st.integers(1, 3))
def test_rest_and_budget_hold_whatever_is_observed(
    steps: list[tuple[float, int, bool, float, float]], rest: float, budget: float, confirmations: int
) -> None:
    rules = Rules(every_days=4, rest_days=rest, budget=budget, budget_days=10, confirmations=confirmations)
    day, history = 0.0, []
    for gap, new, drift, error, cost in steps:
        day += gap
        history.append(seen(day, new_rows=new, drift="d" if drift else None, error=error, cost=cost))
    done = replay(history, rules)
    acted = [own for own in done if own.decided is not NONE]
    assert all(b.time - a.time >= rest * DAY - 0.01 for a, b in itertools.pairwise(acted))
    for own in done:
        window = [x.spent for x in done if own.time - 10 * DAY < x.time <= own.time]
        assert sum(window) <= budget + 1e-6
    assert replay(done, rules) == done, "deciding again decides the same"


def test_wrong_observations_and_rules_are_refused() -> None:
    with pytest.raises(InputError, match="no observation"):
        decide([])
    with pytest.raises(InputError, match="clock"):
        decide([seen(2), seen(1)])
    with pytest.raises(InputError, match="new rows"):
        seen(0, new_rows=1001)
    with pytest.raises(InputError, match="finite"):
        seen(0, error=float("nan"))
    with pytest.raises(SpecError, match="confirmations"):
        Rules(confirmations=0)
    with pytest.raises(SpecError, match="budget"):
        Rules(budget=-1)
