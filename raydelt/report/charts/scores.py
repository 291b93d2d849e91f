"""Charts of the scores: components, the combined score with its cut, gradients' concentration, the training order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from raydelt.report.charts.axes import between, counts_axis, said, steps, thousands
from raydelt.report.charts.chart import Chart, Mark
from raydelt.report.svg import ROLES, axes, label, style


def component(own: str, histogram: Mapping[str, Any], *, name: str) -> Chart:
    """The distribution of one stored component, flipped examples apart where they are known."""
    series = {"clean": ("selected", histogram["clean"])}
    if histogram["flipped"] is not None:
        series["flipped"] = ("random", histogram["flipped"])
    labelled, edges = len(series) > 1, histogram["edges"]
    with style():
        figure, ax = axes(3.3, 2.3)
        for told, (role, counts) in series.items():
            steps(ax, edges, counts, role, label=f"{told} label" if labelled else None)
        counts_axis(ax)
        ax.set_xlabel(label(own, 40))
        if labelled:
            ax.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    groups = {f"{told} " if labelled else "": counts for told, (_, counts) in series.items()}
    alt = f"Histogram of {own}" + (", clean and flipped labels apart." if labelled else ".")
    filled = np.flatnonzero(np.sum([counts for _, counts in series.values()], axis=0))
    told = ": constant" if len(filled) == 1 else f", from {between(edges[0], edges[-1])}"
    return Chart(name, figure, alt, f"{own}{told}.", _bins(edges, groups))


def ranking(ranked: Mapping[str, Any]) -> Chart:
    """The combined score of kept, left and gated examples, with the cut and the noise around it."""
    groups = {"selected": ("kept", "kept"), "soft": ("left", "not kept"), "gated": ("gated", "below the gate")}
    there = {role: own for role, own in groups.items() if sum(ranked[own[0]])}
    cut, noise = ranked["cut"], ranked["noise"]
    with style():
        figure, ax = axes(6.2, 3.2)
        for role, (key, shown) in there.items():
            steps(ax, ranked["edges"], ranked[key], role, label=shown)
        if cut is not None:
            if noise is not None and noise["width"]:
                low, high = cut - noise["width"], cut + noise["width"]
                ax.axvspan(low, high, color=ROLES["soft"], alpha=0.25, lw=0, label="noise at the cut")
            ax.axvline(cut, color=ROLES["ink"], ls="--", lw=1.2, label=f"cut at {cut:.4g}")
        counts_axis(ax)
        ax.set_xlabel("combined score")
        ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    counts = [f"{sum(ranked[key])} {shown}" for key, shown in there.values()]
    alt = f"Histogram of the combined score: {', '.join(counts)}."
    marks = _bins(ranked["edges"], {f"{shown} ": ranked[key] for key, shown in there.values()})
    return Chart("ranking", figure, alt, _noise_caption(noise), marks)


def _bins(edges: list[float], groups: Mapping[str, list[int]]) -> list[Mark]:
    """A mark for every bin that holds something."""
    marks = []
    for place, counts in enumerate(zip(*groups.values(), strict=True)):
        if not sum(counts):
            continue
        low, high = edges[place], edges[place + 1]
        told = ", ".join(f"{name}{count:,}" for name, count in zip(groups, counts, strict=True))
        marks.append(((low + high) / 2, float(max(0.5, *counts)), f"{between(low, high)}: {told}"))
    return marks


def _noise_caption(noise: Mapping[str, Any] | None) -> str:
    if noise is None:
        return "No standard error of the score is known, so how sharp the cut is cannot be said."
    left = "" if noise["left"] is None else f"; so do {noise['left']:,} that were not kept"
    return (
        f"{100 * noise['share']:.1f} % of the kept set ({noise['kept']:,} examples) lie within their own standard "
        f"error of the cut{left}. Another draw of the proxies could swap these. "
        "The grey band is one mean standard error of the scores about the cut to either side."
    )


def concentration(found: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """Lorenz curves of the components that measure the size of gradients; None where there are none."""
    if not found:
        return None
    with style():
        figure, ax = axes(4.6, 3.4)
        looks = zip(found.items(), ("selected", "random", "full", "gated"), ("-", "--", "-.", ":"), strict=False)
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
    name, own = next(iter(found.items()))
    marks = [
        (100 * place / (len(own["lorenz"]) - 1), 100 * share, f"the lower {place} % make {100 * share:.1f} % ({name})")
        for place, share in enumerate(own["lorenz"])
        if len(own["lorenz"]) == 101
    ]
    caption = f"Lorenz curves: {told}. Concentration grows with training, so the step belongs to the figure."
    return Chart("concentration", figure, f"Lorenz curves. {told}.", caption, marks)


def order(found: Mapping[str, Any]) -> Chart:
    """The mean score along the training order, with the spread in each bin."""
    edges, mean, spread = (np.array(found[key], np.float64) for key in ("starts", "mean", "spread"))
    middle = (edges[:-1] + edges[1:]) / 2
    with style():
        figure, ax = axes(6.2, 2.6)
        ax.fill_between(middle, mean - spread, mean + spread, color=ROLES["selected"], alpha=0.2, lw=0)
        ax.plot(middle, mean, "-", color=ROLES["selected"], marker="o", ms=2.5)
        ax.set_xlabel("position in the first epoch (examples)")
        ax.set_ylabel("combined score")
        ax.set_xlim(0, edges[-1])
        thousands(ax.xaxis)
    marks = [
        (float(at), float(value), f"positions {low:,.0f} to {high - 1:,.0f}: mean score {said(value)} ± {said(width)}")
        for at, value, width, low, high in zip(middle, mean, spread, edges[:-1], edges[1:], strict=True)
    ]
    return Chart(
        "order",
        figure,
        "Mean combined score along the training order.",
        f"Mean score in {len(mean)} bins of the training position; band = one standard deviation within the bin.",
        marks,
    )
