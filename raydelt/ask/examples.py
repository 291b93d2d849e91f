"""The top, the bottom and the borderline of a ranking, with what is known of each example: `raydelt show --top`.

    borderline: the passing examples with the least |score - cut|, ties by rank

The ranking is sorted, so the ends are its first and last row groups, and the borderline lies in those whose scores are
nearest to the cut. Cost: a few row groups, then a file of corpus and of scores for each part with a shown example.
Memory: one row group, one part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.ask import files
from raydelt.ask.lookup import CORPUS, Bad, locate, row_of, score_row
from raydelt.ask.ranked import Group, cut_scores, groups_of
from raydelt.ask.run import Run
from raydelt.ask.text import plain
from raydelt.ask.why import described
from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, column_of
from raydelt.rank import keys

SHOWN = ("label", "label_clean", "source_file", "row", "time", "text")
COLUMNS = (EXAMPLE_ID, "score", "score_se", "eligible", "gate", "rank", "percentile", "label", "part", "part_row")


def by_id(run: Run, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The examples of these ids, in their order: id, split, what `why` says of the example, and its components."""
    told = []
    for example in ids:
        place = locate(run, example)
        if isinstance(place, Bad):
            raise InputError(f"{example!r} is in quarantine ({plain(place.reason)}): `raydelt why` tells more")
        entry = {"id": place.example_id, "split": place.split, **described(run, row_of(run, place))}
        found = score_row(run, place) if place.split == CORPUS and run.found("scores") else None
        told.append(entry | {"components": _values(run, found[0]) if found else None})
    return told


def listed(run: Run, *, top: int = 0, bottom: int = 0, borderline: int = 0) -> dict[str, Any]:
    """So many examples of each kind as plain data, the highest first; `note` says why there is no borderline.

    Raises:
        InputError: the run has no ranking, or a number is negative.
    """
    if min(top, bottom, borderline) < 0:
        raise InputError("--top, --bottom and --borderline are numbers of examples: give 0 or more")
    groups = groups_of(run, run.manifest("ranking").parts)
    found: dict[str, Any] = {"run": run.store.root, "version": run.version, "components": run.components}
    found |= {"top": _told(run, _ends(run, groups[::-1], top, last=True))[::-1]}
    found |= {"bottom": _told(run, _ends(run, groups, bottom, last=False))[::-1]}
    found |= {"borderline": [], "cut": None, "note": None}
    if not borderline:
        return found
    cuts = cut_scores(run)
    if not cuts:
        return found | {"note": "no score decides what is kept here, so nothing lies at a cut"}
    rows = _nearest(run, groups, cuts, borderline)
    return found | {"borderline": _told(run, rows)[::-1], "cut": {_name(run, k): v for k, v in cuts.items()}}


def _ends(run: Run, groups: Iterable[Group], count: int, *, last: bool) -> pa.Table | None:
    """So many of the first or last rows of the ranking, lowest first."""
    tables, held = [], 0
    for group in groups:
        if held >= count:
            break
        table = _group(run, group)
        own = min(count - held, table.num_rows)
        tables.append(table.slice(table.num_rows - own if last else 0, own))
        held += own
    return pa.concat_tables(tables[::-1] if last else tables) if tables else None


def _nearest(run: Run, groups: Sequence[Group], cuts: dict[int | None, float], count: int) -> pa.Table | None:
    """So many rows nearest to their cut, lowest first."""
    gaps = {group: min(max(group.scores[0] - c, 0, c - group.scores[1]) for c in cuts.values()) for group in groups}
    best: pa.Table | None = None
    for group in sorted(groups, key=lambda one: gaps[one]):
        if best is not None and best.num_rows == count and gaps[group] > best["away"][-1].as_py():
            break
        table = _group(run, group)
        own = np.full(table.num_rows, cuts.get(None, np.nan))
        if None not in cuts:
            labels = table["label"].fill_null(-1).to_numpy()
            for label, cut in cuts.items():
                own[labels == label] = cut
        away = np.abs(column_of(table, "score") - own)
        table = table.append_column("away", pa.array(away))
        table = table.filter(pa.array((keys.levels(table) == keys.BEST) & ~np.isnan(own)))
        joined = pa.concat_tables([table] if best is None else [best, table])
        best = joined.sort_by([("away", "ascending"), ("rank", "ascending")]).slice(0, count)
    return best.sort_by("rank") if best is not None else None


def _group(run: Run, group: Group) -> pa.Table:
    part = run.manifest("ranking").parts[group.file]
    return files.read(run.store, part, files.present(run.store, part, COLUMNS), [group.group])


def _told(run: Run, rows: pa.Table | None) -> list[dict[str, Any]]:
    """What is known of rows of the ranking, in their order."""
    if rows is None or rows.num_rows == 0:
        return []
    entries: list[dict[str, Any]] = rows.to_pylist()
    kept = _kept(run, rows)
    told: dict[str, dict[str, Any]] = {}
    for part in sorted({entry["part"] for entry in entries}):
        own = [entry for entry in entries if entry["part"] == part]
        for entry, example, scores in zip(own, *_of_part(run, part, own), strict=True):
            names = ("score", "score_se", "rank", "percentile")
            told[entry[EXAMPLE_ID]] = {
                "id": entry[EXAMPLE_ID],
                **{name: entry[name] for name in names},
                "kept": kept.get(entry[EXAMPLE_ID]),
                **described(run, example),
                "components": _values(run, scores),
            }
    return [told[entry[EXAMPLE_ID]] for entry in entries]


def _of_part(
    run: Run, part: int, entries: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the corpus and of the scores of some entries of one part."""
    own = run.manifest(CORPUS).parts[part]
    corpus = files.read(run.store, own, files.present(run.store, own, SHOWN))
    scores = files.read(run.store, run.scored.parts[part])
    ids = pa.array([entry[EXAMPLE_ID] for entry in entries], pa.string())
    where = pc.index_in(ids, value_set=keys.one_array(scores[EXAMPLE_ID]))
    rows = pa.array([entry["part_row"] for entry in entries])
    return corpus.take(rows).to_pylist(), scores.take(where).to_pylist()


def _kept(run: Run, rows: pa.Table) -> dict[str, bool]:
    """Whether each example is kept, by id; empty without a selection."""
    if run.found("selection") is None:
        return {}
    wanted = column_of(rows, "rank")
    found = np.zeros(len(wanted), np.bool_)
    for part in run.manifest("selection").parts:
        with files.opened_file(run.store, part) as parquet:
            for group in range(parquet.num_row_groups):
                limits = files.bounds(parquet, group, "rank")
                if limits is None or ((wanted >= limits[0]) & (wanted <= limits[1])).any():
                    ranks = files.of_groups(run.store, part, parquet, ["rank"], [group])
                    found |= np.isin(wanted, column_of(ranks, "rank"))
    return dict(zip(rows[EXAMPLE_ID].to_pylist(), found.tolist(), strict=True))


def _values(run: Run, scores: dict[str, Any]) -> dict[str, Any]:
    return {name: scores[name] for name in run.components}


def _name(run: Run, label: int | None) -> str:
    return "all" if label is None else run.classes[label]
