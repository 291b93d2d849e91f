"""A sampling weight from uncertainty, place among its class, and age.

    weight = u v tau        u = 1 - max_c p_c (held-out)        tau = 2^(-age / half_life)
    d = ||x - mean of the example's class||,  lambda = 1 / median(d)
    typicality = exp(-lambda d)        v = typicality, or 1 - typicality for `favour: diverse`

Age counts back from `now`, by default the latest time of the corpus; an example from the future has age 0, one without
a time too.

Cost: R forward passes and O(d) per example, after two passes for means and median. Source: the popular article on
choosing useful examples, whose exp(-lambda d) favours typical examples, the opposite of its name; both are offered
here.

Caution: training on what this weight prefers, without importance weights, optimises another objective than the
corpus's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from raydelt.examples import LABEL, TIME, column_of, vectors_of
from raydelt.scorers.diversity import Transform, standardised
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext
from raydelt.scorers.registry import ScorerConfig
from raydelt.scorers.uncertainty import uncertainty

SAMPLE = 4096
DAY = 86_400.0
NEEDS: frozenset[Need] = frozenset({"label", "classifier", "vectors"})


class SampleWeightConfig(ScorerConfig):
    """`{kind: sample_weight, favour: diverse, half_life_days: null, now: null}`."""

    kind: Literal["sample_weight"] = "sample_weight"
    favour: Literal["diverse", "typical"] = "diverse"
    half_life_days: Annotated[float, Field(gt=0)] | None = None
    now: float | None = None

    def build(self) -> SampleWeight:
        aged: frozenset[Need] = frozenset({"time"} if self.half_life_days else ())
        return SampleWeight(self, needs=NEEDS | aged)


@dataclass
class SampleWeight:
    """The product weight of labelled examples, its three factors."""

    config: SampleWeightConfig
    name: str = "sample_weight"
    version: str = "1"
    columns: tuple[str, ...] = ("sample_weight", "weight_uncertainty", "weight_place", "weight_age")
    higher_is_better: bool = True
    needs: frozenset[Need] = NEEDS

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> dict[str, Any]:
        """Class means [C, d], the median distance to them (of a uniform sample), and the latest time."""
        transform = standardised(context)
        means = reduce(ClassMeans(transform, context.num_classes))
        distances, latest = reduce(Distances(transform, means))
        median = float(np.median(distances)) if len(distances) else 0.0
        return {"means": means, "rate": 1.0 / median if median > 0 else 0.0, "latest": latest}

    def setup(self, context: ScoringContext) -> None:
        assert context.predictions is not None
        self.predictions, self.transform = context.predictions, standardised(context)
        self.statistics = context.statistics[self.name]

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        unsure = uncertainty(self.predictions.logits(batch))["least_confidence"].mean(axis=0)
        far = distances_to(self.transform(vectors_of(batch)), column_of(batch, LABEL), self.statistics["means"])
        typical = np.exp(-self.statistics["rate"] * far)
        place = typical if self.config.favour == "typical" else -np.expm1(-self.statistics["rate"] * far)
        age = self._age_factor(batch)
        return {
            "sample_weight": unsure * place * age,
            "weight_uncertainty": unsure,
            "weight_place": place,
            "weight_age": age,
        }

    def _age_factor(self, batch: pa.RecordBatch) -> Array:
        if self.config.half_life_days is None:
            return np.ones(batch.num_rows)
        now = self.statistics["latest"] if self.config.now is None else self.config.now
        times = column_of(batch, TIME).astype(np.float64)
        ages = np.maximum(0.0, np.where(np.isnan(times), 0.0, now - times)) / DAY
        decay: Array = np.exp2(-ages / self.config.half_life_days)
        return decay


def distances_to(x: Array, labels: Array, means: Array) -> Array:
    """Euclidean distances [n] of rows x [n, d] from the mean of their own class."""
    far: Array = np.linalg.norm(x - means[labels], axis=1)
    return far


@dataclass(frozen=True)
class ClassMeans:
    """Monoid of (count, sum) by class; a class with fewer than two examples gets the mean of all."""

    transform: Transform
    classes: int

    def zero(self) -> tuple[Array, Array]:
        return np.zeros(self.classes), np.zeros((self.classes, len(self.transform.shift)))

    def add(self, state: tuple[Array, Array], batch: pa.RecordBatch) -> tuple[Array, Array]:
        x, labels = self.transform(vectors_of(batch)), column_of(batch, LABEL)
        sums = np.zeros_like(state[1])
        np.add.at(sums, labels, x)
        return state[0] + np.bincount(labels, minlength=self.classes), state[1] + sums

    def merge(self, left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return left[0] + right[0], left[1] + right[1]

    def finish(self, state: tuple[Array, Array]) -> Array:
        counts, sums = state
        overall = sums.sum(axis=0) / max(counts.sum(), 1.0)
        own = sums / np.maximum(counts, 1.0)[:, None]
        means: Array = np.where((counts < 2)[:, None], overall, own)
        return means


@dataclass(frozen=True)
class Distances:
    """Monoid of distances to the class means, of the first `SAMPLE` examples in id order, and the latest time."""

    transform: Transform
    means: Array

    def zero(self) -> tuple[Array, float]:
        return np.empty(0), -np.inf

    def add(self, state: tuple[Array, float], batch: pa.RecordBatch) -> tuple[Array, float]:
        latest = state[1]
        if TIME in batch.schema.names:
            times = column_of(batch, TIME).astype(np.float64)
            latest = max(latest, float(np.nanmax(times, initial=-np.inf)))
        head = batch.slice(0, max(0, SAMPLE - len(state[0])))
        far = distances_to(self.transform(vectors_of(head)), column_of(head, LABEL), self.means)
        return np.concatenate([state[0], far]), latest

    def merge(self, left: tuple[Array, float], right: tuple[Array, float]) -> tuple[Array, float]:
        return np.concatenate([left[0], right[0]])[:SAMPLE], max(left[1], right[1])

    def finish(self, state: tuple[Array, float]) -> tuple[Array, float]:
        return state
