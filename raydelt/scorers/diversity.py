"""Diversity as one minus the mean cosine to all other examples, exactly, in O(n d) and whatever the order.

    u = x / ||x||,  S = sum_i u_i,  diversity_i = 1 - (u_i . S - 1) / (n - 1)      in [0, 2]

One reducing pass for (n, S), one scoring pass. An example of norm zero has no direction: it counts in no mean, and its
own diversity is 1; so has the only example of a corpus. Source: the popular DELT article, whose growing feature bank
computes an order-dependent version of the same quantity in O(n^2).

Caution: the distance from one mean direction is a weak signal that loves outliers; `prototype` is often better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt.examples import vectors_of
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext
from raydelt.scorers.registry import ScorerConfig


class DiversityConfig(ScorerConfig):
    """`{kind: diversity, standardize: false}`: cosines of raw features, or of standardised ones."""

    kind: Literal["diversity"] = "diversity"
    standardize: bool = False

    def build(self) -> Diversity:
        return Diversity(self)


@dataclass
class Diversity:
    """Mean-cosine diversity in feature space."""

    config: DiversityConfig
    name: str = "diversity"
    version: str = "1"
    columns: tuple[str, ...] = ("diversity",)
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"vectors"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> Any:
        return reduce(DirectionSum(self._transform(context)))

    def _transform(self, context: ScoringContext) -> Transform:
        return standardised(context) if self.config.standardize else _as_they_are(context)

    def setup(self, context: ScoringContext) -> None:
        self.transform = self._transform(context)
        self.count, self.total = context.statistics[self.name]

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        return {
            "diversity": mean_cosine_diversity(unit_rows(self.transform(vectors_of(batch))), self.count, self.total)
        }


@dataclass(frozen=True)
class Transform:
    """(x - shift) / scale, in float64."""

    shift: Array
    scale: Array

    def __call__(self, x: Array) -> Array:
        moved: Array = x.astype(np.float64)
        moved -= self.shift
        moved /= self.scale
        return moved


def standardised(context: ScoringContext) -> Transform:
    """The corpus's own standardisation of its features; embeddings stay as they are."""
    return Transform(context.mean, context.scale) if context.embedding_width is None else _as_they_are(context)


def _as_they_are(context: ScoringContext) -> Transform:
    width = context.embedding_width or len(context.mean)
    return Transform(np.zeros(width), np.ones(width))


@dataclass(frozen=True)
class DirectionSum:
    """Monoid of (number of examples with a direction, sum of their unit vectors)."""

    transform: Transform

    def zero(self) -> tuple[int, Array]:
        return 0, np.zeros_like(self.transform.shift)

    def add(self, state: tuple[int, Array], batch: pa.RecordBatch) -> tuple[int, Array]:
        units = unit_rows(self.transform(vectors_of(batch)))
        return state[0] + int(np.count_nonzero(units.any(axis=1))), state[1] + units.sum(axis=0)

    def merge(self, left: tuple[int, Array], right: tuple[int, Array]) -> tuple[int, Array]:
        return left[0] + right[0], left[1] + right[1]

    def finish(self, state: tuple[int, Array]) -> tuple[int, Array]:
        return state


def unit_rows(x: Array) -> Array:
    """Rows [n, d] divided by their norms; rows of norm zero stay zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    units: Array = x / np.where(norms > 0, norms, 1.0)
    return units


def mean_cosine_diversity(units: Array, count: int, total: Array) -> Array:
    """Diversity [B] of unit vectors [B, d] against a corpus of `count` directions with sum `total` [d]."""
    if count <= 1:
        return np.ones(len(units))
    has_direction = units.any(axis=1)
    return np.where(has_direction, 1.0 - (units @ total - 1.0) / (count - 1), 1.0)
