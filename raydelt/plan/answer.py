"""What a plan says, as plain data: ratios at budgets, crossovers, buckets, opinions of other laws, cautions.

Numbers are in the unit of the budget where they are called budget, in that of the points where they are called seen,
pool or size. `Plan.to_dict` is JSON: infinite and unknown numbers become null. Nothing is computed here.

Caution: `loss` is the fit's own prediction and may lie outside low..high where the law is hardly determined.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from raydelt.plan.crossovers import Crossover
from raydelt.plan.points import Caution


@dataclass(frozen=True)
class Choice:
    """One ratio at one budget: the best `buckets`, their share of the corpus and pool, what is seen, predictions.

    `loss` is that of the fit; low, median and high are 5, 50 and 95 % of the law's draws, real_low and real_high 5 and
    95 % of what one training will measure. `regret` is expected over draws and laws. Flags name what is extrapolated.
    """

    buckets: int
    share: float
    pool: float
    seen: float
    repeats: float
    loss: float
    low: float
    median: float
    high: float
    real_low: float
    real_high: float
    p_best: float
    regret: float
    within_noise: bool
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """The ratios at one budget, a sentence, and numbers of buckets: of the best, the recommended and the cheapest.

    best: least loss by the fit; recommended: least expected regret, or a cheaper one that is tied with it; cheapest:
    the cheapest that the law's noise does not exclude.
    """

    budget: float
    choices: tuple[Choice, ...]
    best: int
    recommended: int
    cheapest: int
    pays: bool
    verdict: str


@dataclass(frozen=True)
class Bucket:
    """The fitted law of one bucket, or of a ratio where these were probed, with 5 and 95 % of the draws."""

    name: str
    size: float
    b: float
    b_low: float
    b_high: float
    half_life: float
    half_life_low: float
    half_life_high: float


@dataclass(frozen=True)
class Opinion:
    """What another law takes for the best at each budget (numbers of buckets), and the rmse of its fit."""

    law: str
    rmse: float
    best: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a plan says, as plain data."""

    budget_unit: str
    seen_unit: str
    metric: str
    law: str
    gamma: float
    d_inside: bool
    pivot: float
    scale: float
    floor: float
    rmse: float
    draws: int
    cumulative: bool
    buckets: tuple[Bucket, ...]
    advice: tuple[Advice, ...]
    crossovers: tuple[Crossover, ...]
    ensemble: tuple[Opinion, ...]
    small_run_seen: float | None
    small_run: tuple[tuple[str, float], ...]
    cautions: tuple[Caution, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan for JSON: infinite and unknown numbers are null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
