"""What was estimated beside what was measured, and their ratio: a pure function of `estimate.json` and `run.json`.

Only stages that both know are compared, and the total is over these and the start. Memory and disk are those of a
whole run, so they are compared once the last stage of the estimate stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydelt.storage import fingerprint

ESTIMATE = "estimate.json"
TOTAL = "total"


def identity(spec: Mapping[str, Any]) -> str:
    """Identifies the resolved spec that an estimate is for."""
    return fingerprint(spec)


def beside(estimate: Mapping[str, Any] | None, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of what, unit, estimated, actual, and ratio = actual / estimated; none without an estimate of this spec."""
    if estimate is None or estimate["spec"] != identity(record["spec"]):
        return []
    seconds = {"start": record["start"]} | {name: own["seconds"] for name, own in record["stages"].items()}
    expected = {name: own["seconds"] for name, own in estimate["stages"].items()}
    both = [name for name in seconds if seconds[name] is not None and name in expected]
    rows = [_row(name, "seconds", expected[name], seconds[name]) for name in both]
    rows.append(_row(TOTAL, "seconds", sum(expected[n] for n in both), sum(seconds[n] for n in both)))
    if estimate["until"] in record["stages"]:
        own, peaks = estimate["clusters"][0], record["peaks"].values()
        disk = sum(stage["bytes"] for stage in record["stages"].values())
        rows += [
            _row("peak memory", "bytes", own["memory_bytes"], max((p["memory"] for p in peaks), default=0)),
            _row("object store", "bytes", own["object_store_bytes"], max((p["shared"] for p in peaks), default=0)),
            _row("disk", "bytes", own["disk_bytes"], disk),
        ]
    return rows


def _row(what: str, unit: str, estimated: float, actual: float) -> dict[str, Any]:
    ratio = actual / estimated if estimated > 0 else None
    return {"what": what, "unit": unit, "estimated": estimated, "actual": actual, "ratio": ratio}
