"""The chart of a plan: predicted loss by the share that is kept, a line for every budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydelt.report.charts.axes import said, short
from raydelt.report.charts.chart import Chart, Mark
from raydelt.report.svg import ROLES, axes, style

LOOKS = (("selected", "-"), ("random", "--"), ("full", "-."), ("gated", ":"), ("ink", "-"), ("soft", "--"))


def plan(found: Mapping[str, Any]) -> Chart:
    """Loss against share kept at every budget, with 5 to 95 % of the draws; the recommended share is ringed."""
    marks: list[Mark] = []
    with style():
        figure, ax = axes(6.2, 3.4)
        for own, (role, dashes) in zip(found["budgets"], LOOKS, strict=False):
            rows = [choice for choice in own["choices"] if choice["loss"] is not None]
            share, colour = [100 * choice["share"] for choice in rows], ROLES[role]
            banded = [choice for choice in rows if choice["low"] is not None and choice["high"] is not None]
            at, low, high = ([choice[key] for choice in banded] for key in ("share", "low", "high"))
            ax.fill_between([100 * own for own in at], low, high, color=colour, alpha=0.15, lw=0)
            told = f"{short(own['budget'])} {found['unit']}"
            ax.plot(share, [c["loss"] for c in rows], dashes, color=colour, marker="o", ms=3, label=told)
            for choice in rows:
                best = choice["buckets"] == own["recommended"] and own["pays"]
                if best:
                    ax.plot([100 * choice["share"]], [choice["loss"]], "o", ms=11, mfc="none", color=colour)
                line = f"{told}, keep {100 * choice['share']:.3g} %: {found['metric']} {said(choice['loss'])}"
                marks.append((100 * choice["share"], choice["loss"], line + (" (recommended)" if best else "")))
        ax.set_xlabel("share of the corpus kept, best first (%)")
        ax.set_ylabel(f"predicted {found['metric']}")
        ax.set_xlim(0, 103)
        ax.legend(title="budget", fontsize=8, title_fontsize=8)
    alt = f"Predicted {found['metric']} by the share kept, at {len(found['budgets'])} budget(s)."
    caption = "Prediction of the plan; band = 5 to 95 % of its draws, ring = what it recommends where choosing pays."
    return Chart("plan", figure, alt, caption, marks, "both")
