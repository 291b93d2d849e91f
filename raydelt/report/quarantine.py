"""What went to quarantine: how many rows and files for which kind of reason, and the first entries.

Reasons name values and rows, so they are grouped by what is left when quoted text and numbers are taken out. One pass,
one task per quarantine file; a task returns at most `KINDS` groups and `LISTED` entries. Memory: one quarantine file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from raydelt import cluster
from raydelt.storage import Store

LISTED = 20
KINDS = 1000
SHOWN_KINDS = 50
OTHER = "other reasons"
VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\b\d[\w.+-]*")

Entry = dict[str, Any]


def quarantined(run: Store, files: Sequence[str]) -> dict[str, Any]:
    """`total`, `reasons` (most frequent first) and the `first` entries in the order of file and row."""
    found = cluster.parallel(quarantined_of, [(run, file) for file in files], label="report: quarantine")
    counts = sum((part[0] for part in found), Counter[str]())
    return {
        "total": counts.total(),
        "reasons": [{"reason": kind, "count": number} for kind, number in most_common(counts, SHOWN_KINDS).items()],
        "first": first([entry for part in found for entry in part[1]]),
    }


def quarantined_of(run: Store, file: str) -> tuple[Counter[str], list[Entry]]:
    """Counts by kind of reason, and the first entries of one file."""
    table = run.read_table(file, ["source_file", "row", "reason"])
    order = table.append_column("place", pa.array(range(table.num_rows))).sort_by(
        [("source_file", "ascending"), ("row", "ascending"), ("place", "ascending")]
    )
    entries = order.select(["source_file", "row", "reason"]).slice(0, LISTED).to_pylist()
    counts: Counter[str] = Counter()
    for entry in table["reason"].value_counts().to_pylist():
        counts[kind_of(entry["values"])] += entry["counts"]
    return most_common(counts, KINDS), entries


def kind_of(reason: str | None) -> str:
    """A reason without the values that it names."""
    return VALUES.sub("…", reason or "no reason given")


def most_common(counts: Counter[str], number: int) -> Counter[str]:
    """The most frequent kinds, ties by name, and the rest under one heading."""
    ordered = sorted(counts.items(), key=lambda item: (item[0] == OTHER, -item[1], item[0]))
    kept = Counter(dict(ordered[:number]))
    rest = sum(number for _, number in ordered[number:])
    if rest:
        kept[OTHER] += rest
    return kept


def first(entries: Sequence[Entry]) -> list[Entry]:
    """The first `LISTED` entries by file and row; an entry about a whole file comes before its rows."""
    return sorted(entries, key=lambda e: (e["source_file"] or "", -1 if e["row"] is None else e["row"], e["reason"]))[
        :LISTED
    ]
