"""Everything that a run knows of one example: `raydelt why`.

Cost: a few row groups and one part of each stage, whatever the size of the run, but for neighbours (see
`raydelt.ask.near`). Memory: one part of the corpus.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raydelt.ask.lookup import CORPUS, Bad, Place, locate, quarantined, row_of, score_row
from raydelt.ask.near import neighbours
from raydelt.ask.past import past
from raydelt.ask.ranked import find_kept, find_ranked
from raydelt.ask.rule import rule_of
from raydelt.ask.run import Run
from raydelt.ask.sample import Sample, guess_of, sample_of
from raydelt.ask.steps import trainings

TEXT = 4000
KEYS = ("example", "components", "percentiles", "combined", "rule", "order", "quarantine", "history", "neighbours")


def why(run: Run, example: str) -> dict[str, Any]:
    """An example's state (kept, left, scored, held out, pool, quarantined) and all that led to it, as plain data.

    Raises:
        InputError: the id is unknown, or a prefix fits several.
    """
    found = locate(run, example)
    told: dict[str, Any] = {"id": found.example_id, "run": run.store.root, "version": run.version, "state": None}
    told |= dict.fromkeys(KEYS)
    if isinstance(found, Bad):
        return told | {"state": "quarantined", "quarantine": _entry(found)}
    told |= {"split": found.split, "example": described(run, row_of(run, found))}
    told |= {"history": past(run, found.example_id), "neighbours": neighbours(run, found)}
    if found.split != CORPUS:
        return told | {"state": "pool" if found.split == "pool" else "held out"}
    return told | _scored(run, found)


def described(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """An example of the corpus in words: label, source, and text or a summary of its features."""
    text, classes = row.get("text"), run.classes
    label, clean = (classes[v] if (v := row.get(k)) is not None and v < len(classes) else None for k in _LABELS)
    told: dict[str, Any] = {"label": label, "label_before_noise": clean if clean != label else None}
    told |= {"source_file": row.get("source_file"), "row": row.get("row"), "time": row.get("time")}
    told |= {"text": None if text is None else text[:TEXT], "text_characters": None if text is None else len(text)}
    features = np.asarray(row.get("x") if row.get("x") is not None else [], np.float64)
    return told | {"features": _summary(features) if text is None and len(features) else None}


_LABELS = ("label", "label_clean")


def _summary(x: Any) -> dict[str, Any]:
    shown = {"width": len(x), "least": float(x.min()), "mean": float(x.mean()), "greatest": float(x.max())}
    return shown | {"not_zero": float(np.count_nonzero(x) / len(x)), "first": x[:8].tolist()}


def _scored(run: Run, place: Place) -> dict[str, Any]:
    found = score_row(run, place)
    if found is None:
        bad = quarantined(run, place.example_id)
        return {"state": "quarantined", "quarantine": _entry(bad) if bad else None}
    scores = found[0]
    sample = sample_of(run, run.components)
    told: dict[str, Any] = _components(run, scores, sample)
    if run.found("ranking") is None:
        return told | {"state": "scored"}
    place_in_ranking = find_ranked(run, place, guess_of(run, scores, sample))
    ranked = None if place_in_ranking is None else place_in_ranking[0]
    if ranked is not None:
        names = ("score", "score_se", "rank", "percentile", "eligible", "gate", "tokens")
        ranking = run.manifest("ranking")
        told["combined"] = {name: ranked.get(name) for name in names} | {"of": ranking.rows}
    if run.found("selection") is None:
        return told | {"state": "scored"}
    kept = find_kept(run, place_in_ranking[1], ranked["rank"]) if place_in_ranking and ranked else None
    told["rule"] = rule_of(run, scores, ranked, kept)
    if kept is not None:
        order = {name: value for name, value in run.raw["order"].items() if value is not None}
        told["order"] = {"position": kept["position"], "of": run.manifest("selection").rows, "order": order}
        told["order"]["trainings"] = trainings(run, kept["position"])
    return told | {"state": "kept" if kept is not None else "left"}


def _components(run: Run, scores: dict[str, Any], sample: Sample) -> dict[str, Any]:
    ranking = run.found("ranking")
    weights = ranking.facts["weights"] if ranking else {}
    components = [
        {
            "name": name,
            "value": scores[name],
            "se": scores.get(f"{name}_se"),
            "percentile": sample.percentile(name, scores[name]),
            "weight": weights.get(name, 0.0),
        }
        for name in run.components
    ]
    beside = {"rows": sample.rows, "of": sample.of, "exact": sample.exact, "error": sample.error}
    return {"components": components, "percentiles": beside, "model_version": scores.get("model_version")}


def _entry(bad: Bad) -> dict[str, Any]:
    return {"source_file": bad.source_file, "row": bad.row, "reason": bad.reason}
