"""The neighbours stage: what lies close to each example, within its cluster.

    u = x / ||x||
    knn_cosine_i     = mean of the k greatest u_i . u_j over the others j of i's cluster (of all, where fewer)
    earlier_cosine_i = max of u_i . u_j over the j of i's cluster before i in the keep order; -1 if there is none
    neighbour_i      = the id of that j; null if there is none

x is the embedding, or the corpus's own features where there is no encoder. The keep order is that of the corpus, which
is the order of draw keys. An example without a direction (x = 0) is no one's neighbour and has cosine 0 to all;
knn_cosine is also 0 without company. A vector with NaN gives NaN, which the score stage sends to quarantine.

Clusters come from spherical k-means on the first examples of the corpus, a uniform sample that no layout changes; up
to 8,192 examples are one cluster, compared exactly. One shuffle brings clusters together, one brings results back. A
cluster above 16,384 examples is cut by 2-means, an eighth at least on either side, again and again; copies, in keep
order.

Cost: O(n k d) to assign, O(n m d) to compare, m the size of a cluster. Memory of a task: the vectors of a corpus part,
or twice those of its clusters, and a block of 16 million cosines. SemDeDup, Abbas et al. 2023.

Caution: neighbours on either side of a cluster's border do not see each other, so a few duplicates of many are missed.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.corpus.canonical import fixed_lists
from raydelt.examples import EMBEDDING, EXAMPLE_ID, FEATURES, column_of
from raydelt.scorers.diversity import Transform
from raydelt.scorers.near_duplicates import EARLIER_COSINE
from raydelt.scorers.protocol import Array
from raydelt.scorers.prototype import SAMPLE_ROWS, LloydStep, first_centroids
from raydelt.scorers.typicality import KNN_COSINE
from raydelt.storage import Manifest, Part, Stage, Store

log = logging.getLogger(__name__)

NEIGHBOUR = "neighbour"

NEAREST = 10
LARGEST = 16_384
ROWS_PER_CLUSTER = 8192
BYTES_PER_CLUSTER = 64 << 20
MOST_CLUSTERS = 1024
SAMPLE_PER_CLUSTER = 16
SAMPLE_BYTES = 256 << 20
LEAST_PARTITIONS = 64
ITERATIONS = 20
ASSIGN_ROWS = 8192
BLOCK_COSINES = 1 << 24
NONE = -1


@dataclass(frozen=True)
class VectorReader:
    """Reads one part's ids and vectors."""

    run: Store
    files: tuple[str, ...]
    column: str

    def __call__(self, index: int) -> tuple[pa.ChunkedArray, Array, Array]:
        """Ids [n], unit rows float32 [n, d], and which have a direction [n]; the others are zero or not finite."""
        table = self.run.read_table(self.files[index], [EXAMPLE_ID, self.column])
        x = _matrix(table[self.column]).astype(np.float64)
        norms = np.linalg.norm(x, axis=1)
        usable = np.isfinite(norms) & (norms > 0)
        x[usable] /= norms[usable, None]
        return table[EXAMPLE_ID], x.astype(np.float32), usable


def find_neighbours(
    corpus: Manifest,
    vectors: Manifest | None,
    stage: Stage,
    *,
    seed: int,
    nearest: int = NEAREST,
    clusters: int | None = None,
    largest: int = LARGEST,
) -> Manifest:
    """Compare every example with those of its cluster and publish what was found, row by row as the corpus.

    `vectors` are the embeddings; None takes the corpus's own features. Without `clusters`, there are as many as keep
    their size within bounds.
    """
    source = corpus if vectors is None else vectors
    if [part.rows for part in source.parts] != [part.rows for part in corpus.parts]:
        raise RuntimeError(f"{source.stage} has other rows than the corpus")
    column = FEATURES if vectors is None else EMBEDDING
    reader = VectorReader(stage.run, tuple(part.file for part in source.parts), column)
    wanted = clusters or _clusters(corpus.rows, source.facts["width"])
    rows = _sample_rows(wanted, source.facts["width"])
    [centroids] = cluster.parallel(_centroids, [(reader, rows, wanted, seed)], label="neighbours: clusters")
    parts = list(range(len(source.parts)))
    found = cluster.regroup(
        parts,
        functools.partial(_by_cluster, reader, centroids),
        functools.partial(_compare, nearest, largest),
        min(len(centroids), max(len(parts), LEAST_PARTITIONS)),
        label="neighbours: compare",
    )
    write = functools.partial(_write_part, stage, reader)
    written = cluster.shuffle(found, _by_part, write, len(parts), label="neighbours: write")
    still = sum(count for _, count in written)
    if still:
        log.warning("%d of %d examples have no direction and so no neighbours", still, corpus.rows)
    facts = {"clusters": len(centroids), "nearest": nearest, "without_direction": still}
    return stage.publish([part for part, _ in written], facts)


