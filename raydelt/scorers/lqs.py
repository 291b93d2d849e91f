"""Learnability-quality score (LQS) of the DELT paper, and PDS before it: what an example does to the target loss.

An inner model takes T steps of SGD on batches of the corpus. With A = sum_{t=1..T} J(theta_t) the area under the
target set's loss J along them, and lambda_t the derivative of what is left of A by theta_t (see `lqs.adjoint`), the
examples' gradients g_{n,t} at the visited steps t = 0, d, 2d, ... give

    pds_n         = eta sum_t <lambda_{t+1}, g_{n,t}>                      t = 0, d, 2d, ... < T
    lqs_n         = eta sum_t <lambda_{t+1}, g_{n,t}> / ||g_{n,t+d}||      t = d, 2d, ... <= T - d     (mode: lqs)
                    the same from t = 0 on, the last one undivided                                     (mode: released)
    quality_n     = sum_t cos(lambda_{t+1}, g_{n,t})                       over the steps of the score
    learnability_n = sum_t ||g_{n,t}|| / ||g_{n,t+d}||

-pds_n is exactly the derivative of A by a weight on example n at the visited steps; -lqs_n the same for weights held
at 1 / ||g_{n,t+d}||, which is not the derivative by a constant weight. High is good. Several trajectories give a mean
and a standard error. Cost per example and visited step: about one forward and backward pass; or with `annotate:
{proxy: n}` for n examples only, and one forward pass of the data scorer for each. Sources: arXiv 2506.21545 eq. 9,
arXiv 2410.07064.

Caution: ||g_t|| / ||g_{t+d}|| is close to 1 for near steps, so `lqs` is close to a cosine with the adjoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raydelt.lqs.terms import Mode, columns_of
from raydelt.scorers.protocol import Array, Need, Reducer, Scorer, ScoringContext, over_rounds
from raydelt.scorers.registry import ScorerConfig

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class Distil(BaseModel):
    """`annotate: {proxy: 20000, …}`: annotate a sample, train a data scorer on it, and let that score the corpus.

    `encoder` is a folder, URL or hub name of any transformer; by default the spec's own model. Batches, rates and
    epochs are those of the scorer's training, which stops after `patience` epochs without a better rank correlation on
    the held-out share, and is refused below `least_spearman`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    proxy: Annotated[int, Field(ge=20)] = 20_000
    encoder: str | None = None
    max_length: Positive = 512
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    epochs: Positive = 5
    patience: Positive = 2
    batch_size: Positive = 32
    lr: Rate = 1e-4
    workers: Positive = 1
    least_spearman: Annotated[float, Field(ge=-1, le=1)] = 0.2


class LqsConfig(ScorerConfig):
    """`{kind: lqs, mode: lqs, target: validation, steps: 100, interval: 10, lr: 0.008, annotate: direct | {…}}`.

    `target` is the validation split, or a path that becomes it, of which `target_limit` takes so many examples, a
    uniform sample. `starts` are models to begin at in place of the spec's own, `trajectories` one for each by default.
    Starts of different maturity have adjoints of very different lengths; with `weigh: equal` each trajectory's scores
    are divided by their root mean square over its first examples, so that none outweighs the others in the mean.
    """

    kind: Literal["lqs"] = "lqs"
    mode: Mode = "lqs"
    target: str = "validation"
    target_limit: Positive | None = None
    steps: Annotated[int, Field(ge=2)] = 100
    interval: Positive = 10
    lr: Rate = 0.008
    batch_size: Positive = 16
    final_loss_only: bool = False
    parameters: Literal["all", "adapters"] | tuple[str, ...] = "all"
    trajectories: Positive | None = None
    starts: list[str] | None = None
    weigh: Literal["as_is", "equal"] = "as_is"
    workers: Positive = 1
    annotate: Literal["direct"] | Distil = "direct"

    @field_validator("target")
    @classmethod
    def _not_the_test_split(cls, value: str) -> str:
        if value == "test":
            raise ValueError("the test split is for the final evaluation alone: use validation, or a path")
        return value

    @model_validator(mode="after")
    def _some_step_counts(self) -> LqsConfig:
        if self.mode == "lqs" and self.steps < 2 * self.interval:
            raise ValueError(
                f"interval {self.interval} must be at most half of steps {self.steps}: mode lqs needs a later step "
                "to divide by"
            )
        return self

    def build(self) -> Scorer:
        columns = columns_of(self.mode)
        return Lqs(self, columns) if self.annotate == "direct" else DistilledLqs(self, columns[:1])


@dataclass
class Lqs:
    """The scores themselves, along the trajectories."""

    config: LqsConfig
    columns: tuple[str, ...]
    name: str = "lqs"
    version: str = "1"
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "trajectory"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.visits is not None
        self.visits = context.visits

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        found = self.visits.scores(batch)
        result: dict[str, Array] = {}
        for name in self.columns:
            result |= over_rounds(name, found[name])
        return result


@dataclass
class DistilledLqs:
    """What the data scorer predicts of them, in standard deviations of the annotated sample."""

    config: LqsConfig
    columns: tuple[str, ...]
    name: str = "lqs"
    version: str = "1"
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "trajectory", "data_scorer"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.data_scorer is not None
        self.scorer = context.data_scorer

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        return {self.columns[0]: self.scorer.predict(batch)}
