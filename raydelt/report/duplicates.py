"""Groups of near-duplicates: the examples whose nearest earlier example, within epsilon, is the same one.

    group of h = {i: neighbour_i = h and earlier_cosine_i > 1 - epsilon}

from what the neighbours stage found; h itself comes first in the keep order. Near-duplicates are dealt out by the hash
of h, so every group is counted whole, and the `LISTED` largest come back. Memory of a task: the near-duplicates of one
part, or those of its share of groups.

Caution: h may be a near-duplicate of something earlier still, so a chain of copies is told as several groups.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.examples import EXAMPLE_ID, column_of, draw_keys, partition_of
from raydelt.scorers.near_duplicates import EARLIER_COSINE, NearDuplicatesConfig
from raydelt.scorers.neighbours import NEIGHBOUR
from raydelt.storage import Manifest, Store

LISTED = 10
MEMBERS = 5
SHARES = 16
EPSILON = NearDuplicatesConfig().epsilon


def near_duplicates(
    run: Store, corpus: Manifest, neighbours: Manifest | None, epsilon: float = EPSILON
) -> dict[str, Any] | None:
    """How many `examples` are near-duplicates in how many `groups`, and the largest `listed`; None without the stage.

    A listed group: `head` and its `part`, `size` without the head, and the nearest `members` with cosine and part.
    """
    if neighbours is None:
        return None
    calls = list(enumerate(part.file for part in neighbours.parts))
    split, merge = functools.partial(_by_head, run, 1.0 - epsilon), groups_of
    found = cluster.shuffle(calls, split, merge, min(SHARES, max(1, len(calls))), label="report: near-duplicates")
    listed = sorted((group for own in found for group in own["listed"]), key=lambda g: (-g["size"], g["head"]))[
        :LISTED
    ]
    for group in listed:
        group["part"] = part_of(group["head"], corpus.facts)
    return {
        "epsilon": epsilon,
        "examples": sum(own["examples"] for own in found),
        "of": neighbours.rows,
        "groups": sum(own["groups"] for own in found),
        "listed": listed,
    }


def part_of(example: str, facts: Mapping[str, Any]) -> int:
    """The number of the corpus part that holds an id; -1 where the corpus does not say how it is cut."""
    if "partitions" not in facts:
        return -1
    # A copy that was kept has its number behind the id that the draws go by.
    for key in (example, example.rpartition("-")[0]):
        wanted = int(partition_of(draw_keys([key]), facts["partitions"])[0])
        if key and wanted in facts["partition"]:
            found: int = facts["partition"].index(wanted)
            return found
    return -1


def _by_head(run: Store, above: float, call: tuple[int, str], count: int) -> list[pa.Table]:
    """The near-duplicates of one part, dealt out by the hash of what they are nearest to."""
    index, file = call
    table = run.read_table(file, [EXAMPLE_ID, EARLIER_COSINE, NEIGHBOUR])
    near = np.nan_to_num(column_of(table, EARLIER_COSINE), nan=-2.0) > above
    own = table.filter(pa.array(near & table[NEIGHBOUR].is_valid().to_numpy()))
    own = own.append_column("part", pa.array(np.full(own.num_rows, index, np.int32)))
    share = (draw_keys(own[NEIGHBOUR].to_pylist()) % np.uint64(count)).astype(np.int64)
    return [own.filter(pa.array(share == place)) for place in range(count)]


def groups_of(_: int, pieces: list[pa.Table]) -> dict[str, Any]:
    """Counts and the largest groups of one share."""
    table = pa.concat_tables(pieces)
    sizes = table.group_by(NEIGHBOUR).aggregate([(EXAMPLE_ID, "count")])
    most = [(f"{EXAMPLE_ID}_count", "descending"), (NEIGHBOUR, "ascending")]
    listed = []
    for group in sizes.sort_by(most).slice(0, LISTED).to_pylist():
        head, size = group[NEIGHBOUR], group[f"{EXAMPLE_ID}_count"]
        own = table.filter(pc.equal(table[NEIGHBOUR], head))
        nearest = own.sort_by([(EARLIER_COSINE, "descending"), (EXAMPLE_ID, "ascending")]).slice(0, MEMBERS)
        members = [
            {"id": row[EXAMPLE_ID], "cosine": round(row[EARLIER_COSINE], 6), "part": row["part"]}
            for row in nearest.to_pylist()
        ]
        listed.append({"head": head, "size": size, "members": members})
    return {"examples": table.num_rows, "groups": sizes.num_rows, "listed": listed}
