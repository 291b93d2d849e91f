"""What to keep at each budget: cumulative ratios of buckets, best first, with what is known against each of them.

    seen    = (budget - scoring) / price of one seen; without scoring where all buckets, the whole corpus, are taken
    repeats = seen / size of the ratio's pool
    P(best) = share of the draws in which the ratio has the least loss;   regret = mean loss above the best, per draw
    within noise of the best: in 5 % of the draws or more the ratio is no worse than it

Of the ratios within noise the cheapest is recommended: the whole corpus, which needs no scoring, or else the smallest
pool. Cost: O(draws x ratios x budgets). Charging the selection to the budget follows Yin and Rush 2024 (arXiv
2410.16208); the small-run ranking stands beside every plan because Magnusson et al. 2025 (arXiv 2504.11393) found no
scaling law that beats it.

Caution: bands are of one law. Read `ensemble` and the cautions before spending a budget far beyond the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raydelt.errors import SpecError
from raydelt.plan.answer import Advice, Bucket, Choice, Opinion, Plan
from raydelt.plan.bootstrap import Variant, bands, losses
from raydelt.plan.crossovers import GRID, crossovers
from raydelt.plan.fit import Fit
from raydelt.plan.laws import Curves
from raydelt.plan.points import Caution, small_run
from raydelt.scorers.protocol import Array

FAR = 4.0
NOISE = 0.05


@dataclass(frozen=True)
class Price:
    """The budget's unit, what one example (or token) seen costs in it, and what scoring the corpus costs in it."""

    unit: Literal["examples", "tokens", "flops", "gpu_hours", "cpu_hours"] = "examples"
    per_seen: float | None = None
    scoring: float = 0.0

    def of_one(self, seen_unit: str) -> float:
        """The price of one seen, 1 where budget and points have the same unit."""
        if self.per_seen is None and self.unit != seen_unit:
            raise SpecError(
                f"budgets are in {self.unit} but points in {seen_unit}: give plan.per_seen (--per-seen), the "
                f"{self.unit} that one of the {seen_unit} costs"
            )
        price = 1.0 if self.per_seen is None else self.per_seen
        if not (math.isfinite(price) and price > 0 and math.isfinite(self.scoring) and self.scoring >= 0):
            raise SpecError(f"plan.per_seen {price:g} must be above 0, and plan.scoring {self.scoring:g} at least 0")
        return price


def advise(
    fitted: Fit,
    drawn: Sequence[Curves],
    budgets: Sequence[float],
    *,
    price: Price | None = None,
    sizes: Sequence[float] | None = None,
    whole: bool = True,
    variants: Sequence[Variant] = (),
) -> Plan:
    """The plan for budgets in the unit of `price`, for buckets of `sizes` [p] (as measured by default).

    Say `whole=False` where the buckets are not the whole corpus: then taking all of them needs scores too.

    Raises:
        SpecError: a budget, price or size makes no sense, or a budget does not even pay for the scoring.
    """
    price, points, curves = price or Price(fitted.points.unit), fitted.points, fitted.curves
    pools, amounts = _sizes(fitted, sizes), np.asarray(budgets, np.float64)
    seen = affordable(amounts, price, points.unit, len(pools), whole)
    if not len(amounts) or not np.all(np.isfinite(amounts)) or not np.all(np.any(seen > 0, axis=0)):
        raise SpecError(f"budgets {list(budgets)}: give some that are above the scoring cost of {price.scoring:g}")
    columns = zip(amounts.tolist(), seen.T, strict=True)
    grid = _grid(fitted, amounts, price)
    along = affordable(grid, price, points.unit, len(pools), whole)
    ranked = small_run(points)
    return Plan(
        budget_unit=price.unit,
        seen_unit=points.unit,
        metric=points.metric,
        **_law(curves),
        rmse=fitted.rmse,
        draws=len(drawn),
        buckets=_buckets(fitted, drawn, pools),
        advice=tuple(_at(fitted, drawn, amount, column, pools, whole) for amount, column in columns),
        crossovers=tuple(crossovers(curves, drawn, along, grid, pools)),
        ensemble=tuple(Opinion(one.name, one.rmse, _winners(one.curves, seen, pools)) for one in variants),
        small_run_seen=ranked[0] if ranked else None,
        small_run=tuple(ranked[1]) if ranked else (),
        cautions=fitted.cautions + _of_pools(curves, pools),
    )


def _law(curves: Curves) -> dict[str, Any]:
    return {name: getattr(curves, name) for name in ("law", "gamma", "d_inside", "pivot", "scale", "floor")}


def _sizes(fitted: Fit, sizes: Sequence[float] | None) -> Array:
    pools = fitted.curves.size if sizes is None else np.asarray(sizes, np.float64)
    if len(pools) != len(fitted.curves.b) or not np.all(np.isfinite(pools) & (pools > 0)):
        raise SpecError(f"sizes {sizes}: give one above 0 for each of the {len(fitted.curves.b)} buckets")
    return pools


