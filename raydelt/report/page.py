"""The report page: one self-contained HTML file, a pure function of the summary.

`page.html` is the template and `page.css` the style; charts are inline SVG. Nothing is loaded from anywhere, there is
no script, and every value from the data is escaped. Lists that grow with the data are cut, so the page stays below
1 MB for any corpus. Cost: about two seconds, nearly all of it the charts.

Caution: the same summary gives the same bytes with one version of matplotlib; another may draw charts otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from raydelt.estimate.table import quantity
from raydelt.report import figures, wording
from raydelt.report.svg import label

COMPONENTS = 24
SPEC_CHARACTERS = 20_000
TINT = 0.5


def render(summary: dict[str, Any]) -> str:
    """The page of a run."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= FILTERS
    template = environment.from_string(_resource("page.html"))
    rows = figures.class_rows(summary["classes"], summary["ranked"]["classes"])
    distributions, suspects = summary["distributions"], summary["suspects"]
    rank = summary["spec"]["rank"]["combine"]
    return template.render(
        s=summary,
        css=_resource("page.css"),
        sections=_sections(summary),
        metric=wording.METRICS[summary["training"]["metric"]],
        claim=wording.claim(summary),
        price=wording.price(summary["cost"]),
        planned=wording.planned(summary["selection"]["plan"]) if "plan" in summary["selection"] else "",
        charts=_charts(summary, rows),
        class_rows=rows,
        weights=_weights(summary["ranking"]["weights"], rank["normalise"]),
        gate=rank["gate"],
        quotas=summary["spec"]["select"]["quotas"],
        more_components=len(distributions) > COMPONENTS,
        with_difficulty="difficulty" in distributions,
        with_errors=any(row["difficulty_se"] is not None for row in suspects),
        with_consistency=any(row["consistency"] is not None for row in suspects),
        balance=balance(summary["corpus"], summary["spec"]["corpus"]["duplicates"]),
        spec=spec_text(summary["spec"]),
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _sections(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchors and titles of the sections that the page has."""
    found = [("result", "Result"), ("training", "Training"), ("scores", "Scores")]
    if summary["classes"]:
        found.append(("classes", "Classes"))
    if summary["detection"] or summary["suspects"]:
        found.append(("labels", "Doubtful labels"))
    return [*found, ("order", "Training order"), ("corpus", "Corpus"), ("provenance", "Timings and provenance")]


def _charts(summary: Mapping[str, Any], rows: list[figures.ClassRow]) -> dict[str, Any]:
    """All charts of the page by name."""
    training, ranked = summary["training"], summary["ranked"]
    metric = wording.METRICS[training["metric"]]
    shown = list(summary["distributions"].items())[:COMPONENTS]
    return {
        "differences": figures.differences_chart(training["differences"], metric) if training["differences"] else None,
        "curves": figures.curves_chart(training["results"]),
        "values": figures.values_chart(training["values"], metric),
        "components": [
            figures.component_chart(name, histogram, name=f"component-{index}")
            for index, (name, histogram) in enumerate(shown)
        ],
        "concentration": figures.concentration_chart(summary["scores"]["concentration"]),
        "ranking": figures.ranking_chart(ranked),
        "classes": figures.classes_chart(rows, len(summary["classes"])) if rows else None,
        "order": figures.order_chart(ranked["order"]),
    }


def balance(counts: Mapping[str, int], duplicates: str) -> dict[str, Any]:
    """The rows by where they went, by how much they miss the rows read, and how many duplicates are kept as copies."""
    kept = duplicates == "keep"
    rows = [("corpus to choose from", counts["corpus"]), ("validation split", counts["validation"])]
    rows += [("test split", counts["test"])]
    rows += [("pool without labels", counts["pool"])] if counts.get("pool") else []
    rows += [] if kept else [("duplicates dropped", counts["duplicates"])]
    rows += [("dropped for overlap with a held-out split", counts["overlap"]), ("quarantined", counts["quarantined"])]
    off = sum(number for _, number in rows) - counts["read"]
    return {"rows": rows, "off": off, "copies": counts["duplicates"] if kept else 0}


def spec_text(spec: Mapping[str, Any]) -> str:
    """The spec as YAML, cut where a long list of sources or classes would fill the page."""
    text = yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True, width=100)
    if len(text) <= SPEC_CHARACTERS:
        return text
    return text[:SPEC_CHARACTERS] + "\n… cut here; the whole spec is in run.json\n"


def _weights(weights: Mapping[str, float], normalise: str) -> str:
    """How the score comes about."""
    names = " + ".join(f"{weight:.3g} × {name}" for name, weight in weights.items())
    scales = {
        "ecdf": "each component as its empirical distribution function",
        "raw": "the components as they are",
        "z": "each component as a z-score",
        "robust": "each component as a robust z-score",
    }
    return f"{names}, {scales.get(normalise, normalise)}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _figures(number: float | None, digits: int) -> str:
    return "–" if number is None else f"{number:,.{digits}f}".replace("-", wording.MINUS)


def _rate(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"


def _tint(r: float | None) -> str:
    """Background of a correlation: hue by sign, weight by size, light enough for the text on it."""
    return f"--hue: var(--{'minus' if (r or 0) < 0 else 'plus'}); --weight: {TINT * abs(r or 0):.2f}"


def _cut(text: str | None, length: int) -> str:
    return "–" if text is None else label(text, length)


FILTERS: dict[str, Any] = {
    "markup": Markup,
    "mean": wording.mean,
    "percent": wording.percent,
    "duration": wording.duration,
    "quantity": quantity,
    "count": _count,
    "figures": _figures,
    "rate": _rate,
    "seeds": _seeds,
    "tint": _tint,
    "correlation": lambda r: _figures(r, 2),
    "cut": _cut,
    "place": lambda row: "whole file" if row is None else str(row),
}
