"""Requests to an object store, counted by files: how often each stage's files are written and read.

    PUT    each published file once, the manifest and the run's record once for every stage
    GET    each file that a stage reads, `PER_READ` times (where it is, its footer, its columns); units of the sources
    LIST   one for each stage's folder, and one for every 1,000 files of the sources

Only what lies in an object store counts: the sources, the run directory, or both. About right: clients read ahead.
"""

from __future__ import annotations

from collections.abc import Mapping

PER_READ = 3
PER_PAGE = 1000
# How often a stage reads the files of earlier ones.
READS: Mapping[str, Mapping[str, int]] = {
    "tokens": {"corpus": 1},
    "embeddings": {"corpus": 1},
    "neighbours": {"corpus": 2, "embeddings": 2},
    "ledger": {"corpus": 2},
    "values": {"corpus": 2, "embeddings": 1},
    "proxies": {"corpus": 2},
    "targets": {"proxies": 1},
    "trajectory": {"corpus": 1, "tokens": 1},
    "scores": dict.fromkeys(("tokens", "embeddings", "neighbours", "ledger", "values", "proxies"), 1)
    | {"corpus": 3, "scores": 2, "targets": 1, "trajectory": 1},
    "ranking": {"corpus": 1, "scores": 2},
    "selection": {"ranking": 2},
    "ordered": {"corpus": 2, "selection": 1},
    "model": {"ordered": 3, "tokens": 1},
    "report": {"corpus": 2, "scores": 3, "ranking": 4, "selection": 4, "neighbours": 1},
}


def requests(files: Mapping[str, int], *, sources: int, remote_source: bool, remote_output: bool) -> dict[str, int]:
    """Numbers of put, get and list, from the files of every stage and the units of the sources."""
    put = get = listed = 0
    if remote_output:
        put = sum(files.values()) + 2 * len(files)
        get = PER_READ * sum(
            times * files.get(name, 0) for stage in files for name, times in READS.get(stage, {}).items()
        )
        listed = len(files)
    if remote_source:
        get += PER_READ * sources
        listed += -(-sources // PER_PAGE)
    return {"put": put, "get": get, "list": listed}
