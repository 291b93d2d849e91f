"""Valuations as scorers: what the spec says of each, and how its work falls into pieces that can be done anywhere.

A method is a sum over pieces: `piece(problem, i)` gives an array, the arrays are added in the order of the pieces, and
`finish` makes values of the sum. The values stage does the pieces as Ray tasks and lays the values beside the corpus;
the scorer of a method only hands them on. What a method needs is imported where its pieces run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from raydelt.examples import column_of
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext
from raydelt.scorers.registry import ScorerConfig
from raydelt.valuation import knn_shapley, protocol
from raydelt.valuation.problem import Problem, Values

if TYPE_CHECKING:
    from raydelt.valuation.lossval import LossVal

PIECES = 32
VALUED: frozenset[Need] = frozenset({"label", "values"})
VALIDATED: frozenset[Need] = VALUED | {"validation"}


class Valuation(ScorerConfig):
    """Base of the specs of valuations; one piece unless a method says otherwise."""

    by_validation: ClassVar[bool] = True
    # Of the method; raised whenever the same spec gives other values.
    version: ClassVar[str] = "1"

    def build(self) -> Valued:
        return Valued(self.kind, (self.kind,), VALIDATED if self.by_validation else VALUED, self.version)

    def lasting(self) -> dict[str, Any]:
        """What the values depend on."""
        return self.model_dump(mode="json") | {"version": self.version}

    def pieces(self, validation: int) -> int:
        """Into how many pieces the work falls, for so many validation examples."""
        return 1

    def piece(self, problem: Problem, index: int, *, seed: int) -> Array:
        """The summand [..., n] of one piece."""
        raise NotImplementedError

    def finish(self, total: Array, validation: int) -> Values:
        """Values from the sum of all pieces."""
        return Values(total)


class RandomValuesConfig(Valuation):
    """`{kind: random_values}`: what every method has to beat."""

    by_validation: ClassVar[bool] = False
    kind: Literal["random_values"] = "random_values"

    def piece(self, problem: Problem, index: int, *, seed: int) -> Array:
        return protocol.random_values(problem, seed=seed).values


class LossValConfig(Valuation):
    """`{kind: lossval, mode: normalised}`; `shards` own the rows, and `workers` the shards.

    The values depend on the number of shards, and not on that of the workers.
    """

    version: ClassVar[str] = "2"
    kind: Literal["lossval"] = "lossval"
    mode: Literal["normalised", "reference"] = "normalised"
    shards: Annotated[int, Field(ge=1)] = 1
    workers: Annotated[int, Field(ge=1)] = 1
    repeats: Annotated[int, Field(ge=1)] = 2
    folds: Annotated[int, Field(ge=2)] = 5
    epochs: Annotated[int, Field(ge=1)] | None = None
    batch: Annotated[int, Field(ge=1)] | None = None
    lr: Annotated[float, Field(gt=0)] = 0.01
    hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    transport: bool = True

    @model_validator(mode="after")
    def _a_shard_for_every_worker(self) -> LossValConfig:
        if self.workers > self.shards:
            raise ValueError(f"workers {self.workers} is more than shards {self.shards}: every worker needs a shard")
        return self

    def settings(self) -> LossVal:
        """What the method itself is told."""
        from raydelt.valuation.lossval import LossVal

        return LossVal(**self.model_dump(exclude={"kind", "workers"}))

    def lasting(self) -> dict[str, Any]:
        return {name: value for name, value in super().lasting().items() if name != "workers"}

    def piece(self, problem: Problem, index: int, *, seed: int) -> Array:
        from raydelt.valuation.lossval import lossval

        found = lossval(problem, self.settings(), seed=seed)
        return np.stack([found.values, *([] if found.errors is None else [found.errors])])

    def finish(self, total: Array, validation: int) -> Values:
        return Values(*total)


class KnnShapleyConfig(Valuation):
    """`{kind: knn_shapley, k: 10}`."""

    kind: Literal["knn_shapley"] = "knn_shapley"
    k: Annotated[int, Field(ge=1)] = 10

    def pieces(self, validation: int) -> int:
        return min(PIECES, validation)

    def piece(self, problem: Problem, index: int, *, seed: int) -> Array:
        rows = np.array_split(np.arange(len(problem.val_x)), self.pieces(len(problem.val_x)))[index]
        return knn_shapley.sums(problem, rows, seed=seed, k=self.k)

    def finish(self, total: Array, validation: int) -> Values:
        return Values(total / validation)


class DataOobConfig(Valuation):
    """`{kind: data_oob, bags: 100}`."""

    by_validation: ClassVar[bool] = False
    kind: Literal["data_oob"] = "data_oob"
    bags: Annotated[int, Field(ge=2)] = 100

    def pieces(self, validation: int) -> int:
        return min(PIECES, self.bags)

    def piece(self, problem: Problem, index: int, *, seed: int) -> Array:
        from raydelt.valuation import data_oob

        bags = np.array_split(np.arange(self.bags), self.pieces(0))[index]
        return data_oob.sums(problem, bags, seed=seed)

    def finish(self, total: Array, validation: int) -> Values:
        from raydelt.valuation import data_oob

        return data_oob.values_of(total)


class SelfConfidenceConfig(Valuation):
    """`{kind: self_confidence, folds: 5}`."""

    by_validation: ClassVar[bool] = False
    kind: Literal["self_confidence"] = "self_confidence"
    folds: Annotated[int, Field(ge=2)] = 5

    def piece(self, problem: Problem, index: int, *, seed: int) -> Array:
        from raydelt.valuation import self_confidence

        return self_confidence.self_confidence(problem, seed=seed, folds=self.folds).values


class LavaConfig(Valuation):
    """`{kind: lava}`."""

    kind: Literal["lava"] = "lava"

    def piece(self, problem: Problem, index: int, *, seed: int) -> Array:
        from raydelt.valuation import lava

        return lava.lava(problem, seed=seed).values


@dataclass
class Valued:
    """Hands on what the values stage computed."""

    name: str
    columns: tuple[str, ...]
    needs: frozenset[Need]
    version: str
    higher_is_better: bool = True

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        return None

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        names = [name for name in (self.name, f"{self.name}_se") if name in batch.schema.names]
        return {name: column_of(batch, name) for name in names}
