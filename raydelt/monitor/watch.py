"""A run looked at over its versions: decay, drift, who rests, and whether to score again.

    versions -> medians -> shards: averages, decay, profiles -> drift -> shards: moves -> draw -> weights -> triggers

What is compared with what: `compared.py`. Memory: a shard of about 250,000 examples with all versions of their
utilities (50 versions: 100 MB), the records of values, and whoever was ever on probation. Every shard is read once;
where there are several, again for the moves and for the export.

Caution: a run with one version has no past: what can be said is what its scores look like now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.examples import EXAMPLE_ID, LABEL
from raydelt.monitor import history, ledger, retirement, sources, streams, triggers
from raydelt.monitor.compared import calling, comparisons
from raydelt.monitor.drift import Comparison
from raydelt.monitor.look import Look, label_counts
from raydelt.monitor.retirement import Census, Facts, Rules, Status
from raydelt.monitor.scene import Scene, scene_of
from raydelt.monitor.shard import Shared
from raydelt.monitor.triggers import DAY, Decision, Observation
from raydelt.rundir import RECORD
from raydelt.scorers.protocol import Array
from raydelt.storage import Store, read_manifest

NOT_SCORING = ("corpus", "ordered", "model", "report", "labels", "committee", "protocol")


@dataclass(frozen=True)
class Watched:
    """What was found. `examples` gives tables of the examples' own numbers, shard by shard; `keep` remembers it."""

    version: int
    versions: int
    rows: int
    utility: str
    decay: dict[str, float | int | None]
    comparisons: list[Comparison]
    alarms: list[streams.Alarm] | None
    retirement: dict[str, dict[str, int] | float]
    decision: Decision
    notes: list[str]
    examples: Callable[[], Iterator[pa.Table]] = field(repr=False)
    keep: Callable[[], None] = field(repr=False)


def watch(store: Store, config: RunConfig, *, now: float, against: str | None = None) -> Watched:
    """Look at a run as of `now` (seconds); nothing is written before `keep` is called.

    Raises:
        InputError: there are no scores, or the versions share no component.
        SpecError: a name in the section `monitor` is none of the run's.
    """
    scene = scene_of(store, config)
    look = _look(scene)
    compared = comparisons(scene, look, against)
    drifted = calling(compared)
    past = [own for own in ledger.observations(store) if own.version < scene.latest.number]
    confirmed = drifted is not None and bool(past) and past[-1].drift is not None
    moved, census = _moves(scene, look, confirmed)
    number = scene.latest.number
    after = retirement.states_of([*scene.events, moved, *ledger.undone(store, number)])
    observation = _observation(scene, look, drifted, now)
    decision = triggers.decide([*past, observation], triggers.Rules(**config.monitor.trigger.model_dump()))
    spent = triggers.cost_of(decision.scope, observation) or 0.0
    observation = replace(observation, decided=decision.scope, spent=spent)

    def keep() -> None:
        if scene.kept:
            ledger.decided(store, number, moved)
        ledger.observe(store, past, observation)

    return Watched(
        number,
        len(scene.plan.versions),
        scene.latest.rows,
        scene.plan.utility,
        _decay(look),
        compared,
        _alarms(scene, look),
        _retirement(after, moved, census),
        decision,
        _notes(scene),
        lambda: (_examples(scene.read(shard), after) for shard in scene.shards),
        keep,
    )


def restore(store: Store, ids: list[str]) -> int:
    """Bring resting examples back by hand, as of the latest version; how many there were.

    Raises:
        InputError: an example does not rest, or there is no history.
    """
    found = history.versions(store)
    if not found:
        raise InputError(f"{store.root!r} has no history of scores, so no example of it rests")
    events = retirement.restore(retirement.states_of(ledger.events(store)), ids, found[-1].number)
    ledger.by_hand(store, found[-1].number, events)
    return int(events.num_rows)


