"""The search, its trials one after another (or generation after generation), and the comparison at its end.

Every trial is put into the run's store when it is done, in a folder that carries a fingerprint of all that determines
it: corpus, scores, sections of the spec, space, budget. A search that is killed goes on with the trial that it was in;
one whose space has changed starts anew beside the old trials, which stay. Cost: a trial is one ranking, selection and
order of the corpus and up to `seeds` trainings.

Caution: `seconds` bounds the trials, and not the scoring before them nor the comparison after them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raydelt import __version__, cluster, pipeline, precheck
from raydelt.config import HeldOut, RunConfig
from raydelt.errors import InputError, RaydeltError, SpecError
from raydelt.examples import derived_seed
from raydelt.storage import Store, fingerprint
from raydelt.train.loop import Work
from raydelt.tune.final import final_seeds, judged
from raydelt.tune.objective import FOLDER, Scored, launched, objective, prepared, scored_anew
from raydelt.tune.space import Point, Space, candidate, fragment, overrides, space_of
from raydelt.tune.study import State, Trial, best_of, generation_of, gives_up, proposals
from raydelt.tune.telling import BEST, RESULT, best_file, metric_of, trial_line

log = logging.getLogger(__name__)


def tune(config: RunConfig) -> dict[str, Any]:
    """Search, compare, publish `tune/best.yaml` and `tune/result.json`; the latter as plain data.

    Raises:
        RaydeltError: a wrong spec or input, told in one sentence.
    """
    space = space_of(config)
    check(config)
    held: list[dict[str, Any]] = []
    pipeline.execute(config, until="scores", then=lambda run: held.append(_searched(config, space, run)))
    return held[0]


def check(config: RunConfig) -> None:
    """Refuse before anything is read a search that this spec could not give."""
    precheck.check(config, ("selection", "model"))
    if config.corpus.validation == HeldOut():
        raise SpecError(
            "tuning looks at the validation split: set corpus.validation.fraction or corpus.validation.source"
        )
    if config.rank.refine is not None:
        raise SpecError("rank.refine scores again near one cut, and tuning moves the cut: drop rank.refine to tune")
    if config.select.plan is not None:
        raise SpecError("select.plan is about one ranking, and tuning changes it: drop select.plan to tune")
    if config.tune.metric == "error" and config.model.kind == "causal_lm":
        raise SpecError("tune.metric error counts wrong classes, and model.kind is causal_lm: take loss")
    if len(final_seeds(config)) < 2:
        raise SpecError("train.seeds has one seed, and noise shows between seeds: set tune.final_seeds to two or more")
    if config.train.parallel == "fsdp":
        raise SpecError("a trial trains on one worker, and train.parallel is fsdp: set it to ddp to tune")


@dataclass(frozen=True)
class Begun:
    """A trial that has no values yet, and references to what they will be."""

    trial: Trial
    references: list[Any]


@dataclass
class Search:
    """A search in a run directory: what is scored, and what the spec itself trains on."""

    config: RunConfig
    space: Space
    own: Scored
    default: Work
    folder: str
    by_folds: dict[int, Scored] = field(default_factory=dict)
    finished: dict[int, Trial] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return self.own.store

    @property
    def full_steps(self) -> int:
        return self.config.train.recipe.total_steps(self.default.replicates[0].order.rows)

    @property
    def steps(self) -> int:
        """Steps of a trial's training."""
        return self.config.tune.steps or math.ceil(self.config.tune.share * self.full_steps)

    @property
    def metric(self) -> str:
        return metric_of(self.config)

    def scored(self, folds: int) -> Scored:
        """The scores by a number of folds."""
        if folds == self.config.rank.folds:
            return self.own
        if folds not in self.by_folds:
            self.by_folds[folds] = scored_anew(self.config, folds)
        return self.by_folds[folds]

    def prepared(self, point: Point, folder: str) -> Work:
        """What a point trains on."""
        return prepared(candidate(self.config, point), self.scored(point.get("folds", self.config.rank.folds)), folder)

    def keep(self, trial: Trial) -> None:
        self.finished[trial.number] = trial
        self.store.write_json(f"{self.folder}/trials/{trial.number:05d}.json", asdict(trial))
        log.info("%s", trial_line(trial, self.config, list(self.finished.values())))


def _searched(config: RunConfig, space: Space, run: pipeline.Run) -> dict[str, Any]:
    own = Scored.of(run)
    if not any(part.rows for part in own.corpus.sides.get("validation", [])):
        raise InputError("corpus.validation leaves no example that can be used, and tuning looks at it: raise it")
    default = prepared(config, own, f"{FOLDER}/default")
    search = Search(config, space, own, default, f"{FOLDER}/study-{_identity(config, space, own)[:10]}")
    _take_up(search)
    stopped = _run_trials(search)
    return _concluded(search, stopped)


def _identity(config: RunConfig, space: Space, own: Scored) -> str:
    """Identifies all that the trials depend on."""
    c = config.resolved()
    sides = [part.digest for kind in ("validation", "test") for part in own.corpus.sides.get(kind, [])]
    sections = [c["model"], c["rank"], c["select"], c["order"], config.train.lasting()]
    return fingerprint([__version__, own.scores.fingerprint, sides, sections, config.tune.lasting(), space.told()])


