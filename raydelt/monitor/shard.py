"""The examples of one shard over the versions of a run: utilities, moving averages, decay, and flags for retirement.

    raw[i, v]  = |utility| of example i in version v, NaN where v lacks it
    ema[i, j]  = moving average of raw / median_v over versions up to the j-th of the last m, NaN where that lacks i

Rows are the examples of the latest version, in its order, and after them the retired ones that it lacks. Memory: 8
bytes for every example of the shard and version, and the latest version's table. Caution: see `decay.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, LABEL, TIME, column_of
from raydelt.monitor.decay import DecaySums, Fit, relative
from raydelt.monitor.history import Shard
from raydelt.monitor.sources import Scored
from raydelt.scorers.protocol import Array


@dataclass(frozen=True)
class Plan:
    """What is read of the versions: oldest first, their clock and medians, and the columns."""

    versions: Sequence[Scored]
    clock: Sequence[float]
    medians: Sequence[float]
    utility: str
    components: tuple[str, ...]
    doubt: str | None
    last: int
    doubts: int
    half_life: float


@dataclass(frozen=True)
class Shared:
    """One shard: the latest table, ids [n] with absent retired ones last, presence [n, V], averages, fit, doubts."""

    latest: pa.Table
    ids: pa.Array
    labels: pa.Array
    times: Array
    present: Array
    ema: Array
    fit: Fit
    doubted: Array


def shared(plan: Plan, shard: Shard, states: pa.Table) -> Shared:
    """Read one shard; `states` are the retirement's, of whatever examples.

    Raises:
        InputError: the latest version holds an example twice.
    """
    latest = whole(plan.versions[-1], plan.components, shard)
    own = latest[EXAMPLE_ID].combine_chunks()
    if pc.count_distinct(own).as_py() != len(own):
        raise InputError(f"{plan.versions[-1].name} holds an example twice: ids must be unique")
    absent = states.filter(pc.equal(states["after"], "retired"))
    absent = absent.filter(pc.invert(pc.is_in(absent[EXAMPLE_ID], value_set=own)))
    absent = absent.filter(pa.array(shard.rows(absent[EXAMPLE_ID])))
    ids = pa.concat_arrays([own, absent[EXAMPLE_ID].combine_chunks()])
    raw, doubted = _over_versions(plan, shard, ids, latest)
    ema, fit = _averages(plan, raw)
    return Shared(
        latest,
        ids,
        pa.concat_arrays([_labels(latest), absent[LABEL].combine_chunks()]),
        np.append(_times(latest), np.full(absent.num_rows, np.nan)),
        np.isfinite(raw),
        ema,
        fit,
        doubted,
    )


def _over_versions(plan: Plan, shard: Shard, ids: pa.Array, latest: pa.Table) -> tuple[Array, Array]:
    """Sizes of utilities [n, V], and which examples [n] the last versions all doubt."""
    count = len(plan.versions)
    raw, doubts = np.full((len(ids), count), np.nan), np.zeros((len(ids), plan.doubts), np.bool_)
    for v, version in enumerate(plan.versions):
        back = count - 1 - v
        asked = plan.doubt is not None and back < plan.doubts and plan.doubt in version.components
        columns = [plan.utility, *([plan.doubt] if asked and plan.doubt else [])]
        # One look-up for all files: each builds a table of all ids, which takes longer than to look up.
        table = latest if back == 0 else whole(version, columns, shard, beside=False)
        place = column_of(
            pa.table({"place": pc.fill_null(pc.index_in(table[EXAMPLE_ID], value_set=ids), -1)}), "place"
        )
        known = np.flatnonzero(place >= 0)
        raw[place[known], v] = np.abs(column_of(table, plan.utility)[known])
        if asked:
            doubts[place[known], back] = column_of(table, str(plan.doubt))[known] < 0.5
    return raw, np.asarray(doubts.all(axis=1) & (count >= plan.doubts))


def _averages(plan: Plan, raw: Array) -> tuple[Array, Fit]:
    """Moving averages [n, m] at the last m versions, and the fit over all."""
    sums = DecaySums(len(raw), plan.half_life, reference=plan.clock[-1])
    state, ema = sums.zero(), np.full((len(raw), plan.last), np.nan, np.float32)
    first = len(plan.versions) - plan.last
    for v, (t, median) in enumerate(zip(plan.clock, plan.medians, strict=True)):
        state = sums.add(state, t, relative(raw[:, v], median))
        if v >= first:
            with np.errstate(invalid="ignore", divide="ignore"):
                ema[:, v - first] = np.where(np.isfinite(raw[:, v]), state[7] / state[6], np.nan)
    return ema, sums.finish(state)


def whole(version: Scored, components: Sequence[str], shard: Shard, *, beside: bool = True) -> pa.Table:
    """All rows of a version in a shard, with what lies beside the components where that is asked for."""
    tables = list(version.read(components, shard, whole=beside))
    if tables:
        return pa.concat_tables(tables)
    columns = {EXAMPLE_ID: pa.array([], pa.string())} | {name: pa.array([], pa.float32()) for name in components}
    return pa.table(columns)


def _labels(table: pa.Table) -> pa.Array:
    if LABEL in table.column_names:
        return pc.cast(table[LABEL], pa.string()).combine_chunks()
    return pa.nulls(table.num_rows, pa.string())


def _times(table: pa.Table) -> Array:
    if TIME in table.column_names:
        return column_of(table, TIME).astype(np.float64)
    return np.full(table.num_rows, np.nan)
