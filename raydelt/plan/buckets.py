"""The buckets stage: slices of the ranking, best first, or ratios of it, each a shuffled training order of its own.

    bucket i holds the places n_c - floor((i + 1) n_c / B) .. n_c - floor(i n_c / B) - 1 of every group c
    ratio k holds buckets 0 .. k: with `plan.probes.mixtures` in their place
    position = P_i(place within the bucket), kept where it is below the pool           P_i: a seeded permutation

n_c are the eligible examples of a group: all of them are one, but with `select.quotas` every class is, since that is
how examples are then kept. A pool smaller than its bucket or ratio is a uniform sample of it, and the holdout is such
a sample of all buckets together. Cost: two reads of the ranking, and a shuffle of the examples that are kept. Memory
of a task: one corpus part or one file of the ranking or of an order.

Caution: what `rank.combine.exclude` rules out is in no bucket.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.corpus.tokens import TOKENS
from raydelt.errors import SpecError
from raydelt.examples import LABEL, column_of
from raydelt.order.permutation import permuted
from raydelt.order.stage import Examples, Ordered, described, materialise
from raydelt.rank.cuts import groups_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Stage, Store

HOLDOUT = "random"
MOST = 20_000


@dataclass(frozen=True)
class Bucket:
    """The places [low, high) of every group [G], how many examples are trained on, and the tokens in them, if any."""

    name: str
    low: tuple[int, ...]
    high: tuple[int, ...]
    pool: int
    tokens: int = 0

    @property
    def rows(self) -> int:
        return sum(self.high) - sum(self.low)

    def seen(self, examples: float, *, in_tokens: bool) -> float:
        """So many of its examples in the unit that probes count in."""
        return examples * self.tokens / self.pool if in_tokens else examples


@dataclass(frozen=True)
class Piece:
    """A file of the ranking: the first rank that is eligible, and the places [G] that lie below the file."""

    file: str
    excluded: int
    below: tuple[int, ...]
    grouped: bool

    def places(self, table: pa.Table) -> tuple[Array, Array, Array]:
        """Rows of the file that are eligible [n], and the group [n] and place [n] of each; places count from 0."""
        rows = np.flatnonzero(column_of(table, "rank") >= self.excluded)
        group = groups_of(table, LABEL if self.grouped else None)[rows]
        place = np.empty(len(rows), np.int64)
        for index, below in enumerate(self.below):
            own = group == index
            place[own] = below + np.arange(np.count_nonzero(own))
        return rows, group, place


def slices(counts: Sequence[int], buckets: int, *, pool: int | None = None) -> list[Bucket]:
    """The buckets of groups with so many eligible examples each [G], best first.

    Raises:
        SpecError: there are fewer examples than buckets.
    """
    if sum(counts) < buckets:
        raise SpecError(f"plan.buckets {buckets} is more than the {sum(counts)} ranked examples: use fewer")
    edges = [tuple(count - i * count // buckets for count in counts) for i in range(buckets + 1)]
    names = [f"{100 * i / buckets:.3g}-{100 * (i + 1) / buckets:.3g} %" for i in range(buckets)]
    return [
        Bucket(name, low, high, min(pool or MOST, sum(high) - sum(low)))
        for name, (high, low) in zip(names, itertools.pairwise(edges), strict=True)
    ]


def ratios(buckets: Sequence[Bucket]) -> list[Bucket]:
    """Each bucket together with all that are better, from pools as large as theirs together."""
    pools = itertools.accumulate(bucket.pool for bucket in buckets)
    return [
        Bucket(f"top {100 * (k + 1) / len(buckets):.3g} %", bucket.low, buckets[0].high, pool)
        for k, (bucket, pool) in enumerate(zip(buckets, pools, strict=True))
    ]


def slice_ranking(
    config: RunConfig, corpus: Manifest, tokens: Manifest | None, ranking: Manifest, stage: Stage
) -> Manifest:
    """Publish the training order of every bucket, and of the holdout where the spec asks for one.

    Raises:
        SpecError: the ranking holds kept examples alone, or fewer than there are buckets.
    """
    if "decision" in ranking.facts:
        raise SpecError("rank.extent kept leaves nothing below the cut to plan with: set rank.extent to all")
    spec, grouped = config.plan, config.select.quotas is not None
    pieces, counts = pieces_of(stage.run, ranking, len(corpus.facts["classes"]) if grouped else 0)
    wanted = slices(counts, spec.buckets, pool=spec.probes.pool)
    wanted = ratios(wanted) if spec.probes.mixtures else wanted
    if spec.probes.holdout:
        wanted.append(Bucket(HOLDOUT, (0,) * len(counts), tuple(counts), max(bucket.pool for bucket in wanted)))
    examples = Examples(
        stage.run, tuple(p.file for p in corpus.parts), tuple(p.file for p in tokens.parts) if tokens else None
    )
    orders, sides, held = [], {}, []
    for index, bucket in enumerate(wanted):
        kind = f"bucket-{index}"
        parts, moments = materialise(stage, kind, examples, pieces, placing(bucket, seed=config.seed), bucket.pool)
        orders.append(described(bucket.name, parts, moments, corpus.facts))
        sides[kind] = parts
        held.append(replace(bucket, tokens=_tokens(stage.run, parts) if tokens else 0))
    facts = {
        "rows_processed": sum(bucket.pool for bucket in held),
        "orders": [order.__dict__ for order in orders],
        "buckets": [asdict(bucket) for bucket in held],
    }
    return stage.publish([], facts, sides)


def published(buckets: Manifest) -> list[tuple[Bucket, Ordered]]:
    """The buckets of the stage with their orders, best first; the holdout, if there is one, is the last."""
    held = [entry | {end: tuple(entry[end]) for end in ("low", "high")} for entry in buckets.facts["buckets"]]
    return [(Bucket(**own), Ordered(**order)) for own, order in zip(held, buckets.facts["orders"], strict=True)]


def pieces_of(run: Store, ranking: Manifest, classes: int) -> tuple[list[Piece], list[int]]:
    """The files of a ranking, and the eligible examples of every class, or of all where `classes` is 0."""
    excluded, groups = ranking.facts["excluded"], max(classes, 1)
    bare = [Piece(part.file, excluded, (0,) * groups, classes > 0) for part in ranking.parts]
    counts = cluster.parallel(_count, [(run, piece) for piece in bare], label="plan: count")
    ends = np.cumsum([np.zeros(groups, np.int64), *counts], axis=0)
    pieces = [replace(piece, below=tuple(below)) for piece, below in zip(bare, ends[:-1].tolist(), strict=True)]
    return pieces, ends[-1].tolist()


def placing(bucket: Bucket, *, seed: int) -> Callable[[Store, Piece], pa.Table]:
    """Where the pool's examples of one file of the ranking are, and their positions in the bucket's order."""
    return functools.partial(_place, bucket, seed)


def _count(run: Store, piece: Piece) -> Array:
    _, group, _ = piece.places(run.read_table(piece.file, ["rank", LABEL]))
    return np.bincount(group, minlength=len(piece.below))


def _place(bucket: Bucket, seed: int, run: Store, piece: Piece) -> pa.Table:
    table = run.read_table(piece.file, ["rank", LABEL, "part", "part_row"])
    rows, group, place = piece.places(table)
    low, high = np.array(bucket.low), np.array(bucket.high)
    inside = np.flatnonzero((place >= low[group]) & (place < high[group]))
    start = np.concatenate([[0], np.cumsum(high - low)])[group[inside]]
    index = start + place[inside] - low[group[inside]]
    position = permuted(index, bucket.rows, seed, "bucket", bucket.name)
    kept = position < bucket.pool
    table = table.select(["part", "part_row"]).take(pa.array(rows[inside[kept]]))
    table = table.append_column("position", pa.array(position[kept]))
    return table.append_column("weight", pa.array(np.ones(int(kept.sum()))))


def _tokens(run: Store, parts: list[Part]) -> int:
    return sum(cluster.parallel(_count_tokens, [(run, part.file) for part in parts], label="plan: tokens"))


def _count_tokens(run: Store, file: str) -> int:
    return int(pc.sum(pc.list_value_length(run.read_table(file, [TOKENS])[TOKENS])).as_py() or 0)
