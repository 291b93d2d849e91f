"""A round of labelling: look at the labels so far, decide the phase, and choose whom people are asked about next.

    corpus + answers -> phase -> cold: examples nearest to the centres of k-means||
                               -> iterate: committee -> shortlist by utility -> a batch of different ones
                               -> converged: none, unless adversarial validation sees a drift

What happened is kept beside the queue in `rounds.json`, one entry per round; the phase is a fold over these entries,
so nothing else needs to survive. While a batch waits for answers, asking again exports the same batch.

Caution: rounds that are started at the same time may ask for the same examples; the queue keeps each of them once.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.active import queue
from raydelt.active.adversarial import adversarial_validation
from raydelt.active.batch import Candidates, choose
from raydelt.active.centres import k_means_parallel, lloyd, nearest_examples
from raydelt.active.phases import Facts, Phase, Settings, next_phase
from raydelt.active.pool import (
    HIDDEN,
    PROBABILITIES,
    RANDOM,
    Pool,
    load_committee,
    probabilities,
    shortlisted,
    standardised_passes,
)
from raydelt.active.queue import ABSTAINED, LABELLED, QUERIED, LabelQueue
from raydelt.active.stopping import Agreement, Budget, Plateau, Round, Rule, should_stop
from raydelt.active.utilities import UTILITIES, Predictor, custom
from raydelt.config import Label, RunConfig
from raydelt.errors import SpecError
from raydelt.examples import EXAMPLE_ID, FEATURES, column_of, features_of, matrix_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Store, absolute, read_manifest

ROUNDS = "rounds.json"
QUEUE = "labels"
COMPARED = 20_000
SEEN = 5_000
NEEDS_LABELLED = ("k_center", "typical")
CONTENT = ("text", "source_file", "row")


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
    """The labels that people gave, by id; none where the spec has no pool."""
    return queue_of(config).labels() if config.corpus.pool is not None else {}


def history(held: LabelQueue) -> list[Entry]:
    """The rounds so far."""
    return [Entry(**entry) for entry in held.store.read_json(ROUNDS)] if held.store.exists(ROUNDS) else []


@dataclass(frozen=True)
class Stages:
    """What a round reads of a run; `committee` trains one if need be."""

    config: RunConfig
    store: Store
    corpus: Manifest
    committee: Callable[[], Manifest]


def next_batch(run: Stages, *, phase: Phase | None = None) -> Batch:
    """Ask for the next examples, or export again those that wait; `phase` overrides what the rounds say."""
    config, corpus = run.config, run.corpus
    held = queue_of(config, corpus.facts["classes"])
    past, state = history(held), held.state()
    waiting = pa.array([key for key, entry in state.items() if entry.state == QUERIED], pa.string())
    if len(waiting):
        return Batch(past[-1], content_of(run.store, corpus, waiting), waited=True)
    entry, committee = observed(run, past, phase)
    done = pa.array([key for key, own in state.items() if own.state in (QUERIED, LABELLED, ABSTAINED)], pa.string())
    pool = Pool(run.store, tuple(part.file for part in corpus.sides["pool"]), done)
    ids: list[str] = []
    config = config.model_copy(update={"label": within_budget(config.label, corpus.rows)})
    if entry.phase == Phase.COLD or (entry.phase == Phase.ITERATE and committee is None):
        ids = _typical(config, pool, corpus)
    elif entry.phase == Phase.ITERATE and committee is not None:
        ids = _useful(config, pool, corpus, committee)
    now = datetime.datetime.now(datetime.UTC)
    asked = held.query(ids, round=entry.round, time=now)
    entry = Entry(**asdict(entry) | {"asked": len(asked), "time": now.isoformat(timespec="seconds")})
    held.store.write_json(ROUNDS, [asdict(own) for own in [*past, entry]])
    return Batch(entry, content_of(run.store, corpus, pa.array(asked, pa.string())))


def observed(run: Stages, past: Sequence[Entry], override: Phase | None) -> tuple[Entry, Manifest | None]:
    """The entry of this round before anything is asked, and the committee where there are labels for one."""
    config, corpus = run.config, run.corpus
    per_class = np.array(corpus.facts["per_class"], np.int64)
    committee = run.committee() if np.count_nonzero(per_class) >= 2 else None
    known = committee.facts if committee else {}
    round = Round(corpus.rows, known.get("accuracy"), known.get("disagreement"))
    before = Phase(past[-1].phase) if past else Phase.COLD
    rounds = [Round(own.labels, own.accuracy, own.disagreement) for own in _since(past, before)]
    stopping = should_stop([*rounds, round], rules(config.label))
    drift = _drift(run) if before is Phase.CONVERGED else None
    facts = Facts(
        corpus.rows,
        int(np.count_nonzero(per_class >= 2)),
        len(per_class),
        stopping,
        drift["verdict"] if drift else None,
        override,
    )
    phase, reason = next_phase(before, facts, Settings(config.label.start))
    if before is Phase.COLD and phase is Phase.ITERATE:
        # Labels may suffice and be enough in one round.
        phase, reason = next_phase(phase, facts) if stopping else (phase, reason)
    entry = Entry(len(past), phase.value, reason, corpus.rows, 0, round.metric, round.disagreement, drift)
    return entry, committee


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


def _since(past: Sequence[Entry], phase: Phase) -> list[Entry]:
    """The last rounds that were all in this phase: a plateau from before a drift stops nothing."""
    found: list[Entry] = []
    for entry in reversed(past):
        if entry.phase != phase:
            break
        found.insert(0, entry)
    return found


def _typical(config: RunConfig, pool: Pool, corpus: Manifest) -> list[str]:
    """The examples nearest to the centres of as many clusters as a batch has places."""
    passes = standardised_passes(pool, corpus.facts["width"])
    seeds = k_means_parallel(passes, config.label.batch, seed=config.seed)
    return nearest_examples(passes, lloyd(passes, seeds, iterations=20).centres)


def _useful(config: RunConfig, pool: Pool, corpus: Manifest, committee: Manifest) -> list[str]:
    """The most useful examples, and of these different ones."""
    label = config.label
    own = label.utility not in (*UTILITIES, RANDOM)
    size = label.batch * (label.shortlist if label.diversify or own else 1)
    found = shortlisted(pool, label.utility, config.model, corpus, committee, size, seed=config.seed)
    ids = found[EXAMPLE_ID].to_pylist()
    if own:
        rows = _by_users_function(config, pool, corpus, committee, ids)
    elif label.diversify is None:
        rows = np.arange(min(label.batch, len(ids)))
    else:
        h, p = (matrix_of(found, name) for name in (HIDDEN, PROBABILITIES))
        seen = _hidden_of_labelled(config, corpus, committee, pool.run) if label.diversify in NEEDS_LABELLED else None
        candidates = Candidates(np.array(ids, object), h, p, seen)
        rows = choose(label.diversify, candidates, label.batch, seed=config.seed)
    return [ids[row] for row in rows]


def _by_users_function(
    config: RunConfig, pool: Pool, corpus: Manifest, committee: Manifest, ids: Sequence[str]
) -> Array:
    """Rows of the shortlist that the user's own function picks, which looks at their features."""
    members = load_committee(pool.run, config.model, corpus.facts, committee.sides["models"])
    wanted = pa.array(ids, pa.string())
    tables = [pool.part(index, [EXAMPLE_ID, FEATURES]) for index in range(len(pool.files))]
    table = pa.concat_tables([own.filter(pc.is_in(own[EXAMPLE_ID], value_set=wanted)) for own in tables])
    table = table.take(pc.index_in(wanted, value_set=table[EXAMPLE_ID].combine_chunks())).combine_chunks()
    predictor = Predictor(lambda x: probabilities(members, x).mean(axis=0))
    return custom(config.label.utility)(predictor, features_of(table), config.label.batch)


