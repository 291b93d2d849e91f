"""The report stage: gather what the run found, and write `report/index.html` and `report/summary.json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import xxhash

from raydelt.config import RunConfig
from raydelt.report.detection import detect
from raydelt.report.page import render
from raydelt.storage import Manifest, Part, Stage, Store


def write_report(
    config: RunConfig, manifests: dict[str, Manifest], seconds: dict[str, float], stage: Stage
) -> Manifest:
    """Publish the summary and, where the spec asks for it, the page."""
    summary = summarise(config, manifests, seconds, stage.run)
    stage.run.write_json("report/summary.json", summary)
    files = ["report/summary.json"]
    if config.report.html:
        stage.run.write_bytes("report/index.html", render(summary).encode())
        files.append("report/index.html")
    return stage.publish([], {"summary": summary}, {"page": [_part(stage.run, name) for name in files]})


def summarise(
    config: RunConfig, manifests: dict[str, Manifest], seconds: dict[str, float], run: Store
) -> dict[str, Any]:
    """The figures of a run as plain data."""
    corpus, scores = manifests["corpus"], manifests["scores"]
    selection, trained = manifests["selection"], manifests["model"]
    detection = detect(run, corpus, scores, selection)
    return {
        "name": config.name,
        "output": config.output,
        "corpus": {key: corpus.facts[key] for key in COUNTS},
        "classes": corpus.facts["classes"],
        "selection": selection.facts,
        "ranking": manifests["ranking"].facts,
        "detection": asdict(detection) if detection else None,
        "training": trained.facts,
        "seconds": seconds,
    }


COUNTS = ("read", "corpus", "validation", "test", "duplicates", "overlap", "quarantined", "bad_files", "flipped")


def _part(run: Store, name: str) -> Part:
    data = run.read_bytes(name)
    return Part(name, 0, len(data), xxhash.xxh3_128_hexdigest(data))
