"""What charts share: the look of an arm, histograms as outlines, logarithmic axes, short numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raydelt.report.svg import ROLES
from raydelt.report.wording import MINUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS = {"selected": ("-", "o"), "random": ("--", "s"), "full": ("-.", "^")}
DASHES = {"selected": "-", "random": "--", "soft": "-.", "gated": ":", "full": "-."}


def look_of(arm: str) -> tuple[str, str, str]:
    """Colour, dashes and marker of an arm."""
    return (ROLES[arm], *ARMS[arm]) if arm in ARMS else (ROLES["ink"], ":", "x")


def steps(ax: Axes, edges: Sequence[float], counts: Sequence[float], role: str, *, label: str | None) -> None:
    """A histogram as an outline that starts on the axis of a logarithmic count."""
    heights = np.maximum(np.array(counts, np.float64), 0.5)
    ax.stairs(heights, edges, baseline=0.5, fill=True, color=ROLES[role], alpha=0.18, lw=0)
    ax.stairs(heights, edges, baseline=0.5, color=ROLES[role], ls=DASHES[role], lw=1.4, label=label)


def counts_axis(ax: Axes) -> None:
    """A logarithmic axis of counts, from below one."""
    logarithmic(ax)
    ax.set_ylim(bottom=0.5)
    ax.set_yticks([tick for tick in ax.get_yticks() if tick >= 1])
    ax.set_ylim(bottom=0.5)
    ax.set_ylabel("examples (log scale)")


def logarithmic(ax: Axes) -> None:
    """A logarithmic y axis with plain numbers at one, two and five times the powers of ten, as far as they fit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    subs = (1.0, 2.0, 5.0) if high < 300 * max(low, 1e-300) else (1.0,)
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.yaxis.set_minor_formatter(NullFormatter())


def thousands(axis: Any) -> None:
    """Plain numbers with separators on an axis."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def short(value: float) -> str:
    """A number for a tick: 0.05, 3, 200, 10 k, 2 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (abs(value) >= size and size > 1e3):
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def said(value: float, digits: int = 4) -> str:
    """A value in a mark: so many significant digits, with a real minus."""
    return f"{value:.{digits}g}".replace("-", MINUS)


def between(low: float, high: float) -> str:
    """The range of a bin in a mark."""
    return f"{said(low)} to {said(high)}"
