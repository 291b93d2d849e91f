"""The report stage: gather what the run found, and write `report/summary.json`, the page and its figures.

    report/index.html            the page                     report/summary.json       all of its figures as data
    report/figures/NAME.svg|png  the charts, in light colours

The summary is plain data and the page's only source. Its passes over scores, ranking, selection and quarantine are
tasks that return counts and the few examples that are shown; the driver holds no rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from raydelt import rundir
from raydelt.config import RunConfig
from raydelt.report import ranked, statistics
from raydelt.report.charts import charts_of
from raydelt.report.composition import composition
from raydelt.report.cost import cost, stage_seconds
from raydelt.report.detection import detect
from raydelt.report.duplicates import EPSILON, near_duplicates
from raydelt.report.ends import ends
from raydelt.report.history import over_versions
from raydelt.report.page import render
from raydelt.report.parts import ScoredParts, component_columns
from raydelt.report.plans import plan_of
from raydelt.report.provenance import provenance, record_of, stage_line
from raydelt.report.quarantine import quarantined
from raydelt.report.shown import Look, shown
from raydelt.report.suspects import suspects
from raydelt.scorers.near_duplicates import NearDuplicatesConfig
from raydelt.storage import Manifest, Stage, Store

PUTS = 8
COUNTS = ("read", "corpus", "validation", "test", "pool", "duplicates", "overlap", "quarantined", "bad_files")


def write_report(
    config: RunConfig, manifests: dict[str, Manifest], seconds: Mapping[str, float | None], stage: Stage
) -> Manifest:
    """Publish the summary and, where the spec asks for it, the page and its figures."""
    summary = summarise(config, manifests, seconds, stage.run)
    files = {"report/summary.json": (json.dumps(summary, indent=2, default=str) + "\n").encode()}
    if config.report.html:
        charts = charts_of(summary)
        files["report/index.html"] = render(summary, charts).encode()
        for chart in charts.values():
            files[f"report/figures/{chart.name}.svg"] = chart.alone().encode()
            files[f"report/figures/{chart.name}.png"] = chart.png()
    # A store takes its time over each of some fifty small files.
    with ThreadPoolExecutor(PUTS) as pool:
        pages = list(pool.map(stage.run.put, files, files.values()))
    return stage.publish([], {"summary": summary, "rows_processed": manifests["corpus"].rows}, {"page": pages})


def summarise(
    config: RunConfig, manifests: dict[str, Manifest], seconds: Mapping[str, float | None], run: Store
) -> dict[str, Any]:
    """The figures of a run as plain data."""
    corpus, scores = manifests["corpus"], manifests.get("refined", manifests["scores"])
    ranking, selection = manifests["ranking"], manifests["selection"]
    training, classes = manifests["model"].facts, corpus.facts["classes"]
    per_class = corpus.facts["per_class"] if "decision" in ranking.facts else None
    detection = detect(run, corpus, scores, selection)
    record = record_of(run)
    took = stage_seconds(seconds, {name: held.fingerprint for name, held in manifests.items()}, record)
    bad = [part.file for held in (corpus, scores) for part in held.sides.get("quarantine", [])]
    return {
        "name": config.name,
        "output": config.output,
        "spec": config.resolved(),
        "corpus": {key: corpus.facts[key] for key in (*COUNTS, "flipped")},
        "classes": classes,
        "scores": {key: scores.facts[key] for key in ("scored", "quarantined", "columns", "concentration")},
        "selection": selection.facts,
        "ranking": ranking.facts,
        "detection": asdict(detection) if detection else None,
        "training": training,
        "seconds": took,
        "stages": [stage_line(name, manifest, took[name], record) for name, manifest in manifests.items()],
        "estimated": record.get("estimated", []),
        "cost": cost(took, trainings=len(training["results"]), kept=selection.rows, corpus=scores.rows),
        "ranked": ranked.describe(run, ranking, selection, len(classes), corpus=per_class),
        "composition": composition(run, corpus, ranking, selection),
        "quarantine": quarantined(run, bad),
        "versions": rundir.versions(),
        "provenance": provenance(run, record),
        "history": over_versions(run, list(ranking.facts["weights"])),
        "plan": plan_of(run, config, corpus),
        **_of_components(ScoredParts.of(run, corpus, scores), corpus, scores, selection),
        **_examples(config, manifests, run),
    }


def _of_components(parts: ScoredParts, corpus: Manifest, scores: Manifest, selection: Manifest) -> dict[str, Any]:
    """The figures of the stored components."""
    components, flips = component_columns(scores), bool(corpus.facts["flipped"])
    return {
        "distributions": statistics.distributions(parts, components, flips=flips),
        "correlations": statistics.correlations(parts, components, selection.rows / max(scores.rows, 1)),
    }


def _examples(config: RunConfig, manifests: dict[str, Manifest], run: Store) -> dict[str, Any]:
    """The examples that are named, in their lists, and once for all what is known of each."""
    corpus, scores = manifests["corpus"], manifests.get("refined", manifests["scores"])
    ranking, selection = manifests["ranking"], manifests["selection"]
    parts, components = ScoredParts.of(run, corpus, scores), component_columns(scores)
    gate, flipped = config.rank.combine.gate, bool(corpus.facts["flipped"])
    found = ends(run, ranking, selection, config.select, classes=len(corpus.facts["classes"]))
    doubted = suspects(parts, components, gate, corpus.facts["classes"], truth=flipped)
    own = [spec.epsilon for spec in config.score if isinstance(spec, NearDuplicatesConfig)]
    copies = near_duplicates(run, corpus, manifests.get("neighbours"), own[0] if own else EPSILON)
    wanted: dict[str, int] = {row["id"]: row.pop("part") for row in found["rows"]}
    wanted |= {row["example_id"]: row.pop("part") for row in doubted}
    for group in copies["listed"] if copies else []:
        # The part of a head is worked out, and is not known everywhere; that of the others is.
        heads = {group["head"]: group.pop("part")}
        wanted = heads | {one["id"]: one.pop("part") for one in group["members"]} | wanted
    return {
        "examples": found,
        "suspects": doubted,
        "near_duplicates": copies,
        "shown": shown(parts, wanted, Look.at(corpus, components), selection.parts),
    }
