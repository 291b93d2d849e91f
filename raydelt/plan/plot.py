"""One chart of a plan: the loss of each ratio over the budget, with bands, the points measured, and the winners.

x is the budget, logarithmic; y the metric. A line is solid where its pool was trained that long and that often, and
dashed beyond; its band is 5 to 95 % of the draws. Dots are measured points at the budget that would see as much: of
the ratios themselves, or of single buckets where these were probed. The strip along the axis has the colour of the
ratio with the least loss. matplotlib is imported only when a chart is drawn; no global state of it is touched.

Caution: of single buckets only the first is a ratio; dots of the others need not lie on any line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raydelt.errors import InputError
from raydelt.plan.advice import Price, affordable, extrapolated
from raydelt.plan.bootstrap import bands, losses
from raydelt.plan.fit import Fit
from raydelt.plan.laws import Curves
from raydelt.plan.ratios import Ratios, ratios_of
from raydelt.plan.table import short
from raydelt.scorers.protocol import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raydelt",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
# Of Okabe and Ito's colours, told apart by colour-blind readers too; more ratios than these repeat them.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GRID = 160


def figure(
    fitted: Fit,
    drawn: Sequence[Curves],
    budgets: Sequence[float],
    *,
    price: Price | None = None,
    sizes: Sequence[float] | None = None,
    whole: bool = True,
) -> Figure:
    """The chart of every ratio, from the least seen to the largest of the budgets; arguments as in `advise`."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    price, points = price or Price(fitted.points.unit), fitted.points
    ratios = ratios_of(fitted.curves, sizes, own=points.cumulative)
    one = price.of_one(points.unit)
    low, high = float(points.seen.min() * one), max(float(points.seen.max() * one), *(float(b) for b in budgets))
    grid = np.geomspace(low, high, GRID)
    seen = affordable(grid, price, points.unit, len(ratios.pools), whole)
    with matplotlib.rc_context(LOOK):
        canvas = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = canvas.add_subplot()
        best = _lines(axes, fitted, drawn, grid, seen, ratios)
        _winners(axes, grid, best)
        for index in range(len(points.names)):
            mine = points.bucket == index
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(points.seen[mine] * one, points.loss[mine], "o", ms=3, mew=0, color=colour, alpha=0.75)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for budget in budgets:
            axes.axvline(float(budget), color="0.75", lw=0.6, zorder=0)
        axes.set_xlabel(f"budget ({price.unit.replace('_', ' ')}, log scale)")
        axes.set_ylabel(points.metric)
        what = "the same" if points.cumulative else "single buckets, in order"
        axes.legend(title=f"kept; dots: probes of {what}", fontsize=8, title_fontsize=8)
    return canvas


def save(canvas: Figure, path: str | Path) -> None:
    """Writes the chart as .svg or .png; the same chart gives the same bytes with one version of matplotlib."""
    import matplotlib

    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise InputError(f"{path}: charts are written as .svg or .png")
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with matplotlib.rc_context(LOOK):
        canvas.savefig(path, dpi=160, metadata=metadata)


def _lines(axes: Axes, fitted: Fit, drawn: Sequence[Curves], grid: Array, seen: Array, ratios: Ratios) -> Array:
    """Draws lines and bands of all ratios; the ratio with the least loss [grid], or -1."""
    least = np.full(len(grid), np.inf)
    best = np.full(len(grid), -1)
    for k in range(len(seen)):
        paid = seen[k] > 0
        if not paid.any():
            continue
        budget, n, mixture = grid[paid], seen[k][paid][None], [ratios.members[k]]
        line = losses([fitted.curves], n, mixture, ratios.sizes)[0, 0]
        colour = COLOURS[k % len(COLOURS)]
        if drawn:
            low, _, high = bands(losses(drawn, n, mixture, ratios.sizes)[:, 0])
            axes.fill_between(budget, low, high, color=colour, alpha=0.15, lw=0)
        beyond = np.array([bool(extrapolated(fitted, float(value), k + 1, ratios, far=1.0)) for value in n[0]])
        label = f"top {100 * ratios.shares[k]:.3g} %"
        axes.plot(budget, np.where(beyond, np.nan, line), color=colour, lw=1.6, label=label)
        axes.plot(budget, np.where(beyond, line, np.nan), color=colour, lw=1.4, ls=(0, (4, 2)))
        better = line < least[paid]
        least[np.flatnonzero(paid)[better]], best[np.flatnonzero(paid)[better]] = line[better], k
    return best


def _winners(axes: Axes, grid: Array, best: Array) -> None:
    """A strip along the x axis in the colour of the ratio with the least loss."""
    edges = np.flatnonzero(np.diff(best)) + 1
    for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(best)], strict=True):
        if best[start] >= 0:
            right = float(grid[min(stop, len(grid) - 1)])
            colour = COLOURS[int(best[start]) % len(COLOURS)]
            axes.axvspan(float(grid[start]), right, 0, 0.02, color=colour, lw=0)