def _hidden_of_labelled(config: RunConfig, corpus: Manifest, committee: Manifest, run: Store) -> Array:
    """Features of the first member [l, h] of labelled examples; of a uniform sample where there are many."""
    first = load_committee(run, config.model, corpus.facts, committee.sides["models"][:1])[0]
    found, left = [], SEEN
    for part in corpus.parts:
        x = features_of(run.read_table(part.file, [FEATURES]))[:left]
        left -= len(x)
        found.append(first.predict(x, features=True))
        if left <= 0:
            break
    return np.concatenate(found)


def _drift(run: Stages) -> dict[str, Any] | None:
    """Whether the pool has come to differ from what was labelled, by adversarial validation; None if too few."""
    corpus = run.corpus
    sides = [corpus.parts, corpus.sides["pool"]]
    calls = [(run.store, [part.file for part in parts]) for parts in sides]
    (a, a_keys), (b, b_keys) = cluster.parallel(_compared, calls, label="label: compared")
    if min(len(a), len(b)) < 10:
        return None
    found = adversarial_validation(a, b, a_keys, b_keys, seed=run.config.seed)
    told = {name: getattr(found, name) for name in ("auc", "low", "high", "p_value", "verdict", "ess")}
    return told | {"features": found.features}


def _compared(run: Store, files: Sequence[str]) -> tuple[Array, Array]:
    """Features and keys of the first examples of these parts, which are a uniform sample."""
    tables, left = [], COMPARED
    for file in files:
        tables.append(run.read_table(file, [FEATURES, "group_key"]).slice(0, left))
        left -= tables[-1].num_rows
        if left <= 0:
            break
    x = np.concatenate([features_of(table) for table in tables])
    return x, np.concatenate([column_of(table, "group_key") for table in tables]).astype(np.uint64)


