"""What to keep at each budget: cumulative ratios of buckets, best first, with what is known against each of them.

    seen    = (budget - scoring) / price of one seen; without scoring where all buckets, the whole corpus, are taken
    repeats = seen / size of the ratio's pool
    regret  = expected loss above that of the best ratio, over the draws and over the laws of the ensemble
    tied    = regret at most TIE of what a seed changes (standard deviation between trainings) above the least regret

Recommended is the cheapest of the tied: the whole corpus, which needs no scoring, or else the smallest pool. Beside it
stands the cheapest within noise, which the draws of one law do not exclude (no worse than the best in 5 % or more of
them): with few probes that is nearly every ratio, so it says what could still be right, not what to do. Cost:
O(draws x laws x ratios x budgets). Charging the selection to the budget follows Yin and Rush 2024 (arXiv 2410.16208);
the small-run ranking stands beside every plan because Magnusson et al. 2025 (arXiv 2504.11393) found no scaling law
that beats it.

Caution: low..high is the band of one law's mean curve. What a training will measure lies in real_low..real_high.
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
from raydelt.plan.outcomes import Beliefs, beliefs, outcome
from raydelt.plan.points import Caution, small_run
from raydelt.plan.ratios import Ratios, ratios_of
from raydelt.scorers.protocol import Array

FAR = 4.0
NOISE = 0.05
# A quarter of what one seed does to a training: nobody would see such a difference in one.
TIE = 0.25


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
    rule: float = 0.0,
) -> Plan:
    """The plan for budgets in the unit of `price`, for buckets of `sizes` [p] (as measured by default).

    Say `whole=False` where the buckets are not the whole corpus: then taking all of them needs scores too. `rule` is
    the standard deviation, in logarithms, by which the law of mixtures misses mixtures.

    Raises:
        SpecError: a budget, price or size makes no sense, or a budget does not even pay for the scoring.
    """
    price, points, curves = price or Price(fitted.points.unit), fitted.points, fitted.curves
    ratios, amounts = ratios_of(fitted.curves, sizes, own=points.cumulative), np.asarray(budgets, np.float64)
    seen = affordable(amounts, price, points.unit, len(ratios.pools), whole)
    if not len(amounts) or not np.all(np.isfinite(amounts)) or not np.all(np.any(seen > 0, axis=0)):
        raise SpecError(f"budgets {list(budgets)}: give some that are above the scoring cost of {price.scoring:g}")
    columns = zip(amounts.tolist(), seen.T, strict=True)
    grid = _grid(fitted, amounts, price)
    along = affordable(grid, price, points.unit, len(ratios.pools), whole)
    ranked, held = small_run(points), beliefs(fitted, drawn, variants, ratios, rule=rule)
    return Plan(
        budget_unit=price.unit,
        seen_unit=points.unit,
        metric=points.metric,
        **_law(curves),
        rmse=fitted.rmse,
        draws=len(drawn),
        cumulative=ratios.own,
        buckets=_buckets(fitted, drawn, ratios.sizes),
        advice=tuple(_at(held, amount, column, ratios, whole) for amount, column in columns),
        crossovers=tuple(crossovers(curves, drawn, along, grid, ratios)),
        ensemble=tuple(Opinion(one.name, one.rmse, _winners(one.curves, seen, ratios)) for one in variants),
        small_run_seen=ranked[0] if ranked else None,
        small_run=tuple(ranked[1]) if ranked else (),
        cautions=fitted.cautions + _of_pools(curves, ratios.sizes),
    )


def _law(curves: Curves) -> dict[str, Any]:
    return {name: getattr(curves, name) for name in ("law", "gamma", "d_inside", "pivot", "scale", "floor")}


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


def _at(held: Beliefs, budget: float, seen: Array, ratios: Ratios, whole: bool) -> Advice:
    """The advice at one budget, for what each ratio sees [p]; ratios that cannot be paid for are left out."""
    chosen = [k for k in range(len(seen)) if seen[k] > 0]
    found = outcome(held, seen[chosen], ratios, chosen, noise=NOISE)
    choices = tuple(
        Choice(
            buckets=k + 1,
            share=float(ratios.shares[k]),
            pool=float(ratios.pools[k]),
            seen=float(seen[k]),
            repeats=float(seen[k] / ratios.pools[k]),
            loss=float(found.point[row]),
            low=float(found.law[0, row]),
            median=float(found.law[1, row]),
            high=float(found.law[2, row]),
            real_low=float(found.real[0, row]),
            real_high=float(found.real[1, row]),
            p_best=float(found.chance[row]),
            regret=float(found.regret[row]),
            within_noise=bool(found.near[row]),
            flags=extrapolated(held.fitted, float(seen[k]), k + 1, ratios),
        )
        for row, k in enumerate(chosen)
    )
    return _verdict(budget, choices, len(ratios.pools) if whole else None, held.seed)


def _verdict(budget: float, choices: tuple[Choice, ...], everything: int | None, seed: float) -> Advice:
    """Advice from ratios; `everything` is the number of buckets that need no scoring, if any do not."""
    best = min(choices, key=lambda choice: choice.loss)
    cheapest = _cheapest([choice.buckets for choice in choices if choice.within_noise], everything)
    allowed = min(choice.regret for choice in choices) + TIE * seed * best.loss
    recommended = _cheapest([choice.buckets for choice in choices if choice.regret <= allowed], everything)
    pays = recommended != everything
    verdict = _sentence(len(choices), best.buckets, recommended, everything)
    return Advice(budget, choices, best.buckets, recommended, cheapest, pays, verdict)


def _cheapest(counts: Sequence[int], everything: int | None) -> int:
    return everything if everything is not None and everything in counts else min(counts)


def _sentence(ratios: int, best: int, recommended: int, everything: int | None) -> str:
    if recommended != everything:
        if recommended < best:
            return f"keep the best {recommended} buckets: tied with the best {best}, and a smaller pool"
        if recommended > best:
            return f"keep the best {recommended} buckets: the fit prefers {best}, its draws and other laws do not"
        return f"keep the best {best} buckets"
    if ratios == 1 and recommended > 1:
        return "selection does not pay at this budget: scoring alone would cost all of it"
    if best == everything:
        return "selection does not pay at this budget: the whole corpus has the least loss"
    return f"selection is not shown to pay at this budget: the whole corpus is tied with the best {best}"


def extrapolated(fitted: Fit, seen: float, k: int, ratios: Ratios, *, far: float = FAR) -> tuple[str, ...]:
    """What of a prediction lies beyond the data, where `far` times the most seen counts as beyond."""
    points, repeats = fitted.points, seen / float(ratios.pools[k - 1])
    measured = [float(points.epochs[points.bucket == index].max()) for index in ratios.members[k - 1]]
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


def _winners(curves: Curves, seen: Array, ratios: Ratios) -> tuple[int, ...]:
    """The number of buckets with the least loss at each budget, of what each ratio sees [p, budgets]."""
    values = losses([curves], np.maximum(seen, 1e-300), ratios.members, ratios.sizes)[0]
    return tuple(int(k) + 1 for k in np.where(seen > 0, values, np.inf).argmin(0))


def _of_pools(curves: Curves, sizes: Array) -> tuple[Caution, ...]:
    growth = float((sizes / curves.size).max())
    if growth <= FAR or curves.gamma == 0:
        return ()
    return (
        Caution(
            "larger_pools",
            f"the pools are up to {growth:.3g} times those measured, and half-lives are taken to grow with the power "
            f"{curves.gamma:g} of that, which nothing here has measured: compare gamma 0",
        ),
    )