def _take_up(search: Search) -> None:
    """Read the trials that are done; say so where a search of another space stands beside it."""
    store = search.store
    trials = store.at(f"{search.folder}/trials")
    for name in (name for name in trials.names() if name.endswith(".json")):
        trial = Trial(**trials.read_json(name))
        search.finished[trial.number] = trial
    others = [name for name in store.at(FOLDER).names() if name.startswith("study-")]
    others = [name for name in others if f"{FOLDER}/{name}" != search.folder]
    if search.finished:
        log.info("tuning goes on after %d trials", len(search.finished))
    elif others:
        log.info(
            "the space, the budget or the scores differ from those of the search in %s/%s: tuning starts anew, and "
            "the trials there stay",
            FOLDER,
            others[-1],
        )
    store.write_json(
        f"{search.folder}/study.json", {"space": search.space.told(), "tune": search.config.tune.lasting()}
    )


def _run_trials(search: Search) -> str:
    """Run what is missing; why it ended."""
    tune, number = search.config.tune, 0
    while number < tune.trials:
        generation = generation_of(number, tune.at_once)
        missing = [n for n in generation if n not in search.finished and n < tune.trials]
        number = generation.stop
        if not missing:
            continue
        spent = sum(trial.seconds for trial in search.finished.values())
        if tune.seconds is not None and spent >= tune.seconds and missing != [0]:
            return "seconds"
        points = dict(zip(generation, proposals(search.space, tune, _trials(search), generation), strict=True))
        _run_generation(search, {n: points[n] for n in missing})
    return "trials"


def _run_generation(search: Search, points: dict[int, dict[str, Any]]) -> None:
    """Prepare and launch all trials of a generation, then take their seeds in order."""
    since = time.perf_counter()
    begun = {number: _begun(search, number, point) for number, point in points.items()}
    for number, started in begun.items():
        trial = started if isinstance(started, Trial) else _ended(search, started)
        if trial.state == "failed" and number == 0:
            raise InputError(f"the spec itself cannot be trained as a trial: {trial.reason}")
        now = time.perf_counter()
        search.keep(replace(trial, number=number, seconds=now - since))
        since = now
        for scored in (search.own, *search.by_folds.values()):
            scored.store.delete(_place(number))


def _begun(search: Search, number: int, point: dict[str, Any]) -> Trial | Begun:
    """A trial whose trainings are launched; at once what became of it where that is known already."""
    known = next((trial for trial in _trials(search) if trial.point == point), None)
    if known is not None:
        return known
    try:
        work = search.default if number == 0 else search.prepared(point, _place(number))
    except RaydeltError as error:
        return Trial(number, point, "failed", [], 0, 0.0, str(error))
    seeds = [derived_seed(search.config.seed, "tune", index) for index in range(search.config.tune.seeds)]
    files, steps = work.validation_files, search.steps
    references = [launched(work, i, seed, steps, files) for i, seed in enumerate(seeds)]
    return Begun(Trial(number, point, "complete", [], work.replicates[0].order.rows, 0.0), references)


def _ended(search: Search, begun: Begun) -> Trial:
    """A trial after all its seeds, or after those that it took to give it up."""
    trial, tune, values = begun.trial, search.config.tune, list[float]()
    state: State = "complete"
    reason = ""
    for reference in begun.references:
        try:
            values.append(_finite(objective(cluster.fetched([reference])[0], search.metric), search.metric))
        except RaydeltError as error:
            state, reason = "failed", str(error)
            break
        if len(values) < tune.seeds and gives_up(search.space, tune, _trials(search), trial.number, values):
            state = "pruned"
            break
    cluster.cancelled(begun.references[len(values) :])
    return replace(trial, values=values, state=state, reason=reason)


def _place(number: int) -> str:
    return f"{FOLDER}/trial-{number:05d}"


def _finite(value: float, metric: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"the validation {metric} is {value:g}: lower train.recipe.lr")
    return value


def _trials(search: Search) -> list[Trial]:
    return [search.finished[number] for number in sorted(search.finished)]


def _concluded(search: Search, stopped: str) -> dict[str, Any]:
    """Compare the winner with the spec, and publish what was found."""
    trials = [trial for trial in _trials(search) if trial.number < search.config.tune.trials]
    best, default = best_of(trials), trials[0]
    sections = fragment(search.config, best.point) if best.number else {}
    found = {
        "study": search.folder,
        "stopped": stopped,
        "metric": search.metric,
        "trials": {"total": len(trials)} | {s: _count(trials, s) for s in ("complete", "pruned", "failed")},
        "steps": search.steps,
        "full_steps": search.full_steps,
        "seconds": sum(trial.seconds for trial in trials),
        "default": asdict(default) | {"value": default.value},
        "best": asdict(best) | {"value": best.value},
        "failures": sorted({trial.reason for trial in trials if trial.reason}),
        "sections": sections,
        "overrides": overrides(sections),
        "verdict": _verdict(search, best) if best.number else None,
    }
    search.store.write_json(f"{FOLDER}/{RESULT}", found)
    search.store.write_bytes(f"{FOLDER}/{BEST}", best_file(found).encode())
    return found


def _count(trials: Sequence[Trial], state: str) -> int:
    return sum(trial.state == state for trial in trials)


def _verdict(search: Search, best: Trial) -> dict[str, Any]:
    """What the test split says of the winner."""
    winner = search.prepared(best.point, f"{FOLDER}/winner")
    return judged(search.config, search.store, search.default, winner, steps=search.full_steps)
