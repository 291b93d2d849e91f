"""Training dynamics: how an example fared, epoch by epoch, while M models trained on it.

With the margin m_t = z_y - max_{j != y} z_j and the probability p_t of the label after epoch t = 1..E of one model,
and c_t = [m_t > 0]:

    forgetting  = #{t < E : c_t = 1, c_{t+1} = 0}       E where no c_t is 1
    aum         = mean_t m_t                            correctness = mean_t c_t
    confidence  = mean_t p_t                            variability = sqrt(mean_t (p_t - confidence)^2)

each the mean over the M models, with its standard error. For an example that is never right the paper says infinity;
here it is E, above every count, since at most E / 2 such transitions fit into E epochs. Cost: O(M E) per example, on
top of the trainings of the ledger stage. Sources: Toneva et al. 2019 (forgetting), Pleiss et al. 2020 (AUM),
Swayamdipta et al. 2020 (the other three).

Caution: these are in-sample. A mislabelled example is forgotten more than most, and has low aum, confidence and
correctness only as long as the models have not learned it by heart: keep the proxies' recipe short.
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

LEDGER_MARGIN = "ledger_margin"
LEDGER_P = "ledger_p"


class DynamicsConfig(ScorerConfig):
    """`{kind: dynamics}`: no settings; models and epochs are those of `rank.rounds` and `rank.proxy`."""

    kind: Literal["dynamics"] = "dynamics"

    def build(self) -> Dynamics:
        return Dynamics()


@dataclass
class Dynamics:
    """The five training-dynamics components of labelled examples, from the columns of the ledger stage."""

    name: str = "dynamics"
    version: str = "1"
    columns: tuple[str, ...] = ("forgetting", "aum", "confidence", "variability", "correctness")
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "ledger"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        self.models = context.ledger_models

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        components = dynamics(ledger_of(batch, LEDGER_MARGIN, self.models), ledger_of(batch, LEDGER_P, self.models))
        return {key: value for name, values in components.items() for key, value in over_rounds(name, values).items()}


def margin_and_p(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Logit margins [B] and probabilities [B] of the labels [B], both float32, from logits [B, C], C > 1."""
    rows = np.arange(len(labels))
    others = logits.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    p = np.exp(log_softmax(logits)[rows, labels])
    return (own - others.max(axis=-1)).astype(np.float32), p.astype(np.float32)


def ledger_of(batch: pa.RecordBatch, name: str, models: int) -> Array:
    """One ledger column, lists of M E values with a model's epochs side by side, as float64 [M, B, E].

    Raises:
        ValueError: the lists do not divide into that many models.
    """
    column = batch.column(name)
    flat: Array = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    epochs = column.type.list_size // models
    return flat.reshape(batch.num_rows, models, epochs).transpose(1, 0, 2)


def forgetting(correct: Array) -> Array:
    """Transitions from right to wrong [...] along the epochs of correct [..., E]; E where it was never right."""
    lost = (correct[..., :-1] & ~correct[..., 1:]).sum(axis=-1)
    result: Array = np.where(correct.any(axis=-1), lost, correct.shape[-1]).astype(np.float64)
    return result


def dynamics(margins: Array, p: Array) -> dict[str, Array]:
    """The five components [M, B] from margins [M, B, E] and probabilities [M, B, E] of the labels."""
    correct = margins > 0
    return {
        "forgetting": forgetting(correct),
        "aum": margins.mean(axis=-1),
        "confidence": p.mean(axis=-1),
        "variability": p.std(axis=-1),
        "correctness": correct.mean(axis=-1),
    }
