"""What a scorer is.

A scorer is built from its spec (`ScorerSpec.build`), fitted once on the driver if it needs a statistic of the whole
corpus, shipped to actors, set up once per actor, and then asked batch by batch. It is pure: the same batch, context
and seed give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from raydelt.lqs.annotate import Visits
    from raydelt.lqs.data_scorer import DataScorer
    from raydelt.scorers.passes import GradientPasses

Array = NDArray[Any]
S = TypeVar("S")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Need = Literal[
    "label",
    "classifier",
    "gradients",
    "target",
    "language",
    "ledger",
    "vectors",
    "neighbours",
    "time",
    "trajectory",
    "data_scorer",
    "validation",
    "values",
]
"""What a scorer asks of the flow: a label, held-out predictions of a classifier, per-example gradients of any model,
the gradient of the target set, losses of a language model, the ledger of a training, vectors that stand for the
examples, nearest neighbours among them, a time, trajectories with their adjoints, a data scorer that was distilled
from them, a validation split, values of whole-corpus methods."""


class Reducer(Protocol[S, R_co]):
    """A commutative monoid over batches: `finish(merge(add(zero(), a), add(zero(), b)))`, merged in a fixed order."""

    def zero(self) -> S: ...
    def add(self, state: S, batch: pa.RecordBatch) -> S: ...
    def merge(self, left: S, right: S) -> S: ...
    def finish(self, state: S) -> R_co: ...


class HeldOutPredictions(Protocol):
    """Predictions for each example by the R models that never saw it (R = 1 without folding sort)."""

    @property
    def rounds(self) -> int:
        """R, the number of models that score each example."""
        ...

    def logits(self, batch: pa.RecordBatch) -> Array:
        """Float32 [R, B, C]."""
        ...

    def features(self, batch: pa.RecordBatch) -> Array:
        """Inputs of the last linear layer, a 1 appended where it has a bias: float32 [R, B, d + 1]."""
        ...

    def logits_of(self, x: Array, batch: pa.RecordBatch) -> Array:
        """Logits [R, B, K, C] for K variants x [B, K, width] of each example, by the same held-out models."""
        ...

    def input_saliency(self, batch: pa.RecordBatch) -> Array:
        """L1 norms [R, B] of the gradients of each example's loss by its standardised features."""
        ...


@dataclass(frozen=True)
class ScoringContext:
    """What an actor knows when it sets a scorer up."""

    seed: int
    num_classes: int
    input_shape: tuple[int, ...]
    mean: Array
    scale: Array
    predictions: HeldOutPredictions | None = None
    gradients: GradientPasses | None = None
    load: Callable[[str], GradientPasses] | None = None
    embedding_width: int | None = None
    ledger_models: int = 0
    visits: Visits | None = None
    data_scorer: DataScorer | None = None
    statistics: Mapping[str, Any] = field(default_factory=dict)


class Scorer(Protocol):
    """A method that scores examples. `columns[0]` is its main component."""

    name: str
    version: str
    columns: tuple[str, ...]
    higher_is_better: bool
    needs: frozenset[Need]

    def fit(self, reduce: Callable[[Reducer[Any, R]], R], context: ScoringContext) -> Any:
        """A statistic of the whole corpus, by as many distributed passes `reduce(reducer)` as it takes; or None."""
        ...

    def setup(self, context: ScoringContext) -> None:
        """Called once in every actor."""
        ...

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        """Columns [B] for a batch of corpus rows, `<column>_se` beside them; a NaN sends its row to quarantine."""
        ...


def over_rounds(name: str, values: Array) -> dict[str, Array]:
    """Mean and standard error over the rounds: values [R, B] to `name` [B] and, for R > 1, `name_se` [B]."""
    result = {name: values.mean(axis=0)}
    if len(values) > 1:
        result[f"{name}_se"] = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return result
