"""Which examples rest, and which come back: soft, versioned, reversible, with reasons.

    ACTIVE    -> PROBATION   utility in the lowest tenth 3 versions running; or label doubted twice; or out of window
    PROBATION -> ACTIVE      utility above the lowest fifth again, and no doubt
    PROBATION -> RETIRED     a version later: still low, and drawn; or still doubted or out of window
    RETIRED   -> ACTIVE      probed again (2 % of the retired a version, by hash), and above that fifth; or protected

The draw: of the K low candidates of a class in one version, at most R = floor(ratio K) retire, those of the lowest
hashes, so that chance and not utility tells the retired from the spared. The K - R spared then stand for all K, with
the weight

    K / (K - R now retired)        1 for everybody outside a draw; the weights of a draw always sum to K

which keeps sums over the corpus (gradients) unbiased over draws, as the rescaling of InfoBatch does (Qin et al. 2024).
No draw touches what an earlier one left while any of it rests. Doubted labels and examples out of window are not
wanted in those sums, so they retire without a draw, and nobody stands for them. At most 5 % of a version's examples
retire in it; a class keeps at least half of its examples; classes that are named or rare, and held-out examples, never
retire.

What happened is kept as events; states are a fold over them, and a version's events are a pure function of the states
before it and of its facts, whatever the order of the rows. Cost: O(n) per version; memory: whoever ever moved.

Caution: unbiased is the sum over a draw, over all ways in which it could have fallen; not the model trained on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.errors import InputError, SpecError
from raydelt.examples import EXAMPLE_ID, LABEL, column_of, draw_keys, mix, uniform
from raydelt.scorers.protocol import Array


class Status(StrEnum):
    """Where an example stands; whoever has no event is active."""

    ACTIVE = "active"
    PROBATION = "probation"
    RETIRED = "retired"


EVENTS = pa.schema(
    [
        ("version", pa.int64()),
        (EXAMPLE_ID, pa.string()),
        (LABEL, pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("reason", pa.string()),
        ("draw", pa.int64()),
    ]
)
STATES = pa.schema([(EVENTS.field(name)) for name in (EXAMPLE_ID, LABEL, "version", "after", "reason", "draw")])
CANDIDATES = pa.schema([(EXAMPLE_ID, pa.string()), (LABEL, pa.string()), ("unwanted", pa.bool_())])
DOUBTED, EXPIRED = "label doubted", "out of window after a drift"


@dataclass(frozen=True)
class Rules:
    """Levels are shares of a version's examples, by utility; `share` and `probe` are shares per version."""

    low: float = 0.1
    versions: int = 3
    recover: float = 0.2
    doubts: int = 2
    share: float = 0.05
    ratio: float = 0.5
    probe: float = 0.02
    class_quota: float = 0.5
    rare_below: int = 20
    protect: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("low", "recover", "share", "ratio", "probe", "class_quota")}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise SpecError(f"monitor.retire.{name} {value:g} is a share: give 0 to 1")
        if self.low > self.recover or self.ratio == 1 or self.versions < 1 or self.doubts < 1 or self.rare_below < 0:
            raise SpecError(
                "monitor.retire needs low <= recover, ratio below 1, versions and doubts of at least 1, and "
                "rare_below of at least 0"
            )


@dataclass(frozen=True)
class Facts:
    """What a version says of examples [n]: ids, labels (null where unknown), and of each whether it was

    `low` in all of the last versions, `doubted` in all of the last ones, `expired`, `recovered` in this version, and
    `held_out`. Examples that this version lacks are neither low, doubted nor recovered.
    """

    ids: pa.Array
    labels: pa.Array
    low: Array
    doubted: Array
    expired: Array
    recovered: Array
    held_out: Array


@dataclass(frozen=True)
class Census:
    """How many examples there are in a version, and of every class how many exist and how many rest already."""

    present: int
    classes: Mapping[str, int]
    retired: Mapping[str, int]


def states_of(events: Iterable[pa.Table], *, before: int | None = None) -> pa.Table:
    """The last event of every example that has any, by id; only those of versions before `before`.

    Events of one example and version follow each other as given: what was done by hand after what was decided.

    Raises:
        InputError: an event does not begin where the one before it ended.
    """
    tables = [table.select(EVENTS.names).cast(EVENTS) for table in events]
    table = pa.concat_tables([EVENTS.empty_table(), *tables])
    if before is not None:
        table = table.filter(pc.less(table["version"], before))
    table = table.append_column("place", pa.array(np.arange(table.num_rows)))
    keys = [(name, "ascending") for name in (EXAMPLE_ID, "version", "place")]
    table = table.take(pc.sort_indices(table, keys))
    ids, begins, ends = (column_of(table, name) for name in (EXAMPLE_ID, "before", "after"))
    same = ids[1:] == ids[:-1]
    earlier = np.where(np.append([False], same), np.append([""], ends[:-1]), Status.ACTIVE.value)[: len(ids)]
    broken = np.flatnonzero(earlier != begins)
    if len(broken):
        raise InputError(
            f"retirement: an event of {ids[broken[0]]!r} begins {begins[broken[0]]} where the one before it ended "
            f"{earlier[broken[0]]}: delete the events of that version and of later ones"
        )
    last = np.append(~same, True)[: len(ids)]
    return table.filter(pa.array(last)).select(STATES.names)


