"""Distance of an example to the prototype of its own cluster, by spherical k-means.

    prototype_distance = 1 - cos(x, centroid of x)      in [0, 2]

Start: k-means++ (scikit-learn) on the examples with the lowest draw keys, a sample of at most 10,000 that no layout
changes. Then Lloyd steps, each one distributed pass with a mergeable (count, sum) per cluster; an empty cluster moves
to the farthest example. Cost: O(iterations n k d). Source: Sorscher et al. 2022 (self-supervised prototypes).

Caution: far from the prototype is good when data are abundant and bad when they are scarce.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from scipy.sparse import csr_array

from raydelt.examples import DRAW_KEY, EXAMPLE_ID, column_of, vectors_of
from raydelt.scorers.diversity import Transform, standardised, unit_rows
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext
from raydelt.scorers.registry import ScorerConfig

SAMPLE_ROWS = 10_000


class PrototypeConfig(ScorerConfig):
    """`{kind: prototype, clusters: null, iterations: 20}`; by default one cluster per class, unlabelled 10."""

    kind: Literal["prototype"] = "prototype"
    clusters: Annotated[int, Field(ge=1)] | None = None
    iterations: Annotated[int, Field(ge=1, le=1000)] = 20

    def build(self) -> Prototype:
        return Prototype(self)


@dataclass
class Prototype:
    """Distance to the own spherical k-means prototype, on standardised features."""

    config: PrototypeConfig
    name: str = "prototype"
    version: str = "1"
    columns: tuple[str, ...] = ("prototype_distance",)
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"vectors"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> Array:
        transform = standardised(context)
        sample = reduce(LowestKeys(transform, SAMPLE_ROWS))
        centroids = first_centroids(sample, self.config.clusters or context.num_classes or 10, context.seed)
        for _ in range(self.config.iterations):
            moved = reduce(LloydStep(transform, centroids))
            if np.array_equal(moved, centroids):
                break
            centroids = moved
        return centroids

    def setup(self, context: ScoringContext) -> None:
        self.transform = standardised(context)
        self.centroids: Array = context.statistics[self.name]

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        units = unit_rows(self.transform(vectors_of(batch)))
        return {"prototype_distance": 1.0 - (units @ self.centroids.T).max(axis=1)}


def first_centroids(sample: Array, clusters: int, seed: int) -> Array:
    """k-means++ on unit rows [m, d]; with fewer distinct rows than clusters, one centroid per distinct row."""
    from sklearn.cluster import kmeans_plusplus

    distinct = np.unique(sample, axis=0)
    if len(distinct) <= clusters:
        return distinct
    centroids, _ = kmeans_plusplus(sample, clusters, random_state=seed % 2**32)
    return np.asarray(centroids, dtype=np.float64)


@dataclass(frozen=True)
class LowestKeys:
    """Monoid: the unit rows of the `limit` examples with the lowest draw keys."""

    transform: Transform
    limit: int

    def zero(self) -> tuple[Array, Array]:
        return np.empty(0, np.uint64), np.empty((0, len(self.transform.shift)))

    def add(self, state: tuple[Array, Array], batch: pa.RecordBatch) -> tuple[Array, Array]:
        units = unit_rows(self.transform(vectors_of(batch)))
        return self.merge(state, (column_of(batch, DRAW_KEY), units))

    def merge(self, left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        keys = np.concatenate([left[0], right[0]])
        order = np.argsort(keys, kind="stable")[: self.limit]
        return keys[order], np.concatenate([left[1], right[1]])[order]

    def finish(self, state: tuple[Array, Array]) -> Array:
        return state[1]


@dataclass(frozen=True)
class LloydState:
    """Counts [k], sums [k, d], and the example farthest from its centroid: (similarity, id, unit row)."""

    counts: Array
    sums: Array
    farthest: tuple[float, str, Array | None]


@dataclass(frozen=True)
class LloydStep:
    """Monoid of one spherical k-means step: assign every example, then renormalise the sums."""

    transform: Transform
    centroids: Array

    def zero(self) -> LloydState:
        return LloydState(np.zeros(len(self.centroids), np.int64), np.zeros_like(self.centroids), (np.inf, "", None))

    def add(self, state: LloydState, batch: pa.RecordBatch) -> LloydState:
        if batch.num_rows == 0:
            return state
        units = unit_rows(self.transform(vectors_of(batch)))
        similarity = units @ self.centroids.T
        own = similarity.argmax(axis=1)
        rows = np.arange(len(own))
        # A product with the sparse matrix of memberships: a third of the time of adding row by row.
        sums = csr_array((np.ones(len(own)), (own, rows)), shape=(len(self.centroids), len(own))) @ units
        closest = similarity[rows, own]
        row = int(closest.argmin())
        far = (float(closest[row]), str(batch.column(EXAMPLE_ID)[row].as_py()), units[row])
        batch_state = LloydState(np.bincount(own, minlength=len(self.centroids)), sums, far)
        return self.merge(state, batch_state)

    def merge(self, left: LloydState, right: LloydState) -> LloydState:
        farthest = min(left.farthest, right.farthest, key=lambda item: item[:2])
        return LloydState(left.counts + right.counts, left.sums + right.sums, farthest)

    def finish(self, state: LloydState) -> Array:
        moved = unit_rows(state.sums)
        lost = ~moved.any(axis=1)
        moved[lost] = self.centroids[lost]
        empty = np.flatnonzero(state.counts == 0)
        if len(empty) and state.farthest[2] is not None:
            moved[empty[0]] = state.farthest[2]
        return moved
