"""Norm of the gradient of an example's loss by the parameters (GraNd), mean over the R models, with its standard
error.

    grad_norm_i = || grad_theta loss_i ||_2

`parameters` chooses theta: `last_layer` (for a classifier in closed form, ||p - onehot(y)|| ||(h, 1)||, from a forward
pass alone), `all`, `adapters`, or names with wildcards (exact ghost norms, about one forward and backward pass).
Source: GraNd of Paul et al. 2021; the closed form of Katharopoulos and Fleuret 2018.

Caution: large for mislabelled examples as much as for useful ones. At initialisation GraNd does not reproduce (Kirsch
2023: it follows the input norm), so untrained models are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt.examples import LABEL, column_of
from raydelt.scorers.difficulty import difficulty
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig


class GradNormConfig(ScorerConfig):
    """`{kind: grad_norm, parameters: last_layer | all | adapters | [names]}`."""

    kind: Literal["grad_norm"] = "grad_norm"
    parameters: Literal["last_layer", "all", "adapters"] | tuple[str, ...] = "last_layer"

    def build(self) -> GradNorm:
        return GradNorm(self)


@dataclass
class GradNorm:
    """Gradient norms of labelled examples, or of documents."""

    config: GradNormConfig
    name: str = "grad_norm"
    version: str = "2"
    columns: tuple[str, ...] = ("grad_norm",)
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "gradients"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        self.predictions = context.predictions if self.config.parameters == "last_layer" else None
        self.gradients = context.gradients
        if self.predictions is None:
            assert self.gradients is not None
            self.gradients.want(self.config.parameters, norms=True)

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        if self.predictions is not None:
            logits, features = self.predictions.logits(batch), self.predictions.features(batch)
            return over_rounds("grad_norm", last_layer_norms(logits, column_of(batch, LABEL), features))
        assert self.gradients is not None
        return over_rounds("grad_norm", self.gradients.of(batch, self.config.parameters).norms)


def last_layer_norms(logits: Array, labels: Array, features: Array) -> Array:
    """Gradient norms [R, B] of the last layer from logits [R, B, C], labels [B], its inputs (h, 1) [R, B, d + 1]."""
    norms: Array = difficulty(logits, labels)["el2n"] * np.linalg.norm(features.astype(np.float64), axis=-1)
    return norms
