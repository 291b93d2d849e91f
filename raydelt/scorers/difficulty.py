"""Difficulty of an example for models that never saw it.

    difficulty = 1 - p_y        el2n = ||p - onehot(y)||_2  in [0, sqrt 2]
    loss = -ln p_y              margin = p_y - max_{j != y} p_j  in [-1, 1]

with p the held-out softmax; each is the mean over the R rounds, with its standard error. Cost: O(R C) per example on
top of R forward passes. Sources: the popular DELT article (difficulty); Paul et al. 2021 (EL2N).

Caution: a mislabelled example is the most difficult of all. Rank by difficulty only behind a gate on consistency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt.examples import LABEL, column_of
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig


class DifficultyConfig(ScorerConfig):
    """`{kind: difficulty}`: no settings."""

    kind: Literal["difficulty"] = "difficulty"

    def build(self) -> Difficulty:
        return Difficulty()


@dataclass
class Difficulty:
    """The four difficulty components of labelled examples."""

    name: str = "difficulty"
    version: str = "1"
    columns: tuple[str, ...] = ("difficulty", "el2n", "loss", "margin")
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "classifier"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.predictions is not None
        self.predictions = context.predictions

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        components = difficulty(self.predictions.logits(batch), column_of(batch, LABEL))
        return {key: value for name, values in components.items() for key, value in over_rounds(name, values).items()}


def log_softmax(logits: Array) -> Array:
    """Log probabilities of logits [..., C], in float64."""
    z = logits.astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    result: Array = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return result


def difficulty(logits: Array, labels: Array) -> dict[str, Array]:
    """The four components [R, B] from held-out logits [R, B, C] and labels [B]."""
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    rows = np.arange(len(labels))
    log_p_label = log_p[:, rows, labels]
    p_label = p[:, rows, labels]
    others = p.copy()
    others[:, rows, labels] = 0.0
    # 1 - p_y loses its digits where p_y is near 1; the sum of the other probabilities keeps them.
    residual = others.sum(axis=-1)
    return {
        "difficulty": residual,
        "el2n": np.sqrt(residual**2 + (others**2).sum(axis=-1)),
        "loss": -log_p_label,
        "margin": p_label - others.max(axis=-1),
    }
