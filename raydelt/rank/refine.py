"""More scoring rounds for the examples that the cut is not sure of, and for those alone.

With component x of R rounds (mean m, standard error s) and r more rounds (mean m', standard error s'), the pooled mean
and standard error are those of all R + r rounds:

    mean = (R m + r m') / (R + r)
    Q    = (R - 1) R s^2 + (r - 1) r s'^2 + (R r / (R + r)) (m - m')^2        sum of squares about the mean
    se   = sqrt(Q / ((R + r - 1) (R + r)))

Uncertain is an example whose combined score lies within z of its standard errors of the cut. Its components that are
means over the rounds of the proxies are pooled (not those that look at a target set); all else stays. Cost: r F more
proxies, and r forward passes of the uncertain examples. Sources: Chan, Golub and LeVeque 1979 (pooling); that effort
belongs near a boundary is the two-stage design of ranking and selection.

Caution: the cut moves when the scores do, so a second look at the noise may find other examples uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.config import Refine, Select
from raydelt.examples import column_of, derived_seed
from raydelt.rank import keys
from raydelt.rank.noise import errors_of, undecided
from raydelt.rank.stage import decide_on
from raydelt.scorers.protocol import Array, Need
from raydelt.scorers.registry import ScorerConfig
from raydelt.select.decision import Decision
from raydelt.storage import Manifest, Part, Stage

STAGES = ("uncertain", "more_proxies", "rescored", "refined")
ERROR = "_se"
# A target set's gradients by every proxy would have to be taken again too.
MODELS: frozenset[Need] = frozenset({"classifier", "gradients"})


def rounds_seed(seed: int) -> int:
    """The seed of the further rounds."""
    return derived_seed(seed, "refine")


def repeatable(specs: Sequence[ScorerConfig]) -> list[ScorerConfig]:
    """The scorers whose components are means over the rounds of the proxies."""
    needs = [spec.build().needs for spec in specs]
    return [spec for spec, own in zip(specs, needs, strict=True) if own & MODELS and own <= MODELS | {"label"}]


def find_uncertain(
    refine: Refine, select: Select, corpus: Manifest, pieces: Sequence[Any], stage: Stage, *, seed: int
) -> Manifest:
    """Publish, part by part of the corpus, the places of the examples that the cut is not sure of.

    `pieces` are references to the combined rows of neighbouring parts, in order.
    """
    decision = decide_on(select, pieces, corpus, seed=seed)
    calls = [(decision, refine.within, piece) for piece in pieces]
    found = cluster.parallel(_uncertain, calls, label="refine: uncertain")
    parts, rows = np.concatenate([own[0] for own in found]), np.concatenate([own[1] for own in found])
    written = [_write_places(stage, index, rows[parts == index]) for index in range(len(corpus.parts))]
    return stage.publish(written, {"rows_processed": corpus.rows})


def _uncertain(decision: Decision, within: float, table: pa.Table) -> tuple[Array, Array]:
    """Part and place of the rows whose score lies within so many standard errors of their cut."""
    cuts = decision.cut_scores(table)
    if cuts is None:
        return np.empty(0, np.int32), np.empty(0, np.int32)
    near = undecided(column_of(table, "score"), errors_of(table), cuts, z=within)
    return column_of(table, "part")[near], column_of(table, "part_row")[near]


def _write_places(stage: Stage, index: int, rows: Array) -> Part:
    return stage.run.write_table(stage.file("part", index), pa.table({"part_row": np.sort(rows)}))


def pool_scores(scores: Manifest, more: Manifest, rounds: tuple[int, int], stage: Stage) -> Manifest:
    """Publish the scores with those of the further rounds pooled in; `rounds` are how many both had."""
    pairs = zip(scores.parts, more.parts, strict=True)
    calls = [(stage, index, old.file, new.file, rounds) for index, (old, new) in enumerate(pairs)]
    parts = cluster.parallel(_pool_part, calls, label="refine: pool")
    return stage.publish(parts, scores.facts | {"refined": more.rows, "rounds": list(rounds)}, dict(scores.sides))


def _pool_part(stage: Stage, index: int, old: str, new: str, rounds: tuple[int, int]) -> Part:
    found = pooled(stage.run.read_table(old), stage.run.read_table(new), rounds)
    return stage.run.write_table(stage.file("part", index), found)


def pooled(scores: pa.Table, more: pa.Table, rounds: tuple[int, int]) -> pa.Table:
    """Scores of one part with what further rounds say of some of its rows."""
    rows = pc.index_in(keys.ids_of(more), value_set=keys.ids_of(scores)).to_numpy(zero_copy_only=False)
    for name in [name for name in more.column_names if f"{name}{ERROR}" in scores.column_names]:
        (m, s), (m_new, s_new) = _mean_and_error(scores, name), _mean_and_error(more, name)
        m[rows], s[rows] = pooled_mean(m[rows], s[rows], m_new, s_new, rounds)
        for column, values in ((name, m), (f"{name}{ERROR}", s)):
            place = scores.column_names.index(column)
            scores = scores.set_column(place, column, pa.array(values.astype(np.float32)))
    return scores


def _mean_and_error(table: pa.Table, name: str) -> tuple[Array, Array]:
    """A component [n] and its standard error [n], 0 where one round gave none."""
    error = f"{name}{ERROR}"
    known = column_of(table, error) if error in table.column_names else np.zeros(table.num_rows)
    return column_of(table, name).astype(np.float64), known.astype(np.float64)


def pooled_mean(
    mean: Array, error: Array, more_mean: Array, more_error: Array, rounds: tuple[int, int]
) -> tuple[Array, Array]:
    """Mean [n] and standard error [n] over all rounds from those over each of two sets of rounds.

    A set of one round has no standard error of its own: give anything finite, it counts as none.
    """
    first, further = rounds
    n = first + further
    own, new = (first - 1) * first * error**2, (further - 1) * further * more_error**2
    squares = own + new + first * further / n * (mean - more_mean) ** 2
    return (first * mean + further * more_mean) / n, np.sqrt(squares / ((n - 1) * n))
