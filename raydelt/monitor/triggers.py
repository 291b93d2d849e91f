"""When to score again, and what: a pure function of what was observed.

    amount        new rows >= share of all, or >= number           -> new rows
    time          days since everything was scored                 -> everything
    drift         a drift in each of the last c observations       -> everything
    performance   error above that after the last full rescore by `rise`, in each of the last c     -> everything
                  (told by the same column: see `sources`)

Only observations since the last decision for everything count as confirmations, and after any decision nothing happens
for `rest_days`. A budget (cost within so many days) bounds it all: where everything is too dear, new rows are taken if
they are due and fit, at their share of the cost. Deciding again from the same observations gives the same decision, so
a dry run says exactly what a real one would do. Cost: O(observations).

Caution: confirmations help as far as they are independent: observe new versions, not one of them twice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from raydelt.errors import InputError, SpecError

DAY = 86_400.0


class Scope(StrEnum):
    """What is scored again."""

    NOTHING = "nothing"
    NEW_ROWS = "new rows"
    EVERYTHING = "everything"


@dataclass(frozen=True)
class Observation:
    """What was known at a time (seconds): rows, how many of them have no score, drift (what drifted), error rate.

    `cost` is what scoring everything is thought to cost, in the unit of the budget; `decided` what was decided here,
    and `spent` what that cost. `version` names the scores that were looked at, `judge` the column that told the error.
    """

    time: float
    rows: int
    new_rows: int = 0
    drift: str | None = None
    error: float | None = None
    cost: float | None = None
    decided: Scope = Scope.NOTHING
    spent: float = 0.0
    version: int = 0
    judge: str | None = None

    def __post_init__(self) -> None:
        finite = [self.time, self.spent, *(x for x in (self.error, self.cost) if x is not None)]
        if not all(map(math.isfinite, finite)) or not 0 <= self.new_rows <= self.rows or self.spent < 0:
            raise InputError(f"observation at {self.time}: give finite numbers and 0 <= new rows <= rows")


@dataclass(frozen=True)
class Rules:
    """When what fires; None switches a trigger off."""

    new_share: float | None = 0.01
    new_rows: int | None = None
    every_days: float | None = None
    drift: bool = True
    rise: float | None = 0.02
    confirmations: int = 2
    rest_days: float = 0.0
    budget: float | None = None
    budget_days: float = 30.0

    def __post_init__(self) -> None:
        positive = (self.new_share, self.new_rows, self.every_days, self.rise, self.confirmations, self.budget_days)
        if any(value is not None and value <= 0 for value in positive):
            raise SpecError("monitor.trigger: shares, numbers, days and confirmations must be above 0; null is off")
        if self.rest_days < 0 or (self.budget is not None and self.budget < 0):
            raise SpecError("monitor.trigger: rest_days and budget must be at least 0")


@dataclass(frozen=True)
class Decision:
    """What to score again and why; `fired` are the triggers, and `reason` says too what held it back."""

    scope: Scope
    reason: str
    fired: tuple[str, ...] = ()


def decide(history: Sequence[Observation], rules: Rules | None = None) -> Decision:
    """The decision at the last observation.

    Raises:
        InputError: there is no observation, or one is older than the one before it.
    """
    rules = rules or Rules()
    if not history:
        raise InputError("no observation: there is nothing to decide from")
    for before, after in itertools.pairwise(history):
        if after.time < before.time:
            raise InputError(
                f"an observation of {after.time:.0f} follows one of {before.time:.0f}: was a clock set back?"
            )
    now, past = history[-1], history[:-1]
    new, everything = _amount(now, rules), _whole(history, rules)
    fired = (*everything, *new)
    if not fired:
        waits = rules.drift and now.drift is not None
        return Decision(Scope.NOTHING, "no trigger fires" + ("; a drift waits to be confirmed" if waits else ""))
    told = "; ".join({**everything, **new}.values())
    acted = [own.time for own in past if own.decided is not Scope.NOTHING]
    # A rescore of rest_days ago is old enough; the last bit of a difference of times must not say otherwise.
    if acted and now.time - acted[-1] < rules.rest_days * DAY - 1e-3:
        return Decision(Scope.NOTHING, f"{told}; but the last rescore is not {rules.rest_days:g} days old", fired)
    scope = Scope.EVERYTHING if everything else Scope.NEW_ROWS
    return _afforded(scope, told, fired, history, rules, due=bool(new))


def replay(observed: Iterable[Observation], rules: Rules | None = None) -> list[Observation]:
    """The observations with what would have been decided at each, as if every decision had been carried out."""
    found: list[Observation] = []
    for own in observed:
        own = replace(own, decided=Scope.NOTHING, spent=0.0)
        decision = decide([*found, own], rules)
        found.append(replace(own, decided=decision.scope, spent=cost_of(decision.scope, own) or 0.0))
    return found


def cost_of(scope: Scope, now: Observation) -> float | None:
    """What a scope is thought to cost; None where that of everything is not known."""
    if scope is Scope.NOTHING or now.cost is None:
        return 0.0 if scope is Scope.NOTHING else None
    return now.cost if scope is Scope.EVERYTHING else now.cost * now.new_rows / max(now.rows, 1)


def _amount(now: Observation, rules: Rules) -> dict[str, str]:
    least = [math.inf]
    if rules.new_share is not None:
        least.append(max(1, math.ceil(rules.new_share * now.rows - 1e-9)))
    if rules.new_rows is not None:
        least.append(rules.new_rows)
    if now.new_rows < min(least):
        return {}
    return {"amount": f"{now.new_rows} of {now.rows} rows are new"}


def _whole(history: Sequence[Observation], rules: Rules) -> dict[str, str]:
    """The triggers that ask for everything, with their reasons."""
    now, found = history[-1], {}
    full = [index for index, own in enumerate(history[:-1]) if own.decided is Scope.EVERYTHING]
    since = history[full[-1] + 1 :] if full else history
    start = history[full[-1]] if full else history[0]
    if rules.every_days is not None and now.time - start.time >= rules.every_days * DAY - 1e-3:
        found["time"] = f"everything was scored {(now.time - start.time) / DAY:.1f} days ago"
    last = since[-rules.confirmations :]
    confirmed = len(last) == rules.confirmations
    if rules.drift and confirmed and all(own.drift is not None for own in last):
        found["drift"] = f"drift, {rules.confirmations} times running: {now.drift}"
    # What was observed before judges were told apart has none, and passes for any.
    same = [own for own in since if own.error is not None and own.judge in (now.judge, None)]
    base = same[0].error if same else None
    if rules.rise is not None and confirmed and base is not None:
        errors = [own.error if own in same else None for own in last]
        if all(error is not None and error >= base + rules.rise - 1e-12 for error in errors):
            found["performance"] = f"the error rate rose from {base:.4f} to {now.error:.4f}"
    return found


def _afforded(
    scope: Scope, told: str, fired: tuple[str, ...], history: Sequence[Observation], rules: Rules, *, due: bool
) -> Decision:
    """The widest scope within what is left of the budget."""
    if rules.budget is None:
        return Decision(scope, told, fired)
    now = history[-1]
    spent = math.fsum(own.spent for own in history[:-1] if own.time > now.time - rules.budget_days * DAY)
    left = rules.budget - spent
    for own in (scope, *((Scope.NEW_ROWS,) if scope is Scope.EVERYTHING and due else ())):
        cost = cost_of(own, now)
        if cost is None:
            return Decision(own, f"{told}; the cost is not known, so the budget was not looked at", fired)
        if cost <= left:
            held = "" if own is scope else f"; everything would cost more than the {left:g} left of the budget"
            return Decision(own, told + held, fired)
    return Decision(Scope.NOTHING, f"{told}; but that costs more than the {left:g} left of the budget", fired)
