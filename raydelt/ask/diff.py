"""What differs between two runs, or two versions of one: `raydelt diff`.

    overlap     Jaccard = |A and B| / |A or B| of the selections
    agreement   Spearman's rho = 1 - 6 sum d^2 / (n (n^2 - 1)), d the difference of ranks among the n common examples
    moved       |percentile among the common in B - in A|; a component moved an example by w_B F_B - w_A F_A, F its
                percentile / 100 in the run itself
    components  the same over the examples of the lowest hashes in both, a uniform sample of the common ones

Examples are matched by a 64-bit hash of their ids. Cost: one pass over both rankings and selections, two columns of
the corpus where examples were kept, one sample of the scores. Memory: 29 bytes for each row of either ranking, and
about as much again while they are matched; 0.6 GB for two runs of 10M rows.

Caution: which component moved an example is told for normalise ecdf and fusion sum; else weights and values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.ask import files
from raydelt.ask.lookup import CORPUS
from raydelt.ask.run import Run
from raydelt.ask.sample import Sample, below_gate, broken, sample_of
from raydelt.ask.spec_diff import spec_differences, version_differences
from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, column_of, draw_keys
from raydelt.rank import keys
from raydelt.scorers.protocol import Array

MOVED = 10
SOURCES = 20


@dataclass(frozen=True)
class Side:
    """The ranking of one run, by ascending hash of the id: hashes [n], ranks, labels, places, and which are kept."""

    key: Array
    rank: Array
    label: Array
    part: Array
    row: Array
    kept: Array


def diff(a: Run, b: Run) -> dict[str, Any]:
    """Overlap, agreement, churn, movers and differences of two runs as plain data.

    Raises:
        InputError: either has no ranking, or they have no example in common.
    """
    left, right = _side(a), _side(b)
    _, i, j = np.intersect1d(left.key, right.key, assume_unique=True, return_indices=True)
    if len(i) == 0:
        raise InputError(
            f"{a.store.root!r} and {b.store.root!r} have no example in common: compare runs of one corpus"
        )
    before, after = _ranks(left.rank[i]), _ranks(right.rank[j])
    told: dict[str, Any] = {
        "a": _named(a, left),
        "b": _named(b, right),
        "common": len(i),
        "spearman": spearman(before, after),
        "selection": _overlap(left, right, i, j),
    }
    told |= _churn(a, b, left, right, i, j)
    told["components"] = components = _components(a, b)
    most = max(components, key=lambda one: float(one["weighted_change"]), default=None)
    told["moved_by"] = most["name"] if most and most["weighted_change"] > 0 else None
    told["moved"] = _moved(a, b, left, right, i, j, 100.0 * (after - before) / len(i))
    told["spec"] = spec_differences(a.raw, b.raw)
    return told | version_differences(a, b)


def spearman(before: Array, after: Array) -> float | None:
    """The rank correlation of ranks 0..n-1 [n] with ranks [n]; None below two examples."""
    n = len(before)
    if n < 2:
        return None
    squares = float(np.sum((before - after).astype(np.float64) ** 2))
    return 1.0 - 6.0 * squares / (float(n) * (float(n) ** 2 - 1.0))


def _side(run: Run) -> Side:
    ranking, selection = run.manifest("ranking"), run.found("selection")
    tables: list[tuple[Array, ...]] = []
    for index, part in enumerate(ranking.parts):
        table = files.read(run.store, part, [EXAMPLE_ID, "rank", "label", "part", "part_row"])
        rank = column_of(table, "rank")
        kept = np.zeros(len(rank), np.bool_)
        if selection is not None:
            kept = np.isin(rank, column_of(files.read(run.store, selection.parts[index], ["rank"]), "rank"))
        label = table["label"].fill_null(-1).to_numpy().astype(np.int32)
        hashes = draw_keys(table[EXAMPLE_ID].to_pylist())
        tables.append((hashes, rank, label, column_of(table, "part"), column_of(table, "part_row"), kept))
    columns = [np.concatenate(own) for own in zip(*tables, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return Side(*(column[order] for column in columns))


def _ranks(ranks: Array) -> Array:
    """Ranks [n] among these alone, 0..n-1."""
    found = np.empty(len(ranks), np.int64)
    found[np.argsort(ranks)] = np.arange(len(ranks))
    return found


def _named(run: Run, side: Side) -> dict[str, Any]:
    kept = int(side.kept.sum()) if run.found("selection") is not None else None
    return {"run": run.store.root, "version": run.version, "ranked": len(side.key), "kept": kept}


def _overlap(left: Side, right: Side, i: Array, j: Array) -> dict[str, Any]:
    """How the selections overlap; `dropped` and `new` count what the other run does not rank (`…_absent`) too."""
    both = int((left.kept[i] & right.kept[j]).sum())
    one, two = int(left.kept.sum()), int(right.kept.sum())
    return {
        "both": both,
        "dropped": one - both,
        "dropped_absent": one - int(left.kept[i].sum()),
        "new": two - both,
        "new_absent": two - int(right.kept[j].sum()),
        "jaccard": both / (one + two - both) if one + two > both else None,
    }


def _churn(a: Run, b: Run, left: Side, right: Side, i: Array, j: Array) -> dict[str, Any]:
    """How many each class and each source keeps, gets and loses; sources are the most changed ones."""
    dropped, new = left.kept.copy(), right.kept.copy()
    both = left.kept[i] & right.kept[j]
    dropped[i[both]] = False
    new[j[both]] = False
    sides = {"both": (b, right, j[both]), "dropped": (a, left, np.flatnonzero(dropped))}
    sides["new"] = (b, right, np.flatnonzero(new))
    classes: dict[str, dict[str, int]] = {}
    sources: dict[str, dict[str, int]] = {}
    for name, (run, side, rows) in sides.items():
        for label, count in zip(*np.unique(side.label[rows], return_counts=True), strict=True):
            known = run.classes[label] if 0 <= label < len(run.classes) else "none"
            _add(classes, known, name, int(count))
        for source, count in _sources(run, side, rows).items():
            _add(sources, source, name, count)
    listed = sorted(sources.items(), key=lambda item: (-item[1]["dropped"] - item[1]["new"], item[0]))
    return {"classes": dict(sorted(classes.items())), "sources": dict(listed[:SOURCES])}


def _add(counts: dict[str, dict[str, int]], key: str, name: str, count: int) -> None:
    counts.setdefault(key, {"both": 0, "dropped": 0, "new": 0})[name] += count


def _sources(run: Run, side: Side, rows: Array) -> dict[str, int]:
    """How many of some rows come from each source file."""
    found: dict[str, int] = {}
    part = side.part[rows]
    for index in np.unique(part):
        table = files.read(run.store, run.manifest(CORPUS).parts[index], ["source_file"])
        own = table["source_file"].take(pa.array(side.row[rows[part == index]]))
        for entry in own.value_counts().to_pylist():
            found[str(entry["values"])] = found.get(str(entry["values"]), 0) + entry["counts"]
    return found


def _components(a: Run, b: Run) -> list[dict[str, Any]]:
    """How much each component that both have changed, over a sample of the common examples."""
    names = [name for name in a.components if name in b.components]
    one, two = (_lowest(run, names) for run in (a, b))
    ids, where = keys.one_array(one[EXAMPLE_ID]), keys.one_array(two[EXAMPLE_ID])
    place = pc.index_in(ids, value_set=where)
    mine = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
    theirs = place.drop_null().to_numpy()
    weights = [run.manifest("ranking").facts["weights"] for run in (a, b)]
    told = []
    for name in names if len(mine) else []:
        before, after = column_of(one, name), column_of(two, name)
        share = [_ecdf(column)[rows] for column, rows in ((before, mine), (after, theirs))]
        w = [own.get(name, 0.0) for own in weights]
        told.append(
            {
                "name": name,
                "weight_a": w[0],
                "weight_b": w[1],
                "rows": len(mine),
                "changed": int(np.count_nonzero(before[mine] != after[theirs])),
                "mean_change": float(np.mean(np.abs(after[theirs] - before[mine]))),
                "percentile_change": float(100 * np.mean(np.abs(share[1] - share[0]))),
                "weighted_change": float(100 * np.mean(np.abs(w[1] * share[1] - w[0] * share[0]))),
            }
        )
    return told


def _lowest(run: Run, names: list[str], rows: int = 1 << 18) -> pa.Table:
    """The scores of the first parts, which hold the examples of the lowest hashes."""
    tables, held = [], 0
    for part in run.scored.parts:
        if held >= rows:
            break
        tables.append(files.read(run.store, part, [EXAMPLE_ID, *names]))
        held += part.rows
    return pa.concat_tables(tables)


def _ecdf(values: Array) -> Array:
    """The distribution function [n] of values [n] at themselves, in the middle of ties."""
    ordered = np.sort(values)
    low, high = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    found: Array = (low + high) / (2.0 * len(values))
    return found


def _moved(a: Run, b: Run, left: Side, right: Side, i: Array, j: Array, change: Array) -> list[dict[str, Any]]:
    """The examples whose percentile among the common ones changed most, and what moved them."""
    most = np.argsort(-np.abs(change), kind="stable")[:MOVED]
    most = most[change[most] != 0]
    weighed = [list(run.manifest("ranking").facts["weights"]) for run in (a, b)]
    samples = (sample_of(a, weighed[0]), sample_of(b, weighed[1])) if len(most) else None
    told = []
    for row in most:
        one, two = (_scores(run, side, int(at[row])) for run, side, at in ((a, left, i), (b, right, j)))
        shifts = _shifts(a, b, samples, one, two) if samples else {}
        by = _gate_moved(a, b, one, two) or max(shifts, key=lambda name: abs(shifts[name]), default=None)
        entry = {"id": one[EXAMPLE_ID], "percentile_change": float(change[row]), "moved_by": by, "shifts": shifts}
        entry |= {"kept_a": bool(left.kept[i[row]]), "kept_b": bool(right.kept[j[row]])}
        told.append(entry)
    return told


def _scores(run: Run, side: Side, row: int) -> dict[str, Any]:
    """The components of a row of the ranking."""
    part = int(side.part[row])
    ids = files.read(run.store, run.manifest(CORPUS).parts[part], [EXAMPLE_ID])[EXAMPLE_ID]
    example = ids[int(side.row[row])].as_py()
    scores = files.read(run.store, run.scored.parts[part])
    at = pc.index(scores[EXAMPLE_ID], example).as_py()
    found: dict[str, Any] = scores.slice(at, 1).to_pylist()[0]
    return found


def _shifts(
    a: Run, b: Run, samples: tuple[Sample, Sample], one: dict[str, Any], two: dict[str, Any]
) -> dict[str, float]:
    """How far, in points, each component with a weight in either run moved an example."""
    weights = [run.manifest("ranking").facts["weights"] for run in (a, b)]
    found = {}
    for name in {**weights[0], **weights[1]}:
        terms = [
            w[name] * sample.percentile(name, scores[name]) if name in w else 0.0
            for w, sample, scores in zip(weights, samples, (one, two), strict=True)
        ]
        found[name] = terms[1] - terms[0]
    return found


def _gate_moved(a: Run, b: Run, one: dict[str, Any], two: dict[str, Any]) -> str | None:
    """The gate or an exclusion, where it lets an example pass in one run alone."""
    combines = [run.raw["rank"]["combine"] for run in (a, b)]
    out = [broken(combine, scores) for combine, scores in zip(combines, (one, two), strict=True)]
    if bool(out[0]) != bool(out[1]):
        return f"exclusion by {(out[0] or out[1])[0][0]}"
    failed = [below_gate(combine, scores) for combine, scores in zip(combines, (one, two), strict=True)]
    for before, after in (failed, failed[::-1]):
        if before is not None and after is None:
            return f"gate of {before[0]}"
    return None
