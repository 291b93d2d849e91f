"""The section `rank`: cross-fitting, the combination of components, and more rounds near the cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raydelt.config.model import Recipe
from raydelt.config.section import Positive, Section


class Gate(Section):
    """Examples whose component lies below the bar rank below all that pass."""

    component: str = "consistency"
    at_least: float = 0.5


class Exclusion(Section):
    """Examples whose component lies above (or below) the bar are never selected, and rank below all others."""

    component: str
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_bar(self) -> Exclusion:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"component {self.component!r} needs one bar: give either `above` or `below`")
        return self


class Dynamic(Section):
    """Weights that follow recent progress: `article` is the step rule, `smooth` the blended one."""

    mode: Literal["article", "smooth"] = "smooth"
    window: Positive = 3
    threshold: float = 0.01
    history: list[float] | None = None


class Combine(Section):
    """How the stored components become one score: weights, normalisation, gate, exclusions, dynamic weights.

    `fusion: sum` adds normalised values; the others go by the components' ranks alone.
    """

    weights: dict[str, Annotated[float, Field(ge=0)]] = {"difficulty": 1.0}
    normalise: Literal["ecdf", "raw", "z", "robust"] = "ecdf"
    fusion: Literal["sum", "reciprocal", "borda", "product"] = "sum"
    gate: Gate | None = Gate()
    exclude: list[Exclusion] = []
    dynamic: Dynamic | None = None

    @model_validator(mode="after")
    def _ranks_need_no_scale(self) -> Combine:
        if self.fusion != "sum" and self.normalise != "ecdf":
            raise ValueError(
                f"fusion {self.fusion} goes by ranks: drop normalise {self.normalise}, or set fusion to sum"
            )
        return self

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, value: dict[str, float]) -> dict[str, float]:
        if not value or sum(value.values()) <= 0:
            raise ValueError("needs at least one component with a weight above 0")
        return value


class Refine(Section):
    """More rounds of proxies for the examples whose score lies within so many standard errors of the cut."""

    rounds: Positive = 4
    within: Annotated[float, Field(gt=0)] = 1.0


class Rank(Section):
    """Cross-fitting of the proxies (`folding_sort`) or the spec's own checkpoint (`score`), and the combination.

    `extent: kept` ranks only what the selection keeps, for corpora where a rank of every example is not needed.
    """

    method: Literal["folding_sort", "score"] = "folding_sort"
    folds: Annotated[int, Field(ge=2)] = 5
    rounds: Positive = 3
    proxy: Recipe = Recipe()
    max_proxy_examples: Positive = 200_000
    combine: Combine = Combine()
    refine: Refine | None = None
    extent: Literal["all", "kept"] = "all"

    @model_validator(mode="after")
    def _refining_needs_errors(self) -> Rank:
        if self.refine is not None and (self.method != "folding_sort" or self.rounds < 2):
            raise ValueError(
                f"refine asks which scores are uncertain, and method {self.method} with rounds {self.rounds} has no "
                "standard errors: use folding_sort with at least 2 rounds, or drop refine"
            )
        return self
