"""The charts of the page: each is a pure function of a piece of the summary.

Okabe and Ito's colours, which the colour-blind tell apart, with dashes and markers besides. Every axis names its unit.
Cost: about 100 ms and 15 kB per chart, whatever the size of the corpus.

Caution: bands are the range over the seeds, not an interval of confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raydelt.report.svg import ROLES, axes, drawn, label, style
from raydelt.report.wording import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS = {"selected": ("-", "o"), "random": ("--", "s"), "full": ("-.", "^")}
CLASSES = 30
PAIRED_SEEDS = 100


def _look(arm: str) -> tuple[str, str, str]:
    """Colour, dashes and marker of an arm."""
    return (ROLES[arm], *ARMS[arm]) if arm in ARMS else (ROLES["ink"], ":", "x")


@dataclass(frozen=True)
class Chart:
    """A chart as inline SVG, and the sentence or two that stand below it."""

    svg: str
    caption: str


def differences_chart(differences: Mapping[str, Mapping[str, Any]], metric: Metric) -> Chart:
    """Paired differences of a metric with their intervals, beside zero."""
    with style():
        figure, ax = axes(6.2, 0.75 + 0.42 * len(differences))
        for row, (arm, d) in enumerate(differences.items()):
            mean = metric.scale * d["mean"]
            colour, _, marker = _look(arm)
            if d["low"] is not None:
                ax.plot(
                    [metric.scale * d["low"], metric.scale * d["high"]],
                    [row, row],
                    color=colour,
                    lw=3,
                    solid_capstyle="butt",
                )
            ax.plot([mean], [row], marker, color=colour, ms=8)
        ax.axvline(0, color=ROLES["ink"], lw=1)
        ax.set_yticks(range(len(differences)), [f"selected − {arm}" for arm in differences])
        ax.set_ylim(len(differences) - 0.5, -0.5)
        ax.margins(x=0.08)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(f"difference of {metric.name} ({metric.of_differences})")
        told = "; ".join(f"selected minus {arm}: {d['verdict']}" for arm, d in differences.items())
        return Chart(
            drawn(figure, name="differences", alt=f"Paired differences with intervals. {told}."),
            "Mean paired difference over the seeds and its 95 % interval (Student's t). An interval that crosses zero "
            "shows no difference, and neither does a point without an interval.",
        )


def curves_chart(results: Sequence[Mapping[str, Any]]) -> Chart:
    """Training loss against steps, by arm: mean and range over the seeds."""
    arms = list(dict.fromkeys(result["arm"] for result in results))
    lowest = []
    with style():
        figure, ax = axes(6.2, 3.4)
        for arm in arms:
            steps, losses = _aligned([result["curve"] for result in results if result["arm"] == arm])
            colour, dashes, _ = _look(arm)
            ax.fill_between(steps, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.2, lw=0)
            ax.plot(steps, losses.mean(axis=0), dashes, color=colour, label=arm)
            lowest.append(losses.min())
        if min(lowest) > 0:
            _log(ax)
        ax.set_xlabel("optimiser steps")
        ax.set_ylabel("training loss (nats)")
        ax.set_xlim(left=0)
        ax.legend()
        return Chart(
            drawn(figure, name="curves", alt=f"Training loss against optimiser steps for {', '.join(arms)}."),
            "Training loss, averaged since the point before: line = mean over the seeds, band = their range. Each "
            "arm's loss is that of its own training examples, so a lower curve is not yet a better model.",
        )


def _aligned(curves: Sequence[Sequence[Sequence[float]]]) -> tuple[Any, Any]:
    """Steps [p] of the first curve and the losses [S, p] of all curves there."""
    steps = np.array([point[0] for point in curves[0]], np.float64)
    losses = [np.interp(steps, [p[0] for p in curve], [p[1] for p in curve]) for curve in curves]
    return steps, np.array(losses)


def values_chart(found: Mapping[str, Sequence[float]], metric: Metric) -> Chart:
    """The metric of every seed by arm; lines join the runs of one seed."""
    arms = list(found)
    values = metric.scale * np.array([found[arm] for arm in arms], np.float64)
    places = np.arange(len(arms))
    seeds = values.shape[1]
    with style():
        figure, ax = axes(4.6, 3.4)
        for seed in range(min(seeds, PAIRED_SEEDS)):
            ax.plot(places, values[:, seed], color=ROLES["soft"], lw=0.8, alpha=0.6)
        for place, arm in enumerate(arms):
            colour, _, marker = _look(arm)
            ax.plot(np.full(seeds, place), values[place], marker, color=colour, ms=5, alpha=0.8)
            ax.plot([place - 0.18, place + 0.18], [values[place].mean()] * 2, color=colour, lw=3)
        ax.set_xticks(places, arms)
        ax.set_xlim(-0.5, len(arms) - 0.5)
        ax.grid(axis="x", visible=False)
        ax.set_ylabel(f"{metric.name} ({metric.unit})")
        means = ", ".join(f"{arm} {metric.value(float(np.mean(found[arm])))}" for arm in arms)
        name = metric.name.capitalize()
        return Chart(
            drawn(figure, name="values", alt=f"{name} of {seeds} seed(s) by arm. Means: {means}."),
            f"{name} after training: a point per seed, a bar at the mean, a line through the runs of one seed.",
        )


def component_chart(component: str, histogram: Mapping[str, Any], *, name: str) -> Chart:
    """The distribution of one stored component, flipped examples apart where they are known."""
    series = {"clean": histogram["clean"]}
    if histogram["flipped"] is not None:
        series["flipped"] = histogram["flipped"]
    labelled = len(series) > 1
    with style():
        figure, ax = axes(3.3, 2.3)
        for role, counts in series.items():
            _steps(ax, histogram["edges"], counts, role, label=f"{role} label" if labelled else None)
        _counts_axis(ax)
        ax.set_xlabel(label(component, 40))
        if labelled:
            ax.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        alt = f"Histogram of {component}" + (", clean and flipped labels apart." if labelled else ".")
        filled = np.flatnonzero(np.sum(list(series.values()), axis=0))
        constant = len(filled) == 1
        low, high = histogram["edges"][0], histogram["edges"][-1]
        told = ": constant" if constant else f", from {low:.4g} to {high:.4g}".replace(" -", " \N{MINUS SIGN}")
        return Chart(drawn(figure, name=name, alt=alt), f"{component}{told}.")


def ranking_chart(ranked: Mapping[str, Any]) -> Chart:
    """The combined score of kept, left and gated examples, with the cut and the noise around it."""
    groups = {"selected": ("kept", "kept"), "soft": ("left", "not kept"), "gated": ("gated", "below the gate")}
    cut, noise = ranked["cut"], ranked["noise"]
    with style():
        figure, ax = axes(6.2, 3.2)
        for role, (key, shown) in groups.items():
            if sum(ranked[key]):
                _steps(ax, ranked["edges"], ranked[key], role, label=shown)
        if cut is not None:
            if noise is not None and noise["width"]:
                low, high = cut - noise["width"], cut + noise["width"]
                ax.axvspan(low, high, color=ROLES["soft"], alpha=0.25, lw=0, label="noise at the cut")
            ax.axvline(cut, color=ROLES["ink"], ls="--", lw=1.2, label=f"cut at {cut:.4g}")
        _counts_axis(ax)
        ax.set_xlabel("combined score")
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        counts = [f"{sum(ranked[key])} {shown}" for key, shown in groups.values() if sum(ranked[key])]
        alt = f"Histogram of the combined score: {', '.join(counts)}."
        return Chart(drawn(figure, name="ranking", alt=alt), _noise_caption(noise))


def _noise_caption(noise: Mapping[str, Any] | None) -> str:
    if noise is None:
        return "No standard error of the score is known, so how sharp the cut is cannot be said."
    left = "" if noise["left"] is None else f"; so do {noise['left']:,} that were not kept"
    return (
        f"{100 * noise['share']:.1f} % of the kept set ({noise['kept']:,} examples) lie within their own standard "
        f"error of the cut{left}. Another draw of the proxies could swap these. "
        "The grey band is one mean standard error of the scores about the cut to either side."
    )


def concentration_chart(found: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """Lorenz curves of the components that measure the size of gradients; None where there are none."""
    if not found:
        return None
    with style():
        figure, ax = axes(4.6, 3.4)
        looks = zip(found.items(), ("selected", "random"), ("-", "--"), strict=False)
        for (name, own), role, dashes in looks:
            shares = np.linspace(0, 100, len(own["lorenz"]))
            ax.plot(shares, 100 * np.array(own["lorenz"]), dashes, color=ROLES[role], label=label(name))
        ax.plot([0, 100], [0, 100], ":", color=ROLES["soft"], lw=1, label="equal shares")
        ax.set_xlabel("examples, smallest gradient first (%)")
        ax.set_ylabel("share of the sum (%)")
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 100)
        ax.legend(loc="upper left")
        told = "; ".join(
            f"{name}: the top 20 % of examples make {100 * own['top_share']:.0f} % of the sum, "
            f"Gini {own['gini']:.2f}, {own['step']}"
            for name, own in found.items()
        )
        return Chart(
            drawn(figure, name="concentration", alt=f"Lorenz curves. {told}."),
            f"Lorenz curves: {told}. Concentration grows with training, so the step belongs to the figure.",
        )


def order_chart(order: Mapping[str, Any]) -> Chart:
    """The mean score along the training order, with the spread in each bin."""
    edges, mean, spread = (np.array(order[key], np.float64) for key in ("starts", "mean", "spread"))
    middle = (edges[:-1] + edges[1:]) / 2
    with style():
        figure, ax = axes(6.2, 2.6)
        ax.fill_between(middle, mean - spread, mean + spread, color=ROLES["selected"], alpha=0.2, lw=0)
        ax.plot(middle, mean, "-", color=ROLES["selected"], marker="o", ms=2.5)
        ax.set_xlabel("position in the first epoch (examples)")
        ax.set_ylabel("combined score")
        ax.set_xlim(0, edges[-1])
        _thousands(ax.xaxis)
        return Chart(
            drawn(figure, name="order", alt="Mean combined score along the training order."),
            f"Mean score in {len(mean)} bins of the training position; band = one standard deviation within the bin.",
        )


@dataclass(frozen=True)
class ClassRow:
    """One class: its name, how many examples it has in the corpus and in the selection, and its shares (0 to 1)."""

    name: str
    corpus: int
    selected: int
    corpus_share: float
    selected_share: float


def class_rows(classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[ClassRow]:
    """The classes to show: all, or the `CLASSES` whose share moved most; in the corpus's order."""
    corpus, selected = (np.array(counts[key], np.float64) for key in ("corpus", "selected"))
    shares = [own / max(own.sum(), 1.0) for own in (corpus, selected)]
    moved = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:CLASSES]
    return [
        ClassRow(label(classes[i], 60), int(corpus[i]), int(selected[i]), float(shares[0][i]), float(shares[1][i]))
        for i in sorted(int(i) for i in moved)
    ]


