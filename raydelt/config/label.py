"""The section `label`: which examples of the pool people are asked about, and when to stop."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import Field, field_validator

from raydelt.active.utilities import NAMES
from raydelt.config.model import Recipe
from raydelt.config.section import Positive, Section


class Stop(Section):
    """When no more labels are asked for: a budget of them, an accuracy that stands still, a committee that agrees."""

    budget: Positive | None = None
    plateau_rounds: Annotated[int, Field(ge=2)] = 5
    plateau_slope: float = 1e-3
    agreement: Annotated[float, Field(gt=0)] | None = None


class Label(Section):
    """Which examples of `corpus.pool` people are asked about: the most useful, and of these different ones.

    The committee trains on all labels by `recipe`; the `batch` is chosen among `shortlist` times as many. Before there
    are `start` labels, or two of every class, typical examples are asked for. `utility` is one of raydelt's or
    `module:function` in the manner of modAL.
    """

    utility: str = "margin"
    diversify: Literal["badge", "k_center", "k_means_pp", "typical", "random"] | None = "k_means_pp"
    batch: Positive = 50
    shortlist: Positive = 5
    committee: Positive = 3
    recipe: Recipe = Recipe()
    start: Positive = 20
    queue: str | None = None
    stop: Stop = Stop()

    @field_validator("utility")
    @classmethod
    def _known_utility(cls, value: str) -> str:
        if value not in NAMES and ":" not in value:
            near = difflib.get_close_matches(value, NAMES, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(NAMES)}, or `module:function`"
            raise ValueError(f"unknown utility {value!r}: {hint}")
        return value
