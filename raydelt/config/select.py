"""The section `select`: how many examples are kept, and by which rule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raydelt.config.section import Fraction, Positive, Section


class Quotas(Section):
    """How the kept examples are shared among the classes."""

    share: Literal["proportional", "balanced"] = "proportional"
    at_least: Annotated[int, Field(ge=0)] = 0


class Sample(Section):
    """Draw the examples by chance in place of cutting: the higher the score, the likelier an example is kept.

    The weight of an example is exp(z / temperature), z its score in standard deviations.
    """

    method: Literal["poisson", "priority", "gumbel"]
    temperature: Annotated[float, Field(gt=0)] = 1.0


class Strata(Section):
    """Keep examples of every stratum of the score, the share `hardest` of the highest scores aside (CCS)."""

    count: Positive = 50
    hardest: Fraction = 0.1


class Select(Section):
    """How many of the ranked examples are kept: a share, a number, all above a score, or a number of tokens.

    With `sample` or `strata` that number is not the highest ones. With `plan`, a plan's .json file or a run directory
    that holds one, the share is the one that it recommends for its `budget`, and `value` does not count.
    """

    method: Literal["ratio", "top_k", "threshold", "token_budget"] = "ratio"
    value: float = 0.3
    quotas: Quotas | None = None
    sample: Sample | None = None
    strata: Strata | None = None
    plan: str | None = None
    budget: Annotated[float, Field(gt=0)] | None = None

    def lasting(self) -> dict[str, Any]:
        """What the selection depends on, besides the plan that it comes from."""
        return self.model_dump(mode="json", exclude={"plan", "budget"})

    @model_validator(mode="after")
    def _a_plan_is_of_ratios(self) -> Select:
        if self.plan is None and self.budget is not None:
            raise ValueError("budget is one of a plan's: give `plan`, or drop it")
        if self.plan is None:
            return self
        ways = [name for name in ("sample", "strata") if getattr(self, name) is not None]
        if ways or self.method != "ratio":
            raise ValueError(
                f"a plan is about keeping the highest share: drop {ways[0] if ways else f'method {self.method}'}, or "
                "the plan"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_keep(self) -> Select:
        ways = [name for name in ("quotas", "sample", "strata") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other: keep one")
        if ways and self.method in ("threshold", "token_budget"):
            need = "needs" if ways[0] == "sample" else "need"
            raise ValueError(f"{ways[0]} {need} method ratio or top_k: a {self.method} fixes no number to share")
        return self

    @model_validator(mode="after")
    def _value_fits(self) -> Select:
        if self.method == "ratio" and not 0 < self.value <= 1:
            raise ValueError(f"value {self.value} must lie in (0, 1] when method is ratio, for example 0.3")
        if self.method in ("top_k", "token_budget") and (self.value < 1 or self.value != int(self.value)):
            raise ValueError(f"value {self.value} must be a whole number of at least 1 when method is {self.method}")
        return self
