"""Loss of a language model on a document: the mean of -ln p(token | the tokens before it), and its exponential.

    loss = mean_t -ln p(token_t)        perplexity = exp(loss)        tokens = number of target tokens

mean over the spec's checkpoints with its standard error. Cost: a forward pass. Source: perplexity filtering as in
CCNet (Wenzek et al. 2020).

Caution: boilerplate, markup and repetition have the lowest loss, edited prose a high one. A low loss is not quality.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt.corpus.tokens import LOSS_FROM, TOKENS
from raydelt.examples import column_of
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig


class LmLossConfig(ScorerConfig):
    """`{kind: lm_loss}`: no settings."""

    kind: Literal["lm_loss"] = "lm_loss"

    def build(self) -> LmLoss:
        return LmLoss()


@dataclass
class LmLoss:
    """Loss, perplexity and length of documents."""

    name: str = "lm_loss"
    version: str = "1"
    columns: tuple[str, ...] = ("loss", "perplexity", "tokens")
    higher_is_better: bool = False
    needs: frozenset[Need] = frozenset({"language"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.gradients is not None
        self.gradients = context.gradients

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        losses = self.gradients.losses(batch)
        lengths = np.asarray(batch.column(TOKENS).value_lengths()) - column_of(batch, LOSS_FROM)
        return over_rounds("loss", losses) | over_rounds("perplexity", np.exp(losses)) | {"tokens": lengths}
