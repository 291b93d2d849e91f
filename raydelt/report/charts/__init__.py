"""The charts of a report: each a pure function of a piece of the summary.

Okabe and Ito's colours, which the colour-blind tell apart, with dashes and markers besides. Every axis names its unit.
Cost: about 0.2 s and 20 kB a chart, whatever the size of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raydelt.report.charts import composition, over_time, plan, scores, training
from raydelt.report.charts.chart import Chart
from raydelt.report.wording import METRICS

COMPONENTS = 24


def charts_of(summary: Mapping[str, Any]) -> dict[str, Chart]:
    """All charts of a run by name, in the order of the page; those that the run has nothing for are left out."""
    return {chart.name: chart for chart in _charts(summary) if chart is not None}


def _charts(s: Mapping[str, Any]) -> Iterator[Chart | None]:
    trained, ranked, made_of = s["training"], s["ranked"], s["composition"]
    metric = METRICS[trained["metric"]]
    yield training.differences(trained["differences"], metric) if trained["differences"] else None
    yield training.curves(trained["results"])
    yield training.values(trained["values"], metric)
    yield training.evaluations(trained["results"], metric, trained["metric"])
    yield scores.ranking(ranked)
    for index, (name, histogram) in enumerate(list(s["distributions"].items())[:COMPONENTS]):
        yield scores.component(name, histogram, name=f"component-{index:02d}")
    yield scores.concentration(s["scores"]["concentration"])
    rows = composition.class_rows(s["classes"], ranked["classes"])
    yield composition.shares(rows, len(s["classes"]), name="classes", what="classes") if rows else None
    for what in ("sources", "languages"):
        own = composition.group_rows(made_of[what])
        yield composition.shares(own, len(own), name=what, what=what) if own else None
    for key, what in (("classes", "class"), ("sources", "source")):
        yield composition.by_group(made_of[key], chart=f"scores-by-{what}", what=what) if made_of[key] else None
    yield composition.lengths(made_of["lengths"]) if made_of["lengths"] else None
    yield scores.order(ranked["order"])
    if s["history"]:
        names = dict.fromkeys(name for own in s["history"]["versions"] for name in own["quantiles"])
        for index, name in enumerate(names):
            yield over_time.versions(s["history"], name, name=f"version-{index}")
    yield plan.plan(s["plan"]) if s["plan"] else None
    yield over_time.stages(s["stages"], s["estimated"])
