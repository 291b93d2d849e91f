"""A round of labelling: look at the labels so far, decide the phase, and choose whom people are asked about next.

    corpus + answers -> phase -> cold: typical examples
                               -> iterate: useful ones that differ
                               -> converged: none, unless adversarial validation sees a drift

What happened is kept beside the queue in `rounds.json`, one entry per round; the phase is a fold over these entries,
so nothing else needs to survive. A round is written down before its examples are queued, and is forgotten again if
they never were: it may be killed anywhere. While a batch waits for answers, asking again exports the same batch.

Caution: rounds that are started at the same time ask for the same examples; the queue keeps each of them once.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt.active import queue
from raydelt.active.choice import content_of, typical, useful
from raydelt.active.drift import pool_drift
from raydelt.active.phases import Facts, Phase, Settings, next_phase
from raydelt.active.pool import Pool
from raydelt.active.queue import ABSTAINED, LABELLED, QUERIED, LabelQueue
from raydelt.active.stopping import Agreement, Budget, Plateau, Round, Rule, should_stop
from raydelt.active.utilities import NAMES, custom
from raydelt.config import Label, RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.storage import Manifest, Store, absolute, read_manifest

ROUNDS = "rounds.json"
QUEUE = "labels"
EXHAUSTED = "the pool is exhausted: people were asked about all of it"


@dataclass(frozen=True)
class Entry:
    """One round: where it began, why, what was known, and how many examples it asked for."""

    round: int
    phase: str
    reason: str
    labels: int
    asked: int = 0
    accuracy: float | None = None
    disagreement: float | None = None
    adversarial: dict[str, Any] | None = None
    time: str = ""


@dataclass(frozen=True)
class Batch:
    """What a round asks for: its entry, the rows to show to people, and whether they waited already."""

    entry: Entry
    rows: pa.Table
    waited: bool = field(default=False)


@dataclass(frozen=True)
class Stages:
    """What a round reads of a run; `committee` trains one if need be."""

    config: RunConfig
    store: Store
    corpus: Manifest
    committee: Callable[[], Manifest]


def check(config: RunConfig) -> None:
    """Refuse what no round could do, before anything is read.

    Raises:
        SpecError: the spec has no pool or no classifier, or its query function cannot be loaded.
    """
    queue_of(config)
    if config.model.kind == "causal_lm":
        raise SpecError("labelling trains a committee of classifiers, and model.kind is causal_lm: set another model")
    if config.label.utility not in NAMES:
        custom(config.label.utility)


def queue_of(config: RunConfig, classes: Sequence[str] | None = None) -> LabelQueue:
    """The label queue of a spec.

    Raises:
        SpecError: the spec has no pool.
    """
    if config.corpus.pool is None:
        raise SpecError("labelling needs a pool of unlabelled examples: set corpus.pool")
    place = config.label.queue or config.output.rstrip("/") + f"/{QUEUE}"
    return LabelQueue(Store(absolute(place)), tuple(classes) if classes else None)


def answers(config: RunConfig) -> dict[str, str]:
    """The labels that people gave, by id; none where the spec has no pool.

    Raises:
        InputError: a label is none of the classes that the spec lists.
    """
    if config.corpus.pool is None:
        return {}
    found, classes = queue_of(config).labels(), config.corpus.classes
    for example_id, label in found.items():
        if classes is not None and label not in classes:
            raise InputError(
                f"example {example_id!r} has the label {label!r}, which is none of corpus.classes: add that class, or "
                "absorb another label with --overwrite"
            )
    return found


def history(held: LabelQueue) -> list[Entry]:
    """The rounds so far; the last one counts once its examples are in the queue.

    Raises:
        InputError: they cannot be read.
    """
    if not held.has(ROUNDS):
        return []
    try:
        found = [Entry(**entry) for entry in held.store.read_json(ROUNDS)]
    except TypeError as error:
        raise InputError(f"{held.store.path(ROUNDS)} lists no rounds ({error}): restore it or move it away") from error
    if found and found[-1].asked and found[-1].round not in {own.round for own in held.state().values()}:
        found.pop()
    return found


def next_batch(run: Stages, *, phase: Phase | None = None) -> Batch:
    """Ask for the next examples, or export again those that wait; `phase` overrides what the rounds say."""
    check(run.config)
    config, corpus = run.config, run.corpus
    held = queue_of(config, corpus.facts["classes"])
    before = _waiting(run, held)
    if before is not None:
        return before
    past, pool = history(held), _pool(run, held)
    left = pool.rows()
    entry, committee = observed(run, past, phase, left)
    config = config.model_copy(update={"label": within_budget(config.label, corpus.rows)})
    ids: list[str] = []
    if left and (entry.phase == Phase.COLD or (entry.phase == Phase.ITERATE and committee is None)):
        ids = typical(config, pool, corpus)
    elif left and entry.phase == Phase.ITERATE and committee is not None:
        ids = useful(config, pool, corpus, committee)
    # Somebody else's round may have asked while this one was at work.
    return _waiting(run, held) or _asked(run, held, [*past, entry], ids)


def observed(run: Stages, past: Sequence[Entry], override: Phase | None, left: int) -> tuple[Entry, Manifest | None]:
    """The entry of this round before anything is asked, and the committee where there are labels for one; `left` of
    the pool may still be asked about."""
    config, corpus = run.config, run.corpus
    per_class = np.array(corpus.facts["per_class"], np.int64)
    committee = run.committee() if np.count_nonzero(per_class) >= 2 else None
    known = committee.facts if committee else {}
    round = Round(corpus.rows, known.get("accuracy"), known.get("disagreement"))
    before = Phase(past[-1].phase) if past else Phase.COLD
    stopping = should_stop(rounds_of(past, before, round), rules(config.label))
    drift = pool_drift(run.store, corpus, seed=config.seed) if before is Phase.CONVERGED else None
    facts = Facts(
        corpus.rows,
        int(np.count_nonzero(per_class >= 2)),
        len(per_class),
        stopping if left else EXHAUSTED,
        drift["verdict"] if drift else None,
        override,
    )
    phase, reason = next_phase(before, facts, Settings(config.label.start))
    if not left and phase is not Phase.CONVERGED:
        reason += f", but {EXHAUSTED}"
    entry = Entry(len(past), phase.value, reason, corpus.rows, 0, round.metric, round.disagreement, drift)
    return entry, committee


def rounds_of(past: Sequence[Entry], phase: Phase, now: Round) -> list[Round]:
    """The last rounds that were all in this phase, and this one: a plateau from before a drift stops nothing. Of
    rounds with the same labels the last counts alone, since a round that brought none says nothing of their worth."""
    own = itertools.takewhile(lambda entry: entry.phase == phase, reversed(past))
    rounds = [*(Round(entry.labels, entry.accuracy, entry.disagreement) for entry in own)][::-1]
    return [last for last, after in itertools.pairwise([*rounds, now]) if last.labels != after.labels] + [now]


def within_budget(label: Label, labels: int) -> Label:
    """The settings with a batch that does not go beyond the budget."""
    left = label.batch if label.stop.budget is None else max(1, label.stop.budget - labels)
    return label.model_copy(update={"batch": min(label.batch, left)})


def rules(label: Label) -> list[Rule]:
    """The stopping rules of a spec."""
    stop, found = label.stop, list[Rule]()
    if stop.budget is not None:
        found.append(Budget(stop.budget))
    if stop.agreement is not None:
        found.append(Agreement(stop.agreement))
    return [*found, Plateau(stop.plateau_rounds, stop.plateau_slope)]


def _waiting(run: Stages, held: LabelQueue) -> Batch | None:
    """What people were asked for and have not answered, as far as it is in the pool still; None where nothing is."""
    ids = pa.array([key for key, entry in held.state().items() if entry.state == QUERIED], pa.string())
    rows = content_of(run.store, run.corpus, ids)
    if not rows.num_rows:
        return None
    past = history(held) or [Entry(0, Phase.COLD.value, "asked for before", run.corpus.rows, len(ids))]
    return Batch(past[-1], rows, waited=True)


def _pool(run: Stages, held: LabelQueue) -> Pool:
    """What people may still be asked about."""
    done = [key for key, own in held.state().items() if own.state in (QUERIED, LABELLED, ABSTAINED)]
    files = tuple(part.file for part in run.corpus.sides.get("pool", []))
    return Pool(run.store, files, pa.array(done, pa.string()))


def _asked(run: Stages, held: LabelQueue, rounds: list[Entry], ids: Sequence[str]) -> Batch:
    """Write the last of these rounds down, and queue its examples."""
    now = datetime.datetime.now(datetime.UTC)
    entry = Entry(**asdict(rounds[-1]) | {"asked": len(ids), "time": now.isoformat(timespec="seconds")})
    held.keep(ROUNDS, [asdict(own) for own in [*rounds[:-1], entry]])
    held.query(ids, round=entry.round, time=now)
    return Batch(entry, content_of(run.store, run.corpus, pa.array(ids, pa.string())))


def phase_named(name: str | None) -> Phase | None:
    """A phase by its name.

    Raises:
        SpecError: there is no such phase.
    """
    if name is None:
        return None
    if name not in {phase.value for phase in Phase}:
        raise SpecError(f"--phase {name!r} is no phase: there are {', '.join(phase.value for phase in Phase)}")
    return Phase(name)


def absorb(
    config: RunConfig, file: str, *, annotator: str, overwrite: bool = False, abstain: bool = False
) -> dict[str, Any]:
    """Read labels back into the queue; counts, and what was put aside.

    Raises:
        InputError: the file cannot be read, lacks a column, or holds no label where `abstain` does not allow it.
    """
    manifest = read_manifest(Store(absolute(config.output)), "corpus") if config.corpus.classes is None else None
    held = queue_of(config, config.corpus.classes or (manifest.facts["classes"] if manifest else None))
    now = datetime.datetime.now(datetime.UTC)
    found = held.absorb(file, annotator=annotator, time=now, overwrite=overwrite, abstain=abstain)
    counts = {name: getattr(found, name) for name in ("labelled", "abstained", "overwritten", "repeated")}
    return counts | {"quarantined": found.quarantined.to_pylist(), "quarantine": found.file}


def expire(config: RunConfig, days: float) -> list[str]:
    """Give up on what was asked for more than so many days ago.

    Raises:
        SpecError: there is no such day.
    """
    now = datetime.datetime.now(datetime.UTC)
    try:
        before = now - datetime.timedelta(days=days)
    except (OverflowError, ValueError) as error:
        raise SpecError(f"--days {days:g} is before all time: give a number such as 14") from error
    return queue_of(config).expire(before, time=now)


def status_of(config: RunConfig) -> dict[str, Any]:
    """Where labelling stands: counts by state, the rounds, the phase."""
    held = queue_of(config)
    states, twice = [entry.state for entry in held.state().values()], held.contradicted()
    past = history(held)
    counts = {state: states.count(state) for state in (QUERIED, LABELLED, ABSTAINED, queue.EXPIRED)}
    return {
        "phase": past[-1].phase if past else Phase.COLD.value,
        "reason": past[-1].reason if past else "nothing was asked yet",
        "queue": counts | ({"contradicted": len(twice)} if twice else {}),
        "contradicted": twice,
        "rounds": [asdict(entry) for entry in past],
    }
