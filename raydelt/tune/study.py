"""Which point is tried next, and when a trial is given up: pure functions of the trials before it.

Trial 0 is the spec as it is. The others come in generations of `at_once` trials. Optuna's tree-structured Parzen
estimator proposes a generation from the finished trials of the earlier ones, each trial with a random state seeded by
its own number; pruners compare with the same trials. So a search that is killed and resumed takes the same trials as
one that was not, however long each of them took.

What a pruner sees of a trial after s seeds is its mean over these seeds (median), or the value of each (Wilcoxon);
seeds are shared by all trials, so either way like is compared with like. Cost: O(trials) per proposal.

Caution: within a generation trials do not know of each other's results; large generations search less well.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from raydelt.config import Tune
from raydelt.examples import derived_seed
from raydelt.tune.space import Space, tidy

State = Literal["complete", "pruned", "failed"]
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


@dataclass(frozen=True)
class Trial:
    """A finished trial: its point, the objective (lower is better) after each seed, and what became of it."""

    number: int
    point: dict[str, Any]
    state: State
    values: list[float]
    rows: int
    seconds: float
    reason: str = ""

    @property
    def value(self) -> float:
        """The mean of the objective over the seeds."""
        return sum(self.values) / len(self.values) if self.values else math.nan


def generation_of(number: int, at_once: int) -> range:
    """The numbers of the trials that are proposed together with this one."""
    if number == 0:
        return range(1)
    first = 1 + (number - 1) // at_once * at_once
    return range(first, first + at_once)


def proposals(space: Space, tune: Tune, finished: Sequence[Trial], generation: range) -> list[dict[str, Any]]:
    """The points of a generation; `finished` may hold trials of it or of later ones, which do not count."""
    if generation.start == 0:
        return [dict(space.own)]
    earlier = [trial for trial in finished if trial.number < generation.start]
    study = _study(space, tune, earlier)
    found = []
    for number in generation:
        study.sampler = TPESampler(seed=derived_seed(tune.sampler_seed, "tune", number) % 2**32)
        found.append(tidy(space, study.ask(space.axes).params) | space.fixed)
    return found


def gives_up(space: Space, tune: Tune, finished: Sequence[Trial], number: int, values: Sequence[float]) -> bool:
    """Whether a trial with these values [s] of its first seeds is not worth the others."""
    if number == 0:
        return False
    first = generation_of(number, tune.at_once).start
    study = _study(space, tune, [trial for trial in finished if trial.number < first])
    seen = _seen(tune, values)
    if tune.pruner.kind == "median":
        # The pruner takes the best of all steps, and a mean over other seeds is no match for this one.
        seen = {len(values) - 1: seen[len(values) - 1]}
    running = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=seen)
    return bool(study.pruner.prune(study, running))


def best_of(finished: Sequence[Trial]) -> Trial:
    """The complete trial of the lowest objective, the earliest of equals; the spec itself is one."""
    return min((trial for trial in finished if trial.state == "complete"), key=lambda t: (t.value, t.number))


def _study(space: Space, tune: Tune, trials: Sequence[Trial]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", pruner=_pruner(tune))
    for trial in sorted(trials, key=lambda trial: trial.number):
        held = _frozen(space, tune, trial)
        if held is not None:
            study.add_trial(held)
    return study


def _pruner(tune: Tune) -> BasePruner:
    spec = tune.pruner
    if spec.kind == "median":
        return MedianPruner(n_startup_trials=spec.start_trials)
    if spec.kind == "none":
        return NopPruner()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return WilcoxonPruner(p_threshold=spec.p)


def _frozen(space: Space, tune: Tune, trial: Trial) -> FrozenTrial | None:
    """A trial as Optuna holds it; None of a failed one."""
    if trial.state == "failed":
        return None
    own: dict[str, Any] = {"params": {name: trial.point[name] for name in space.axes}, "distributions": space.axes}
    held: dict[str, Any] = {"state": STATES[trial.state], "intermediate_values": _seen(tune, trial.values)}
    value = trial.value if trial.state == "complete" else None
    try:
        return optuna.trial.create_trial(value=value, **own, **held)
    except ValueError:
        if trial.number > 0:
            raise
        # The spec itself may lie outside of the space, and still is what pruners compare with.
        return optuna.trial.create_trial(value=value, **held)


def _seen(tune: Tune, values: Sequence[float]) -> dict[int, float]:
    """What a pruner sees after each seed."""
    if tune.pruner.kind == "wilcoxon":
        return dict(enumerate(values))
    return {index: sum(values[: index + 1]) / (index + 1) for index in range(len(values))}
