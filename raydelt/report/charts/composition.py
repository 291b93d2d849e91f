"""Charts of what the selection is made of: classes, sources, languages, lengths, and scores by class and by source."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raydelt.report.charts.axes import said, short
from raydelt.report.charts.chart import Chart, Mark
from raydelt.report.svg import ROLES, axes, label, style

CLASSES = 30


@dataclass(frozen=True)
class Row:
    """One group: its name, how many examples it has in the corpus and in the selection, and its shares (0 to 1)."""

    name: str
    corpus: int
    selected: int
    corpus_share: float
    selected_share: float


def class_rows(classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[Row]:
    """The classes to show: all, or the `CLASSES` whose share moved most; in the corpus's order."""
    rows = _rows(classes, counts["corpus"], counts["selected"])
    moved = sorted(range(len(rows)), key=lambda i: -abs(rows[i].selected_share - rows[i].corpus_share))[:CLASSES]
    return [rows[i] for i in sorted(moved)]


def group_rows(groups: Sequence[Mapping[str, Any]] | None) -> list[Row]:
    """The sources or languages of the composition; empty where there is one."""
    found = groups or []
    return _rows(
        within([own["name"] for own in found]), [own["corpus"] for own in found], [own["selected"] for own in found]
    )


def within(names: Sequence[str]) -> list[str]:
    """Paths without the folder that they all lie in."""
    paths = [name for name in names if "/" in name]
    if len(paths) < 2:
        return list(names)
    common = posixpath.commonprefix([posixpath.dirname(name) + "/" for name in paths])
    shared = common[: common.rfind("/") + 1]
    return [name.removeprefix(shared) for name in names]


def _rows(names: Sequence[str], corpus: Sequence[int], selected: Sequence[int]) -> list[Row]:
    whole, kept = max(sum(corpus), 1), max(sum(selected), 1)
    both = zip(names, corpus, selected, strict=False)
    return [Row(label(name, 60), int(c), int(s), float(c / whole), float(s / kept)) for name, c, s in both]


def shares(rows: Sequence[Row], total: int, *, name: str, what: str) -> Chart:
    """Share of each group in the corpus and in the selection; `what` they are, in the plural."""
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
    marks = [
        (float(s), float(place), f"{row.name}: {c:.1f} % of the corpus, {s:.1f} % of the selection")
        for place, row, c, s in zip(places, rows, corpus, selected, strict=True)
    ]
    return Chart(
        name,
        figure,
        f"Share of the {what} in corpus and selection, {shown} {total} {what}.",
        f"Share of each among the scored examples and in the selection; {shown} {total} {what}.",
        marks,
        "y",
    )


def by_group(groups: Sequence[Mapping[str, Any]], *, chart: str, what: str) -> Chart | None:
    """Quantiles of the combined score within groups; None where no score is known."""
    rows = [group for group in groups if group["quantiles"]]
    if not rows:
        return None
    named = within([group["name"] for group in rows]) if what == "source" else [group["name"] for group in rows]
    marks: list[Mark] = []
    with style():
        figure, ax = axes(6.2, 0.8 + 0.24 * len(rows))
        for place, group in enumerate(rows):
            q05, q25, q50, q75, q95 = group["quantiles"]
            ax.plot([q05, q95], [place, place], color=ROLES["soft"], lw=1)
            ax.plot([q25, q75], [place, place], color=ROLES["selected"], lw=5, alpha=0.5, solid_capstyle="butt")
            ax.plot([q50], [place], "o", color=ROLES["selected"], ms=5)
            told = f"{label(named[place], 60)}: median {said(q50)}, half between {said(q25)} and {said(q75)}"
            marks.append((q50, place, f"{told}, 5 to 95 %: {said(q05)} to {said(q95)}"))
        ax.set_yticks(range(len(rows)), [label(name) for name in named])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlabel("combined score")
    return Chart(
        chart,
        figure,
        f"Combined score by {what}: median, quartiles, and 5 to 95 %.",
        f"Combined score by {what}: point = median, thick = half of the examples, thin = 5 to 95 %.",
        marks,
        "y",
    )


def lengths(found: Mapping[str, Any]) -> Chart:
    """How long examples are in the corpus and in the selection, as shares."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    edges, unit = found["edges"], found["unit"]
    both = {"full": ("corpus", "--"), "selected": ("selected", "-")}
    share = {key: 100 * np.array(found[key]) / max(sum(found[key]), 1) for key, _ in both.values()}
    with style():
        figure, ax = axes(6.2, 2.8)
        for role, (key, dashes) in both.items():
            own = "selection" if key == "selected" else key
            ax.stairs(share[key], edges, fill=True, color=ROLES[role], alpha=0.15, lw=0)
            ax.stairs(share[key], edges, color=ROLES[role], ls=dashes, lw=1.4, label=own)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(bottom=0)
        ax.set_xlabel(f"length ({unit}, log scale)")
        ax.set_ylabel("share of the examples (%)")
        ax.legend()
    marks = [
        (
            float(np.sqrt(low * high)),
            float(max(c, s)),
            f"{low:,.0f} to {high:,.0f} {unit}: {c:.1f} % of the corpus, {s:.1f} % of the selection",
        )
        for low, high, c, s in zip(edges[:-1], edges[1:], share["corpus"], share["selected"], strict=True)
    ]
    medians = [
        f"{name} {found[key]:,.0f}"
        for name, key in (("corpus", "corpus_median"), ("selection", "selected_median"))
        if found[key] is not None
    ]
    return Chart(
        "lengths",
        figure,
        f"Lengths in {unit} in corpus and selection.",
        f"Lengths of the examples; medians: {', '.join(medians)} {unit}.",
        marks,
    )
