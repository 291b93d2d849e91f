"""What the ranking and the selection look like: scores kept and left, the noise at the cut, classes, training order.

The selection's file i holds the kept rows of the ranking's file i, so the two are joined by rank within the file. Two
passes (range of the score, then counts and sums); the states are bins and class counts and are added in the order of
the files. Memory of a task: one file of the ranking. A ranking of kept examples alone says nothing of those left.

    noise at the cut = share of the kept set with |score - cut| <= its own standard error

Caution: with quotas every class has a cut of its own; `cut` is the lowest of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.examples import LABEL, column_of
from raydelt.rank.noise import errors_of
from raydelt.report.statistics import Range, bin_edges, range_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Store

POSITION_BINS = 60


@dataclass(frozen=True)
class View:
    """What is looked for: the score's bins, the cut, how many are kept, how many classes there are."""

    edges: Array
    cut: float | None
    kept: int
    classes: int

    @property
    def position_bins(self) -> int:
        return max(1, min(POSITION_BINS, self.kept))


def describe(
    run: Store, ranking: Manifest, selection: Manifest, classes: int, *, corpus: Sequence[int] | None = None
) -> dict[str, Any]:
    """The ranking's and selection's figures as plain data.

    `corpus` counts the corpus's classes [C] where the ranking does not hold all examples.
    """
    files = [part.file for part in ranking.parts]
    ranges = cluster.parallel(score_range, [(run, file) for file in files], label="report: score range")
    view = View(bin_edges(ranges), selection.facts["cut_score"], selection.rows, classes)
    pairs = zip(files, (part.file for part in selection.parts), strict=True)
    counted = cluster.parallel(count, [(run, a, b, view) for a, b in pairs], label="report: ranking")
    found = summed(counted, view, selection.facts["noise"])
    if corpus is not None:
        found["classes"]["corpus"] = list(corpus)
    return found


def score_range(run: Store, file: str) -> Range:
    """The least and the greatest score of one file of the ranking."""
    return range_of(column_of(run.read_table(file, ["score"]), "score"))


def count(run: Store, ranking: str, selection: str, view: View) -> dict[str, Array]:
    """Counts and sums over one file of the ranking; those of any files add up."""
    table = run.read_table(ranking, ["score", "score_se", "gate", "rank", LABEL])
    chosen = run.read_table(selection, ["rank", "position"])
    score, gate = column_of(table, "score"), column_of(table, "gate").astype(bool)
    rank = column_of(table, "rank")
    at = np.searchsorted(rank, column_of(chosen, "rank"))
    kept = np.isin(rank, column_of(chosen, "rank"))
    if np.count_nonzero(kept) != chosen.num_rows:
        raise RuntimeError(f"{selection} keeps ranks that {ranking} does not hold")
    groups = {"kept": kept, "left": ~kept & gate, "gated": ~kept & ~gate}
    found = {name: np.histogram(score[mask], view.edges)[0] for name, mask in groups.items()}
    found |= _errors(errors_of(table), score, view)
    found |= _order(score[at], column_of(chosen, "position"), view)
    labels = table[LABEL].combine_chunks()
    for name, mask in (("corpus", np.ones(len(kept), np.bool_)), ("selected", kept)):
        known = labels.filter(pa.array(mask)).drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
        found[f"classes_{name}"] = np.bincount(known, minlength=view.classes)
    return found


def _errors(errors: Array, score: Array, view: View) -> dict[str, Array]:
    """Number and sum of the known standard errors per score bin."""
    known = ~np.isnan(errors)
    return {
        "known": np.histogram(score[known], view.edges)[0],
        "se_sum": np.histogram(score[known], view.edges, weights=errors[known])[0],
    }


def _order(score: Array, position: Array, view: View) -> dict[str, Array]:
    """Number, sum and squares of the kept scores per bin of the training position, about the middle of the scale."""
    bins = view.position_bins
    place = position * bins // max(view.kept, 1)
    away = score - (view.edges[0] + view.edges[-1]) / 2.0
    weights = {"order_count": np.ones(len(place)), "order_sum": away, "order_squares": away**2}
    return {name: np.bincount(place, weights=own, minlength=bins) for name, own in weights.items()}


def summed(counted: list[dict[str, Array]], view: View, noise: Mapping[str, Any] | None) -> dict[str, Any]:
    """The figures from the counts of all files; `noise` is what the selection found at its cut."""
    total = {name: np.sum([part[name] for part in counted], axis=0) for name in counted[0]}
    number = np.maximum(total["order_count"], 1)
    mean = total["order_sum"] / number
    spread = np.sqrt(np.maximum(total["order_squares"] / number - mean**2, 0.0))
    middle = (view.edges[0] + view.edges[-1]) / 2.0
    return {
        "edges": view.edges.tolist(),
        **{name: total[name].tolist() for name in ("kept", "left", "gated")},
        "cut": view.cut,
        "noise": _noise_at_cut(total, view, noise),
        "classes": {name: total[f"classes_{name}"].tolist() for name in ("corpus", "selected")},
        "order": {
            "starts": [-(-bin * view.kept // view.position_bins) for bin in range(view.position_bins + 1)],
            "mean": (mean + middle).tolist(),
            "spread": spread.tolist(),
        },
    }


def _noise_at_cut(total: dict[str, Array], view: View, noise: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The noise at the cut and the mean error there, or None where no standard error or no cut is known."""
    if view.cut is None or noise is None:
        return None
    bins = len(view.edges) - 1
    at = int(np.clip(np.searchsorted(view.edges, view.cut, side="right") - 1, 0, bins - 1))
    # The cut's own bin holds the cut example itself, so it is empty only where that one has no error.
    width = float(total["se_sum"][at] / total["known"][at]) if total["known"][at] else None
    return {
        "kept": noise["undecided_kept"],
        "left": noise["undecided_left"],
        "share": noise["share"],
        "width": width,
    }
