"""The section `monitor`: what counts as drift, when examples rest, and when to score again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydelt.config.section import Fraction, Positive, Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Above = Annotated[float, Field(gt=0.0)]


class Drift(Section):
    """What is tested, and when a difference is a drift: unlikely by chance (`level`, corrected) and not small.

    `features` are compared on at most `rows` examples a side; a side of fewer than `least_rows` is not compared.
    """

    reference: Literal["previous", "first"] = "previous"
    level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    correction: Literal["holm", "bh"] = "holm"
    bins: Annotated[int, Field(ge=2)] = 10
    psi: Above = 0.1
    ks: Above = 0.1
    error: Above = 0.02
    rows: Annotated[int, Field(ge=20)] = 2000
    permutations: Annotated[int, Field(ge=19)] = 999
    least_rows: Annotated[int, Field(ge=2)] = 50
    stream: Literal["adwin", "kswin", "page_hinkley"] = "adwin"
    window_days: Above = 1.0


class Retire(Section):
    """Which examples rest: see `raydelt/monitor/retirement.py`. The component `doubt` doubts a label below 0.5.

    With `action: advise` that is only told; with `apply` the selections of later versions leave out who is retired.
    """

    action: Literal["advise", "apply"] = "advise"
    low: Share = 0.1
    versions: Positive = 3
    recover: Share = 0.2
    doubt: str = "consistency"
    doubts: Positive = 2
    share: Share = 0.05
    ratio: Fraction = 0.5
    probe: Share = 0.02
    class_quota: Share = 0.5
    rare_below: Annotated[int, Field(ge=0)] = 20
    protect: list[str] = []
    window_days: Above | None = None

    @model_validator(mode="after")
    def _levels_in_order(self) -> Retire:
        if self.low > self.recover:
            raise ValueError(f"low {self.low:g} must not be above recover {self.recover:g}")
        return self


class Trigger(Section):
    """When to score again: see `raydelt/monitor/triggers.py`; null switches a trigger off. `budget` is in seconds."""

    new_share: Above | None = 0.01
    new_rows: Positive | None = None
    every_days: Above | None = None
    drift: bool = True
    rise: Above | None = 0.02
    confirmations: Positive = 2
    rest_days: Annotated[float, Field(ge=0.0)] = 0.0
    budget: Annotated[float, Field(ge=0.0)] | None = None
    budget_days: Above = 30.0


class History(Section):
    """How much of the past is kept: what the last `keep` versions said of every example; null keeps all.

    Never less than `monitor.versions`, which is what decay, drift and retirement look at.
    """

    keep: Annotated[int, Field(ge=2)] | None = 200


class Monitor(Section):
    """How a run is watched over its versions; `utility` is a component, by default the first usual one there is."""

    utility: str | None = None
    clock: Literal["version", "days"] = "version"
    half_life: Above = 2.0
    versions: Annotated[int, Field(ge=2)] = 50
    history: History = History()
    drift: Drift = Drift()
    retire: Retire = Retire()
    trigger: Trigger = Trigger()
