"""The rank stage: combine the stored components part by part, and rank all examples exactly.

Memory: the distinct values of each component with a weight (12 bytes each) in one task, for the distribution function;
then one part or one range per task.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import Combine
from raydelt.examples import EXAMPLE_ID, LABEL, column_of
from raydelt.rank import exact
from raydelt.scorers.composite import Distribution, combined, effective_weights
from raydelt.storage import Manifest, Part, Stage, Store

SAMPLES_PER_PART = 64


@dataclass(frozen=True)
class Combination:
    """How one part of the scores becomes rows to rank."""

    run: Store
    corpus: tuple[str, ...]
    scores: tuple[str, ...]
    combine: Combine
    weights: dict[str, float]
    distributions: dict[str, Distribution]

    def __call__(self, index: int) -> pa.Table:
        """Rows (gate, score, example_id, score_se, label, part, part_row) of one part, sorted."""
        table = self.run.read_table(self.scores[index])
        where, labels = _locate(self.run.read_table(self.corpus[index], [EXAMPLE_ID, LABEL]), table)
        components = {name: column_of(table, name) for name in self.weights}
        errors = {name: column_of(table, f"{name}_se") for name in self.weights if f"{name}_se" in table.column_names}
        score, se = combined(components, errors, self.distributions, self.weights, self.combine.normalise)
        gate = np.ones(len(score), np.bool_)
        if self.combine.gate is not None:
            gate = column_of(table, self.combine.gate.component) >= np.float32(self.combine.gate.at_least)
        rows = pa.table(
            {
                EXAMPLE_ID: table[EXAMPLE_ID],
                "score": score,
                "score_se": pa.array(se, mask=np.full(len(se), not errors)),
                "gate": gate,
                LABEL: labels,
                "part": np.full(len(score), index, np.int32),
                "part_row": where,
            }
        )
        return rows.sort_by(exact.SORT_KEY)


def rank_scores(
    combine: Combine, corpus: Manifest, scores: Manifest, history: Sequence[float], stage: Stage
) -> Manifest:
    """Publish the ranking of all scored examples, lowest first."""
    weights = effective_weights(combine, history)
    files = tuple(part.file for part in scores.parts)
    names = list(weights)
    found = cluster.parallel(_distribution, [(stage.run, files, name) for name in names], label="rank: distributions")
    one = Combination(
        stage.run,
        tuple(part.file for part in corpus.parts),
        files,
        combine,
        weights,
        dict(zip(names, found, strict=True)),
    )
    count = exact.ranges(scores.rows)
    indices = range(len(files))
    sampled = cluster.parallel(_sample, [(one, index) for index in indices], label="rank: sample") if count > 1 else []
    at = exact.splitters([key for keys in sampled for key in keys], count) if count > 1 else []
    counts = cluster.parallel(_count, [(one, index, at) for index in indices], label="rank: count")
    below = np.concatenate([[0], np.cumsum(np.sum([entry[0] for entry in counts], axis=0))])
    parts = cluster.shuffle(
        list(indices),
        functools.partial(_cut, one, at),
        functools.partial(_write_range, stage, [int(b) for b in below]),
        count,
        label="rank: sort",
    )
    facts = {"weights": weights, "gated_out": int(sum(entry[1] for entry in counts)), "rows": scores.rows}
    return stage.publish(parts, facts)


def _locate(corpus: pa.Table, scores: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Row of each scored example in its corpus part, and its label; both tables are in the same order."""
    if corpus.num_rows == scores.num_rows:
        return pa.array(np.arange(corpus.num_rows, dtype=np.int32)), corpus[LABEL].combine_chunks()
    scored = set(scores[EXAMPLE_ID].to_pylist())
    keep = np.fromiter((key in scored for key in corpus[EXAMPLE_ID].to_pylist()), bool, corpus.num_rows)
    return pa.array(np.flatnonzero(keep).astype(np.int32)), corpus[LABEL].filter(pa.array(keep)).combine_chunks()


def _distribution(run: Store, files: Sequence[str], name: str) -> Distribution:
    total = Distribution(np.empty(0, np.float32), np.empty(0, np.int64))
    for file in files:
        total = total.merge(Distribution.of(column_of(run.read_table(file, [name]), name)))
    return total


def _sample(one: Combination, index: int) -> list[exact.Key]:
    return exact.sample_keys(one(index), SAMPLES_PER_PART)


def _count(one: Combination, index: int, at: Sequence[exact.Key]) -> tuple[list[int], int]:
    """Rows of one part in each range, and how many of the part fail the gate."""
    rows = one(index)
    return [piece.num_rows for piece in exact.cut(rows, at)], int(np.count_nonzero(~column_of(rows, "gate")))


def _cut(one: Combination, at: Sequence[exact.Key], index: int, _: int) -> list[pa.Table]:
    return exact.cut(one(index), at)


def _write_range(stage: Stage, below: Sequence[int], index: int, pieces: list[pa.Table]) -> Part:
    table = exact.ranked(pieces, below=below[index], total=below[-1])
    return stage.run.write_table(stage.file("part", index), table)