def _look(scene: Scene) -> Look:
    looking = scene.looking
    found = looking.zero()
    for shard in scene.shards:
        corpus = sources.corpus(scene.place, shard) if scene.kept else ()
        found = looking.add(found, scene.read(shard), shard, corpus)
    return found


def _moves(scene: Scene, look: Look, confirmed: bool) -> tuple[pa.Table, Census]:
    """The events of the latest version, and how many examples there are."""
    spec, number, seed = scene.config.monitor.retire, scene.latest.number, scene.config.seed
    rules = _rules(scene, look)
    census = Census(scene.latest.rows, look.classes, label_counts(scene.states, Status.RETIRED))
    if not scene.kept:
        return retirement.EVENTS.empty_table(), census
    enough = scene.plan.last == rules.versions
    low, well = _thresholds(look, rules)
    since = look.latest_time - (spec.window_days or np.inf) * DAY if confirmed else -np.inf
    unseen, events, candidates = sources.held_out(scene.place), [], []
    for shard in scene.shards:
        own = scene.read(shard)
        facts = Facts(
            own.ids,
            own.labels,
            np.all(own.ema < low, axis=1) & enough,
            own.doubted,
            own.times < since,
            own.ema[:, -1] >= well,
            np.asarray(pc.is_in(own.ids, value_set=unseen)),
        )
        moved, waiting = retirement.moves(facts, scene.states, number, rules, seed=seed)
        events.append(moved)
        candidates.append(waiting)
    drawn = retirement.draw(pa.concat_tables(candidates), census, number, rules, seed=seed)
    return pa.concat_tables([*events, drawn]).sort_by(EXAMPLE_ID), census


def _rules(scene: Scene, look: Look) -> Rules:
    spec = scene.config.monitor.retire
    unknown = sorted(set(spec.protect) - look.classes.keys() - set(sources.classes_of(scene.place)))
    if unknown:
        known = ", ".join(name for name in look.classes if name) or "no classes"
        raise SpecError(f"monitor.retire.protect: {unknown[0]!r} is no class of this run: it has {known}")
    held = spec.model_dump(exclude={"action", "doubt", "window_days", "protect"})
    return Rules(**held, protect=tuple(spec.protect))


def _thresholds(look: Look, rules: Rules) -> tuple[Array, float]:
    """Averages [m] below which an example is low in each of the last versions, and from which one is well now.

    Retired examples that a version does not score keep their place among the lowest: else those who remain would be
    thinned out by another tenth at every version.
    """
    found: dict[str, list[float]] = {"low": [], "recover": []}
    for values, absent in zip(look.averages, look.absent, strict=True):
        for name, own in found.items():
            share = getattr(rules, name) * (values.total + absent) - absent
            some = share > 0 and values.total > 0
            own.append(float(values.quantiles(np.array([share / values.total]))[0]) if some else -np.inf)
    return np.array(found["low"]), found["recover"][-1]


def _observation(scene: Scene, look: Look, drifted: str | None, now: float) -> Observation:
    corpus, rows, new = read_manifest(scene.place, "corpus"), scene.latest.rows, 0
    if corpus is not None and scene.kept:
        scores = read_manifest(scene.place, "scores")
        bad = scores.facts.get("quarantined", 0) if scores else 0
        rows, new = max(corpus.rows, look.new_rows), max(0, look.new_rows - bad)
    error = look.profiles["all"].error
    cost, latest = _cost(scene.store), scene.latest
    return Observation(now, rows, new, drifted, error, cost, version=latest.number, judge=latest.judge)


def _cost(store: Store) -> float | None:
    """The seconds that scoring took when all was scored, for the first time; None where a stage's are not known."""
    stages = store.read_json(RECORD)["stages"] if store.exists(RECORD) else {}
    known = [own["seconds"] for name, own in stages.items() if name not in NOT_SCORING]
    return None if not known or None in known else float(sum(known))


