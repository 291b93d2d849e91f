"""One example in the ranking and in the selection, found by the statistics of row groups.

The ranking is sorted by (eligible, gate, score, id) and says of every row which corpus part and row it is of. What the
score should be is combined anew from the components, exactly where the distribution functions are of all examples and
nearly where they are of a sample. Row groups are looked at in the order of their distance from it, and of each only
the two columns that name part and row. Cost: a footer for each file of the ranking, and one to three row groups of
about a million rows. Memory: two columns of one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from raydelt.ask import files
from raydelt.ask.lookup import Place
from raydelt.ask.run import Run
from raydelt.examples import column_of
from raydelt.rank import keys
from raydelt.scorers.protocol import Array
from raydelt.storage import Part

COLUMNS = ("score", "score_se", "eligible", "gate", "rank", "percentile", "tokens", "label")
KEPT = ("rank", "position", "weight", "probability", "reason")


@dataclass(frozen=True)
class Guess:
    """Where in the ranking an example should be: its level in 0..3, and its score."""

    level: int
    score: float


@dataclass(frozen=True)
class Group:
    """A row group of the ranking: its file's number, its own, its levels and its scores."""

    file: int
    group: int
    levels: tuple[int, int]
    scores: tuple[float, float]

    def gap(self, guess: Guess) -> tuple[int, float]:
        """How far a guess lies outside."""
        return int(_outside(guess.level, self.levels)), _outside(guess.score, self.scores)


def find_ranked(run: Run, place: Place, guess: Guess | None) -> tuple[dict[str, Any], int] | None:
    """The row of the ranking that is of an example, and the number of its file; None where it is not ranked."""
    manifest = run.manifest("ranking")
    groups = groups_of(run, manifest.parts)
    if guess is not None:
        groups.sort(key=lambda group: group.gap(guess))
    for group in groups:
        part = manifest.parts[group.file]
        with files.opened_file(run.store, part) as parquet:
            names = files.of_groups(run.store, part, parquet, ["part", "part_row"], [group.group])
            rows = np.flatnonzero(
                (column_of(names, "part") == place.part) & (column_of(names, "part_row") == place.row)
            )
            if len(rows) == 0:
                continue
            own = [name for name in COLUMNS if name in parquet.schema_arrow.names]
            table = files.of_groups(run.store, part, parquet, own, [group.group])
            return table.slice(int(rows[0]), 1).to_pylist()[0], group.file
    return None


def find_kept(run: Run, file: int, rank: int) -> dict[str, Any] | None:
    """The row of the selection that has a rank of this file of the ranking; None where it is not kept."""
    parts = run.manifest("selection").parts
    if file >= len(parts):
        return None
    with files.opened_file(run.store, parts[file]) as parquet:
        for group in range(parquet.num_row_groups):
            limits = files.bounds(parquet, group, "rank")
            if limits is not None and not limits[0] <= rank <= limits[1]:
                continue
            own = [name for name in KEPT if name in parquet.schema_arrow.names]
            table = files.of_groups(run.store, parts[file], parquet, own, [group])
            row = int(np.searchsorted(column_of(table, "rank"), rank))
            if row < table.num_rows and table["rank"][row].as_py() == rank:
                found: dict[str, Any] = table.slice(row, 1).to_pylist()[0]
                return found
    return None


def groups_of(run: Run, parts: Sequence[Part]) -> list[Group]:
    """All row groups of the ranking, lowest first."""
    found = []
    for index, part in enumerate(parts):
        with files.opened_file(run.store, part) as parquet:
            for group in range(parquet.num_row_groups):
                if parquet.metadata.row_group(group).num_rows == 0:
                    continue
                eligible, gate = (
                    files.bounds(parquet, group, name) or (False, True)
                    if name in parquet.schema_arrow.names
                    else (1, 1)
                    for name in ("eligible", "gate")
                )
                levels = int(2 * eligible[0] + gate[0]), int(2 * eligible[1] + gate[1])
                scores = files.bounds(parquet, group, "score") or (-np.inf, np.inf)
                found.append(Group(index, group, levels, scores))
    return found


def cuts_of_classes(run: Run, labels: Collection[int]) -> dict[int | None, float]:
    """The lowest score that passes the gate among the kept examples of each class: its cut, where classes have quotas.

    The ranking is read from the lowest kept example up, row group by row group, until each of the classes was met.
    """
    found: dict[int | None, float] = {}
    for ranked, kept in zip(run.manifest("ranking").parts, run.manifest("selection").parts, strict=True):
        if kept.rows == 0 or len(found) == len(labels):
            continue
        chosen = column_of(files.read(run.store, kept, ["rank"]), "rank")
        with files.opened_file(run.store, ranked) as parquet:
            for group in range(parquet.num_row_groups):
                wanted = set(labels) - found.keys()
                if wanted and _may_hold(parquet, group, chosen, wanted):
                    found |= _cuts(run, ranked, parquet, group, chosen, wanted)
    return found


def _may_hold(parquet: pq.ParquetFile, group: int, chosen: Array, wanted: Collection[int]) -> bool:
    """Whether a row group can hold a kept example of one of these classes, by its statistics."""
    ranks, labels = files.bounds(parquet, group, "rank"), files.bounds(parquet, group, "label")
    kept = ranks is None or bool(((chosen >= ranks[0]) & (chosen <= ranks[1])).any())
    return kept and (labels is None or any(labels[0] <= label <= labels[1] for label in wanted))


def _cuts(
    run: Run, part: Part, parquet: pq.ParquetFile, group: int, chosen: Array, wanted: Collection[int]
) -> dict[int | None, float]:
    """The lowest score of each of these classes among the kept rows of a row group that pass the gate."""
    own = [name for name in ("rank", "score", "eligible", "gate", "label") if name in parquet.schema_arrow.names]
    table = files.of_groups(run.store, part, parquet, own, [group])
    kept = np.isin(column_of(table, "rank"), chosen) & (keys.levels(table) == keys.BEST)
    labels, scores = table["label"].fill_null(-1).to_numpy()[kept], column_of(table, "score")[kept]
    return {label: float(scores[labels == label].min()) for label in wanted if (labels == label).any()}


def cut_scores(run: Run) -> dict[int | None, float]:
    """The score of the cut by class where classes have quotas, else under None; empty where no score decides."""
    select, facts = run.raw["select"], run.manifest("selection").facts
    if select.get("sample") or select.get("strata"):
        return {}
    if select.get("quotas") is None:
        if select["method"] == "threshold":
            return {None: float(select["value"])}
        return {} if facts.get("cut_score") is None else {None: float(facts["cut_score"])}
    return cuts_of_classes(run, range(len(run.classes)))


def _outside(value: float, limits: tuple[float, float]) -> float:
    return max(limits[0] - value, 0, value - limits[1])
