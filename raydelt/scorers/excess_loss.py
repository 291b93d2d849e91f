"""How much better the spec's own model predicts a document than a reference model does.

    excess_loss = loss_reference - loss_learner

with the mean loss per token under each. With a learner trained on text like the target and a general reference, a high
value marks text that is like the target (Moore and Lewis 2010); what is easy for every model, as boilerplate is, comes
out near zero. Cost: a forward pass of each model. Both need the same tokenizer.

Caution: the sign follows from which model is which; with a stronger reference, high values mark what the learner has
memorised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig


class ExcessLossConfig(ScorerConfig):
    """`{kind: excess_loss, reference: folder, URL or hub name}`."""

    kind: Literal["excess_loss"] = "excess_loss"
    reference: str

    def build(self) -> ExcessLoss:
        return ExcessLoss(self)


@dataclass
class ExcessLoss:
    """Reference loss minus learner loss of documents."""

    config: ExcessLossConfig
    name: str = "excess_loss"
    version: str = "1"
    columns: tuple[str, ...] = ("excess_loss",)
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"language"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.gradients is not None
        assert context.load is not None
        self.learner, self.reference = context.gradients, context.load(self.config.reference)

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        return over_rounds("excess_loss", self.reference.losses(batch) - self.learner.losses(batch))
