"""What is looked at: the versions of a run, which of them is the reference, and how their examples are read.

Cost: a reading of the utility in every version, for its medians. Memory: a record of values. Caution: versions without
the utility are left out, and so are all but the last `monitor.versions`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.monitor import history, ledger, retirement, sources
from raydelt.monitor.history import Shard
from raydelt.monitor.look import Looking
from raydelt.monitor.shard import Plan, Shared, shared
from raydelt.monitor.sketch import NOTHING, Values, merge, values_of
from raydelt.monitor.sources import Scored
from raydelt.monitor.triggers import DAY
from raydelt.rescore.versions import current
from raydelt.storage import Store

SHARD_ROWS = 250_000
UTILITIES = ("grad_norm", "loss", "difficulty", "el2n")


@dataclass(frozen=True)
class Scene:
    """A run and its versions.

    `place` is the directory of the current version, `reference` the place of the version to compare with, `events` and
    `states` are those of retirement before the latest version; `kept` says that the versions are a history's, and
    `left_out` names those without the utility.
    """

    store: Store
    place: Store
    config: RunConfig
    plan: Plan
    shards: tuple[Shard, ...]
    reference: int | None
    events: list[pa.Table]
    states: pa.Table
    kept: bool
    left_out: tuple[str, ...]
    read: Callable[[Shard], Shared]

    @property
    def latest(self) -> Scored:
        return self.plan.versions[-1]

    @property
    def looking(self) -> Looking:
        return Looking(self.plan, self.reference, self.config.monitor.drift.window_days * DAY)


def scene_of(store: Store, config: RunConfig) -> Scene:
    """What is to be looked at of a run.

    Raises:
        InputError: there are no scores, or the versions share no component.
        SpecError: `monitor.utility` is no component.
    """
    spec = config.monitor
    place, held = current(store).store, sources.of_history(store, spec.versions)
    versions = held or [sources.of_run(place)]
    latest, utility = versions[-1], _utility(spec.utility, versions)
    left_out = tuple(own.name for own in versions if utility not in own.components)
    versions = [own for own in versions if utility in own.components]
    events = [table.filter(pc.less(table["version"], latest.number)) for table in ledger.events(store)]
    states = retirement.states_of(events)
    reference = None
    if len(versions) > 1:
        reference = len(versions) - 2 if spec.drift.reference == "previous" else 0
    medians = [_median(own, utility) for own in versions]
    clock = [own.time / DAY if spec.clock == "days" else float(own.number) for own in versions]
    clock = [t - clock[0] for t in clock]
    doubt = spec.retire.doubt if spec.retire.doubt in latest.components else None
    last = min(spec.retire.versions, len(versions))
    plan = Plan(versions, clock, medians, utility, latest.components, doubt, last, spec.retire.doubts, spec.half_life)
    parts = tuple(history.shards(max(own.rows for own in versions), SHARD_ROWS))
    read = functools.lru_cache(maxsize=1)(lambda shard: shared(plan, shard, states))
    return Scene(store, place, config, plan, parts, reference, events, states, bool(held), left_out, read)


def _utility(wanted: str | None, versions: list[Scored]) -> str:
    """The component that says how useful an example is."""
    latest = versions[-1]
    if wanted is not None:
        if wanted not in latest.components:
            raise SpecError(f"monitor.utility: {latest.name} has no {wanted!r}: it has {', '.join(latest.components)}")
        return wanted
    everywhere = [c for c in latest.components if all(c in own.components for own in versions)]
    if not everywhere:
        names = [f"{own.name}: {', '.join(own.components)}" for own in (versions[0], latest)]
        raise InputError(f"the versions share no component ({'; '.join(names)}): set monitor.utility")
    return next((name for name in UTILITIES if name in everywhere), everywhere[0])


def _median(version: Scored, utility: str) -> float:
    found: Values = NOTHING
    for table in version.read([utility], whole=False):
        own = np.abs(table[utility].to_numpy().astype(np.float64))
        if not np.isfinite(own).all():
            raise InputError(f"{version.name}: {utility!r} holds values that are not finite: quarantine those rows")
        found = merge(found, values_of(own))
    return float(found.quantiles(np.array([0.5]))[0]) if len(found.keys) else 0.0
