"""The section `plan`: budgets to plan for, and the short trainings that a plan is fitted to."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raydelt.config.section import Positive, Section

Above = Annotated[float, Field(gt=0)]


class Probes(Section):
    """Short trainings on every ratio, or on every bucket: one for each of the `budgets` (examples seen) and `seeds`.

    With `mixtures` they are on the cumulative ratios that a plan chooses among; without, on single buckets, whose laws
    are then combined by theorem, and a `holdout` on a random mixture may check that. Each is a finished training with
    a schedule of its own. By default the budgets are 1/4, 1/2, 1, 2, 4 (and with mixtures 8) epochs of the `pool`,
    which is that many examples of a bucket drawn at random: all of them, but at most 20,000. With `most_seeds` shorter
    probes get more seeds, up to so many, as the square root of what the longest costs beside them. There are as many
    `workers` as the cluster carries.
    """

    mixtures: bool = True

    budgets: list[Positive] | None = None
    seeds: list[int] = [0, 1, 2]
    most_seeds: Positive | None = None
    pool: Positive | None = None
    workers: Positive | None = None
    holdout: bool = False

    @model_validator(mode="after")
    def _mixtures_are_measured(self) -> Probes:
        if self.mixtures and self.holdout:
            raise ValueError(
                "holdout asks what the law of mixtures misses, and mixtures are measured: drop one of them"
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        if not value or len(set(value)) != len(value):
            raise ValueError("needs at least one seed, each once")
        return value

    @field_validator("budgets")
    @classmethod
    def _enough_to_fit(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and (len(value) < 4 or sorted(set(value)) != value):
            raise ValueError(
                "needs at least 4 different numbers of examples, in ascending order, for a law to be fitted"
            )
        return value


class Planning(Section):
    """How much of the ranking to keep at each of the `budgets`, by scaling laws of its buckets, best first.

    Budgets are in the `unit` (by default what the probes count: examples, or tokens of a language model). `per_seen`
    is the price of one example or token in it, and `scoring` that of the ranking; both are measured where they are
    not given. A table of `points` takes the place of the probes. The `metric` is the loss where there is one.
    """

    budgets: list[Above] = []
    unit: Literal["examples", "tokens", "flops", "gpu_hours", "cpu_hours"] | None = None
    per_seen: Above | None = None
    scoring: Annotated[float, Field(ge=0)] | None = None
    buckets: Annotated[int, Field(ge=2, le=32)] = 4
    probes: Probes = Probes()
    points: str | None = None
    metric: Literal["loss", "error"] | None = None
    law: Literal["utility", "effective_data"] = "utility"
    gamma: Annotated[float, Field(ge=0, le=2)] = 1.0
    d_inside: bool = False
    floor: Annotated[float, Field(ge=0)] | None = None
    draws: Positive = 200

    @field_validator("budgets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @field_validator("budgets")
    @classmethod
    def _budgets_differ(cls, value: list[float]) -> list[float]:
        if len(set(value)) != len(value) or not all(map(math.isfinite, value)):
            raise ValueError("needs finite numbers, each once")
        return sorted(value)

    @model_validator(mode="after")
    def _place_of_the_floor(self) -> Planning:
        if self.d_inside and self.law != "utility":
            raise ValueError("d_inside belongs to the law utility: leave it out for effective_data")
        return self

    def slicing(self) -> dict[str, Any]:
        """What the buckets depend on."""
        probes = self.probes
        return {
            "buckets": self.buckets,
            "pool": probes.pool,
            "holdout": probes.holdout,
            "mixtures": probes.mixtures,
        }
