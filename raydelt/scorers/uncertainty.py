"""How unsure the held-out models are of an example, whatever its label.

    entropy = -sum_c p_c ln p_c  in [0, ln C]       least_confidence = 1 - max_c p_c  in [0, 1 - 1/C]
    margin_uncertainty = 1 - (p_(1) - p_(2))  in [0, 1], with the two largest probabilities

each the mean over the R rounds with its standard error. Cost: O(R C) per example on top of R forward passes. Source:
Lewis and Gale 1994; Scheffer et al. 2001; Settles 2009.

Caution: an example can be uncertain because it is informative or because it is noise; these do not tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt.scorers.difficulty import log_softmax
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig


class UncertaintyConfig(ScorerConfig):
    """`{kind: uncertainty}`: no settings."""

    kind: Literal["uncertainty"] = "uncertainty"

    def build(self) -> Uncertainty:
        return Uncertainty()


@dataclass
class Uncertainty:
    """Three measures of uncertainty; no label is read."""

    name: str = "uncertainty"
    version: str = "1"
    columns: tuple[str, ...] = ("entropy", "least_confidence", "margin_uncertainty")
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"classifier"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.predictions is not None
        self.predictions = context.predictions

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        found = uncertainty(self.predictions.logits(batch))
        return {key: value for name, values in found.items() for key, value in over_rounds(name, values).items()}


def uncertainty(logits: Array) -> dict[str, Array]:
    """The three measures [R, B] from logits [R, B, C] of at least two classes."""
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    top = np.sort(p, axis=-1)
    # 1 - max p loses its digits where max p is near 1; the sum of the others keeps them.
    rest = top[..., :-1].sum(axis=-1)
    return {
        "entropy": -(p * log_p).sum(axis=-1),
        "least_confidence": rest,
        "margin_uncertainty": rest + top[..., -2],
    }
