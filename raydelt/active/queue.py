"""The label queue: what people were asked and what they said, as a folder of Parquet files to which events are added.

    events-<n>-<digest>.parquet    example_id, round, state, label, annotator, time, overwrite
    queried -> labelled | abstained | expired      abstained, expired -> queried again, or labelled late

The state of an example is the fold of its events in the order of files and rows. Every operation may be repeated: what
is there already is nothing new and writes nothing, and the digest of a file's rows in its name keeps two writers from
replacing each other's files. The first label stands; another one is put aside unless it is meant to overwrite, in
the fold as in the reading of a file. Labels are names of classes, ids those of the corpus. A row with an id that was
never queried, with a label that is no class, or with too few or too many cells is put aside with its reason. An empty
label abstains, and takes no label back.

Cost: every operation reads all events, O(events) time and memory; a file per operation. No paper is followed.

Caution: a spreadsheet turns ids of digits alone into rounded numbers, which come back as unknown. Keep that column as
text.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, LABEL, QUARANTINE_SCHEMA
from raydelt.storage import Store, absolute, fingerprint

QUERIED, LABELLED, ABSTAINED, EXPIRED = "queried", "labelled", "abstained", "expired"
SCHEMA = pa.schema(
    [
        pa.field(EXAMPLE_ID, pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field(LABEL, pa.string()),
        pa.field("annotator", pa.string()),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("overwrite", pa.bool_(), nullable=False),
    ]
)
FILE = re.compile(r"events-(\d{6})-[0-9a-f]{10}\.parquet")


@dataclass(frozen=True)
class Entry:
    """Where an example stands: its state, the round that last asked, its label, and who said so when."""

    state: str
    round: int
    label: str | None
    annotator: str | None
    time: datetime


@dataclass(frozen=True)
class Absorbed:
    """Rows of a file by what became of them, and those put aside, in the schema of every quarantine."""

    labelled: int = 0
    abstained: int = 0
    overwritten: int = 0
    repeated: int = 0
    quarantined: pa.Table = field(default_factory=QUARANTINE_SCHEMA.empty_table)

    @property
    def rows(self) -> int:
        """All rows of the file."""
        return self.labelled + self.abstained + self.overwritten + self.repeated + int(self.quarantined.num_rows)


def fold(events: Iterable[dict[str, Any]]) -> dict[str, Entry]:
    """The state of every example that has events, from events in order."""
    found: dict[str, Entry] = {}
    for event in events:
        before = found.get(event[EXAMPLE_ID])
        if before is None or _changes(before, event):
            told = (event[name] for name in ("state", "round", LABEL, "annotator", "time"))
            found[event[EXAMPLE_ID]] = Entry(*told)
    return found


def _changes(before: Entry, event: dict[str, Any]) -> bool:
    state = event["state"]
    if before.state == LABELLED:
        return bool(state == LABELLED and event["overwrite"] and event[LABEL] != before.label)
    if state == QUERIED:
        return before.state != QUERIED
    return bool(state == LABELLED or before.state == QUERIED)


@dataclass(frozen=True)
class LabelQueue:
    """A folder of events; `classes` are the names that a label may have, None for any."""

    store: Store
    classes: tuple[str, ...] | None = None

    def events(self) -> pa.Table:
        """All events in order.

        Raises:
            InputError: a file cannot be read.
        """
        names = [name for name in self.store.names() if FILE.fullmatch(name)]
        tables = [SCHEMA.empty_table()]
        for name in names:
            try:
                tables.append(self.store.read_table(name, SCHEMA.names).cast(SCHEMA))
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{self.store.path(name)} is no file of label events ({error}): restore it or move it away"
                ) from error
        return pa.concat_tables(tables)

    def state(self) -> dict[str, Entry]:
        """Where every example stands that was ever queried."""
        return fold(self.events().to_pylist())

    def waiting(self) -> list[str]:
        """Ids that are queried and not answered, in order."""
        return sorted(key for key, entry in self.state().items() if entry.state == QUERIED)

    def labels(self) -> dict[str, str]:
        """The label of every labelled example, in the order of ids."""
        return {key: entry.label for key, entry in sorted(self.state().items()) if entry.label is not None}

    def query(self, ids: Sequence[str], *, round: int, time: datetime) -> list[str]:
        """Ask for these examples; returns those that were not waiting or labelled already, in the order given."""
        state = self.state()
        done = {key for key, entry in state.items() if entry.state in (QUERIED, LABELLED)}
        new = [key for key in dict.fromkeys(ids) if key not in done]
        self._append([_event(key, round, QUERIED, time) for key in new])
        return new

    def expire(self, before: datetime, *, time: datetime) -> list[str]:
        """Give up on what was queried before a moment; returns the ids, in order. They may be queried again."""
        before, state = _aware(before), self.state()
        old = sorted(key for key, entry in state.items() if entry.state == QUERIED and entry.time < before)
        self._append([_event(key, state[key].round, EXPIRED, time) for key in old])
        return old

    def absorb(self, path: str, *, annotator: str, time: datetime, overwrite: bool = False) -> Absorbed:
        """Read labels back from a CSV or Parquet file with columns example_id and label; an empty label abstains.

        Raises:
            InputError: the file cannot be read, or lacks a column.
        """
        state, events, bad = self.state(), list[dict[str, Any]](), list[dict[str, Any]]()
        counts = dict.fromkeys(("labelled", "abstained", "overwritten", "repeated"), 0)
        told: set[str] = set()
        for row, example_id, label in read_labels(path):
            fault, kind = self._judge(state.get(example_id), example_id, label, overwrite and example_id not in told)
            if fault is not None:
                digest = fingerprint([example_id, label])
                bad.append(dict(zip(QUARANTINE_SCHEMA.names, (path, row, fault, digest), strict=True)))
                continue
            counts[kind] += 1
            if label:
                told.add(example_id)
            if kind != "repeated":
                entry = state[example_id]
                new = _event(example_id, entry.round, LABELLED if label else ABSTAINED, time)
                new |= {LABEL: label or None, "annotator": annotator, "overwrite": kind == "overwritten"}
                events.append(new)
                state[example_id] = fold([_of(example_id, entry), new])[example_id]
        self._append(events)
        return Absorbed(**counts, quarantined=pa.Table.from_pylist(bad, QUARANTINE_SCHEMA))

    def _judge(
        self, entry: Entry | None, example_id: str, label: str | None, overwrite: bool
    ) -> tuple[str | None, str]:
        """Why a row is put aside, or what it counts as."""
        if label is None:
            return f"the row of example {example_id!r} has not as many cells as the header", ""
        if entry is None:
            return f"example {example_id!r} was never queried", ""
        if not label:
            return None, "abstained" if entry.state == QUERIED else "repeated"
        if self.classes is not None and label not in self.classes:
            return f"label {label!r} of example {example_id!r} is no class of the corpus", ""
        if entry.state != LABELLED:
            return None, "labelled"
        if entry.label == label:
            return None, "repeated"
        if overwrite:
            return None, "overwritten"
        return f"label {label!r} of example {example_id!r} conflicts with its label {entry.label!r}", ""

    def _append(self, events: list[dict[str, Any]]) -> None:
        if not events:
            return
        numbers = [int(match[1]) for name in self.store.names() if (match := FILE.fullmatch(name))]
        name = f"events-{max(numbers, default=-1) + 1:06d}-{fingerprint(events)[:10]}.parquet"
        self.store.write_table(name, pa.Table.from_pylist(events, SCHEMA), plain=[EXAMPLE_ID])


def export(rows: pa.Table, path: str) -> int:
    """Write rows of example_id and content for people to label, with an empty column `label`; returns their number.

    Raises:
        InputError: there is no example_id, or there is a label, the path is no .csv or .parquet, or a column cannot
            stand in a CSV.
    """
    if EXAMPLE_ID not in rows.column_names or LABEL in rows.column_names:
        raise InputError(
            f"the rows for {path} have columns {', '.join(rows.column_names)}: give example_id and content, no label"
        )
    rows = rows.append_column(LABEL, pa.array([""] * rows.num_rows, pa.string()))
    buffer = io.BytesIO()
    if _suffix(path) == ".parquet":
        pq.write_table(rows, buffer)
    else:
        try:
            pyarrow.csv.write_csv(rows, buffer)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{path} cannot hold these columns ({error}): leave them out or write .parquet"
            ) from error
    folder, _, name = absolute(path).rpartition("/")
    Store(folder or "/").write_bytes(name, buffer.getvalue())
    return int(rows.num_rows)


def read_labels(path: str) -> list[tuple[int, str, str | None]]:
    """Row number from 0, id and label of every row of a CSV or Parquet file; "" for no label, spaces cut off.

    The label is None where a row of a CSV has not as many cells as the header.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    folder, _, name = absolute(path).rpartition("/")
    try:
        data = Store(folder or "/").read_bytes(name)
        if _suffix(path) == ".parquet":
            table = pq.read_table(io.BytesIO(data))
            names, rows = table.column_names, table.to_pylist()
        else:
            reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
            rows, names = list(reader), list(reader.fieldnames or [])
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}): give the file that was exported, with labels") from error
    for column in (EXAMPLE_ID, LABEL):
        if names.count(column) != 1:
            raise InputError(f"{path} has columns {', '.join(map(str, names))}: it must have one column {column!r}")
    # A comma that is not quoted shifts the cells behind it: nothing in such a row can be trusted.
    ragged = [_suffix(path) == ".csv" and (None in entry or None in entry.values()) for entry in rows]
    texts = [(_text(entry[EXAMPLE_ID]), _text(entry[LABEL])) for entry in rows]
    return [(row, own, None if ragged[row] else label) for row, (own, label) in enumerate(texts)]


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _suffix(path: str) -> str:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".csv", ".parquet"):
        raise InputError(f"{path} must end in .csv or .parquet")
    return suffix


def _event(example_id: str, round: int, state: str, time: datetime) -> dict[str, Any]:
    return {
        EXAMPLE_ID: example_id,
        "round": round,
        "state": state,
        LABEL: None,
        "annotator": None,
        "time": _aware(time),
        "overwrite": False,
    }


def _of(example_id: str, entry: Entry) -> dict[str, Any]:
    event = _event(example_id, entry.round, entry.state, entry.time)
    return event | {LABEL: entry.label, "annotator": entry.annotator}


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise InputError(f"time {time.isoformat()} has no time zone: give one, such as UTC")
    return time.astimezone(UTC)