def content_of(run: Store, corpus: Manifest, ids: pa.Array) -> pa.Table:
    """What people need to see of these examples: the text where there is one, else where it came from."""
    tables = []
    for part in corpus.sides.get("pool", []):
        table = run.read_table(part.file)
        table = table.select([EXAMPLE_ID, *(name for name in CONTENT if name in table.column_names)])
        tables.append(table.filter(pc.is_in(table[EXAMPLE_ID], value_set=ids)))
    found = pa.concat_tables(tables)
    return found.take(pc.drop_null(pc.index_in(ids, value_set=found[EXAMPLE_ID].combine_chunks())))


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


def absorb(config: RunConfig, file: str, *, annotator: str, overwrite: bool) -> dict[str, Any]:
    """Read labels back into the queue; counts, and what was put aside.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    manifest = read_manifest(Store(absolute(config.output)), "corpus")
    classes = config.corpus.classes or (manifest.facts["classes"] if manifest else None)
    now = datetime.datetime.now(datetime.UTC)
    found = queue_of(config, classes).absorb(file, annotator=annotator, time=now, overwrite=overwrite)
    counts = {name: getattr(found, name) for name in ("labelled", "abstained", "overwritten", "repeated")}
    return counts | {"quarantined": found.quarantined.to_pylist()}


def expire(config: RunConfig, days: float) -> list[str]:
    """Give up on what was asked for more than so many days ago."""
    now = datetime.datetime.now(datetime.UTC)
    return queue_of(config).expire(now - datetime.timedelta(days=days), time=now)


def status_of(config: RunConfig) -> dict[str, Any]:
    """Where labelling stands: counts by state, the rounds, the phase."""
    held = queue_of(config)
    states = [entry.state for entry in held.state().values()]
    past = history(held)
    return {
        "phase": past[-1].phase if past else Phase.COLD.value,
        "reason": past[-1].reason if past else "nothing was asked yet",
        "queue": {state: states.count(state) for state in (QUERIED, LABELLED, ABSTAINED, queue.EXPIRED)},
        "rounds": [asdict(entry) for entry in past],
    }
