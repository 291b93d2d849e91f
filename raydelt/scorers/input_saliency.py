"""How strongly an example's loss reacts to its own input: the L1 norm of the gradient by the standardised features.

    input_saliency_i = || d loss_i / d x_i ||_1

of the loss of each example alone, in eval mode, mean over the R rounds with its standard error. Cost: R forward and
backward passes without weight gradients. Source: the popular article on choosing useful examples, which calls this the
gradient contribution; it divides by the batch size and couples examples by batch statistics, this does neither.

Caution: it is no measure of the parameters' update; `grad_norm` is. On small networks the two rank alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig


class InputSaliencyConfig(ScorerConfig):
    """`{kind: input_saliency}`: no settings."""

    kind: Literal["input_saliency"] = "input_saliency"

    def build(self) -> InputSaliency:
        return InputSaliency()


@dataclass
class InputSaliency:
    """Input-gradient L1 norms of labelled examples."""

    name: str = "input_saliency"
    version: str = "1"
    columns: tuple[str, ...] = ("input_saliency",)
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "classifier"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.predictions is not None
        self.predictions = context.predictions

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        return over_rounds("input_saliency", self.predictions.input_saliency(batch))
