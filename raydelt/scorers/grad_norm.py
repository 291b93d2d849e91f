"""Norm of the loss gradient in the last linear layer, in closed form.

    ||grad_{W,b} l|| = ||p - onehot(y)|| ||(h, 1)||      (the 1 is the bias; without one, ||h||)

with h the input of the last layer, p the held-out softmax; mean over the R rounds, with its standard error. Needs a
forward pass only: O(R (C + d)) per example. Source: the closed form of Katharopoulos and Fleuret 2018 for the last
layer; as a score, GraNd of Paul et al. 2021 restricted to that layer.

Caution: large for mislabelled examples as much as for useful ones, and meaningless at initialisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt.examples import LABEL, column_of
from raydelt.scorers.difficulty import difficulty
from raydelt.scorers.protocol import Array, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig


class GradNormConfig(ScorerConfig):
    """`{kind: grad_norm, parameters: last_layer}`."""

    kind: Literal["grad_norm"] = "grad_norm"
    parameters: Literal["last_layer"] = "last_layer"

    def build(self) -> GradNorm:
        return GradNorm()


@dataclass
class GradNorm:
    """Last-layer gradient norms of labelled examples."""

    name: str = "grad_norm"
    version: str = "1"
    columns: tuple[str, ...] = ("grad_norm",)
    higher_is_better: bool = True
    needs_label: bool = True
    needs_model: bool = True

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.predictions is not None
        self.predictions = context.predictions

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        norms = last_layer_norms(
            self.predictions.logits(batch), column_of(batch, LABEL), self.predictions.features(batch)
        )
        return over_rounds("grad_norm", norms)


def last_layer_norms(logits: Array, labels: Array, features: Array) -> Array:
    """Gradient norms [R, B] of the last layer from logits [R, B, C], labels [B], its inputs (h, 1) [R, B, d + 1]."""
    norms: Array = difficulty(logits, labels)["el2n"] * np.linalg.norm(features.astype(np.float64), axis=-1)
    return norms
