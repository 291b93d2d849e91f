"""The comparisons that a run's versions allow, and what of them calls for a rescore.

    arrivals   rows that the reference version lacks, and those that it has, both as the latest version scores them:
               the model is the same on both sides
    rescored   rows that both versions have, as scored then and now: the examples are the same
    against    everything, and another run or file

What calls is a drift of arrivals or against another run, and errors or labels that changed on the same examples;
scores that moved with the model do not. Cost: that of `drift.py`, and a reading of features until samples are full.

Caution: a part of `against` that both have makes its tests err on the side of no drift.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID
from raydelt.monitor import sources
from raydelt.monitor.drift import Comparison, Rows, Side, compare
from raydelt.monitor.look import Look
from raydelt.monitor.profile import Profile, ProfileOf, Sample
from raydelt.monitor.scene import Scene
from raydelt.rescore.versions import current
from raydelt.storage import Store

EVERY = ("feature", "label", "score", "error")
CALLING = {"arrivals": EVERY, "against": EVERY, "rescored": ("label", "error")}


def comparisons(scene: Scene, look: Look, against: str | None) -> list[Comparison]:
    """All comparisons that there is something for.

    Raises:
        InputError: `against` is neither a run nor a file of scores, or shares no component with the run.
    """
    spec, seed, found = scene.config.monitor.drift, scene.config.seed, []
    if scene.reference is not None:
        before = scene.plan.versions[scene.reference].name
        names = f"rows of {before}", f"rows since {before}"
        old, new = _samples(scene, look)
        sides = Side(names[0], look.profiles["residents"], old), Side(names[1], look.profiles["arrivals"], new)
        alike = scene.plan.versions[scene.reference].judge == scene.latest.judge
        if look.profiles["arrivals"].rows:
            found.append(compare("arrivals", *sides, spec, seed=seed, names=_names(scene)))
        then = Side(before, look.profiles["then"] if alike else _unjudged(look.profiles["then"]))
        now = Side(scene.latest.name, look.profiles["now"])
        found.append(compare("rescored", then, now, spec, seed=seed, same=True))
    if against is not None:
        other = sources.of_path(against)
        # A file does not say what its classes are called.
        other = replace(other, classes=other.classes or scene.latest.classes)
        common = tuple(name for name in scene.latest.components if name in other.components)
        if not common:
            raise InputError(
                f"--against {against!r} shares no component with {scene.latest.name}: it has "
                f"{', '.join(other.components)}"
            )
        kind = ProfileOf(other.components)
        profile = functools.reduce(kind.add, other.read(other.components), kind.zero())
        profile = profile if other.judge == scene.latest.judge else _unjudged(profile)
        sides = (
            Side(other.name, profile, _sample(scene, current(Store(against)).store)),
            Side(scene.latest.name, look.profiles["all"], _sample(scene, scene.place)),
        )
        found.append(compare("against", *sides, spec, seed=seed, names=_names(scene)))
    return found


def _unjudged(profile: Profile) -> Profile:
    """A profile without its errors: those of another judge are not to be compared."""
    return replace(profile, judged=0, wrong=0, squares=0)


def _names(scene: Scene) -> list[str]:
    return list(scene.config.corpus.feature_columns or [])


def _sample(scene: Scene, store: Store) -> Rows | None:
    """Features of at most `monitor.drift.rows` examples of a run's corpus; None where it has none."""
    kind = Sample(scene.config.monitor.drift.rows, scene.config.seed)
    state = kind.zero()
    for shard in scene.shards:
        for ids, x in sources.features(store, shard):
            state = kind.add(state, ids, x)
        if len(state[0]) == kind.rows:
            break
    return kind.finish(state) if len(state[0]) else None


def _samples(scene: Scene, look: Look) -> tuple[Rows | None, Rows | None]:
    """Features of examples that the reference version has, and of those that only the latest has.

    A shard is a uniform sample itself, so no more are read than it takes.
    """
    if scene.reference is None or not look.profiles["arrivals"].rows:
        return None, None
    kind = Sample(scene.config.monitor.drift.rows, scene.config.seed)
    old, new = kind.zero(), kind.zero()
    for shard in scene.shards:
        own = scene.read(shard)
        ids, before = own.latest[EXAMPLE_ID], pa.array(own.present[: own.latest.num_rows, scene.reference])
        known = [ids.filter(rows).combine_chunks() for rows in (before, pc.invert(before))]
        for ids, x in sources.features(scene.place, shard):
            rows = [np.asarray(pc.is_in(ids, value_set=own_ids)) for own_ids in known]
            old = kind.add(old, ids.filter(pa.array(rows[0])), x[rows[0]])
            new = kind.add(new, ids.filter(pa.array(rows[1])), x[rows[1]])
        if min(len(old[0]), len(new[0])) == kind.rows:
            break
    return (kind.finish(old) if len(old[0]) else None), (kind.finish(new) if len(new[0]) else None)


def calling(found: list[Comparison]) -> str | None:
    """What drifted that calls for a rescore, in words."""
    told = []
    for own in found:
        channels = [channel for channel in own.drifted if channel in CALLING[own.name]]
        told += [f"{own.name} ({', '.join(channels)})"] if channels else []
    return ", ".join(told) or None
