"""From measured points and a spec to a plan: price, fit, bootstrap, ensemble, advice, and the holdout beside it.

    price of one seen    1 in the points' own unit; else hours or operations per example or token of the probes
    scoring              its seconds on all devices, in trainings' seconds per seen, times that price

so that what choosing costs is told in what training could have done in that time. The holdout is a training on a
random mixture: its loss, and what the law of all buckets together says; by as much as they differ, mixtures are not
sure. Nothing is read or written here, and Ray is not needed. Cost: one fit, `draws` refits, an ensemble of nine fits.

Caution: seconds are those of probes that ran side by side. A machine that is busy with other things makes both sides
slower, and scoring dearer where it alone suffered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from raydelt.config import Planning
from raydelt.errors import SpecError
from raydelt.plan.advice import Price, advise
from raydelt.plan.answer import Plan
from raydelt.plan.bootstrap import bands, bootstrap, ensemble, losses
from raydelt.plan.design import Options
from raydelt.plan.fit import Fit, fit
from raydelt.plan.laws import Curves
from raydelt.plan.points import Caution, Points, from_columns
from raydelt.plan.ratios import Ratios, ratios_of
from raydelt.plan.table import short, table

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Ground:
    """What a plan stands on besides its points: the buckets' sizes in the points' unit, and rows of the corpus.

    `whole` says whether the buckets are the whole corpus; `scoring_seconds` are those of every device together, and
    None where they are not known; `per_example` is the mean number of tokens where points count tokens.
    """

    sizes: tuple[float, ...] | None = None
    rows: tuple[int, ...] | None = None
    whole: bool = True
    scoring_seconds: float | None = None
    device: str | None = None
    per_example: float | None = None


@dataclass(frozen=True)
class Held:
    """The holdout after so much seen of so much: its mean over seeds, and the prediction with its band."""

    seen: float
    unique: float
    measured: float
    predicted: float
    low: float
    high: float


@dataclass(frozen=True)
class Made:
    """A plan and everything that it was made of."""

    plan: Plan
    fitted: Fit
    drawn: tuple[Curves, ...]
    price: Price
    ground: Ground
    holdout: tuple[Held, ...]
    probes_seen: float

    def to_dict(self) -> dict[str, Any]:
        """The plan for JSON, its price, buckets in examples and the holdout with it."""
        beside = {
            "price": asdict(self.price),
            "rows": list(self.ground.rows) if self.ground.rows else None,
            "whole": self.ground.whole,
            "probes_seen": self.probes_seen,
            "holdout": [asdict(held) for held in self.holdout],
        }
        return self.plan.to_dict() | beside

    def text(self) -> str:
        """The plan for the terminal."""
        unit, plan = self.price.unit.replace("_", " "), self.plan
        seen = self.probes_seen * self.price.of_one(plan.seen_unit)
        share = seen / max(advice.budget for advice in plan.advice)
        lines = [
            f"scoring costs {short(self.price.scoring)} {unit}; the points took {short(seen)} {unit}, "
            f"{100 * share:.3g} % of the largest budget",
            *(
                f"random mixture after {short(held.seen)} {plan.seen_unit} of {short(held.unique)}: {plan.metric} "
                f"{held.measured:.4f} measured, {held.predicted:.4f} predicted ({held.low:.4f} .. {held.high:.4f})"
                for held in self.holdout
            ),
            "",
            table(plan),
        ]
        return "\n".join(lines)


def make(
    columns: Columns,
    spec: Planning,
    *,
    ground: Ground | None = None,
    holdout: Columns | None = None,
    seed: int = 0,
    source: str = "points",
) -> Made:
    """The plan for the budgets of a spec.

    Raises:
        InputError: no law can be fitted to the points.
        SpecError: there is no budget, or none that pays for the scoring, or a price that is not known.
    """
    ground = ground or Ground()
    metric = spec.metric or ("loss" if "loss" in columns else None)
    points = from_columns(columns, metric=metric, source=source)
    if not spec.budgets:
        raise SpecError(f"plan.budgets is empty: give at least one, in {spec.unit or points.unit}")
    price, cautions = priced(spec, columns, points, ground)
    options = Options(law=spec.law, gamma=spec.gamma, d_inside=spec.d_inside, floor=spec.floor, seed=seed)
    fitted = fit(points, options)
    drawn = bootstrap(fitted, draws=spec.draws, seed=seed)
    held = _held_out(fitted, drawn, holdout, points.metric, ground)
    plan = advise(
        fitted,
        drawn,
        spec.budgets,
        price=price,
        sizes=ground.sizes,
        whole=ground.whole,
        variants=ensemble(points, options),
        rule=math.sqrt(sum(math.log(one.measured / one.predicted) ** 2 for one in held) / max(len(held), 1)),
    )
    beyond = [one for one in held if not one.low <= one.measured <= one.high]
    if beyond:
        off = max(abs(one.measured / one.predicted - 1) for one in beyond)
        cautions.append(
            Caution(
                "holdout",
                f"a random mixture lies outside its band at {len(beyond)} of {len(held)} numbers seen (at most "
                f"{off:.1%} off): mixtures are less sure than the bands say",
            )
        )
    plan = replace(plan, cautions=plan.cautions + tuple(cautions))
    return Made(plan, fitted, drawn, price, ground, held, float(points.seen.sum() + _seen(holdout)))


def priced(spec: Planning, columns: Columns, points: Points, ground: Ground) -> tuple[Price, list[Caution]]:
    """What the budget's unit costs, and what is not known about it.

    Raises:
        SpecError: the points do not say what one of them cost in that unit.
    """
    unit = spec.unit or points.unit
    price = Price(unit, spec.per_seen if spec.per_seen is not None else _per_seen(spec, columns, points, ground))
    if spec.scoring is not None:
        return replace(price, scoring=spec.scoring), []
    if ground.scoring_seconds is not None and "seconds" in columns:
        slow = _total(columns, "seconds") / float(points.seen.sum())
        return replace(price, scoring=ground.scoring_seconds / slow * price.of_one(points.unit)), []
    told = "what scoring costs is not known and not subtracted: give plan.scoring"
    return price, [Caution("scoring_unknown", told)]


def _per_seen(spec: Planning, columns: Columns, points: Points, ground: Ground) -> float | None:
    """The price of one seen as measured; None where it is one, or cannot be told."""
    seen = float(points.seen.sum())
    if spec.unit == "flops" and "flops" in columns:
        return float(np.dot(np.asarray(columns["flops"], np.float64), points.seen)) / seen
    if spec.unit in ("cpu_hours", "gpu_hours") and "seconds" in columns:
        device = spec.unit.removesuffix("_hours").upper()
        if ground.device not in (None, device):
            raise SpecError(
                f"plan.unit {spec.unit}: the probes ran on {ground.device}s, so they do not say what a {device} does; "
                f"use {ground.device.lower()}_hours, or give plan.per_seen"
            )
        return _total(columns, "seconds") / seen / 3600
    if spec.unit == "examples" and points.unit == "tokens" and ground.per_example:
        return 1 / ground.per_example
    return None


def _total(columns: Columns, name: str) -> float:
    return float(np.sum(np.asarray(columns[name], np.float64)))


def _seen(holdout: Columns | None) -> float:
    return _total(holdout, "seen") if holdout else 0.0


def _held_out(
    fitted: Fit, drawn: Sequence[Curves], holdout: Columns | None, metric: str, ground: Ground
) -> tuple[Held, ...]:
    """The measured means of the holdout beside the law of all buckets in the corpus's proportions."""
    if not holdout:
        return ()
    seen, unique, values = (np.asarray(holdout[name], np.float64) for name in ("seen", "unique", metric))
    ratios = ratios_of(fitted.curves, ground.sizes, own=fitted.points.cumulative)
    return tuple(
        _one_held(fitted, drawn, ratios, *cell, float(values[(seen == cell[0]) & (unique == cell[1])].mean()))
        for cell in sorted(set(zip(seen.tolist(), unique.tolist(), strict=True)))
    )


def _one_held(
    fitted: Fit, drawn: Sequence[Curves], ratios: Ratios, seen: float, unique: float, measured: float
) -> Held:
    mixture, sizes = ratios.members[-1:], ratios.sizes * (unique / ratios.pools[-1])
    point = float(losses([fitted.curves], [seen], mixture, sizes)[0, 0, 0])
    low, _, high = bands(losses(drawn, [seen], mixture, sizes)[:, 0, 0])
    return Held(seen, unique, measured, point, float(low), float(high))
