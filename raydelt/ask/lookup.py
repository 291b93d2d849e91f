"""Where an example lies: from its id to the file and row of the corpus or of a held-out split.

    part(id) = partition_of(draw_key(id), partitions)

The corpus and its held-out splits lie in equal ranges of draw keys, one file each, so an id is looked for in one file.
Where a run does not say how many ranges there are, the file is found by bisection over the statistics of `draw_key`.
Cost: O(log files) footers and the ids of one file (65,536 rows). Only a prefix, or an id that is unknown, is looked
for in the ids of all files, in runs of up to `SCANNED` rows. Memory: the ids of one file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.ask import files
from raydelt.ask.run import Run
from raydelt.ask.text import plain
from raydelt.errors import InputError
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, draw_keys, partition_of
from raydelt.storage import Part

CORPUS, RESTING = "corpus", "resting"
SPLITS = ("validation", "test", "pool")
SCANNED = 50_000_000
NAMED = 5
INDEX = re.compile(r"-(\d{5,})\.parquet$")
COPY = re.compile(r"(.+)-\d+")


@dataclass(frozen=True)
class Place:
    """Where an example lies: the corpus or a split, the number of its part there, and its row in that part."""

    example_id: str
    split: str
    part: int
    row: int


@dataclass(frozen=True)
class Bad:
    """An entry of the quarantine."""

    example_id: str
    source_file: str | None
    row: int | None
    reason: str


def locate(run: Run, example: str) -> Place | Bad:
    """The example of an id, or of a prefix that fits one id alone.

    Raises:
        InputError: no example has such an id, or several have.
    """
    exact = find(run, example) or quarantined(run, example)
    if exact is not None:
        return exact
    rows = sum(part.rows for _, parts in _splits(run) for part in parts)
    if not example or rows > SCANNED:
        raise InputError(f"{run.store.root!r} has no example {example!r}: give its whole id")
    fitting, near = _scan(run, example)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        named = ", ".join(plain(place.example_id) for place in fitting[:NAMED])
        several = f"{len(fitting)}" if len(fitting) <= NAMED else f"more than {NAMED}"
        raise InputError(f"{example!r} begins the ids of {several} examples ({named}): give more of it")
    hint = f"did you mean {', '.join(map(plain, near))}?" if near else "`raydelt show RUN` lists some ids"
    raise InputError(f"{run.store.root!r} has no example {example!r}: {hint}")


def find(run: Run, example: str) -> Place | None:
    """The example of an id in the corpus or in a held-out split."""
    copy = COPY.fullmatch(example)
    # A copy that was kept has its number behind the id that the draws go by.
    for key in [example, *([copy[1]] if copy else [])]:
        drawn = draw_keys([key])
        for split, parts in _splits(run):
            index = _holding(run, parts, drawn, run.manifest(CORPUS).facts.get("partitions"))
            if index is None:
                continue
            row = pc.index(files.read(run.store, parts[index], [EXAMPLE_ID])[EXAMPLE_ID], example).as_py()
            if row >= 0:
                return Place(example, split, index, row)
    return None


def quarantined(run: Run, example: str) -> Bad | None:
    """The entry of the quarantine that names this id or digest."""
    for stage in (CORPUS, "scores"):
        manifest = run.found(stage)
        for part in manifest.sides.get("quarantine", []) if manifest else []:
            table = files.read(run.store, part)
            for entry in table.filter(pc.equal(table["payload_digest"], example)).slice(0, 1).to_pylist():
                return Bad(example, entry["source_file"], entry["row"], entry["reason"])
    return None


def row_of(run: Run, place: Place) -> dict[str, Any]:
    """All columns of an example."""
    parts = dict(_splits(run))[place.split]
    table = files.read(run.store, parts[place.part])
    found: dict[str, Any] = table.slice(place.row, 1).to_pylist()[0]
    return found


def score_row(run: Run, place: Place) -> tuple[dict[str, Any], int] | None:
    """Components of an example of the corpus and its row among the scores of its part; None without a score."""
    part = run.scored.parts[place.part]
    ids = files.read(run.store, part, [EXAMPLE_ID])[EXAMPLE_ID]
    row = pc.index(ids, place.example_id).as_py()
    if row < 0:
        return None
    return files.read(run.store, part).slice(row, 1).to_pylist()[0], row


def resting_row(run: Run, example: str) -> dict[str, Any] | None:
    """What the run says of an example that its selection left out because it rests; None where it does not."""
    manifest = run.found(RESTING)
    for part in manifest.parts if manifest is not None else []:
        found = files.row_of(run.store, part, example)
        if found is not None and found["weight"] == 0:
            return found
    return None


def _splits(run: Run) -> Iterator[tuple[str, list[Part]]]:
    corpus = run.manifest(CORPUS)
    yield CORPUS, corpus.parts
    for name in SPLITS:
        yield name, corpus.sides.get(name, [])


def _holding(run: Run, parts: Sequence[Part], key: Any, partitions: int | None) -> int | None:
    """Number of the part that holds a draw key [1], if any does."""
    if partitions is not None:
        wanted = int(partition_of(key, partitions)[0])
        numbers = [int(found[1]) if (found := INDEX.search(part.file)) else -1 for part in parts]
        return numbers.index(wanted) if wanted in numbers else None
    low, high, value = 0, len(parts) - 1, int(key[0])
    while low <= high:
        middle = (low + high) // 2
        first, last = _keys_of(run, parts[middle])
        if first <= value <= last:
            return middle
        low, high = (middle + 1, high) if value > last else (low, middle - 1)
    return None


def _keys_of(run: Run, part: Part) -> tuple[int, int]:
    """The first and the last draw key of a part."""
    with files.opened_file(run.store, part) as parquet:
        groups = [files.bounds(parquet, group, DRAW_KEY) for group in range(parquet.num_row_groups)]
    known = [group for group in groups if group is not None]
    if known and len(known) == len(groups):
        return int(min(g[0] for g in known)), int(max(g[1] for g in known))
    values = files.read(run.store, part, [DRAW_KEY])[DRAW_KEY].to_numpy().astype(np.uint64)
    return (int(values.min()), int(values.max())) if len(values) else (0, 0)


def _scan(run: Run, example: str) -> tuple[list[Place], list[str]]:
    """The first examples whose ids begin so, and the ids most like it."""
    fitting: list[Place] = []
    near: list[str] = []
    stem = example[: max(3, len(example) // 2)]
    for split, parts in _splits(run):
        for index, part in enumerate(parts):
            ids = files.read(run.store, part, [EXAMPLE_ID])[EXAMPLE_ID].combine_chunks()
            rows = np.flatnonzero(pc.starts_with(ids, example).to_numpy(zero_copy_only=False))
            fitting += [Place(ids[int(row)].as_py(), split, index, int(row)) for row in rows[: NAMED + 1]]
            if len(fitting) > NAMED:
                return fitting, []
            near += _like(ids, example, stem)
    return fitting, difflib.get_close_matches(example, near, NAMED, 0.6)


def _like(ids: pa.StringArray, example: str, stem: str) -> list[str]:
    """Some ids that begin alike, or that hold what was given."""
    alike = pc.starts_with(ids, stem)
    if len(example) >= 3:
        alike = pc.or_(alike, pc.match_substring(ids, example, ignore_case=True))
    found: list[str] = ids.filter(alike).slice(0, 50).to_pylist()
    return found