def moves(facts: Facts, states: pa.Table, version: int, rules: Rules, *, seed: int) -> tuple[pa.Table, pa.Table]:
    """The events of a version that need no draw, and the candidates for it; `states` are those before the version."""
    place = pc.index_in(facts.ids, value_set=states[EXAMPLE_ID].combine_chunks())
    place = np.asarray(pc.fill_null(place, -1).to_numpy(zero_copy_only=False), np.int64)
    status = np.append(column_of(states, "after").astype(object), Status.ACTIVE.value)[place]
    since = np.append(column_of(states, "reason").astype(object), "")[place]
    bound = np.append(_draw_of(states, resting_draws(states)), False)[place]
    protected = np.isin(facts.labels.to_numpy(zero_copy_only=False).astype(object), list(rules.protect))
    protected |= facts.held_out
    unwanted = facts.doubted | facts.expired
    well = facts.recovered & ~unwanted
    reason = np.select([facts.expired, facts.doubted, facts.low], [EXPIRED, DOUBTED, _low(rules)], "").astype(object)
    active, probation, retired = (status == s.value for s in Status)
    leave = probation & (well | protected)
    back = retired & ((probes(facts.ids, version, rules, seed=seed) & well) | protected)
    told = np.where(protected, "protected", np.where(retired, "useful again when probed", "useful again"))
    moved, draws = _as_drawn(facts, states, place)
    events = [
        _events(moved, active & (reason != "") & ~protected & ~bound, version, "active", "probation", reason, draws),
        _events(moved, leave, version, "probation", "active", told, draws),
        _events(moved, back, version, "retired", "active", told, draws),
    ]
    low = facts.low | ~np.isin(since, [DOUBTED, EXPIRED])
    chosen = pa.array(probation & ~leave & ~bound & (low | unwanted))
    own = [facts.ids.filter(chosen), facts.labels.filter(chosen), pa.array(unwanted).filter(chosen)]
    return pa.concat_tables(events), pa.table(own, schema=CANDIDATES)


def draw(candidates: pa.Table, census: Census, version: int, rules: Rules, *, seed: int) -> pa.Table:
    """The events of a version's draw among all its candidates: who retires, and who is spared and stands for them."""
    labels = np.asarray(["" if label is None else label for label in candidates[LABEL].to_pylist()], object)
    ids, unwanted = np.asarray(candidates[EXAMPLE_ID].to_pylist(), object), column_of(candidates, "unwanted")
    order = np.lexsort((ids.astype(str), mix(draw_keys(ids.tolist()), seed, "retire", version)))
    wanted = np.zeros(len(ids), np.bool_)
    for label in sorted(set(labels)):
        room = _room(label, census, rules)
        out = order[(labels == label)[order] & unwanted[order]][:room]
        low = order[(labels == label)[order] & ~unwanted[order]]
        wanted[out] = wanted[low[: min(math.floor(rules.ratio * len(low) + 1e-9), room - len(out))]] = True
    retire = np.zeros(len(ids), np.bool_)
    retire[order[wanted[order]][: math.floor(rules.share * census.present + 1e-9)]] = True
    drawn = ~unwanted & np.isin(labels, labels[retire & ~unwanted])
    told = np.select(
        [retire & unwanted, retire],
        ["still doubted or out of window", "still low, and drawn"],
        "spared: stands for those that were drawn",
    )
    rows = np.flatnonzero(retire | drawn)
    return pa.table(
        {
            "version": np.full(len(rows), version),
            EXAMPLE_ID: pa.array(ids[rows], pa.string()),
            LABEL: candidates[LABEL].take(pa.array(rows)),
            "before": [Status.PROBATION.value] * len(rows),
            "after": pa.array(np.where(retire, Status.RETIRED.value, Status.PROBATION.value)[rows], pa.string()),
            "reason": pa.array(told[rows], pa.string()),
            "draw": pa.array(np.full(len(rows), version), pa.int64(), mask=~drawn[rows]),
        },
        schema=EVENTS,
    )


