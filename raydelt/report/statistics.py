"""How the stored components are distributed, and how they go together.

Histograms have fixed bins between the least and the greatest value of a component: two passes over the parts (range,
count), each state a few hundred integers, so bins do not depend on how the corpus is cut into parts. Correlations,
redundancy and overlap (`raydelt.rank.agreement`) are those of the first examples in draw order (at most
`SAMPLE_ROWS`), which are a uniform sample. Memory of a task: one column of one part, or the sample.

Caution: bins are of equal width, so a component with a long tail puts most examples into few of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.examples import column_of
from raydelt.rank.agreement import AgreementReducer, top_thresholds
from raydelt.report.parts import ScoredParts
from raydelt.scorers.composite import Distribution
from raydelt.scorers.protocol import Array

BINS = 40
SAMPLE_ROWS = 20_000
CORRELATED = 24

Range = tuple[float, float]


def distributions(parts: ScoredParts, components: Sequence[str], *, flips: bool) -> dict[str, Any]:
    """Per component: `edges` [BINS + 1], counts `clean` [BINS], and `flipped` [BINS] or None where none are known."""
    indices = range(len(parts))
    ranges = cluster.parallel(ranges_of, [(parts, i, components) for i in indices], label="report: ranges")
    edges = {name: bin_edges([part[name] for part in ranges]) for name in components}
    counted = cluster.parallel(histograms_of, [(parts, i, edges, flips) for i in indices], label="report: histograms")
    found = {}
    for name in components:
        clean, flipped = np.sum([part[name] for part in counted], axis=0)
        found[name] = {
            "edges": edges[name].tolist(),
            "clean": clean.tolist(),
            "flipped": flipped.tolist() if flips else None,
        }
    return found


def ranges_of(parts: ScoredParts, index: int, components: Sequence[str]) -> dict[str, Range]:
    """The least and the greatest value of each component in one part; (inf, -inf) for an empty part."""
    table = parts.scores_of(index, components)
    return {name: range_of(column_of(table, name)) for name in components}


def range_of(values: Array) -> Range:
    """The least and the greatest of values [n], or (inf, -inf) of none."""
    return (float(values.min()), float(values.max())) if len(values) else (math.inf, -math.inf)


def bin_edges(ranges: Sequence[Range], bins: int = BINS) -> Array:
    """Edges [bins + 1] of equal bins over the union of ranges; a constant gets bins around it."""
    low, high = min((r[0] for r in ranges), default=math.inf), max((r[1] for r in ranges), default=-math.inf)
    if low > high:
        low, high = 0.0, 1.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        around = max(0.5, 1e-3 * abs(low))
        low, high = low - around, high + around
    return np.linspace(low, high, bins + 1)


def histograms_of(parts: ScoredParts, index: int, edges: dict[str, Array], flips: bool) -> dict[str, Array]:
    """Counts [2, bins] of the clean and of the flipped examples of one part, per component."""
    table = parts.scores_of(index, list(edges))
    flipped = parts.flipped(index) if flips else np.zeros(table.num_rows, np.bool_)
    counts = {}
    for name, own in edges.items():
        values = column_of(table, name).astype(np.float64)
        counts[name] = np.stack([np.histogram(values[mask], own)[0] for mask in (~flipped, flipped)])
    return counts


def correlations(parts: ScoredParts, components: Sequence[str], ratio: float) -> dict[str, Any]:
    """How the first `CORRELATED` components agree on the first examples in draw order, `ratio` of them the top."""
    columns = list(components[:CORRELATED])
    [found] = cluster.parallel(correlations_of, [(parts, columns, ratio)], label="report: correlations")
    return found


def correlations_of(
    parts: ScoredParts, columns: Sequence[str], ratio: float, limit: int = SAMPLE_ROWS
) -> dict[str, Any]:
    """`components` [c], `rows` n, Spearman's `matrix` [c, c], `redundancy` [c] and the `overlap` [c, c] of top sets.

    None where a component is constant.
    """
    tables, rows = [], 0
    for index in range(len(parts)):
        tables.append(parts.scores_of(index, columns).slice(0, limit - rows))
        rows += tables[-1].num_rows
        if rows >= limit:
            break
    table = pa.concat_tables(tables)
    known = {name: Distribution.of(column_of(table, name)) for name in columns}
    reducer = AgreementReducer(known, top_thresholds(known, ratio))
    state = reducer.zero()
    for batch in table.combine_chunks().to_batches():
        state = reducer.add(state, batch)
    found = reducer.finish(state)
    return {
        "components": list(columns),
        "rows": found.rows,
        "ratio": ratio,
        "matrix": [_plain(row) for row in found.spearman],
        "redundancy": _plain(found.redundancy),
        "overlap": [_plain(row) for row in found.overlap],
    }


def _plain(values: Array) -> list[float | None]:
    return [round(float(r), 4) if np.isfinite(r) else None for r in values]
