"""Why an example was kept or left: the rule in words, its cut, and how far from the cut the score lies.

    distance = score - cut          within noise: |distance| <= its own standard error

Caution: the rule is told as the spec states it; with a sample or strata no score decides, and there is no distance.
"""

from __future__ import annotations

from typing import Any

from raydelt.ask.lookup import resting_row
from raydelt.ask.ranked import cut_scores, cuts_of_classes
from raydelt.ask.run import Run
from raydelt.ask.sample import below_gate, broken
from raydelt.examples import EXAMPLE_ID

KEYS = ("rule", "text", "reason", "gate", "cut", "distance", "distance_in_se", "within_noise", "probability", "weight")


def rule_of(
    run: Run, scores: dict[str, Any], ranked: dict[str, Any] | None, kept: dict[str, Any] | None
) -> dict[str, Any]:
    """The decision about a scored example: `kept`, the `rule` by name and as `text`, cut and distance where there are.

    `ranked` and `kept` are its rows of the ranking and of the selection, None where it has none.
    """
    facts = run.manifest("selection").facts
    told: dict[str, Any] = {"kept": kept is not None, **dict.fromkeys(KEYS)}
    told["plan"] = facts.get("plan")
    told["rule"], told["text"] = _rule(run, scores, ranked, kept is not None)
    told["gate"] = below_gate(run.raw["rank"]["combine"], scores) is None
    if kept is not None:
        told |= {name: kept.get(name) for name in ("reason", "probability", "weight")}
    if ranked is not None and told["rule"] in ("cut", "quota", "threshold"):
        told |= _distance(ranked, _cut(run, ranked["label"]))
    return told


def _cut(run: Run, label: int | None) -> float | None:
    """The cut of an example's class where classes have quotas, else that of all."""
    if run.raw["select"].get("quotas") is None:
        return cut_scores(run).get(None)
    return None if label is None else cuts_of_classes(run, {label}).get(label)


def _distance(ranked: dict[str, Any], cut: float | None) -> dict[str, Any]:
    if cut is None:
        return {}
    away, error = ranked["score"] - cut, ranked["score_se"]
    if error is None:
        return {"cut": cut, "distance": away}
    in_errors = away / error if error > 0 else None
    return {"cut": cut, "distance": away, "distance_in_se": in_errors, "within_noise": abs(away) <= error}


def _rule(run: Run, scores: dict[str, Any], ranked: dict[str, Any] | None, kept: bool) -> tuple[str, str]:
    """The rule's name, and what it says of this example."""
    select, combine = run.raw["select"], run.raw["rank"]["combine"]
    excluded = broken(combine, scores)
    rests = None if kept else resting_row(run, scores[EXAMPLE_ID])
    if rests is not None:
        told = f"{rests['reason']}, since version {rests['version']}"
        return "retired", f"left: retired ({told}); `raydelt monitor --restore` brings it back"
    if excluded and not kept:
        name, side, bar, value = excluded[0]
        return "excluded", f"left: rank.combine.exclude rules out {name} {side} {bar:g}, and it has {value:.4g}"
    if select.get("sample") is not None:
        method = select["sample"]["method"]
        return "sampled", f"{'drawn' if kept else 'not drawn'} by {method} sampling: {_budget(run)}"
    if select.get("strata") is not None:
        count = select["strata"]["count"]
        return "strata", f"{'drawn' if kept else 'not drawn'} within its stratum of the score, {count} in all"
    failed = below_gate(combine, scores)
    if failed is not None:
        name, bar, value = failed
        below = f"below the gate ({name} {value:.4g}, at least {bar:g} is asked)"
        return "gate", f"kept, though {below}: fewer pass than are kept" if kept else f"left: {below}"
    name = "quota" if select.get("quotas") is not None else "cut"
    if select["method"] == "threshold":
        return "threshold", f"{'kept' if kept else 'left'}: a score of at least {select['value']:g} is asked"
    where = f" of class {_class(run, ranked)}" if name == "quota" and ranked is not None else ""
    return name, f"{'among' if kept else 'not among'} the highest{where}: {_budget(run)}"


def _class(run: Run, ranked: dict[str, Any]) -> str:
    return run.classes[ranked["label"]] if ranked["label"] is not None else "none"


def _budget(run: Run) -> str:
    """What is kept, over all."""
    select, facts = run.raw["select"], run.manifest("selection").facts
    plan = facts.get("plan")
    asked = f"select.{select['method']} {select['value']:g}"
    if plan is not None:
        asked = "the ratio of the plan"
    return f"{asked} keeps {facts['kept']} of {facts['of']}"
