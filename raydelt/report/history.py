"""How scores, drift and retirement went over the versions of a run; nothing where it was never scored again.

    scores       10, 50 and 90 % of each component that the ranking weighs, in the latest `VERSIONS` versions
    monitor      what was observed of each version: rows, new rows, drift, error rate, decision
    retirement   how many examples each version moved from which state to which, and why

Quantiles are those of one shard of the hashes, up to `ROWS` examples of each version, the same in all versions. Cost:
a few row groups of each file of the history, and four columns of the events. Memory of a task: one version's shard,
or one file of events.

Caution: with `fitted: keep` scores of versions compare; after a refit a shift may be the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.ask.run import BELOW
from raydelt.examples import column_of
from raydelt.monitor import history, ledger
from raydelt.storage import Store

VERSIONS = 60
ROWS = 1 << 16
COMPONENTS = 4
MOVES = 200
QUANTILES = (10, 50, 90)


def over_versions(run: Store, components: Sequence[str]) -> dict[str, Any] | None:
    """`versions` with their quantiles by component, `monitor` and `retirement`; None without a history.

    `run` is the directory of a version or of all of them.
    """
    below = BELOW.fullmatch(run.root)
    root = Store(below[1]) if below is not None else run
    known = history.versions(root, latest=VERSIONS)
    if not known:
        return None
    shard = history.shards(max(version.rows for version in known), ROWS)[0]
    calls = [(root, version, tuple(components[:COMPONENTS]), shard) for version in known]
    quantiles = cluster.parallel(quantiles_of, calls, label="report: versions")
    [moves] = cluster.parallel(moves_of, [(root,)], label="report: retirement")
    observed = ledger.observations(root)[-VERSIONS:]
    return {
        "versions": [
            {"number": version.number, "time": version.time, "rows": version.rows, "quantiles": own}
            for version, own in zip(known, quantiles, strict=True)
        ],
        "sampled": shard.of > 1,
        "monitor": [
            {
                "version": own.version,
                "rows": own.rows,
                "new_rows": own.new_rows,
                "drift": own.drift,
                "error": own.error,
                "decided": own.decided.value,
            }
            for own in observed
        ],
        "retirement": moves,
    }


def quantiles_of(
    root: Store, version: history.Version, components: Sequence[str], shard: history.Shard
) -> dict[str, list[float]]:
    """Quantiles of the components that a version has, over the examples of a shard."""
    names = [name for name in components if name in version.components]
    tables = list(history.read(root, version, names, shard))
    if not names or not sum(table.num_rows for table in tables):
        return {}
    table = pa.concat_tables(tables)
    return {name: np.percentile(column_of(table, name), QUANTILES).tolist() for name in names}


def moves_of(root: Store) -> list[dict[str, Any]]:
    """How many examples moved, by version, states and reason; the latest `MOVES` lines."""
    keys = ["version", "before", "after", "reason"]
    counted = [table.group_by(keys).aggregate([([], "count_all")]) for table in ledger.events(root, keys)]
    if not counted:
        return []
    summed = pa.concat_tables(counted).group_by(keys).aggregate([("count_all", "sum")])
    rows = summed.sort_by([(key, "ascending") for key in keys]).to_pylist()[-MOVES:]
    return [{**{key: row[key] for key in keys}, "count": row["count_all_sum"]} for row in rows]
