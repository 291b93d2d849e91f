"""The report page: one self-contained HTML file, a pure function of the summary.

`page.html` is the frame, `page.css` the style, `page.js` what sorts, filters and tells values; charts are inline SVG,
pictures `data:` URIs. Nothing is loaded from anywhere: a Content-Security-Policy allows no request, and no script but
the page's own, by its hash. Every value from the data is escaped. Lists that grow with the data are cut, so the page
stays below 2 MB for any corpus. Cost: 0.1 s for each chart, and little else.

Caution: the same summary gives the same bytes with one version of matplotlib; another may draw charts otherwise.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raydelt.estimate.beside import TOTAL
from raydelt.report import wording
from raydelt.report.charts import COMPONENTS, charts_of
from raydelt.report.charts.chart import Chart
from raydelt.report.charts.composition import class_rows
from raydelt.report.svg import label

SPEC_CHARACTERS = 20_000
TABLE_COMPONENTS = 12
TINT = 0.5
MADE_OF = ("sources", "languages", "lengths")


def render(summary: dict[str, Any], charts: Mapping[str, Chart] | None = None) -> str:
    """The page of a run; `charts` are its `charts_of`, where they are drawn already."""
    environment = Environment(
        loader=PackageLoader("raydelt", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= FILTERS
    drawn = charts_of(summary) if charts is None else charts
    script = _resource("page.js")
    distributions, suspects = summary["distributions"], summary["suspects"]
    rank = summary["spec"]["rank"]["combine"]
    return environment.get_template("page.html").render(
        s=summary,
        css=_resource("page.css"),
        js=script,
        policy=policy(script),
        sections=_sections(summary),
        metric=wording.METRICS[summary["training"]["metric"]],
        claim=wording.claim(summary),
        price=wording.price(summary["cost"], summary["training"]),
        steps=wording.steps_of(summary["training"]),
        stopped_early=len(set(wording.taken(summary["training"]))) > 1,
        planned=wording.planned(summary["selection"]["plan"]) if "plan" in summary["selection"] else "",
        charts=drawn,
        components=[chart for name, chart in drawn.items() if name.startswith("component-")],
        over_versions=[chart for name, chart in drawn.items() if name.startswith("version-")],
        class_rows=class_rows(summary["classes"], summary["ranked"]["classes"]),
        columns=_columns(summary),
        total=next((row for row in summary["estimated"] if row["what"] == TOTAL), None),
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


def policy(script: str) -> str:
    """The Content-Security-Policy of the page: its own script and styles, pictures within it, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = f"script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _sections(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchors and titles of the sections that the page has."""
    s = summary
    made_of = s["composition"]
    listed: list[tuple[str, str, Any]] = [
        ("result", "Result", True),
        ("training", "Training", True),
        ("scores", "Scores", True),
        ("examples", "Examples", s["examples"]["rows"]),
        ("composition", "Composition", s["classes"] or any(made_of[key] for key in MADE_OF)),
        ("labels", "Doubtful labels", s["detection"] or s["suspects"]),
        ("copies", "Near-duplicates", s["near_duplicates"]),
        ("order", "Training order", True),
        ("plan", "Plan", s["plan"]),
        ("versions", "Versions", s["history"]),
        ("corpus", "Corpus", True),
        ("provenance", "Timings and provenance", True),
    ]
    return [(anchor, title) for anchor, title, there in listed if there]


def _columns(summary: Mapping[str, Any]) -> list[str]:
    """The components that the table of examples has columns for: those that the ranking weighs first."""
    stored = list(summary["distributions"])
    weighed = [name for name in summary["ranking"]["weights"] if name in stored]
    return [*weighed, *(name for name in stored if name not in weighed)][:TABLE_COMPONENTS]


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


def _digits(number: float | None, digits: int = 4) -> str:
    return "–" if number is None else f"{number:.{digits}g}".replace("-", wording.MINUS)


def _rate(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _size(number: int | None) -> str:
    return "–" if number is None else wording.size(number)


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"


def _tint(r: float | None) -> str:
    """Background of a correlation: hue by sign, weight by size, light enough for the text on it."""
    return f"--hue: var(--{'minus' if (r or 0) < 0 else 'plus'}); --weight: {TINT * abs(r or 0):.2f}"


def _cut(text: str | None, length: int) -> str:
    return "–" if text is None else label(text, length)


def _tail(text: str | None, length: int) -> str:
    """The end of a path, which tells more than its beginning."""
    whole = _cut(text, 4 * length)
    return whole if len(whole) <= length else "…" + whole[1 - length :]


FILTERS: dict[str, Any] = {
    "markup": Markup,
    "mean": wording.mean,
    "percent": wording.percent,
    "duration": wording.duration,
    "quantity": wording.quantity,
    "count": _count,
    "figures": _figures,
    "digits": _digits,
    "rate": _rate,
    "size": _size,
    "seeds": _seeds,
    "tint": _tint,
    "correlation": lambda r: _figures(r, 2),
    "cut": _cut,
    "tail": _tail,
    "place": lambda row: "whole file" if row is None else str(row),
}
