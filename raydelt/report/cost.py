"""What choosing cost and what it could save, in wall-clock seconds of this run.

    scoring        = seconds of all stages from the proxies, ledger, embeddings, … to the selection
    one training   = seconds of the train stage / (arms x seeds)       its start-up and evaluation included
    an epoch saves = (1 - kept / corpus) of a training on everything with as many epochs

All arms train for the same number of steps unless they stop early, so within the run the selection saves nothing:
scoring comes on top.
Pure functions. Caution: seconds of a stage that was resumed after a crash cover its last execution only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raydelt.rank import refine

BEFORE_SCORES = ("tokens", "embeddings", "neighbours", "ledger", "values", "proxies", "targets")
CHOOSING = (*BEFORE_SCORES, "scores", *refine.STAGES, "ranking", "selection")
TRAINING = "model"


def stage_seconds(
    now: Mapping[str, float | None], fingerprints: Mapping[str, str], earlier: Mapping[str, Any] | None
) -> dict[str, float | None]:
    """Seconds of every stage's own execution: from now, or from the earlier record of a run with that fingerprint.

    A stage that was up to date takes milliseconds now, so the longer of the two counts. None where neither knows.
    """
    recorded = (earlier or {}).get("stages", {})
    found: dict[str, float | None] = {}
    for name, fingerprint in fingerprints.items():
        entry = recorded.get(name, {})
        known = [now.get(name), entry.get("seconds") if entry.get("fingerprint") == fingerprint else None]
        found[name] = max((seconds for seconds in known if seconds is not None), default=None)
    return found


def cost(seconds: Mapping[str, float | None], *, trainings: int, kept: int, corpus: int) -> dict[str, Any]:
    """Seconds of scoring, of training in all and of one training; and after how many trainings scoring has paid.

    `breaks_even` counts trainings on everything with as many epochs that were replaced by one on the selection. It is
    None where nothing is left out or a stage's seconds are not known.
    """
    scoring = [seconds[name] for name in CHOOSING if name in seconds]
    known = [value for value in scoring if value is not None]
    total = sum(known) if len(known) == len(scoring) else None
    training = seconds.get(TRAINING)
    one = training / trainings if training is not None and trainings else None
    saved = one * (corpus / kept - 1.0) if one is not None and kept else None
    return {
        "scoring": total,
        "training": training,
        "trainings": trainings,
        "one_training": one,
        "saved_per_training": saved,
        "breaks_even": math.ceil(total / saved) if total is not None and saved else None,
    }
