"""What earlier versions of a run said of one example, from the run's history.

Files of the history hold their rows in buckets by the hash of the id, so of each file the ids of one row group are
read, and its other columns where the example is among them. The file that the id's hash points at comes first; where
it is not there, the others follow. Cost: one file for each of the latest `VERSIONS` versions, all of a version's where
it does not hold the example. Memory: a row group.
"""

from __future__ import annotations

from typing import Any

from raydelt.ask.run import Run
from raydelt.examples import draw_keys
from raydelt.monitor import history

VERSIONS = 60


def past(run: Run, example: str) -> list[dict[str, Any]]:
    """Version, time and values of the latest versions, oldest first; `there` says whether one had the example."""
    told = []
    for version in history.versions(run.root, latest=VERSIONS):
        found = _row(run, version, example)
        entry: dict[str, Any] = {"version": version.number, "time": version.time, "there": found is not None}
        told.append(entry | {"components": {name: (found or {}).get(name) for name in version.components}})
    return told


def _row(run: Run, version: history.Version, example: str) -> dict[str, Any] | None:
    likely = int(draw_keys([example])[0]) * len(version.parts) >> 64
    for index in sorted(range(len(version.parts)), key=lambda index: abs(index - likely)):
        found = history.row_of(run.root, version.parts[index], example)
        if found is not None:
            return found
    return None