def classes_chart(rows: Sequence[ClassRow], total: int) -> Chart:
    """Share of each class in the corpus and in the selection."""
    places = np.arange(len(rows))
    with style():
        figure, ax = axes(6.2, 0.9 + 0.24 * len(rows))
        corpus, selected = ([100 * getattr(r, key) for r in rows] for key in ("corpus_share", "selected_share"))
        ax.hlines(places, corpus, selected, color=ROLES["soft"], lw=1)
        ax.plot(corpus, places, "^", mfc="none", color=ROLES["full"], ms=6, label="corpus")
        ax.plot(selected, places, "o", color=ROLES["selected"], ms=5, label="selection")
        ax.set_yticks(places, [label(row.name) for row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlim(left=0)
        ax.set_xlabel("share of the examples (%)")
        ax.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        shown = "all" if len(rows) == total else f"the {len(rows)} whose share moved most of"
        return Chart(
            drawn(
                figure, name="classes", alt=f"Share of the classes in corpus and selection, {shown} {total} classes."
            ),
            f"Share of each class among the scored examples and in the selection; {shown} {total} classes.",
        )


def _steps(ax: Axes, edges: Sequence[float], counts: Sequence[int], role: str, *, label: str | None) -> None:
    """A histogram as an outline that starts on the axis of a logarithmic count."""
    heights = np.maximum(np.array(counts, np.float64), 0.5)
    line = {"clean": "-", "flipped": "--", "selected": "-", "soft": "-.", "gated": ":"}[role]
    ax.stairs(heights, edges, baseline=0.5, fill=True, color=ROLES[role], alpha=0.18, lw=0)
    ax.stairs(heights, edges, baseline=0.5, color=ROLES[role], ls=line, lw=1.4, label=label)


def _counts_axis(ax: Axes) -> None:
    _log(ax)
    ax.set_ylim(bottom=0.5)
    ax.set_yticks([tick for tick in ax.get_yticks() if tick >= 1])
    ax.set_ylim(bottom=0.5)
    ax.set_ylabel("examples (log scale)")


def _log(ax: Axes) -> None:
    """A logarithmic y axis with plain numbers at one, two and five times the powers of ten, as far as they fit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    subs = (1.0, 2.0, 5.0) if high < 300 * max(low, 1e-300) else (1.0,)
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _thousands(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def short(value: float) -> str:
    """A number for a tick: 0.05, 3, 200, 10 k, 2 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (abs(value) >= size and size > 1e3):
            return f"{value / size:g} {unit}"
    return f"{value:g}"
