"""How reliably models that never saw an example find its label again under small changes of its features.

    consistency           = s / K           s = number of the K variants whose predicted class is the label
    consistency_posterior = (s + 1/2) / (n + 1)           n = K R variants over all rounds
    consistency_lower     = Wilson lower bound of s / n at 95 %
    self_consistency      = share of the commonest predicted class among the K variants (needs no label)
    consistency_js        = mean Jensen-Shannon divergence, in nats, over the pairs of the K distributions

Variant k of an example is a pure function of (seed, k, example_id). All K B variants go through one forward pass.
Cost: K R forward passes per example. Source: the popular DELT article, on held-out models instead of its own.

Caution: the R K answers of one example are not independent, so the Wilson bound is a guide, not a confidence level.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from raydelt.examples import DRAW_KEY, LABEL, column_of, features_of
from raydelt.scorers.augment import AUGMENTATIONS, variants
from raydelt.scorers.difficulty import log_softmax
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig

log = logging.getLogger(__name__)
Z_95 = 1.959963984540054


class ConsistencyConfig(ScorerConfig):
    """`{kind: consistency, variants: 5, augment: noise, strength: 0.25}`; noise in units of a feature's spread."""

    kind: Literal["consistency"] = "consistency"
    variants: Annotated[int, Field(ge=1, le=64)] = 5
    augment: Literal["noise", "mask", "shift"] = "noise"
    strength: Annotated[float, Field(gt=0)] = 0.25

    def build(self) -> Consistency:
        return Consistency(self)


@dataclass
class Consistency:
    """Label agreement and self-agreement of held-out predictions under augmentation."""

    config: ConsistencyConfig
    name: str = "consistency"
    version: str = "1"
    columns: tuple[str, ...] = (
        "consistency",
        "consistency_posterior",
        "consistency_lower",
        "self_consistency",
        "consistency_js",
    )
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "classifier"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        AUGMENTATIONS[self.config.augment].check(context.input_shape, self.config.strength)
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.predictions is not None
        self.context = context
        self.predictions = context.predictions

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        x = variants(
            features_of(batch),
            column_of(batch, DRAW_KEY).astype(np.uint64),
            kind=self.config.augment,
            count=self.config.variants,
            strength=self.config.strength,
            seed=self.context.seed,
            scale=self.context.scale,
            input_shape=self.context.input_shape,
        )
        return consistency(self.predictions.logits_of(x, batch), column_of(batch, LABEL))


def consistency(logits: Array, labels: Array) -> dict[str, Array]:
    """All components [B] from logits [R, B, K, C] of K variants and labels [B]."""
    rounds, _, count, classes = logits.shape
    predicted = logits.argmax(axis=-1)
    agreement = (predicted == labels[None, :, None]).mean(axis=-1)
    successes = agreement.sum(axis=0) * count
    votes = np.stack([(predicted == c).sum(axis=-1) for c in range(classes)], axis=-1)
    return {
        **over_rounds("consistency", agreement),
        "consistency_posterior": (successes + 0.5) / (rounds * count + 1),
        "consistency_lower": wilson_lower(successes, rounds * count),
        **over_rounds("self_consistency", votes.max(axis=-1) / count),
        **over_rounds("consistency_js", mean_pairwise_js(logits)),
    }


def wilson_lower(successes: Array, trials: int, z: float = Z_95) -> Array:
    """Lower end of Wilson's interval for a share, elementwise."""
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    lower: Array = np.maximum((centre - spread) / (1 + z * z / trials), 0.0)
    return lower


def mean_pairwise_js(logits: Array) -> Array:
    """Mean Jensen-Shannon divergence [R, B] over the pairs of K softmaxes; 0 for K = 1."""
    log_p = log_softmax(logits)
    count = logits.shape[2]
    pairs = [(a, b) for a in range(count) for b in range(a)]
    total = np.zeros(logits.shape[:2])
    for a, b in pairs:
        log_mean = np.logaddexp(log_p[:, :, a], log_p[:, :, b]) - np.log(2)
        for k in (a, b):
            total += 0.5 * (np.exp(log_p[:, :, k]) * (log_p[:, :, k] - log_mean)).sum(axis=-1)
    # Rounding can leave a difference of equal distributions a hair below zero.
    return np.maximum(total, 0.0) / max(len(pairs), 1)
