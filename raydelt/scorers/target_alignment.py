"""Whether a step on an example would lower the loss on a target set: its gradient against the target set's.

    alignment_i = mean_r <g_ir, G_r>        alignment_cosine_i = mean_r <g_ir, G_r> / (||g_ir|| ||G_r||)
    tracin_i    = sum_r eta_r <g_ir, G_r>

over the R models r (held-out proxies, or the checkpoints of one training), with G_r the mean gradient of the target
set, which is the validation split, and eta_r the learning rate at checkpoint r. Cost: one forward and backward pass
per example and model for norms and products together, and one pass over the target set per model. Source: TracIn
(Pruthi et al. 2020); with one model, the gradient alignment of many data selection methods.

Caution: an inner product rewards large gradients, so long or mislabelled examples; the cosine does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt.errors import SpecError
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig


@dataclass(frozen=True)
class TargetRequest:
    """What a scorer wants of the target set: its mean gradient, or with k > 0 the sketches of its first examples."""

    parameters: str | tuple[str, ...]
    k: int = 0
    seed: int = 0
    limit: int = 0


class TargetAlignmentConfig(ScorerConfig):
    """`{kind: target_alignment, parameters: all, learning_rates: [...]}`; one rate per model, by default 1 each."""

    kind: Literal["target_alignment"] = "target_alignment"
    parameters: Literal["last_layer", "all", "adapters"] | tuple[str, ...] = "all"
    learning_rates: tuple[float, ...] | None = None

    def build(self) -> TargetAlignment:
        return TargetAlignment(self)

    def target(self) -> TargetRequest:
        """What the targets stage is asked for."""
        return TargetRequest(self.parameters)


@dataclass
class TargetAlignment:
    """Dot products, cosines and TracIn with the gradient of the validation split."""

    config: TargetAlignmentConfig
    name: str = "target_alignment"
    version: str = "1"
    columns: tuple[str, ...] = ("alignment", "alignment_cosine", "tracin")
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "gradients", "target"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.gradients is not None
        self.gradients = context.gradients
        self.gradients.want(self.config.parameters, norms=True, target=self.config.target())

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        found = self.gradients.of(batch, self.config.parameters)
        return alignment(found.dots, found.norms, found.target_norms, self.config.learning_rates)


def alignment(dots: Array, norms: Array, target_norms: Array, rates: tuple[float, ...] | None) -> dict[str, Array]:
    """The three columns [B] from products, norms and target norms, each [R, B]; no gradient has cosine 0."""
    if rates is not None and len(rates) != len(dots):
        raise SpecError(
            f"score.target_alignment.learning_rates has {len(rates)} entries but {len(dots)} models score each "
            "example: give one for each round, or for each entry of model.checkpoint"
        )
    lengths = norms * target_norms
    cosines = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
    eta = np.ones(len(dots)) if rates is None else np.asarray(rates)
    return over_rounds("alignment", dots) | over_rounds("alignment_cosine", cosines) | {"tracin": eta @ dots}
