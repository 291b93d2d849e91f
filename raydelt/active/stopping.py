"""When to stop asking for labels: each rule is a pure function of the rounds so far.

    plateau        least-squares slope of the metric over the last p rounds < eps, per round
    budget         labels >= budget
    agreement      disagreement of the committee < bound in each of the last p rounds

A metric is one where higher is better, on a validation set that is never queried. A round whose metric is unknown or
not finite decides nothing. Cost: O(p). The first rule, in the order given, that has a reason stops. Settles 2009,
section 6.7, surveys such rules.

Caution: a plateau may be a pause. Its slope has the standard error 3.5 sigma p^-1.5 or so for a metric with noise
sigma per round, so an eps far below that stops by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from raydelt.errors import SpecError


@dataclass(frozen=True)
class Round:
    """One round of labelling: labels in all after it, validation metric, mean disagreement of the committee."""

    labels: int
    metric: float | None = None
    disagreement: float | None = None


class Rule(Protocol):
    """Says why to stop, or None."""

    def reason(self, history: Sequence[Round]) -> str | None: ...


@dataclass(frozen=True)
class Plateau:
    """The metric has gained less than `slope` per round over the last `rounds` rounds."""

    rounds: int = 5
    slope: float = 1e-3

    def __post_init__(self) -> None:
        if self.rounds < 2 or not math.isfinite(self.slope):
            raise SpecError(
                f"plateau over {self.rounds} rounds below {self.slope:g}: give at least 2 rounds and a finite slope"
            )

    def reason(self, history: Sequence[Round]) -> str | None:
        """Why to stop, or None; a metric that falls stops too."""
        metrics = _known([entry.metric for entry in history[-self.rounds :]])
        if len(metrics) < self.rounds:
            return None
        slope = slope_of(metrics)
        if slope >= self.slope:
            return None
        return f"plateau: the metric gains {slope:.3g} a round over {self.rounds} rounds, less than {self.slope:g}"


@dataclass(frozen=True)
class Budget:
    """As many labels as were planned are there."""

    labels: int

    def __post_init__(self) -> None:
        if self.labels < 1:
            raise SpecError(f"a budget of {self.labels} labels allows nothing: give at least 1")

    def reason(self, history: Sequence[Round]) -> str | None:
        """Why to stop, or None."""
        spent = history[-1].labels if history else 0
        return f"budget: {spent} of {self.labels} labels are spent" if spent >= self.labels else None


@dataclass(frozen=True)
class Agreement:
    """The members of the committee have disagreed by less than `below` in each of the last `rounds` rounds."""

    below: float
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.below > 0:
            raise SpecError(
                f"agreement below {self.below:g} over {self.rounds} rounds: give a bound above 0 and at least 1 round"
            )

    def reason(self, history: Sequence[Round]) -> str | None:
        """Why to stop, or None."""
        found = _known([entry.disagreement for entry in history[-self.rounds :]])
        if len(found) < self.rounds or max(found) >= self.below:
            return None
        return f"agreement: the committee disagrees by {max(found):.3g} at most, less than {self.below:g}"


def should_stop(history: Sequence[Round], rules: Sequence[Rule]) -> str | None:
    """The reason of the first rule that stops, or None."""
    return next((reason for rule in rules if (reason := rule.reason(history)) is not None), None)


def slope_of(values: Sequence[float]) -> float:
    """The least-squares slope per step of at least two values."""
    steps = np.arange(len(values)) - (len(values) - 1) / 2
    return float(steps @ np.asarray(values, np.float64) / (steps @ steps))


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
