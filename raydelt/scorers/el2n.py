"""EL2N alone: ||p - onehot(y)||_2 of the held-out softmax, mean over the R rounds, with its standard error.

In [0, sqrt 2]; for two classes it is sqrt 2 (1 - p_y). Cost: O(R C) per example on top of R forward passes. Source:
Paul et al. 2021. The scorer `difficulty` gives it too, beside three others.

Caution: largest for mislabelled examples; rank by it only behind a gate on consistency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from raydelt.examples import LABEL, column_of
from raydelt.scorers.difficulty import difficulty
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig


class El2nConfig(ScorerConfig):
    """`{kind: el2n}`: no settings."""

    kind: Literal["el2n"] = "el2n"

    def build(self) -> El2n:
        return El2n()


@dataclass
class El2n:
    """EL2N of labelled examples."""

    name: str = "el2n"
    version: str = "1"
    columns: tuple[str, ...] = ("el2n",)
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "classifier"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.predictions is not None
        self.predictions = context.predictions

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        return over_rounds("el2n", difficulty(self.predictions.logits(batch), column_of(batch, LABEL))["el2n"])