def affordable(budgets: Array, price: Price, unit: str, p: int, whole: bool) -> Array:
    """What each ratio sees [p, budgets]; 0 or less where scoring takes all."""
    cost = np.full((p, 1), price.scoring)
    if whole:
        cost[-1] = 0.0
    seen: Array = (budgets[None, :] - cost) / price.of_one(unit)
    return seen


def _grid(fitted: Fit, budgets: Array, price: Price) -> Array:
    """Budgets in which crossings are looked for: from the least seen to four times the data, or the last budget."""
    one, seen = price.of_one(fitted.points.unit), fitted.points.seen
    high = max(FAR * float(seen.max()) * one + price.scoring, float(budgets.max()))
    return np.geomspace(float(seen.min()) * one + price.scoring, high, GRID)


def _at(fitted: Fit, drawn: Sequence[Curves], budget: float, seen: Array, sizes: Array, whole: bool) -> Advice:
    """The advice at one budget, for what each ratio sees [p]; ratios that cannot be paid for are left out."""
    p = len(sizes)
    counts = [k for k in range(1, p + 1) if seen[k - 1] > 0]
    mixtures = [range(k) for k in counts]
    given = seen[[k - 1 for k in counts], None]
    point = losses([fitted.curves], given, mixtures, sizes)[0, :, 0]
    values = losses(drawn, given, mixtures, sizes)[:, :, 0] if drawn else point[None]
    low, median, high = bands(values)
    best = int(np.argmin(point))
    chance = np.bincount(values.argmin(1), minlength=len(counts)) / len(values)
    regret = (values - values.min(1, keepdims=True)).mean(0)
    near = np.mean(values <= values[:, [best]], axis=0) >= NOISE
    choices = tuple(
        Choice(
            k,
            float(sizes[:k].sum() / sizes.sum()),
            float(sizes[:k].sum()),
            float(given[row, 0]),
            float(given[row, 0] / sizes[:k].sum()),
            float(point[row]),
            float(low[row]),
            float(median[row]),
            float(high[row]),
            float(chance[row]),
            float(regret[row]),
            bool(near[row]),
            extrapolated(fitted, float(given[row, 0]), k, sizes),
        )
        for row, k in enumerate(counts)
    )
    return _verdict(budget, choices, counts[best], p, whole)


def _verdict(budget: float, choices: tuple[Choice, ...], best: int, p: int, whole: bool) -> Advice:
    near = [choice.buckets for choice in choices if choice.within_noise]
    pays = not (whole and p in near)
    recommended = min(near) if pays else p
    if len(choices) == 1 and p > 1:
        verdict = "selection does not pay at this budget: scoring alone would cost all of it"
    elif best == p and whole:
        verdict = "selection does not pay at this budget: the whole corpus has the least loss"
    elif not pays:
        verdict = f"selection is not shown to pay at this budget: the whole corpus is within noise of the best {best}"
    elif recommended != best:
        verdict = f"keep the best {recommended} of {p} buckets: within noise of the best {best}, and a smaller pool"
    else:
        verdict = f"keep the best {best} of {p} buckets"
    return Advice(budget, choices, best, recommended, pays, verdict)


def extrapolated(fitted: Fit, seen: float, k: int, sizes: Array, *, far: float = FAR) -> tuple[str, ...]:
    """What of a prediction lies beyond the data, where `far` times the most seen counts as beyond."""
    points, repeats = fitted.points, seen / float(sizes[:k].sum())
    measured = [float(points.epochs[points.bucket == index].max()) for index in range(k)]
    found = {
        "beyond_seen": seen > far * points.seen.max(),
        "below_data": seen < points.seen.min(),
        "beyond_repeats": repeats > max(1.0, min(measured)),
        "half_life_unknown": repeats > 1 and min(measured) <= 1,
    }
    return tuple(name for name, holds in found.items() if holds)


def _buckets(fitted: Fit, drawn: Sequence[Curves], sizes: Array) -> tuple[Bucket, ...]:
    every = list(drawn) or [fitted.curves]
    b, tau = bands(np.array([curves.b for curves in every])), bands(np.array([curves.tau for curves in every]))
    at = fitted.curves
    return tuple(
        Bucket(
            name, *(float(value) for value in (sizes[i], at.b[i], b[0, i], b[2, i], at.tau[i], tau[0, i], tau[2, i]))
        )
        for i, name in enumerate(fitted.points.names)
    )


def _winners(curves: Curves, seen: Array, sizes: Array) -> tuple[int, ...]:
    """The number of buckets with the least loss at each budget, of what each ratio sees [p, budgets]."""
    mixtures = [range(k + 1) for k in range(len(sizes))]
    values = losses([curves], np.maximum(seen, 1e-300), mixtures, sizes)[0]
    return tuple(int(k) + 1 for k in np.where(seen > 0, values, np.inf).argmin(0))


def _of_pools(curves: Curves, sizes: Array) -> tuple[Caution, ...]:
    growth = float((sizes.sum() / curves.size).max() / len(sizes))
    if growth <= FAR or curves.gamma == 0:
        return ()
    return (
        Caution(
            "larger_pools",
            f"the buckets are {growth:.3g} times the pools measured, and half-lives are taken to grow with the power "
            f"{curves.gamma:g} of that, which nothing here has measured: compare gamma 0",
        ),
    )