def probes(ids: pa.Array, version: int, rules: Rules, *, seed: int) -> Array:
    """Which retired examples [n] this version looks at again: a share `probe`, by the hash of (seed, version, id)."""
    found: Array = uniform(draw_keys(ids.to_pylist()), seed, "probe", version) < rules.probe
    return found


def restore(states: pa.Table, ids: Iterable[str], version: int) -> pa.Table:
    """The events that bring resting examples back by hand.

    Raises:
        InputError: an example does not rest.
    """
    wanted = sorted(set(ids))
    own = states.filter(pc.is_in(states[EXAMPLE_ID], value_set=pa.array(wanted, pa.string())))
    own = own.filter(pc.not_equal(own["after"], Status.ACTIVE.value))
    missing = sorted(set(wanted) - set(own[EXAMPLE_ID].to_pylist()))
    if missing:
        raise InputError(f"retirement: {missing[0]!r} is neither on probation nor retired: nothing to restore")
    rows = own.num_rows
    columns = {name: own[name] for name in (EXAMPLE_ID, LABEL, "draw")} | {
        "version": np.full(rows, version),
        "before": own["after"],
        "after": [Status.ACTIVE.value] * rows,
        "reason": ["restored by hand"] * rows,
    }
    return pa.table({name: columns[name] for name in EVENTS.names}, schema=EVENTS)


def weights(states: pa.Table) -> pa.Table:
    """The weight of every example that was in a draw and does not rest: `example_id`, `weight`; others weigh 1."""
    drawn = states.filter(pc.is_valid(states["draw"]))
    rests = pc.equal(drawn["after"], Status.RETIRED.value)
    drawn = drawn.append_column("rests", pc.cast(rests, pa.int64()))
    counts = drawn.group_by([LABEL, "draw"], use_threads=False).aggregate([("rests", "count"), ("rests", "sum")])
    by = {(row[LABEL], row["draw"]): (row["rests_count"], row["rests_sum"]) for row in counts.to_pylist()}
    kept = drawn.filter(pc.equal(drawn["rests"], 0))
    own = zip(kept[LABEL].to_pylist(), kept["draw"].to_pylist(), strict=True)
    found = [by[key][0] / (by[key][0] - by[key][1]) for key in own]
    return pa.table({EXAMPLE_ID: kept[EXAMPLE_ID], "weight": pa.array(found, pa.float64())})


def resting_draws(states: pa.Table) -> set[tuple[str | None, int]]:
    """The draws (class, version) of which some example rests."""
    rests = states.filter(pc.and_(pc.equal(states["after"], Status.RETIRED.value), pc.is_valid(states["draw"])))
    return set(zip(rests[LABEL].to_pylist(), rests["draw"].to_pylist(), strict=True))


def _draw_of(states: pa.Table, draws: set[tuple[str | None, int]]) -> Array:
    """Which examples [n] were in one of these draws."""
    own = zip(states[LABEL].to_pylist(), states["draw"].to_pylist(), strict=True)
    return np.fromiter((key in draws for key in own), np.bool_, states.num_rows)


def _room(label: str, census: Census, rules: Rules) -> int:
    """How many of a class may still retire."""
    of, resting = census.classes.get(label, 0), census.retired.get(label, 0)
    if label in rules.protect or of < rules.rare_below:
        return 0
    return max(0, of - resting - math.ceil(rules.class_quota * of - 1e-9))


def _low(rules: Rules) -> str:
    return f"low for {rules.versions} versions"


def _as_drawn(facts: Facts, states: pa.Table, place: Array) -> tuple[Facts, Array]:
    """The facts, with the class that an example was drawn in where it was in a draw, and its draw [n] or NaN.

    Who leaves or returns keeps both: weights are shared within a draw.
    """
    draws = np.append(column_of(states, "draw").astype(np.float64), np.nan)[place]
    known = pa.concat_arrays([states[LABEL].combine_chunks(), pa.nulls(1, pa.string())])
    known = known.take(pa.array(place % len(known)))
    return replace(facts, labels=pc.if_else(pa.array(~np.isnan(draws)), known, facts.labels)), draws


def _events(
    facts: Facts, rows: Array, version: int, before: str, after: str, reasons: Array, draws: Array
) -> pa.Table:
    chosen, count = pa.array(rows), int(rows.sum())
    return pa.table(
        {
            "version": np.full(count, version),
            EXAMPLE_ID: facts.ids.filter(chosen),
            LABEL: facts.labels.filter(chosen),
            "before": [before] * count,
            "after": [after] * count,
            "reason": pa.array(np.broadcast_to(reasons, rows.shape)[rows], pa.string()),
            "draw": pa.array(draws[rows], pa.int64(), from_pandas=True),
        },
        schema=EVENTS,
    )