def _decay(look: Look) -> dict[str, float | int | None]:
    fitted = look.rates.total
    found: dict[str, float | int | None] = {"fitted": fitted, "decaying": look.decaying, "growing": look.growing}
    rates = look.rates.quantiles(np.array([0.1, 0.5, 0.9])) if fitted else [None] * 3
    return found | {f"kappa_{q}": None if r is None else float(r) for q, r in zip((10, 50, 90), rates, strict=True)}


def _alarms(scene: Scene, look: Look) -> list[streams.Alarm] | None:
    """Changes of the error rate in the order of the examples' own times; None where these are not known."""
    if not look.windows:
        return None
    spec = scene.config.monitor.drift
    settings = streams.Settings(spec.stream, window=spec.window_days * DAY, seed=scene.config.seed)
    return streams.alarms_of(streams.WindowSums(settings.window).finish(look.windows), settings)


def _retirement(after: pa.Table, moved: pa.Table, census: Census) -> dict[str, dict[str, int] | float]:
    counts = {status.value: sum(label_counts(after, status).values()) for status in (Status.PROBATION, Status.RETIRED)}
    told: dict[str, int] = {}
    for row in moved.select(["before", "after", "reason"]).to_pylist():
        name = f"{row['before']} -> {row['after']}: {row['reason']}"
        told[name] = told.get(name, 0) + 1
    active = sum(census.classes.values()) - sum(counts.values())
    weights = retirement.weights(after)["weight"]
    return {
        "states": {"active": active} | counts,
        "changes": dict(sorted(told.items())),
        "greatest_weight": max([1.0, *weights.to_pylist()]),
    }


def _notes(scene: Scene) -> list[str]:
    """What could not be said, and why."""
    spec, found = scene.config.monitor, []
    if not scene.kept:
        found.append("no history: these are the current scores, and there is no earlier version to compare with")
    elif len(scene.plan.versions) == 1:
        found.append("one version: decay needs 3, drift 2, retirement " + str(spec.retire.versions))
    if scene.reference is not None:
        before = scene.plan.versions[scene.reference]
        for own, other in ((before, scene.latest), (scene.latest, before)):
            alone = [name for name in own.components if name not in other.components]
            found += [f"only {own.name} has {', '.join(alone)}: not compared"] if alone else []
        if before.judge != scene.latest.judge:
            by = [own.judge or "nothing" for own in (before, scene.latest)]
            found.append(f"errors are told by {by[0]} in {before.name} and by {by[1]} in the latest: not compared")
    if scene.left_out:
        found.append(f"without {scene.plan.utility}, and left out: {', '.join(scene.left_out)}")
    if scene.plan.doubt is None:
        found.append(f"no component {spec.retire.doubt!r}: no label is doubted")
    flat = [own.name for own, median in zip(scene.plan.versions, scene.plan.medians, strict=True) if median <= 0]
    if flat:
        found.append(f"the median of {scene.plan.utility} is 0 in {', '.join(flat)}: left out of decay and averages")
    return found


def _examples(own: Shared, after: pa.Table) -> pa.Table:
    """What is known of each example of a shard: average utility, decay with its interval, state, weight, reason."""
    place = pc.index_in(own.ids, value_set=after[EXAMPLE_ID].combine_chunks())
    drawn = retirement.weights(after)
    weight = drawn["weight"].take(pc.index_in(own.ids, value_set=drawn[EXAMPLE_ID].combine_chunks()))
    state = pc.fill_null(after["after"].take(place), Status.ACTIVE.value)
    rests = pc.equal(state, Status.RETIRED.value)
    numbers = {"utility": own.fit.ema, "kappa": own.fit.kappa, "kappa_se": own.fit.se}
    numbers |= {"kappa_low": own.fit.low, "kappa_high": own.fit.high}
    return pa.table(
        {EXAMPLE_ID: own.ids, LABEL: own.labels, "versions": own.fit.points}
        | {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}
        | {"state": state, "reason": after["reason"].take(place)}
        | {"weight": pc.if_else(rests, 0.0, pc.fill_null(weight, 1.0))}
    )
