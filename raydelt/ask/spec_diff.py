"""The differences of two specs field by field, and of the versions, stages and corpora of two runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raydelt.ask.run import Run

STAGES = ("corpus", "proxies", "scores", "refined", "ranking", "selection", "ordered", "model")
ABSENT = "(absent)"


def spec_differences(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Fields of which two resolved specs differ, `output` aside: field, and its value in each.

    Scorers are matched by their kind, the second of a kind as `kind.2`.
    """
    one, two = (dict(_fields({**spec, "score": _by_kind(spec.get("score", []))})) for spec in (a, b))
    names = sorted(
        name for name in {*one, *two} if name != "output" and one.get(name, ABSENT) != two.get(name, ABSENT)
    )
    return [{"field": name, "a": one.get(name, ABSENT), "b": two.get(name, ABSENT)} for name in names]


def version_differences(a: Run, b: Run) -> dict[str, Any]:
    """`versions` of packages that differ, `git` commits, and of which `stages` the inputs (fingerprints) differ."""
    one, two = (run.record.get("versions", {}) for run in (a, b))
    packages = {
        name: [one.get(name), two.get(name)] for name in sorted({*one, *two}) if one.get(name) != two.get(name)
    }
    stages = {}
    for stage in STAGES:
        left, right = a.found(stage), b.found(stage)
        if left is None and right is None:
            continue
        prints = [manifest.fingerprint if manifest else None for manifest in (left, right)]
        digests = [manifest.digest if manifest else None for manifest in (left, right)]
        stages[stage] = {"fingerprints": prints, "same_inputs": prints[0] == prints[1]}
        stages[stage]["same_rows"] = digests[0] == digests[1]
    return {"versions": packages, "git": [run.record.get("git_sha") for run in (a, b)], "stages": stages}


def _by_kind(scorers: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for scorer in scorers:
        name, number = scorer["kind"], 2
        while name in found:
            name, number = f"{scorer['kind']}.{number}", number + 1
        found[name] = scorer
    return found


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings by its dotted name; an empty mapping and a list are leaves."""
    if not isinstance(value, dict) or not value:
        yield name, value
        return
    for key, own in value.items():
        yield from _fields(own, f"{name}.{key}" if name else str(key))
