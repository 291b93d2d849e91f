"""Who is left out of a version because the monitor retired it, and whose weight grows in exchange.

    retired    state RETIRED before this version, and in the corpus     never eligible for the selection
    released   retired, but a class keeps `class_quota` of its examples of now, and named or rare classes keep all
    weight     K / (K - R) of those who were spared in a draw of K, of whom R rest (see `raydelt.monitor.retirement`)

Of a class that has too many retired, those of the lowest hashes rest, so who is released is no matter of utility.
Cost: the ids and labels of the corpus; memory: whoever ever moved.

Caution: states are decided on scores of earlier versions. They are read here, and changed by the monitor alone, so an
example that it brings back is eligible again in the next version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.config.monitor import Retire
from raydelt.examples import EXAMPLE_ID, LABEL, column_of, draw_keys, mix
from raydelt.monitor import retirement
from raydelt.monitor.retirement import STATES, Status
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Stage, Store, fingerprint

STAGE = "resting"
RESTING = pa.schema(
    [
        (EXAMPLE_ID, pa.string()),
        (LABEL, pa.string()),
        ("version", pa.int64()),
        ("reason", pa.string()),
        ("weight", pa.float64()),
    ]
)


def identity(states: pa.Table, rules: Retire) -> str:
    """Identifies what decides who rests: the states, and the rules that protect."""
    told = states.sort_by(EXAMPLE_ID).select(STATES.names).to_pydict()
    return fingerprint([told, *(getattr(rules, name) for name in ("class_quota", "rare_below", "protect"))])


def rest(states: pa.Table, rules: Retire, corpus: Manifest, stage: Stage, *, seed: int) -> Manifest:
    """Publish who rests, with weight 0, and who stands for others, with a weight above 1."""
    part = stage.run.write_table(stage.file("states", 0), states, plain=[EXAMPLE_ID])
    calls = [(stage.run, own.file, part.file) for own in corpus.parts]
    here = pa.concat_tables(cluster.parallel(_present, calls, label="resting: look up"))
    classes, counts = corpus.facts["classes"], corpus.facts["per_class"]
    labels = pc.take(pa.array(classes or [""], pa.string()), pc.fill_null(here[LABEL], 0))
    sizes = dict(zip(classes, counts, strict=True)) if classes else {"": corpus.rows}
    table, released = settled(states, pa.table({EXAMPLE_ID: here[EXAMPLE_ID], LABEL: labels}), sizes, rules, seed=seed)
    retired = int(np.count_nonzero(column_of(table, "weight") == 0))
    return stage.publish(
        [stage.run.write_table(stage.file("part", 0), table, plain=[EXAMPLE_ID])],
        {"retired": retired, "released": released},
    )


def settled(
    states: pa.Table, here: pa.Table, sizes: Mapping[str, int], rules: Retire, *, seed: int
) -> tuple[pa.Table, int]:
    """Who rests and who stands for others, of the retired that are `here` (id, class); and how many were released.

    `sizes` says how many examples every class of the corpus has.
    """
    ids, names = (np.asarray(here[name].to_pylist(), object) for name in (EXAMPLE_ID, LABEL))
    order = np.lexsort((ids.astype(str), mix(draw_keys(ids.tolist()), seed, "rest")))
    free = np.zeros(len(ids), np.bool_)
    for name, size in sizes.items():
        own = order[(names == name)[order]]
        free[own[_room(name, size, rules) :]] = True
    freed = pc.is_in(states[EXAMPLE_ID], value_set=pa.array(ids[free], pa.string()))
    after = pc.if_else(freed, Status.PROBATION.value, states["after"])
    states = states.set_column(states.schema.get_field_index("after"), "after", after)
    rests = pc.and_(
        pc.equal(states["after"], Status.RETIRED.value),
        pc.is_in(states[EXAMPLE_ID], value_set=here[EXAMPLE_ID].combine_chunks()),
    )
    drawn = retirement.weights(states)
    weights = drawn["weight"].take(pc.index_in(states[EXAMPLE_ID], value_set=drawn[EXAMPLE_ID].combine_chunks()))
    weights = pc.if_else(rests, 0.0, pc.fill_null(weights, 1.0))
    table = states.append_column("weight", weights).select(RESTING.names).cast(RESTING)
    return table.filter(pc.not_equal(table["weight"], 1.0)).sort_by(EXAMPLE_ID), int(free.sum())


def left_out(run: Store, file: str, ids: pa.ChunkedArray) -> Array:
    """Which examples [n] rest, by the file of the stage."""
    table = run.read_table(file, [EXAMPLE_ID, "weight"])
    retired = table.filter(pc.equal(table["weight"], 0.0))[EXAMPLE_ID].combine_chunks()
    return np.asarray(pc.is_in(ids, value_set=retired))


def weights_of(run: Store, file: str, ids: pa.ChunkedArray) -> Array:
    """How many examples each of these [n] stands for."""
    table = run.read_table(file, [EXAMPLE_ID, "weight"])
    place = pc.index_in(ids, value_set=table[EXAMPLE_ID].combine_chunks())
    found: Array = pc.fill_null(table["weight"].take(place), 1.0).to_numpy()
    return found


def _present(run: Store, file: str, states: str) -> pa.Table:
    """The retired examples in one file of the corpus, with the numbers of their classes."""
    known = run.read_table(states, [EXAMPLE_ID, "after"])
    retired = known.filter(pc.equal(known["after"], Status.RETIRED.value))[EXAMPLE_ID].combine_chunks()
    table = run.read_table(file, [EXAMPLE_ID, LABEL])
    return table.filter(pc.is_in(table[EXAMPLE_ID], value_set=retired))


def _room(name: str, size: int, rules: Retire) -> int:
    """How many of a class may rest."""
    if name in rules.protect or size < rules.rare_below:
        return 0
    return max(0, size - math.ceil(rules.class_quota * size - 1e-9))
