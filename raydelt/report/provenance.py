"""What a run was made by and with: its record, the resources it held, and the certificate of its training order.

Read from `run.json` and `model/order-certificate.json`; nothing is measured here. Lists are cut to `CHAINS` trainings.

Caution: the record is that of the stages before the report; what the report itself took is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydelt import rundir
from raydelt.storage import Manifest, Store
from raydelt.train import certificate

CHAINS = 60
LATEST = ("git_sha", "cluster", "start", "peaks")


def record_of(run: Store) -> dict[str, Any]:
    """The record of a run; empty before its first stage."""
    found: dict[str, Any] = run.read_json(rundir.RECORD) if run.exists(rundir.RECORD) else {}
    return found


def provenance(run: Store, record: Mapping[str, Any]) -> dict[str, Any]:
    """Commit, cluster, seconds until Ray was there, peaks of memory by stage, and the `certificate` (None without)."""
    told = {name: record.get(name) for name in LATEST}
    return told | {"certificate": certified(run)}


def certified(run: Store) -> dict[str, Any] | None:
    """Fingerprints of spec and order, the number of trainings, and the head of the chain of each."""
    name = f"model/{certificate.FILE}"
    if not run.exists(name):
        return None
    found = run.read_json(name)
    chains = [{key: chain[key] for key in ("arm", "seed", "steps", "head")} for chain in found["chains"][:CHAINS]]
    return {"spec": found["spec"], "order": found["order"], "trainings": len(found["chains"]), "chains": chains}


def stage_line(name: str, manifest: Manifest, seconds: float | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table of stages: rows, seconds, peak memory and bytes written, None where not known."""
    rows = manifest.facts.get("rows_processed", manifest.rows)
    peak = (record.get("peaks") or {}).get(name)
    return {
        "stage": name,
        "fingerprint": manifest.fingerprint,
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds if seconds else None,
        "memory": peak["memory"] if peak else None,
        "bytes": sum(part.bytes for part in manifest.files),
    }
