"""The plan of a run, where one stands and is of this very corpus and ranking: loss by share kept, at every budget.

Cost: one small file. Caution: a plan is of the model and recipe that probed.
"""

from __future__ import annotations

from typing import Any

from raydelt.config import RunConfig
from raydelt.plan.chosen import REFUSED
from raydelt.storage import Manifest, Store, read_manifest

BUDGETS = 6
CHOICE = ("share", "loss", "low", "high", "p_best", "repeats", "within_noise")


def plan_of(run: Store, config: RunConfig, corpus: Manifest) -> dict[str, Any] | None:
    """Metric, unit, and by budget choices, recommendation and verdict; None without a plan of this very run."""
    from raydelt.plan.stage import definition

    manifest = read_manifest(run, "plan")
    if manifest is None:
        return None
    document = run.read_json(manifest.parts[0].file)
    own, made_of = definition(config, corpus), document.get("made_of") or {}
    if any(made_of.get(name) != own[name] for name in REFUSED):
        return None
    return {
        "metric": document["metric"],
        "unit": document["budget_unit"].replace("_", " "),
        "budgets": [
            {
                "budget": advice["budget"],
                "recommended": advice["recommended"],
                "pays": advice["pays"],
                "verdict": advice["verdict"],
                "choices": [
                    {"buckets": choice["buckets"], **{name: choice[name] for name in CHOICE}}
                    for choice in advice["choices"]
                ],
            }
            for advice in document["advice"][:BUDGETS]
        ],
    }
