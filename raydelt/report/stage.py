"""The report stage: gather what the run found, and write `report/summary.json` and `report/index.html`.

The summary is plain data and the page's only source. Its passes over scores, ranking, selection and quarantine are
tasks that return counts; the driver holds no rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raydelt import rundir
from raydelt.config import RunConfig
from raydelt.report import ranked, statistics
from raydelt.report.cost import cost, stage_seconds
from raydelt.report.detection import detect
from raydelt.report.page import render
from raydelt.report.parts import ScoredParts, component_columns
from raydelt.report.quarantine import quarantined
from raydelt.report.suspects import suspects
from raydelt.storage import Manifest, Stage, Store

COUNTS = ("read", "corpus", "validation", "test", "pool", "duplicates", "overlap", "quarantined", "bad_files")


def write_report(
    config: RunConfig, manifests: dict[str, Manifest], seconds: Mapping[str, float | None], stage: Stage
) -> Manifest:
    """Publish the summary and, where the spec asks for it, the page."""
    summary = summarise(config, manifests, seconds, stage.run)
    text = json.dumps(summary, indent=2, default=str) + "\n"
    pages = [stage.run.put("report/summary.json", text.encode())]
    if config.report.html:
        pages.append(stage.run.put("report/index.html", render(summary).encode()))
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
    took = _seconds(run, manifests, seconds)
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
        "stages": [_stage(name, manifest, took[name]) for name, manifest in manifests.items()],
        "estimated": _estimated(run),
        "cost": cost(took, trainings=len(training["results"]), kept=selection.rows, corpus=scores.rows),
        "ranked": ranked.describe(run, ranking, selection, len(classes), corpus=per_class),
        "quarantine": quarantined(run, bad),
        "versions": rundir.versions(),
        **_of_components(config, ScoredParts.of(run, corpus, scores), corpus, scores, selection),
    }


def _of_components(
    config: RunConfig, parts: ScoredParts, corpus: Manifest, scores: Manifest, selection: Manifest
) -> dict[str, Any]:
    """The figures of the stored components."""
    components, flips = component_columns(scores), bool(corpus.facts["flipped"])
    gate = config.rank.combine.gate
    return {
        "distributions": statistics.distributions(parts, components, flips=flips),
        "correlations": statistics.correlations(parts, components, selection.rows / max(scores.rows, 1)),
        "suspects": suspects(parts, components, gate, corpus.facts["classes"], truth=flips),
    }


def _seconds(
    run: Store, manifests: dict[str, Manifest], seconds: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Seconds of every stage's own execution, those of earlier executions from the run's record."""
    earlier = run.read_json(rundir.RECORD) if run.exists(rundir.RECORD) else None
    return stage_seconds(seconds, {name: held.fingerprint for name, held in manifests.items()}, earlier)


def _estimated(run: Store) -> list[dict[str, Any]]:
    """What was estimated beside what the stages before this one took, as the run's record has it."""
    record = run.read_json(rundir.RECORD) if run.exists(rundir.RECORD) else {}
    found: list[dict[str, Any]] = record.get("estimated", [])
    return found


def _stage(name: str, manifest: Manifest, seconds: float | None) -> dict[str, Any]:
    """One line of the table of stages."""
    rows = manifest.facts.get("rows_processed", manifest.rows)
    return {
        "stage": name,
        "fingerprint": manifest.fingerprint,
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds if seconds else None,
    }
