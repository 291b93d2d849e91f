"""The label queue: what people were asked and what they said, as a folder of Parquet files to which events are added.

    events-<n>-<digest>.parquet    example_id, round, state, label, annotator, time, overwrite
    queried -> labelled | abstained | expired      abstained, expired -> queried again, or labelled late

The state of an example is the fold of its events in the order of files and rows. Every operation may be repeated: what
is there already is nothing new and writes nothing, and the digest of a file's rows in its name keeps two writers from
replacing each other's files. The first label stands; another one is put aside unless it is meant to overwrite, in
the fold as in the reading of a file. Labels are names of classes, ids those of the corpus, either but for spaces
around them. A row with an id that was never queried, with a label that is no class, or with too few or too many cells
is put aside in `quarantine/` with its reason. An empty label abstains, and takes no label back; a file without any
label is taken for a mistake unless it says otherwise.

Cost: every operation reads all events, O(events) time and memory; a file per operation. No paper is followed.

Caution: of two people who give an example different labels in the same moment, neither is told; `contradicted` does.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from raydelt.active.sheets import Names, read_labels
from raydelt.errors import InputError, RaydeltError
from raydelt.examples import EXAMPLE_ID, LABEL, QUARANTINE_SCHEMA
from raydelt.storage import Store, fingerprint

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
ROUNDED = re.compile(r"\d(\.\d+)?E\+\d+", re.IGNORECASE)


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
    """Rows of a file by what became of them, those put aside, in the schema of every quarantine, and where to."""

    labelled: int = 0
    abstained: int = 0
    overwritten: int = 0
    repeated: int = 0
    quarantined: pa.Table = field(default_factory=QUARANTINE_SCHEMA.empty_table)
    file: str | None = None

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
        with self._reached():
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

    def contradicted(self) -> list[str]:
        """Ids in order that two people labelled differently in the same moment; the label in the earlier file stands
        until one overwrites it."""
        stands, found = dict[str, str](), set[str]()
        for event in self.events().to_pylist():
            key, label = event[EXAMPLE_ID], event[LABEL]
            if event["overwrite"]:
                stands[key] = label
                found.discard(key)
            elif event["state"] == LABELLED and stands.setdefault(key, label) != label:
                found.add(key)
        return sorted(found)

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

    def absorb(
        self, path: str, *, annotator: str, time: datetime, overwrite: bool = False, abstain: bool = False
    ) -> Absorbed:
        """Read labels back from a CSV or Parquet file with columns example_id and label; an empty label abstains.

        Raises:
            InputError: the file cannot be read, lacks a column, or holds no label where `abstain` does not allow it.
        """
        rows, state = read_labels(path), self.state()
        known, classes = Names(state), Names(self.classes or ())
        events, bad, told = list[dict[str, Any]](), list[dict[str, Any]](), set[str]()
        counts = dict.fromkeys(("labelled", "abstained", "overwritten", "repeated"), 0)
        for row, key, text in rows:
            example_id, label = known.named(key), None if text is None else classes.named(text, number=True)
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
        if counts["abstained"] and not abstain and all(text is not None and not text.strip() for *_, text in rows):
            raise InputError(
                f"{path} has no label in any of its {len(rows)} rows: fill the column {LABEL!r}, or let all of them "
                "abstain with --abstain"
            )
        file = self._put_aside(bad)
        self._append(events)
        return Absorbed(**counts, quarantined=pa.Table.from_pylist(bad, QUARANTINE_SCHEMA), file=file)

    def has(self, name: str) -> bool:
        """Whether a file stands beside the events."""
        with self._reached():
            return self.store.exists(name)

    def keep(self, name: str, value: Any) -> None:
        """Put a JSON file beside the events."""
        with self._reached():
            self.store.write_json(name, value)

    def _judge(
        self, entry: Entry | None, example_id: str, label: str | None, overwrite: bool
    ) -> tuple[str | None, str]:
        """Why a row is put aside, or what it counts as."""
        if label is None:
            return f"the row of example {example_id!r} has not as many cells as the header", ""
        if entry is None:
            hint = ": a spreadsheet has rounded it, so keep that column as text" if ROUNDED.match(example_id) else ""
            return f"example {example_id!r} was never queried{hint}", ""
        if not label:
            return None, "abstained" if entry.state == QUERIED else "repeated"
        if self.classes is not None and label not in self.classes:
            alike = [name for name in self.classes if name.lower() == label.lower()]
            near = [*alike, *difflib.get_close_matches(label, self.classes, 1)][:1]
            hint = f"correct it{f' to {near[0]!r}' if near else ''}, or add it to corpus.classes"
            return f"label {label!r} of example {example_id!r} is no class of the corpus: {hint}", ""
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
        with self._reached():
            numbers = [int(match[1]) for name in self.store.names() if (match := FILE.fullmatch(name))]
            name = f"events-{max(numbers, default=-1) + 1:06d}-{fingerprint(events)[:10]}.parquet"
            self.store.write_table(name, pa.Table.from_pylist(events, SCHEMA), plain=[EXAMPLE_ID])

    def _put_aside(self, bad: list[dict[str, Any]]) -> str | None:
        """Where rows that cannot be used are kept; the same ones have the same place."""
        if not bad:
            return None
        name = f"quarantine/part-{fingerprint(bad)[:10]}.parquet"
        with self._reached():
            self.store.write_table(name, pa.Table.from_pylist(bad, QUARANTINE_SCHEMA))
        return f"{self.store.root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Say in one sentence that the queue cannot be reached."""
        try:
            yield
        except RaydeltError:
            raise
        except Exception as error:
            raise InputError(
                f"the label queue {self.store.root} cannot be reached ({type(error).__name__}: {error}): check "
                "label.queue and its credentials"
            ) from error


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
