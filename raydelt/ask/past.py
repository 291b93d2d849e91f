"""What earlier versions of a run said of one example, from the run's history.

Files of the history hold their rows in buckets by the hash of the id, so of each file one row group is read. The file
that the id's hash points at comes first; where it is not there, the others follow. Cost: one file for each version,
all of a version's where it does not hold the example. Memory: a row group.
"""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from raydelt.ask.run import Run
from raydelt.examples import EXAMPLE_ID, draw_keys
from raydelt.monitor import history

# As fine as buckets of the history get: a power of two.
SHARDS = history.MOST_BUCKETS


def past(run: Run, example: str) -> list[dict[str, Any]]:
    """Version, time and values of every version that stands, oldest first; `there` says whether it had the example."""
    told = []
    for version in history.versions(run.root):
        found = _row(run, version, example)
        entry: dict[str, Any] = {"version": version.number, "time": version.time, "there": found is not None}
        told.append(entry | {"components": {name: (found or {}).get(name) for name in version.components}})
    return told


def _row(run: Run, version: history.Version, example: str) -> dict[str, Any] | None:
    key = int(draw_keys([example])[0])
    shard = history.Shard(key * SHARDS >> 64, SHARDS)
    likely = key * len(version.parts) >> 64
    order = sorted(range(len(version.parts)), key=lambda index: abs(index - likely))
    for index in order:
        one = history.Version(
            version.number, version.time, version.components, version.beside, (version.parts[index],)
        )
        for table in history.read(run.root, one, shard=shard):
            rows = table.filter(pc.equal(table[EXAMPLE_ID], example)).to_pylist()
            if rows:
                found: dict[str, Any] = rows[0]
                return found
    return None