def _clusters(rows: int, width: int) -> int:
    """Enough clusters for neither the rows nor the bytes of an average one to exceed their bounds."""
    return max(1, min(MOST_CLUSTERS, max(-(-rows // ROWS_PER_CLUSTER), -(-rows * width * 4 // BYTES_PER_CLUSTER))))


def _sample_rows(clusters: int, width: int) -> int:
    return max(clusters, min(max(SAMPLE_ROWS, SAMPLE_PER_CLUSTER * clusters), SAMPLE_BYTES // (8 * width)))


def _centroids(reader: VectorReader, rows: int, clusters: int, seed: int) -> Array:
    """Unit centroids [clusters, d], fewer where the first examples with a direction are fewer; at least one row."""
    ids, units, held = [], [], 0
    for index in range(len(reader.files) if clusters > 1 else 0):
        names, x, usable = reader(index)
        ids.append(names.filter(pa.array(usable)).combine_chunks())
        units.append(x[usable])
        held += len(units[-1])
        if held >= rows:
            break
    if held == 0:
        return np.zeros((1, 1))
    sample = np.concatenate(units)[:rows]
    transform = Transform(np.zeros(sample.shape[1]), np.ones(sample.shape[1]))
    batch = pa.record_batch([pa.concat_arrays(ids)[:rows], fixed_lists(sample)], [EXAMPLE_ID, FEATURES])
    centroids = first_centroids(sample.astype(np.float64), clusters, seed)
    for _ in range(ITERATIONS):
        step = LloydStep(transform, centroids)
        moved = step.finish(step.add(step.zero(), batch))
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _by_cluster(reader: VectorReader, centroids: Array, index: int, count: int) -> list[pa.Table]:
    """The rows of one part, shared out by their nearest centroid; those without a direction go with the first."""
    ids, units, usable = reader(index)
    own = np.where(usable, _nearest(units, centroids), NONE).astype(np.int32)
    partition = np.where(usable, own % count, 0)
    order = np.argsort(partition, kind="stable")
    table = pa.table(
        {
            EXAMPLE_ID: ids.take(pa.array(order)),
            "part": np.full(len(own), index, np.int32),
            "part_row": order.astype(np.int32),
            "cluster": own[order],
            "unit": fixed_lists(units[order]),
        }
    )
    return _cut(table, partition[order], count)


def _nearest(units: Array, centroids: Array) -> Array:
    """Index [n] of the most similar centroid."""
    own = np.zeros(len(units), np.int32)
    if len(centroids) > 1:
        columns = centroids.T.astype(np.float32)
        for start in range(0, len(units), ASSIGN_ROWS):
            own[start : start + ASSIGN_ROWS] = (units[start : start + ASSIGN_ROWS] @ columns).argmax(axis=1)
    return own


def _compare(nearest: int, largest: int, _: int, pieces: list[pa.Table]) -> pa.Table:
    """What was found for the rows of some clusters; `usable` tells which rows have a direction."""
    table = pa.concat_tables(pieces)
    # In keep order, whatever order the pieces came in.
    order = np.lexsort((column_of(table, "part_row"), column_of(table, "part")))
    own, units = column_of(table, "cluster")[order], _matrix(table["unit"])[order]
    knn, earlier, who = np.zeros(len(own)), np.zeros(len(own)), np.full(len(own), NONE)
    for name in np.unique(own):
        members = np.flatnonzero(own == name)
        if name == NONE:
            # Zero stays zero, and what is not finite becomes NaN.
            knn[members] = earlier[members] = (units[members] * 0).sum(axis=1)
            continue
        for group in split_large(units[members], largest):
            rows = members[group]
            knn[rows], earlier[rows], before = within(units[rows], nearest)
            who[rows] = np.where(before == NONE, NONE, rows[before])
    ids = table[EXAMPLE_ID].combine_chunks().take(pa.array(order))
    return pa.table(
        {
            "part": column_of(table, "part")[order],
            "part_row": column_of(table, "part_row")[order],
            "usable": own != NONE,
            KNN_COSINE: knn.astype(np.float32),
            EARLIER_COSINE: earlier.astype(np.float32),
            NEIGHBOUR: ids.take(pa.array(who, mask=who == NONE)),
        }
    )


def within(units: Array, nearest: int) -> tuple[Array, Array, Array]:
    """Mean cosine to the nearest others, greatest cosine to an earlier row (-1: none), and that row (-1: none).

    Of float32 unit rows [m, d] in keep order; three arrays [m]. Of equally close earlier rows, the first.
    """
    m = len(units)
    count = min(nearest, m - 1)
    knn, earlier, who = np.zeros(m), np.full(m, -1.0), np.full(m, NONE)
    for start in range(0, m, max(1, BLOCK_COSINES // m)):
        stop = min(m, start + max(1, BLOCK_COSINES // m))
        rows = np.arange(start, stop)
        cosines = units[start:stop] @ units.T
        np.clip(cosines, -1.0, 1.0, out=cosines)
        cosines[rows - start, rows] = -np.inf
        if count:
            knn[rows] = np.partition(cosines, m - count, axis=1)[:, m - count :].mean(axis=1, dtype=np.float64)
        before = cosines[:, :stop]
        # What lies left of the block comes before all of its rows.
        before[:, start:][np.triu_indices(stop - start)] = -np.inf
        best = before.argmax(axis=1)
        some = rows > 0
        who[rows[some]] = best[some]
        earlier[rows[some]] = before[rows - start, best][some]
    return knn, earlier, who


def split_large(units: Array, largest: int) -> list[Array]:
    """The rows of unit vectors [m, d] in groups of at most `largest`, each in ascending order."""
    waiting, groups = [np.arange(len(units))], []
    while waiting:
        rows = waiting.pop()
        if len(rows) <= largest:
            groups.append(rows)
            continue
        first = _two_means(units[rows])
        waiting += [rows[first], rows[~first]]
    return groups


def _two_means(units: Array) -> Array:
    """Which rows [m] belong to the first of two clusters of at least an eighth of the rows each."""
    total = units.sum(axis=0)
    one = units[(units @ total).argmin()]
    other = units[(units @ one).argmin()]
    for _ in range(ITERATIONS):
        near = units @ (one - other) > 0
        if near.all() or not near.any():
            break
        sums = near.astype(np.float32) @ units
        one, other = (v / max(float(np.linalg.norm(v)), 1e-12) for v in (sums, total - sums))
    margin = units @ (one - other)
    least = max(1, len(units) // 8)
    first = np.zeros(len(units), bool)
    first[np.argsort(-margin, kind="stable")[: np.clip(int((margin > 0).sum()), least, len(units) - least)]] = True
    return first


def _by_part(table: pa.Table, count: int) -> list[pa.Table]:
    part = column_of(table, "part")
    order = np.argsort(part, kind="stable")
    return _cut(table.take(pa.array(order)), part[order], count)


def _write_part(stage: Stage, reader: VectorReader, index: int, pieces: list[pa.Table]) -> tuple[Part, int]:
    """Write what was found for one part of the corpus; the file, and how many of its rows have no direction."""
    found = pa.concat_tables(pieces).sort_by("part_row")
    ids = stage.run.read_table(reader.files[index], [EXAMPLE_ID])
    if not np.array_equal(column_of(found, "part_row"), np.arange(ids.num_rows)):
        raise RuntimeError(f"part {index} has {ids.num_rows} rows, but neighbours for {found.num_rows} came back")
    table = found.select([KNN_COSINE, EARLIER_COSINE, NEIGHBOUR]).add_column(0, EXAMPLE_ID, ids[EXAMPLE_ID])
    written = stage.run.write_table(stage.file("part", index), table.combine_chunks())
    return written, int(np.count_nonzero(~column_of(found, "usable").astype(bool)))


def _cut(table: pa.Table, place: Array, count: int) -> list[pa.Table]:
    """A table sorted by `place` in [0, count), as one slice per place."""
    edges: Sequence[Any] = np.searchsorted(place, np.arange(count + 1)).tolist()
    return [table.slice(low, high - low) for low, high in itertools.pairwise(edges)]


def _matrix(column: pa.ChunkedArray) -> Array:
    """A column of fixed-size lists as float32 [n, d]."""
    lists = column.combine_chunks()
    values: Array = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return values
