"""Charts of the trainings: paired differences, loss and validation curves, and the metric of every seed.

Caution: bands are the range over the seeds, not an interval of confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raydelt.report.charts.axes import logarithmic, look_of, said
from raydelt.report.charts.chart import MARKS, Chart, Mark
from raydelt.report.svg import ROLES, axes, style
from raydelt.report.wording import Metric

PAIRED_SEEDS = 100
POINTS = 4 * MARKS


def differences(found: Mapping[str, Mapping[str, Any]], metric: Metric) -> Chart:
    """Paired differences of a metric with their intervals, beside zero."""
    marks: list[Mark] = []
    with style():
        figure, ax = axes(6.2, 0.75 + 0.42 * len(found))
        for row, (arm, d) in enumerate(found.items()):
            mean = metric.scale * d["mean"]
            colour, _, marker = look_of(arm)
            if d["low"] is not None:
                ends = [metric.scale * d["low"], metric.scale * d["high"]]
                ax.plot(ends, [row, row], color=colour, lw=3, solid_capstyle="butt")
            ax.plot([mean], [row], marker, color=colour, ms=8)
            told = f"selected − {arm}: {metric.change(d['mean'])} {metric.of_differences}, {metric.interval(d)}"
            marks.append((mean, row, f"{told}: {d['verdict']}"))
        ax.axvline(0, color=ROLES["ink"], lw=1)
        ax.set_yticks(range(len(found)), [f"selected − {arm}" for arm in found])
        ax.set_ylim(len(found) - 0.5, -0.5)
        ax.margins(x=0.08)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(f"difference of {metric.name} ({metric.of_differences})")
    said_of = "; ".join(f"selected minus {arm}: {d['verdict']}" for arm, d in found.items())
    return Chart(
        "differences",
        figure,
        f"Paired differences with intervals. {said_of}.",
        "Mean paired difference over the seeds and its 95 % interval (Student's t). An interval that crosses zero "
        "shows no difference, and neither does a point without an interval.",
        marks,
        "y",
    )


def curves(results: Sequence[Mapping[str, Any]]) -> Chart:
    """Training loss against steps, by arm: mean and range over the seeds."""
    arms = list(dict.fromkeys(result["arm"] for result in results))
    own = {arm: _aligned([result["curve"] for result in results if result["arm"] == arm]) for arm in arms}
    return _over_steps(
        own,
        "curves",
        "training loss (nats)",
        f"Training loss against optimiser steps for {', '.join(arms)}.",
        "Training loss, averaged since the point before: line = mean over the seeds, band = their range. Each "
        "arm's loss is that of its own training examples, so a lower curve is not yet a better model.",
    )


def evaluations(results: Sequence[Mapping[str, Any]], metric: Metric, key: str) -> Chart | None:
    """The metric on the validation split against steps, by arm; None where it was not looked at on the way."""
    looked = [result for result in results if result.get("evaluations") and key in result["evaluations"][0][1]]
    if not looked:
        return None
    arms = list(dict.fromkeys(result["arm"] for result in looked))
    points = {
        arm: [
            [[step, metric.scale * found[key]] for step, found in r["evaluations"]] for r in looked if r["arm"] == arm
        ]
        for arm in arms
    }
    name = metric.name.replace("test", "validation")
    return _over_steps(
        {arm: _aligned(own) for arm, own in points.items()},
        "evaluations",
        f"{name} ({metric.unit})",
        f"{name.capitalize()} against optimiser steps for {', '.join(arms)}.",
        f"{name.capitalize()} during training: line = mean over the seeds, band = their range. All arms are measured "
        "on the same examples.",
        plain=True,
    )


def _over_steps(
    own: Mapping[str, tuple[Any, Any]], name: str, unit: str, alt: str, caption: str, *, plain: bool = False
) -> Chart:
    """Means and ranges [S, p] over steps [p], by arm."""
    mean = {arm: np.nanmean(values, axis=0) for arm, (_, values) in own.items()}
    with style():
        figure, ax = axes(6.2, 3.4)
        for arm, (steps, values) in own.items():
            colour, dashes, _ = look_of(arm)
            ax.fill_between(steps, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.2, lw=0)
            ax.plot(steps, mean[arm], dashes, color=colour, label=arm)
        if not plain and min(np.nanmin(values) for _, values in own.values()) > 0:
            logarithmic(ax)
        ax.set_xlabel("optimiser steps")
        ax.set_ylabel(unit)
        ax.set_xlim(left=0)
        ax.legend()
    if any(np.isnan(values).any() for _, values in own.values()):
        caption += " Where a training stopped early, line and band are of those that went on."
    return Chart(name, figure, alt, caption, _marks({arm: (steps, mean[arm]) for arm, (steps, _) in own.items()}))


def _marks(means: Mapping[str, tuple[Any, Any]]) -> list[Mark]:
    """What each arm reaches at up to `MARKS` of the steps; of an arm that has ended nothing is said."""
    steps = _thinned(np.unique(np.concatenate([own for own, _ in means.values()])), MARKS)
    at = {arm: _between(steps, own, values) for arm, (own, values) in means.items()}
    marks = []
    for place, step in enumerate(steps):
        there = {arm: values[place] for arm, values in at.items() if np.isfinite(values[place])}
        if there:
            told = ", ".join(f"{arm} {said(value)}" for arm, value in there.items())
            marks.append((float(step), float(next(iter(there.values()))), f"step {step:,.0f}: {told}"))
    return marks


def _aligned(curves: Sequence[Sequence[Sequence[float]]]) -> tuple[Any, Any]:
    """Up to `POINTS` of the steps [p] of all curves and their values [S, p] there; NaN before and after a curve."""
    steps = _thinned(np.unique([point[0] for curve in curves for point in curve]).astype(np.float64), POINTS)
    values = [_between(steps, [p[0] for p in curve], [p[1] for p in curve]) for curve in curves]
    return steps, np.array(values)


def _between(steps: Any, own: Any, values: Any) -> Any:
    """The values [p] of a curve at these steps, NaN where it is not."""
    return np.interp(steps, own, values, left=np.nan, right=np.nan)


def _thinned(steps: Any, most: int) -> Any:
    """The steps, or so many of them at even distances, the first and the last among them."""
    if len(steps) <= most:
        return steps
    return steps[np.linspace(0, len(steps) - 1, most).round().astype(int)]


def values(found: Mapping[str, Sequence[float]], metric: Metric) -> Chart:
    """The metric of every seed by arm; lines join the runs of one seed."""
    arms = list(found)
    own = metric.scale * np.array([found[arm] for arm in arms], np.float64)
    places = np.arange(len(arms))
    seeds, marks = own.shape[1], []
    with style():
        figure, ax = axes(4.6, 3.4)
        for seed in range(min(seeds, PAIRED_SEEDS)):
            ax.plot(places, own[:, seed], color=ROLES["soft"], lw=0.8, alpha=0.6)
        for place, arm in enumerate(arms):
            colour, _, marker = look_of(arm)
            ax.plot(np.full(seeds, place), own[place], marker, color=colour, ms=5, alpha=0.8)
            ax.plot([place - 0.18, place + 0.18], [own[place].mean()] * 2, color=colour, lw=3)
            low, high = metric.value(min(found[arm])), metric.value(max(found[arm]))
            told = f"{arm}: mean {metric.value(float(np.mean(found[arm])))}, {low} to {high} over {seeds} seed(s)"
            marks.append((float(place), float(own[place].mean()), told))
        ax.set_xticks(places, arms)
        ax.set_xlim(-0.5, len(arms) - 0.5)
        ax.grid(axis="x", visible=False)
        ax.set_ylabel(f"{metric.name} ({metric.unit})")
    means = ", ".join(f"{arm} {metric.value(float(np.mean(found[arm])))}" for arm in arms)
    name = metric.name.capitalize()
    return Chart(
        "values",
        figure,
        f"{name} of {seeds} seed(s) by arm. Means: {means}.",
        f"{name} after training: a point per seed, a bar at the mean, a line through the runs of one seed.",
        marks,
    )
