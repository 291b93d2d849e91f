"""How close an example's gradient is to those of single target examples, in a random projection.

    c_ij = mean_r cos(S g_ir, S g_jr)        gradient_nearest_i = max_j c_ij        gradient_mean_i = mean_j c_ij

over the R models r and at most `targets` examples j of the validation split (the first in id order, a uniform sample),
with S the seeded count sketch of `raydelt.gradients.sketch` to k dimensions. The nearest one says whether some target
example would profit, where the mean gradient of a mixed target says nothing. Cost: one forward and backward pass and a
sketch per example and model, then k products per target example. Source: LESS (Xia et al. 2024), which projects Adam
updates of an adapter's gradients; `parameters: adapters` and a list of checkpoints come near it.

Caution: cosines in the projection are off by about sqrt(3 / k), so the nearest of many is biased upwards by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext
from raydelt.scorers.registry import ScorerConfig
from raydelt.scorers.target_alignment import TargetRequest


class GradientNeighboursConfig(ScorerConfig):
    """`{kind: gradient_neighbours, parameters: all, k: 4096, seed: 0, targets: 1000}`."""

    kind: Literal["gradient_neighbours"] = "gradient_neighbours"
    parameters: Literal["last_layer", "all", "adapters"] | tuple[str, ...] = "all"
    k: Annotated[int, Field(ge=1)] = 4096
    seed: int = 0
    targets: Annotated[int, Field(ge=1)] = 1000

    def build(self) -> GradientNeighbours:
        return GradientNeighbours(self)

    def target(self) -> TargetRequest:
        """What the targets stage is asked for."""
        return TargetRequest(self.parameters, self.k, self.seed, self.targets)


@dataclass
class GradientNeighbours:
    """Nearest and mean cosine to target examples in a gradient sketch."""

    config: GradientNeighboursConfig
    name: str = "gradient_neighbours"
    version: str = "1"
    columns: tuple[str, ...] = ("gradient_nearest", "gradient_mean")
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"label", "gradients", "target"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        assert context.gradients is not None
        self.gradients = context.gradients
        self.gradients.want(self.config.parameters, near=self.config.target())

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        found = self.gradients.of(batch, self.config.parameters).similarities
        assert found is not None
        cosines = found.mean(axis=0)
        return {"gradient_nearest": cosines.max(axis=1), "gradient_mean": cosines.mean(axis=1)}
