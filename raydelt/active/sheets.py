"""The files that go out to people and come back: a row per example, with an empty column `label` to fill.

    out    CSV (UTF-8, commas) or Parquet: example_id, what to look at, label
    back   the same, as spreadsheets save it: with a byte-order mark, any line ends, semicolons or tabs for commas,
           further columns, rows in any order, numbers for names (3.0 is 3)

A file that holds labels is never written over. In a CSV, a text that a spreadsheet would take for a formula (it begins
with = + - @, a tab or a line end) gets an apostrophe before it, which ids lose again when they come back. Cost:
O(rows), all in memory. No paper is followed.

Caution: a spreadsheet turns ids of digits alone into rounded numbers, which come back as unknown. Keep that column as
text.
"""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from raydelt.corpus.canonical import names_of
from raydelt.errors import InputError, RaydeltError
from raydelt.examples import EXAMPLE_ID, LABEL
from raydelt.storage import Store, absolute

SEPARATORS = ",;\t"
SHOWN = 10
# Ids that begin with apostrophes before such a sign get one more, so that each has one way back.
FORMULA = r"^('*[=+\-@\t\r\n])"
HARMLESS = re.compile(r"^'(?='*[=+\-@\t\r\n])")
WHOLE = re.compile(r"(-?\d+)[.,]0+")
Row = tuple[int, str, str | None]
"""Row number from 0, example_id, and label: "" for none, and None where the cells do not fit the header."""


def check_place(path: str) -> None:
    """Refuse a place where a sheet cannot go, before any work is done for it.

    Raises:
        InputError: it does not end in .csv or .parquet, or holds labels, or something that is no sheet.
    """
    suffix_of(path)
    store, name = _place(path)
    with _told(path, "cannot be written", "choose another --out"):
        there = store.exists(name)
    if not there:
        return
    try:
        rows = read_labels(path)
    except InputError as error:
        raise InputError(f"{path} stands already, and is no file of an earlier round: choose another --out") from error
    if any(label != "" for _, _, label in rows):
        raise InputError(
            f"{path} stands already, with labels in it: choose another --out, and `raydelt label absorb` this one if "
            "that was not done"
        )


def export(rows: pa.Table, path: str) -> int:
    """Write rows of example_id and content for people to label, with an empty column `label`; returns their number.

    Raises:
        InputError: there is no example_id, or there is a label, the path is no place for a sheet, or a column cannot
            stand in a CSV.
    """
    if EXAMPLE_ID not in rows.column_names or LABEL in rows.column_names:
        raise InputError(
            f"the rows for {path} have columns {', '.join(rows.column_names)}: give example_id and content, no label"
        )
    check_place(path)
    rows = rows.append_column(LABEL, pa.array([""] * rows.num_rows, pa.string()))
    buffer = io.BytesIO()
    if suffix_of(path) == ".parquet":
        pq.write_table(rows, buffer)
    else:
        try:
            pyarrow.csv.write_csv(_harmless(rows), buffer)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{path} cannot hold these columns ({error}): leave them out or write .parquet"
            ) from error
    store, name = _place(path)
    with _told(path, "cannot be written", "choose another --out"):
        store.write_bytes(name, buffer.getvalue())
    return int(rows.num_rows)


def _harmless(rows: pa.Table) -> pa.Table:
    """The rows with an apostrophe before every text that begins as a formula does."""
    for place, name in enumerate(rows.column_names):
        if pa.types.is_string(rows.schema.field(name).type) or pa.types.is_large_string(rows.schema.field(name).type):
            text = pc.replace_substring_regex(rows[name], pattern=FORMULA, replacement=r"'\1")
            rows = rows.set_column(place, name, text)
    return rows


def read_labels(path: str) -> list[Row]:
    """The rows of a CSV or Parquet file with columns example_id and label; rows without any cell are passed over.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    suffix = suffix_of(path)
    store, name = _place(path)
    with _told(path, "cannot be read", "give the file that was exported, with labels"):
        data = store.read_bytes(name)
        return _of_parquet(data, path) if suffix == ".parquet" else _of_csv(data, path)


class Names:
    """Names as people or their tools give them back: with spaces around them, and 3.0 for 3."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        counts = Counter(name.strip() for name in self.names)
        self.trimmed = {name.strip(): name for name in self.names if counts[name.strip()] == 1}

    def named(self, text: str, *, number: bool = False) -> str:
        """The name that a text stands for; the text without spaces where it is none."""
        if text in self.names:
            return text
        plain = text.strip()
        whole = WHOLE.fullmatch(plain) if number and plain not in self.trimmed else None
        return self.trimmed.get(whole[1] if whole else plain, plain)


def suffix_of(path: str) -> str:
    """`.csv` or `.parquet`.

    Raises:
        InputError: the path has neither.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".csv", ".parquet"):
        raise InputError(f"{path} must end in .csv or .parquet: a spreadsheet is saved as CSV (UTF-8)")
    return suffix


def _of_parquet(data: bytes, path: str) -> list[Row]:
    table = pq.read_table(io.BytesIO(data))
    _check_columns(table.column_names, path)
    ids, labels = (names_of(table[name].combine_chunks()) for name in (EXAMPLE_ID, LABEL))
    return [(row, key or "", label or "") for row, (key, label) in enumerate(zip(ids, labels, strict=True))]


def _of_csv(data: bytes, path: str) -> list[Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not in UTF-8 (byte {error.start}): save it as CSV (UTF-8)") from error
    # A text to be labelled may be longer than the csv module expects, and was exported all the same.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    head = (text.splitlines() or [""])[0]
    separator = max(SEPARATORS, key=lambda mark: (_is_header(head, mark), -SEPARATORS.index(mark)))
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names = [name.strip() for name in next(lines, [])]
    _check_columns(names, path)
    key, label = names.index(EXAMPLE_ID), names.index(LABEL)
    filled = [cells for cells in lines if any(cell.strip() for cell in cells)]
    # A comma that is not quoted shifts the cells behind it: nothing in such a row can be trusted.
    return [
        (row, HARMLESS.sub("", cells[key]), cells[label])
        if len(cells) == len(names)
        else (row, cells[key] if key < len(cells) else "", None)
        for row, cells in enumerate(filled)
    ]


def _is_header(head: str, separator: str) -> bool:
    names = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
    return EXAMPLE_ID in names and LABEL in names


def _check_columns(names: list[str], path: str) -> None:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    for column in (EXAMPLE_ID, LABEL):
        if names.count(column) != 1:
            told = ", ".join(names[:SHOWN]) or "none"
            raise InputError(f"{path} has columns {told}{more}: it must have one column {column!r}")


def _place(path: str) -> tuple[Store, str]:
    folder, _, name = absolute(path).rpartition("/")
    return Store(folder or "/"), name


@contextmanager
def _told(path: str, fault: str, cure: str) -> Iterator[None]:
    """Say in one sentence what a file system or a parser says in many ways."""
    try:
        yield
    except RaydeltError:
        raise
    except Exception as error:
        raise InputError(f"{path} {fault} ({type(error).__name__}: {error}): {cure}") from error
