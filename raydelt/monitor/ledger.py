"""What monitoring remembers of a run: who was moved and why, version by version, and what was observed.

    retirement/v000003-0-decided.parquet            the events that version 3 decided; deciding it again replaces them
    retirement/v000003-1-by-hand-00000.parquet      what people undid after it
    retirement/v000003-9-folded.parquet             where everybody stood after it, in place of all up to it
    monitor/observations.json                       the last 1000 observations, one a version, with what was decided

Each is put by one atomic write. Caution: two monitors of one run at a time may both write; both write the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pyarrow as pa

from raydelt.monitor.retirement import EVENTS, Status, states_of
from raydelt.monitor.triggers import Observation, Scope
from raydelt.storage import Store

RETIREMENT = "retirement"
OBSERVATIONS = "monitor/observations.json"
FOLDED = "-9-folded.parquet"
KEPT = 1000


def events(store: Store, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """All events of a run, file by file in the order in which they happened; of folded ones each example's last."""
    for name in _standing(store):
        yield store.read_table(f"{RETIREMENT}/{name}", columns)


def fold(store: Store, version: int) -> None:
    """Keep of the events up to a version only where they led; no version up to it may be decided again.

    One file is put, and readers pass over what it stands for; then that is deleted.
    """
    names = store.at(RETIREMENT).names()
    old = [name for name in names if name.endswith(".parquet") and name < f"v{version + 1:06d}"]
    if len(old) < 2:
        return
    states = states_of(store.read_table(f"{RETIREMENT}/{name}") for name in _standing(store) if name in old)
    table = states.append_column("before", pa.array([Status.ACTIVE.value] * states.num_rows, pa.string()))
    folded = f"v{version:06d}{FOLDED}"
    table = table.select(EVENTS.names).cast(EVENTS)
    store.write_table(f"{RETIREMENT}/{folded}", table, plain=["example_id"])
    store.remove(f"{RETIREMENT}/{name}" for name in old if name != folded)


def _standing(store: Store) -> list[str]:
    """Names of the files that count: the last folded one, and what came after it."""
    names = sorted(name for name in store.at(RETIREMENT).names() if name.endswith(".parquet"))
    last = max((index for index, name in enumerate(names) if name.endswith(FOLDED)), default=0)
    return names[last:]


def decided(store: Store, version: int, table: pa.Table) -> None:
    """Keep what a version decided, in place of what it had decided before."""
    store.write_table(f"{RETIREMENT}/v{version:06d}-0-decided.parquet", table, plain=["example_id"])


def by_hand(store: Store, version: int, table: pa.Table) -> None:
    """Keep what people did after a version."""
    place = len(undone(store, version))
    name = f"{RETIREMENT}/v{version:06d}-1-by-hand-{place:05d}.parquet"
    store.write_table(name, table.cast(EVENTS), plain=["example_id"])


def undone(store: Store, version: int) -> list[pa.Table]:
    """What people did after a version."""
    start = f"v{version:06d}-1-by-hand-"
    names = [name for name in store.at(RETIREMENT).names() if name.startswith(start)]
    return [store.read_table(f"{RETIREMENT}/{name}") for name in sorted(names)]


def observations(store: Store) -> list[Observation]:
    """What was observed, oldest first."""
    if not store.exists(OBSERVATIONS):
        return []
    return [Observation(**(raw | {"decided": Scope(raw["decided"])})) for raw in store.read_json(OBSERVATIONS)]


def observe(store: Store, past: list[Observation], now: Observation) -> None:
    """Keep an observation beside those of earlier versions."""
    store.write_json(OBSERVATIONS, [asdict(own) for own in [*past, now]][-KEPT:])
