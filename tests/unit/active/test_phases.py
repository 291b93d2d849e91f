"""Phases change by the table of transitions, and a replay of the facts gives them back."""

from __future__ import annotations

import itertools

import pytest

from raydelt.active.phases import Facts, Phase, Settings, next_phase, replay
from raydelt.errors import InputError, SpecError

COLD, ITERATE, CONVERGED = Phase.COLD, Phase.ITERATE, Phase.CONVERGED


@pytest.mark.parametrize(
    ("facts", "after"),
    [
        (Facts(0, 0, 10), COLD),
        (Facts(49, 9, 10), COLD),
        (Facts(50, 9, 10), ITERATE),
        (Facts(20, 10, 10), ITERATE),
        (Facts(4, 2, 2), ITERATE),
        (Facts(19, 3), COLD),
        (Facts(20, 3), ITERATE),
        (Facts(500, 1, 10), COLD),
        (Facts(500, 1, 1), COLD),
    ],
)
def test_the_cold_phase_ends_with_enough_labels_or_with_every_class(facts: Facts, after: Phase) -> None:
    assert next_phase(COLD, facts)[0] is after


def test_the_least_number_of_labels_can_be_set() -> None:
    assert next_phase(COLD, Facts(15, 2, 3), Settings(start=15))[0] is ITERATE
    assert next_phase(COLD, Facts(14, 2, 3), Settings(start=1))[0] is COLD, "5 per class at least"
    with pytest.raises(SpecError, match=r"phases\.start"):
        Settings(start=0)


def test_a_reason_to_stop_converges() -> None:
    assert next_phase(ITERATE, Facts(60, 3, 3, stopping="plateau: flat")) == (CONVERGED, "plateau: flat")
    assert next_phase(ITERATE, Facts(60, 3, 3, adversarial="alarm"))[0] is ITERATE
    assert next_phase(COLD, Facts(5, 1, 3, stopping="budget: spent")) == (CONVERGED, "while cold: budget: spent")
    assert next_phase(COLD, Facts(60, 3, 3, stopping="budget: spent")) == (CONVERGED, "budget: spent")
    assert next_phase(COLD, Facts(60, 2, 3, stopping="budget: spent")) == (CONVERGED, "budget: spent")


@pytest.mark.parametrize(
    ("verdict", "stopping", "after"),
    [
        ("ok", None, CONVERGED),
        ("warn", None, CONVERGED),
        (None, None, CONVERGED),
        ("alarm", None, ITERATE),
        ("alarm", "budget", CONVERGED),
    ],
)
def test_only_a_drift_that_may_be_followed_iterates_again(verdict: str | None, stopping: str, after: Phase) -> None:
    facts = Facts(60, 3, 3, stopping=stopping, adversarial=verdict)  # type: ignore[arg-type]
    assert next_phase(CONVERGED, facts)[0] is after


def test_an_override_leads_anywhere_from_anywhere() -> None:
    for before, after in itertools.product(Phase, Phase):
        assert next_phase(before, Facts(0, 0, override=after)) == (after, f"set to {after.value} by hand")


def test_a_replay_gives_every_phase_back() -> None:
    observed = [
        Facts(10, 1, 3),
        Facts(20, 3, 3),
        Facts(30, 3, 3),
        Facts(40, 3, 3, stopping="plateau"),
        Facts(40, 3, 3, adversarial="ok"),
        Facts(40, 3, 3, adversarial="alarm"),
        Facts(50, 3, 3),
    ]
    phases = [phase for phase, _ in replay(observed)]
    assert phases == [COLD, ITERATE, ITERATE, CONVERGED, CONVERGED, ITERATE, ITERATE]
    assert replay(observed[3:], start=phases[2]) == replay(observed)[3:]
    assert all(reason for _, reason in replay(observed))
    assert replay([]) == []


@pytest.mark.parametrize(("labels", "seen", "known"), [(-1, 0, None), (3, 2, None), (9, 4, 3), (9, -1, 3)])
def test_counts_that_cannot_be_are_refused(labels: int, seen: int, known: int | None) -> None:
    with pytest.raises(InputError, match="count again"):
        Facts(labels, seen, known)
