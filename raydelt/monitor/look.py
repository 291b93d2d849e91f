"""One pass over a run's examples, shard by shard: all that has to be known of everybody before anything is decided.

Everything here adds up over shards in any order. Memory: the records of values (0.8 MB each) of every component, five
times, of the last averages and of the decay rates. Cost: one reading of the latest and the reference version, and of
the utility in all others. Caution: see `watch.py` for what is compared with what.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.examples import EXAMPLE_ID, LABEL, column_of
from raydelt.monitor.history import ERROR, Shard
from raydelt.monitor.profile import Profile, ProfileOf
from raydelt.monitor.shard import Plan, Shared, whole
from raydelt.monitor.sketch import NOTHING, Values, merge, values_of
from raydelt.monitor.streams import WindowSums
from raydelt.scorers.protocol import Array

# Utilities that never changed give rates and errors of the size of rounding.
ROUNDING = 1e-9
SIDES = ("all", "arrivals", "residents", "then", "now")


@dataclass(frozen=True)
class Look:
    """Profiles by side, averages and absent retired ones of the last versions, decay rates, windows, classes."""

    profiles: dict[str, Profile]
    averages: tuple[Values, ...]
    absent: tuple[int, ...]
    rates: Values
    decaying: int
    growing: int
    windows: dict[int, tuple[int, int]]
    latest_time: float
    classes: dict[str, int]
    new_rows: int


@dataclass(frozen=True)
class Looking:
    """Monoid of looks over shards of `plan`; `reference` is the place of the version to compare with, if any."""

    plan: Plan
    reference: int | None
    window: float

    @property
    def components(self) -> tuple[str, ...]:
        """What both versions have; all of the latest where there is nothing to compare with."""
        if self.reference is None:
            return self.plan.components
        return tuple(c for c in self.plan.components if c in self.plan.versions[self.reference].components)

    def zero(self) -> Look:
        empty = ProfileOf(self.components).zero()
        every = ProfileOf(self.plan.components).zero()
        profiles = {side: every if side == "all" else empty for side in SIDES}
        nothing, none = (NOTHING,) * self.plan.last, (0,) * self.plan.last
        return Look(profiles, nothing, none, NOTHING, 0, 0, {}, -np.inf, {}, 0)

    def add(self, state: Look, own: Shared, shard: Shard, corpus: Iterable[pa.Table] = ()) -> Look:
        """With a shard, and the corpus in it."""
        count = own.latest.num_rows
        absent = np.arange(len(own.ids)) >= count
        gone = [int((absent & ~own.present[:, v]).sum()) for v in range(-self.plan.last, 0)]
        known = own.fit.kappa[np.isfinite(own.fit.kappa)]
        labels = ["" if label is None else label for label in own.labels.to_pylist()]
        names, counts = np.unique(np.asarray(labels, object).astype(str), return_counts=True)
        expected = [chunk for table in corpus for chunk in table[EXAMPLE_ID].chunks]
        scored = pc.is_in(pa.chunked_array(expected, pa.string()), value_set=own.ids[:count])
        missing = len(scored) - int(pc.sum(scored).as_py() or 0)
        return self.merge(
            state,
            Look(
                self._profiles(own, shard),
                tuple(values_of(own.ema[np.isfinite(own.ema[:, j]), j]) for j in range(self.plan.last)),
                tuple(gone),
                values_of(known),
                int(np.count_nonzero(own.fit.low > ROUNDING)),
                int(np.count_nonzero(own.fit.high < -ROUNDING)),
                self._windows(own),
                float(np.nanmax(own.times, initial=-np.inf)),
                dict(zip(names.tolist(), counts.tolist(), strict=True)),
                missing,
            ),
        )

    def merge(self, left: Look, right: Look) -> Look:
        kinds = {side: ProfileOf(self.plan.components if side == "all" else self.components) for side in SIDES}
        names = sorted(left.classes.keys() | right.classes.keys())
        return Look(
            {side: kinds[side].merge(left.profiles[side], right.profiles[side]) for side in SIDES},
            tuple(merge(a, b) for a, b in zip(left.averages, right.averages, strict=True)),
            tuple(a + b for a, b in zip(left.absent, right.absent, strict=True)),
            merge(left.rates, right.rates),
            left.decaying + right.decaying,
            left.growing + right.growing,
            WindowSums(self.window).merge(left.windows, right.windows),
            max(left.latest_time, right.latest_time),
            {name: left.classes.get(name, 0) + right.classes.get(name, 0) for name in names},
            left.new_rows + right.new_rows,
        )

    def finish(self, state: Look) -> Look:
        return state

    def _profiles(self, own: Shared, shard: Shard) -> dict[str, Profile]:
        common, every = ProfileOf(self.components), ProfileOf(self.plan.components)
        found = {side: common.zero() for side in SIDES} | {"all": every.add(every.zero(), own.latest)}
        if self.reference is None:
            return found
        old = own.present[: own.latest.num_rows, self.reference]
        now = own.latest.filter(pa.array(old))
        found["residents"] = found["now"] = common.add(common.zero(), now)
        found["arrivals"] = common.add(common.zero(), own.latest.filter(pa.array(~old)))
        ids = now[EXAMPLE_ID].combine_chunks()
        then = whole(self.plan.versions[self.reference], self.components, shard)
        found["then"] = common.add(common.zero(), then.filter(pc.is_in(then[EXAMPLE_ID], value_set=ids)))
        return found

    def _windows(self, own: Shared) -> dict[int, tuple[int, int]]:
        sums = WindowSums(self.window)
        if ERROR not in own.latest.column_names:
            return sums.zero()
        error: Array = column_of(own.latest, ERROR).astype(np.float64)
        return sums.add(sums.zero(), own.times[: len(error)], error)


def label_counts(states: pa.Table, status: str) -> dict[str, int]:
    """How many examples of each class have a status."""
    own = states.filter(pc.equal(states["after"], status))
    labels = ["" if label is None else label for label in own[LABEL].to_pylist()]
    return {name: labels.count(name) for name in sorted(set(labels))}
