"""A plan as text for the terminal: per budget the ratios, then crossovers, other laws, the small run, cautions.

`>` marks the ratio recommended, `~` others within noise of the best. The first band is that of the law's mean curve,
the second that of one real training. Lines are at most 119 characters but for names
and cautions. Nothing is computed here.

Caution: four digits of a loss are shown whatever the band is; read the band.
"""

from __future__ import annotations

import math

from raydelt.plan.answer import Advice, Choice, Plan
from raydelt.plan.crossovers import Crossover


def table(plan: Plan) -> str:
    """The whole plan as lines of text."""
    lines = [line for advice in plan.advice for line in _advice(plan, advice)]
    lines += _crossings(plan) + _opinions(plan)
    if plan.small_run:
        ranked = ", ".join(f"{name} {value:.4g}" for name, value in plan.small_run)
        of = "ratios" if plan.cumulative else "single buckets"
        lines += [f"naive ranking of {of} after {short(plan.small_run_seen)} {plan.seen_unit}: {ranked}", ""]
    lines += [f"caution ({caution.code}): {caution.sentence}" for caution in plan.cautions]
    return "\n".join(lines).rstrip() + "\n"


def short(value: float | None) -> str:
    """A number in a few characters: 640 M, 12.8 k, 3.2."""
    if value is None or not math.isfinite(value):
        return "-"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if 1e15 > abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _advice(plan: Plan, advice: Advice) -> list[str]:
    head = f"{'keep':>11} {'seen':>7} {'repeats':>7} {plan.metric:>7}  {'5 % .. 95 %':>16}  {'of one training':>16} "
    head += f"{'P(best)':>7} {'regret':>7}  extrapolated"
    rows = [_row(choice, advice) for choice in advice.choices]
    first = f"{short(advice.budget)} {plan.budget_unit}: {advice.verdict}"
    if advice.cheapest != advice.recommended:
        first += f" (cheapest within noise: the best {advice.cheapest})"
    return [first, head, *rows, ""]


def _row(choice: Choice, advice: Advice) -> str:
    mark = ">" if choice.buckets == advice.recommended else ("~" if choice.within_noise else " ")
    keep = f"top {100 * choice.share:.3g} %"
    band, real = f"{choice.low:.4f} .. {choice.high:.4f}", f"{choice.real_low:.4f} .. {choice.real_high:.4f}"
    row = (
        f"{mark} {keep:>9} {short(choice.seen):>7} {choice.repeats:>7.2f} {choice.loss:>7.4f}  {band:>16}  {real:>16} "
    )
    row += f"{choice.p_best:>7.2f} {choice.regret:>7.4f}  {', '.join(choice.flags)}"
    return row.rstrip()


def _crossings(plan: Plan) -> list[str]:
    return [_crossing(crossover, plan.budget_unit) for crossover in plan.crossovers] + [""] * bool(plan.crossovers)


def _crossing(crossover: Crossover, unit: str) -> str:
    ends = f"{_end(crossover.low)} .. {_end(crossover.high)}"
    at = f"from {short(crossover.budget)} {unit} on"
    if crossover.budget == 0 or not math.isfinite(crossover.budget):
        at = "over the whole range" if crossover.budget == 0 else "at no budget up to the end of the range"
    return (
        f"the best {crossover.wider} beat the best {crossover.narrower} {at} "
        f"(5 % .. 95 %: {ends}; {100 * crossover.share:.0f} % of draws cross in range)"
    )


def _end(budget: float) -> str:
    if budget == 0:
        return "below the range"
    return short(budget) if math.isfinite(budget) else "beyond it"


def _opinions(plan: Plan) -> list[str]:
    if not plan.ensemble:
        return []
    width = max(len(opinion.law) for opinion in plan.ensemble)
    budgets = " ".join(f"{short(advice.budget):>8}" for advice in plan.advice)
    lines = [f"{'best number of buckets, by law':<{width}} {'rmse':>9} {budgets}"]
    for opinion in plan.ensemble:
        lines.append(f"{opinion.law:<{width}} {opinion.rmse:>9.2g} " + " ".join(f"{best:>8}" for best in opinion.best))
    return [*lines, ""]
