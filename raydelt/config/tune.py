"""The section `tune`: what the search for settings may change, and what it may spend."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from raydelt.config.section import Positive, Section

Number = float | None


class Range(Section):
    """All values from `low` to `high`, in steps where one is given, evenly in the logarithm with `log`."""

    low: float
    high: float
    step: Annotated[float, Field(gt=0)] | None = None
    log: bool = False

    @model_validator(mode="after")
    def _low_to_high(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}: swap them")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0 and no step")
        return self


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "word"
    if isinstance(value, dict | Range):
        return "range"
    return "list" if isinstance(value, list | tuple) else "number"


Axis = Annotated[
    Annotated[Literal["auto", "own"], Tag("word")]
    | Annotated[float, Tag("number")]
    | Annotated[list[Number], Field(min_length=1), Tag("list")]
    | Annotated[Range, Tag("range")],
    Discriminator(_kind),
]
"""What is searched of one setting: `auto`, `own` (as the spec has it), a number, a list of numbers, or a range."""


class Pruner(Section):
    """When the remaining seeds of a trial are not worth their cost.

    `median`: its mean so far is worse than the median of the trials before it on the same seeds, once there are
    `start_trials`. `wilcoxon`: it is worse than the best trial, seed by seed, at level `p` (signed-rank test).
    """

    kind: Literal["median", "wilcoxon", "none"] = "median"
    start_trials: Positive = 5
    p: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Tune(Section):
    """A search for weights, gate, folds, ratio and layers by the validation split, at a small budget.

    A trial trains `seeds` times for `steps` (or the `share` of the spec's own steps); `at_once` trials are chosen
    together. The search ends after `trials`, or at the first of them that would start after `seconds`. The winner then
    meets the spec as it is on the test split, over `final_seeds` (or `train.seeds`) at the full number of steps.
    Components that `weights` does not name keep the weights of the spec; null in a list of `gate` is no gate. The best
    ratio depends on the budget: one that a small share of the steps finds is often too small for all of them.
    """

    trials: Positive = 30
    seconds: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    seeds: Positive = 3
    at_once: Positive = 1
    metric: Literal["error", "loss"] | None = None
    weights: Literal["auto", "own"] | dict[str, Axis] = "auto"
    gate: Axis = "auto"
    folds: Axis = "auto"
    ratio: Axis = "auto"
    layers: Axis = "auto"
    sampler_seed: Annotated[int, Field(ge=0)] = 0
    pruner: Pruner = Pruner()
    final_seeds: Annotated[list[int], Field(min_length=2)] | None = None

    @field_validator("weights")
    @classmethod
    def _weights_fit(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name, axis in value.items():
                _check(axis, name=f"the weight of {name}", low=0.0)
        return value

    @field_validator("gate")
    @classmethod
    def _gate_fits(cls, value: Axis) -> Axis:
        return _check(value, name="the gate", optional=True)

    @field_validator("folds")
    @classmethod
    def _folds_fit(cls, value: Axis) -> Axis:
        return _check(value, name="folds", low=2, whole=True)

    @field_validator("ratio")
    @classmethod
    def _ratio_fits(cls, value: Axis) -> Axis:
        _check(value, name="the ratio", low=0.0, high=1.0)
        if 0.0 in _numbers(value):
            raise ValueError("a ratio of 0 keeps nothing: give one above 0")
        return value

    @field_validator("layers")
    @classmethod
    def _layers_fit(cls, value: Axis) -> Axis:
        return _check(value, name="layers", low=1, whole=True)

    @field_validator("final_seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("needs each seed once")
        return value

    @model_validator(mode="after")
    def _pruner_can_prune(self) -> Tune:
        least = 0.5 ** (self.seeds - 1)
        if self.pruner.kind == "wilcoxon" and least >= self.pruner.p:
            raise ValueError(
                f"pruner wilcoxon at p {self.pruner.p:g} cannot prune before the last of {self.seeds} seeds (the "
                f"least p of {self.seeds - 1} pairs is {least:g}): raise seeds or p, or take median"
            )
        return self

    def lasting(self) -> dict[str, Any]:
        """What the trials depend on: not on how many of them there are to be, nor on what follows them."""
        return self.model_dump(mode="json", exclude={"trials", "seconds", "final_seeds"})


def _check(
    axis: Axis,
    *,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    whole: bool = False,
    optional: bool = False,
) -> Axis:
    """The axis, if its numbers fit; `optional` ones may be null."""
    if isinstance(axis, list) and len(set(axis)) != len(axis):
        raise ValueError(f"a value of {name} is listed twice: give each once")
    for value in _numbers(axis):
        if value is None:
            if not optional:
                raise ValueError(f"null is no value of {name}: drop it")
        elif not low <= value <= high or (whole and value != int(value)):
            bounds = f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
            raise ValueError(f"{value:g} is no value of {name}: give {'whole numbers, ' if whole else ''}{bounds}")
    if whole and isinstance(axis, Range) and (axis.step or 1.0) % 1.0:
        raise ValueError(f"a step of {axis.step:g} leaves the whole numbers: give one such as 1")
    return axis


def _numbers(axis: Axis) -> list[Number]:
    """The numbers that an axis names."""
    if isinstance(axis, str):
        return []
    if isinstance(axis, Range):
        return [axis.low, axis.high]
    return list(axis) if isinstance(axis, list) else [axis]
