"""The rank stage: combine the stored components part by part, once, and rank the examples exactly.

The combined rows stay in the object store, which spills, until they are dealt out to the ranges. Memory: the distinct
values of each component with a weight (12 bytes each) in one task, for the distribution function; then one batch of
parts (about `exact.ROWS_PER_RANGE` rows) or one range per task.

With `extent: kept` the selection's cut is found first (radix passes over the combined rows) and only what it keeps is
sorted and written; ranks then count the kept examples alone and percentiles are null.

Caution: the distribution functions are of all scored examples, those that `exclude` rules out included.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.config import Combine, Select
from raydelt.corpus.tokens import TOKENS
from raydelt.examples import EXAMPLE_ID, LABEL, RANKING_SCHEMA, column_of
from raydelt.rank import exact, keys
from raydelt.scorers.composite import Distribution, combined, effective_weights
from raydelt.scorers.protocol import Array
from raydelt.select.decision import Decision, decide, source_of
from raydelt.select.resting import left_out
from raydelt.storage import Manifest, Part, Stage, Store

MERGED_AT_ONCE = 8
# Values that hardly repeat: a dictionary of 1M random ids costs 0.1 s and saves nothing.
PLAIN = (EXAMPLE_ID, "score", "score_se", "rank", "percentile", "part_row")


@dataclass(frozen=True)
class Combination:
    """How parts of the scores become rows to rank; token counts come along where `tokens` names their files.

    Who rests by the file `resting` is not eligible.
    """

    run: Store
    corpus: tuple[str, ...]
    scores: tuple[str, ...]
    tokens: tuple[str, ...]
    combine: Combine
    weights: dict[str, float]
    resting: tuple[str, ...] = ()

    def rows(self, index: int, distributions: dict[str, Distribution]) -> pa.Table:
        """Rows of one part in its own order: the ranking's columns but rank and percentile."""
        table = self.run.read_table(self.scores[index])
        where, labels = _locate(self.run.read_table(self.corpus[index], [EXAMPLE_ID, LABEL]), table)
        components = {name: column_of(table, name) for name in self.weights}
        errors = {name: column_of(table, f"{name}_se") for name in self.weights if f"{name}_se" in table.column_names}
        score, se = combined(components, errors, distributions, self.weights, self.combine)
        gate = np.ones(len(score), np.bool_)
        if self.combine.gate is not None:
            gate = column_of(table, self.combine.gate.component) >= np.float32(self.combine.gate.at_least)
        return pa.table(
            {
                EXAMPLE_ID: table[EXAMPLE_ID],
                "score": score,
                "score_se": pa.array(se, mask=np.full(len(se), not errors)),
                "eligible": self._eligible(table),
                "gate": gate,
                LABEL: labels,
                TOKENS: self._tokens(index).take(where) if self.tokens else pa.nulls(len(score), pa.int64()),
                "part": np.full(len(score), index, np.int32),
                "part_row": where,
            }
        )

    def _eligible(self, table: pa.Table) -> Array:
        """Which rows [n] no exclusion of the spec rules out, and do not rest."""
        eligible = np.ones(table.num_rows, np.bool_)
        for exclusion in self.combine.exclude:
            value = column_of(table, exclusion.component)
            if exclusion.above is not None:
                eligible &= ~(value > np.float32(exclusion.above))
            if exclusion.below is not None:
                eligible &= ~(value < np.float32(exclusion.below))
        for file in self.resting:
            eligible &= ~left_out(self.run, file, table[EXAMPLE_ID])
        return eligible

    def _tokens(self, index: int) -> pa.Array:
        """Tokens [rows of the corpus part] of each document."""
        lists = self.run.read_table(self.tokens[index], [TOKENS])[TOKENS].combine_chunks()
        return pc.list_value_length(lists).cast(pa.int64())


def rank_scores(
    combine: Combine,
    corpus: Manifest,
    scores: Manifest,
    history: Sequence[float],
    stage: Stage,
    *,
    seed: int,
    only: Select | None = None,
    tokens: Manifest | None = None,
    resting: Manifest | None = None,
) -> Manifest:
    """Publish the ranking, lowest first: of all scored examples, or of those that the selection `only` keeps.

    Raises:
        SpecError: the selection's budget cannot be met.
        InputError: a combined score is not finite.
    """
    pieces, facts = combined_rows(combine, corpus, scores, history, stage.run, tokens=tokens, resting=resting)
    decision = None
    if only is not None:
        decision = decide_on(only, pieces, corpus, seed=seed)
        facts["decision"] = decision.facts()
    rows = decision.rows if decision else scores.rows
    write = functools.partial(_write_range, stage, None if decision else rows)
    parts = exact.rank_rows(pieces, functools.partial(_kept_rows, decision), write, rows=rows)
    return stage.publish(parts, facts)


