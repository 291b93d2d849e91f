"""The examples whose label is most likely wrong, for a person to look at.

The `LISTED` most difficult examples among those that fail the ranking's gate (or among all, where there is no gate);
ties fall to the id. One pass, O(LISTED) per part. Memory of a task: one part of the scores.

Caution: suspicion is no proof: rare but right examples are difficult too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.config import Gate
from raydelt.examples import EXAMPLE_ID, LABEL, LABEL_CLEAN, ROW, SOURCE_FILE, column_of
from raydelt.report.parts import ScoredParts, error_of

LISTED = 20
DIFFICULTY = "difficulty"
CONSISTENCY = "consistency"
MOST_SUSPICIOUS_FIRST = [(DIFFICULTY, "descending"), (EXAMPLE_ID, "ascending")]


def suspects(
    parts: ScoredParts, components: Sequence[str], gate: Gate | None, classes: Sequence[str], *, truth: bool
) -> list[dict[str, Any]]:
    """The most suspicious examples as plain data, worst first; none where difficulty was not scored.

    `part` is the number of the corpus part that holds it; `label_clean` stands in an entry only where `truth` says
    that the corpus knows it.
    """
    if DIFFICULTY not in components:
        return []
    calls = [(parts, index, gate) for index in range(len(parts))]
    tables = cluster.parallel(suspects_of, calls, label="report: suspects")
    return [_entry(row, classes, truth=truth) for row in worst(pa.concat_tables(tables)).to_pylist()]


def suspects_of(parts: ScoredParts, index: int, gate: Gate | None) -> pa.Table:
    """The most suspicious examples of one part, with their labels and provenance."""
    scores = parts.run.read_table(parts.scores[index])
    failing = np.ones(scores.num_rows, np.bool_)
    if gate is not None:
        failing = column_of(scores, gate.component) < np.float32(gate.at_least)
    at = pa.array(np.flatnonzero(failing))
    found = worst(scores.select([EXAMPLE_ID, DIFFICULTY]).take(at).append_column("at", at))
    columns = {EXAMPLE_ID: found[EXAMPLE_ID], DIFFICULTY: found[DIFFICULTY]}
    columns["part"] = pa.chunked_array([pa.array(np.full(found.num_rows, index, np.int32))])
    for name in (error_of(DIFFICULTY), CONSISTENCY):
        stored = name in scores.column_names
        columns[name] = scores[name].take(found["at"]) if stored else pa.nulls(found.num_rows, pa.float32())
    examples = parts.examples_of(index, [LABEL, LABEL_CLEAN, SOURCE_FILE, ROW]).take(found["at"])
    return pa.table(columns | {name: examples[name] for name in examples.column_names})


def worst(table: pa.Table) -> pa.Table:
    """The `LISTED` most difficult rows of a table, the most difficult first."""
    few = min(LISTED, table.num_rows)
    return table.take(pc.select_k_unstable(table, few, MOST_SUSPICIOUS_FIRST)) if few else table


def _entry(row: dict[str, Any], classes: Sequence[str], *, truth: bool) -> dict[str, Any]:
    """One example as plain data, its labels by name."""
    names = {name: None if row[name] is None else classes[row[name]] for name in (LABEL, LABEL_CLEAN)}
    told = (EXAMPLE_ID, "part", SOURCE_FILE, ROW, DIFFICULTY, error_of(DIFFICULTY), CONSISTENCY)
    entry = {name: row[name] for name in told}
    return entry | {LABEL: names[LABEL]} | ({LABEL_CLEAN: names[LABEL_CLEAN]} if truth else {})
