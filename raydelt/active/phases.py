"""The phases of active learning, as pure transitions: what was observed gives the next phase and why.

    COLD       -> ITERATE     labels >= max(5 C, start), or every known class has 2 labels; and 2 classes have 2 each
    ITERATE    -> CONVERGED   there is a reason to stop
    CONVERGED  -> ITERATE     adversarial validation of the pool against the labelled set alarms, and nothing stops
    COLD       -> CONVERGED   there is a reason to stop, such as a spent budget, whether labels suffice or not
    any        -> any         by hand

COLD asks for typical examples, ITERATE for uncertain ones, CONVERGED for none (Hacohen et al. 2022: typical first,
uncertain later). C is the number of classes known. The phase is nothing but a fold over recorded facts: `replay`
gives it back after a restart. Cost: O(1).

Caution: take the reason to stop from the rounds since the phase began. A plateau from before a drift would keep the
phase CONVERGED.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from raydelt.errors import InputError, SpecError

LABELS_PER_CLASS = 5
LEAST_PER_CLASS = 2


class Phase(StrEnum):
    """Where active learning stands."""

    COLD = "cold"
    ITERATE = "iterate"
    CONVERGED = "converged"


@dataclass(frozen=True)
class Facts:
    """What is known after a round.

    `classes_seen` counts the classes with at least 2 labels, `classes_known` all that there are (None if not known);
    `stopping` is the reason of `should_stop`, `adversarial` the verdict of adversarial validation; `override` is a
    phase set by hand.
    """

    labels: int
    classes_seen: int
    classes_known: int | None = None
    stopping: str | None = None
    adversarial: Literal["ok", "warn", "alarm"] | None = None
    override: Phase | None = None

    def __post_init__(self) -> None:
        if self.labels < 0 or not 0 <= self.classes_seen * LEAST_PER_CLASS <= self.labels:
            raise InputError(
                f"{self.labels} labels cannot have {self.classes_seen} classes with {LEAST_PER_CLASS} labels each: "
                "count again"
            )
        if self.classes_known is not None and not self.classes_seen <= self.classes_known:
            raise InputError(f"{self.classes_seen} classes were seen of {self.classes_known} known: count again")


@dataclass(frozen=True)
class Settings:
    """`start` is the least number of labels that ends the cold phase whatever the classes."""

    start: int = 20

    def __post_init__(self) -> None:
        if self.start < 1:
            raise SpecError(f"phases.start {self.start} must be at least 1")


def next_phase(phase: Phase, facts: Facts, settings: Settings | None = None) -> tuple[Phase, str]:
    """The phase after these facts, and the reason in one line."""
    if facts.override is not None:
        return facts.override, f"set to {facts.override.value} by hand"
    if phase is Phase.COLD:
        return _from_cold(facts, settings or Settings())
    if phase is Phase.ITERATE:
        return _iterating(facts, "labels still help")
    if facts.adversarial != "alarm":
        return Phase.CONVERGED, f"no drift: adversarial validation says {facts.adversarial or 'nothing'}"
    if facts.stopping is not None:
        return Phase.CONVERGED, f"drift, but {facts.stopping}"
    return Phase.ITERATE, "drift: the pool differs from the labelled set"


def replay(
    observed: Iterable[Facts], *, start: Phase = Phase.COLD, settings: Settings | None = None
) -> list[tuple[Phase, str]]:
    """Phase and reason after each of the recorded facts, from the first on."""
    found: list[tuple[Phase, str]] = []
    phase = start
    for facts in observed:
        phase, reason = next_phase(phase, facts, settings)
        found.append((phase, reason))
    return found


def _iterating(facts: Facts, reason: str) -> tuple[Phase, str]:
    """Iterating for a reason, unless there is one to stop."""
    return (Phase.ITERATE, reason) if facts.stopping is None else (Phase.CONVERGED, facts.stopping)


def _from_cold(facts: Facts, settings: Settings) -> tuple[Phase, str]:
    enough = max(LABELS_PER_CLASS * (facts.classes_known or 0), settings.start)
    # A classifier needs two classes, however many labels there are.
    if facts.classes_seen >= 2:
        if facts.classes_known is not None and facts.classes_seen == facts.classes_known:
            return _iterating(facts, f"all {facts.classes_known} classes have {LEAST_PER_CLASS} labels")
        if facts.labels >= enough:
            return _iterating(facts, f"{facts.labels} labels, and {enough} suffice")
    if facts.stopping is not None:
        return Phase.CONVERGED, f"while cold: {facts.stopping}"
    known = "" if facts.classes_known is None else f" of {facts.classes_known}"
    return Phase.COLD, f"{facts.labels} of {enough} labels, {facts.classes_seen}{known} classes with {LEAST_PER_CLASS}"