def combined_rows(
    combine: Combine,
    corpus: Manifest,
    scores: Manifest,
    history: Sequence[float],
    run: Store,
    *,
    tokens: Manifest | None = None,
    resting: Manifest | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """References to tables of combined rows, unsorted, in the order of the parts; and how many the gate and so on."""
    weights = effective_weights(combine, history)
    one = Combination(run, _files(corpus), _files(scores), _files(tokens), combine, weights, _files(resting))
    batches = _batches(scores, exact.ROWS_PER_RANGE)
    found = _distributions(one, batches)
    held = cluster.scatter(_combined, [(one, batch, found) for batch in batches], 2, label="rank: combine")
    counts = np.sum(cluster.fetched([row[1] for row in held]), axis=0)
    facts = {
        "weights": weights,
        "gated_out": int(counts[0] + counts[2]),
        "excluded": int(counts[0] + counts[1]),
        "rows": scores.rows,
    }
    return [row[0] for row in held], facts


def decide_on(select: Select, pieces: Sequence[Any], corpus: Manifest, *, seed: int) -> Decision:
    """What a selection keeps of combined rows."""
    return decide(select, source_of(select, pieces, _columns, len(corpus.facts["classes"])), seed=seed)


def _files(manifest: Manifest | None) -> tuple[str, ...]:
    return tuple(part.file for part in manifest.parts) if manifest else ()


def _batches(scores: Manifest, rows: int) -> list[range]:
    """Neighbouring parts, taken together up to so many rows."""
    edges, held = [0], 0
    for index, part in enumerate(scores.parts):
        if held and held + part.rows > rows:
            edges.append(index)
            held = 0
        held += part.rows
    edges.append(len(scores.parts))
    return [range(low, high) for low, high in itertools.pairwise(edges)]


def _distributions(one: Combination, batches: Sequence[range]) -> Any:
    """A reference to the distribution of every component with a weight, merged as a tree; raw scores need none."""
    if one.combine.normalise == "raw":
        return {name: Distribution(np.empty(0, np.float32), np.empty(0, np.int64)) for name in one.weights}
    roots = []
    for name in one.weights:
        files = [tuple(one.scores[index] for index in batch) for batch in batches]
        level = [cluster.shared(_distribution, one.run, own, name, label="rank: distributions") for own in files]
        while len(level) > 1:
            groups = [level[low : low + MERGED_AT_ONCE] for low in range(0, len(level), MERGED_AT_ONCE)]
            level = [cluster.shared(_merged, *own, label="rank: distributions") for own in groups]
        roots += level
    return cluster.shared(_named, tuple(one.weights), *roots, label="rank: distributions")


def _distribution(run: Store, files: Sequence[str], name: str) -> Distribution:
    return Distribution.of(np.concatenate([column_of(run.read_table(file, [name]), name) for file in files]))


def _merged(*found: Distribution) -> Distribution:
    return functools.reduce(Distribution.merge, found)


def _named(names: Sequence[str], *found: Distribution) -> dict[str, Distribution]:
    return dict(zip(names, found, strict=True))


def _combined(one: Combination, batch: range, found: dict[str, Distribution]) -> tuple[pa.Table, Array]:
    """The rows of a batch of parts, and how many there are of each level [4]."""
    rows = pa.concat_tables([one.rows(index, found) for index in batch])
    return rows, np.bincount(keys.levels(rows), minlength=keys.LEVELS)


def _locate(corpus: pa.Table, scores: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Row of each scored example in its corpus part, and its label; both tables are in the same order."""
    rows = pa.array(np.arange(corpus.num_rows, dtype=np.int32))
    labels = corpus[LABEL].combine_chunks()
    if corpus.num_rows == scores.num_rows:
        return rows, labels
    scored = pc.is_in(keys.ids_of(corpus), value_set=keys.ids_of(scores))
    return rows.filter(scored), labels.filter(scored)


def _columns(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    return table.select(list(columns))


def _kept_rows(decision: Decision | None, table: pa.Table) -> pa.Table:
    """The rows to rank of combined ones: all, or those that the decision keeps."""
    return table if decision is None else table.filter(pa.array(decision.mask(table)))


def _write_range(stage: Stage, total: int | None, index: int, rows: pa.Table, below: int) -> Part:
    """Write one sorted range; percentiles are of `total` ranked examples, or null where not all are ranked."""
    n = rows.num_rows
    percentile = pa.array(exact.percentiles(below, n, total)) if total is not None else pa.nulls(n, pa.float64())
    rows = rows.append_column("rank", pa.array(np.arange(below, below + n, dtype=np.int64)))
    table = rows.append_column("percentile", percentile).select(RANKING_SCHEMA.names).cast(RANKING_SCHEMA)
    return stage.run.write_table(stage.file("part", index), table, plain=PLAIN)
