"""Charts of a run's stages and of its versions: seconds beside the estimate, scores and rows version by version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raydelt.report.charts.axes import said
from raydelt.report.charts.chart import Chart, Mark
from raydelt.report.svg import ROLES, axes, label, style
from raydelt.report.wording import duration


def stages(rows: Sequence[Mapping[str, Any]], estimated: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Seconds of every stage, beside what was estimated where it was; None where none is known."""
    known = [row for row in rows if row["seconds"] is not None]
    if not known:
        return None
    expected = {own["what"]: own["estimated"] for own in estimated if own["unit"] == "seconds"}
    marks: list[Mark] = []
    with style():
        figure, ax = axes(6.2, 0.7 + 0.27 * len(known))
        for place, row in enumerate(known):
            ax.barh([place], [row["seconds"]], height=0.6, color=ROLES["selected"], alpha=0.7)
            told = f"{row['stage']}: {duration(row['seconds'])}"
            if (before := expected.get(row["stage"])) is not None:
                ax.plot([before], [place], "|", color=ROLES["random"], ms=14, mew=2)
                told += f", {duration(before)} estimated"
            marks.append((row["seconds"], place, told))
        ax.set_yticks(range(len(known)), [label(row["stage"]) for row in known])
        ax.set_ylim(len(known) - 0.5, -0.5)
        ax.set_xlim(left=0)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("wall-clock seconds")
    beside = " An upright line is what was estimated before the run." if expected else ""
    return Chart("stages", figure, "Seconds of every stage.", f"Time of every stage.{beside}", marks, "y")


def versions(found: Mapping[str, Any], component: str, *, name: str) -> Chart | None:
    """A component over the versions of the run: median, and 10 to 90 %; None below two versions that have it."""
    from matplotlib.ticker import MaxNLocator

    rows = [own for own in found["versions"] if component in own["quantiles"]]
    if len(rows) < 2:
        return None
    number = [own["number"] for own in rows]
    low, middle, high = np.array([own["quantiles"][component] for own in rows]).T
    with style():
        figure, ax = axes(4.6, 2.6)
        ax.fill_between(number, low, high, color=ROLES["selected"], alpha=0.2, lw=0)
        ax.plot(number, middle, "-", color=ROLES["selected"], marker="o", ms=4)
        ax.set_xlabel("version")
        ax.set_ylabel(label(component, 30))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    marks = [
        (float(n), float(m), f"version {n}: median {said(m)}, 10 to 90 %: {said(lo)} to {said(hi)}")
        for n, lo, m, hi in zip(number, low, middle, high, strict=True)
    ]
    alt = f"Median of {component} over the versions of the run."
    return Chart(name, figure, alt, f"{component}: line = median, band = 10 to 90 % of the examples.", marks)
