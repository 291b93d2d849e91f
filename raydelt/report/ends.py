"""The top, the bottom and the borderline of the ranking, as places of the corpus to look at.

    borderline: the eligible, passing examples with the least |score - cut|, ties by rank

Every file of the ranking gives at most `LISTED` rows of each kind, and the driver keeps the best of these. With quotas
every class has a cut of its own, found by one pass before. Memory of a task: one file of the ranking.

Caution: where a sample or strata are drawn no score decides, and there is no borderline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import Select
from raydelt.examples import EXAMPLE_ID, LABEL, column_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Store

LISTED = 20
READ = (EXAMPLE_ID, "score", "score_se", "eligible", "gate", "rank", "percentile", LABEL, "part", "part_row")
TOLD = ("score", "score_se", "rank", "percentile", "kept")


@dataclass(frozen=True)
class Cuts:
    """The score from which examples are kept: one of all, or one by class [C] (NaN: none); neither where none is."""

    of_all: float | None = None
    by_class: Array | None = None

    def away(self, score: Array, label: Array) -> Array:
        """|score - cut| [n], NaN where there is no cut."""
        cut: Array = np.full(len(score), np.nan if self.of_all is None else self.of_all)
        if self.by_class is not None:
            known = (label >= 0) & (label < len(self.by_class))
            cut = np.where(known, self.by_class[np.where(known, label, 0)], np.nan)
        found: Array = np.abs(score - cut)
        return found


def ends(run: Store, ranking: Manifest, selection: Manifest, select: Select, *, classes: int) -> dict[str, Any]:
    """`rows`: id, part, score, rank, kept and the `lists` it stands in, highest first; `note` on a missing borderline.

    `part` is the number of the corpus part that holds the example.
    """
    pairs = [(a.file, b.file) for a, b in zip(ranking.parts, selection.parts, strict=True)]
    cuts = _cuts(run, pairs, selection, select, classes)
    found = cluster.parallel(ends_of, [(run, a, b, cuts) for a, b in pairs], label="report: examples")
    table = pa.concat_tables(found)
    lists = {
        "top": _best(table, [("rank", "descending")]),
        "borderline": _best(table.filter(table["away"].is_valid()), [("away", "ascending"), ("rank", "ascending")]),
        "bottom": _best(table, [("rank", "ascending")]),
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, own in lists.items():
        for row in own.to_pylist():
            entry = {"id": row[EXAMPLE_ID], "part": row["part"], **{key: row[key] for key in TOLD}, "lists": []}
            rows.setdefault(row[EXAMPLE_ID], entry)["lists"].append(name)
    ordered = sorted(rows.values(), key=lambda entry: -entry["rank"])
    none = cuts.of_all is None and cuts.by_class is None
    note = "No score decides what is kept here, so nothing lies at a cut." if none else None
    return {"rows": ordered, "note": note}


def _cuts(run: Store, pairs: list[tuple[str, str]], selection: Manifest, select: Select, classes: int) -> Cuts:
    if select.sample is not None or select.strata is not None:
        return Cuts()
    if select.quotas is not None and classes:
        found = cluster.parallel(cuts_of, [(run, a, b, classes) for a, b in pairs], label="report: cuts")
        lowest = np.min(found, axis=0) if found else np.full(classes, np.inf)
        return Cuts(by_class=np.where(np.isfinite(lowest), lowest, np.nan))
    if select.method == "threshold":
        return Cuts(float(select.value))
    return Cuts(selection.facts["cut_score"])


def cuts_of(run: Store, ranking: str, selection: str, classes: int) -> Array:
    """The lowest score that passes the gate among the kept examples of each class [C] in one file; inf for none."""
    table = run.read_table(ranking, ["rank", "score", "gate", LABEL])
    kept = np.isin(column_of(table, "rank"), column_of(run.read_table(selection, ["rank"]), "rank"))
    label = _labels(table)
    use = kept & column_of(table, "gate").astype(bool) & (label >= 0)
    lowest = np.full(classes, np.inf)
    np.minimum.at(lowest, label[use], column_of(table, "score")[use])
    return lowest


def ends_of(run: Store, ranking: str, selection: str, cuts: Cuts) -> pa.Table:
    """The first, the last and the nearest rows of one file of the ranking, with `kept` and `away` from the cut."""
    table = run.read_table(ranking, list(READ))
    kept = np.isin(column_of(table, "rank"), column_of(run.read_table(selection, ["rank"]), "rank"))
    passing = column_of(table, "eligible").astype(bool) & column_of(table, "gate").astype(bool)
    away = np.where(passing, cuts.away(column_of(table, "score"), _labels(table)), np.nan)
    n = table.num_rows
    near = np.argsort(away, kind="stable")[:LISTED]
    at = np.unique(np.concatenate([np.arange(min(LISTED, n)), np.arange(max(0, n - LISTED), n), near])).astype(int)
    own = table.take(pa.array(at)).select([name for name in READ if name not in ("eligible", "gate", "part_row")])
    return own.append_column("kept", pa.array(kept[at])).append_column("away", pa.array(away[at], from_pandas=True))


def _best(table: pa.Table, order: list[tuple[str, str]]) -> pa.Table:
    return table.sort_by(order).slice(0, LISTED)


def _labels(table: pa.Table) -> Array:
    labels: Array = table[LABEL].fill_null(-1).to_numpy().astype(np.int64)
    return labels
