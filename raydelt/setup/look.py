"""A bounded look at the data: which files there are, and the first rows of a few of them by the flow's own readers.

Of a folder up to `FILES` files of columns, or `DOCUMENTS` files of one example each, are opened, evenly spread, for up
to `ROWS` rows in all, which are spread over each file, since files are often sorted by class. Files of lines that are
longer than `HEAD_BYTES` are read through a copy of pieces all over them, or, where they are packed or quoted, of their
head. An IDX file is read whole: its format knows no less.

Cost: one listing of the source, at most `FILES` times `HEAD_BYTES` of it. Memory: the sample.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raydelt import storage
from raydelt.config import Corpus
from raydelt.corpus import formats
from raydelt.corpus.canonical import canonical
from raydelt.corpus.features import Layout, value_at
from raydelt.corpus.formats import BadRow
from raydelt.corpus.limit import evenly, limited
from raydelt.corpus.sources import COMPRESSED, Item, SourceFile, items
from raydelt.errors import InputError

ROWS = 2000
FILES, DOCUMENTS = 8, 400
HEAD_BYTES, PIECE_BYTES, PIECES = 4 << 20, 256 << 10, 15
DOCUMENT_BYTES, DOCUMENTS_BYTES = 1 << 20, 64 << 20
LARGEST_IDX = 512 << 20
LINES = ("jsonl", "csv")


@dataclass(frozen=True)
class Sample:
    """Rows of a source: units to read them by, raw values by column, rows and files that failed.

    `total` is about how many rows there are in all; `whole` says that the sample is all of them.
    """

    files: Sequence[SourceFile]
    units: Sequence[Item]
    columns: dict[str, list[Any]]
    paths: Sequence[str]
    rows: int
    bad: Sequence[BadRow]
    total: int
    whole: bool
    exact: bool
    folders: Counter[str] = field(default_factory=Counter)

    @property
    def format(self) -> str:
        return self.files[0].format


@contextlib.contextmanager
def sampled(files: Sequence[SourceFile], corpus: Corpus) -> Iterator[Sample]:
    """A sample of these files, all of one format; what it copied is deleted with the context.

    Raises:
        InputError: the store fails, or nothing can be read.
    """
    # Held-out sources are never thinned by the flow; a look at them is.
    files = [replace(file, split="corpus") if file.split in ("test", "validation") else file for file in files]
    with tempfile.TemporaryDirectory(prefix=_prefix()) as folder:
        units, cut = _units(files, corpus, folder)
        columns, rows, paths, bad = _read(units, corpus)
        total, whole = _total(files, rows, corpus, cut)
        exact = whole or files[0].format not in (*LINES, "text") or _by_file(files, corpus)
        exact = exact and (len(files) <= FILES or _by_file(files, corpus))
        names = Counter(posixpath.basename(posixpath.dirname(file.path)) for file in files)
        yield Sample(files, units, columns, paths, rows, bad, total, whole, exact, names)


def converted(sample: Sample, corpus: Corpus, layout: Layout) -> tuple[Counter[str], Counter[str]]:
    """Rows of a sample by class ("" without one) as the flow would have them, and why others cannot be used."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for unit in sample.units:
        for table in canonical(unit, corpus, layout):
            reasons.update(pc.drop_null(table["reason"]).to_pylist())
            counts.update(name or "" for name in table.filter(table["reason"].is_null())["label_name"].to_pylist())
            if sum(counts.values()) >= sample.rows:
                break
    return counts, reasons


def forget() -> None:
    """Delete the copies of looks that did not end."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _prefix() -> str:
    return f"raydelt-look-{os.getpid()}-"


def _units(files: Sequence[SourceFile], corpus: Corpus, folder: str) -> tuple[list[Item], bool]:
    """Units of the sample, and whether some of them are heads of longer files."""
    kind = files[0].format
    if _by_file(files, corpus):
        return _documents(files), len(files) > DOCUMENTS
    chosen = [files[place] for place in evenly(len(files), min(len(files), FILES))]
    share = max(1, ROWS // len(chosen))
    if kind in LINES or kind == "text":
        heads = [_head(file, folder, index, share) for index, file in enumerate(chosen)]
        return [unit for unit, _ in heads], len(chosen) < len(files) or any(short for _, short in heads)
    if kind == "idx" and chosen[0].size > LARGEST_IDX:
        raise InputError(f"{chosen[0].path} has {chosen[0].size >> 20} MB, and IDX files are read whole: cut it up")
    units = items(chosen, text_unit=corpus.text_unit)
    return limited(units, ROWS if kind != "idx" else ROWS // 4) if units else [], True


def _by_file(files: Sequence[SourceFile], corpus: Corpus) -> bool:
    """Whether each file is one example."""
    return files[0].format == "image" or (files[0].format == "text" and corpus.text_unit == "file")


def _documents(files: Sequence[SourceFile]) -> list[Item]:
    """Files of one example each, those of unusual size left out where others are enough."""
    usual = [file for file in files if file.size <= DOCUMENT_BYTES]
    known = usual if 2 * len(usual) > len(files) else sorted(files, key=lambda file: file.size)[:FILES]
    mean = max(1, sum(file.size for file in known) // len(known))
    count = min(len(known), DOCUMENTS, max(FILES, DOCUMENTS_BYTES // mean))
    chosen = [known[place] for place in evenly(len(known), count)]
    first = chosen[0]
    size = sum(file.size for file in chosen)
    return [Item(first.path, first.format, first.split, size, members=tuple(file.path for file in chosen))]


def _head(file: SourceFile, folder: str, index: int, rows: int) -> tuple[Item, bool]:
    """A unit of so many rows, spread over the file or over a copy of parts of it; whether some of it is left out."""
    unit = Item(file.path, file.format, file.split, file.size, most=rows)
    try:
        with formats.unpacked(file.path) as source:
            head = _bytes(source, HEAD_BYTES)
            more = len(head) == HEAD_BYTES
            seekable = more and file.size > HEAD_BYTES and not file.path.endswith(COMPRESSED)
            apart = seekable and (file.format == "jsonl" or (file.format == "csv" and b'"' not in head))
            pieces = list(_pieces(source, file)) if apart else []
    except Exception as error:
        if storage.of_store(error):
            raise storage.told(error, file.path, "read") from error
        return unit, False  # its own reader tells what is wrong with it
    if pieces:
        head = head[:PIECE_BYTES]
    data = _whole_lines(head, quoted=file.format == "csv") + b"".join(pieces) if more else head
    spread = replace(unit, every=max(1, -(-data.count(b"\n") // rows))) if file.format in LINES else unit
    if not more:
        return spread, spread.every > 1
    plain = posixpath.basename(file.path)
    for suffix in COMPRESSED:
        plain = plain.removesuffix(suffix)
    path = os.path.join(folder, str(index), plain)
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as copy:
        copy.write(data)
    return replace(spread, path=path), True


def _bytes(source: Any, most: int) -> bytes:
    held = b""
    while len(held) < most and (chunk := source.read(most - len(held))):
        held += bytes(chunk)
    return held


def _pieces(source: Any, file: SourceFile) -> Iterator[bytes]:
    """Whole lines from places all over a file that can be sought in."""
    for place in evenly(max(file.size - 2 * PIECE_BYTES, 1), PIECES):
        source.seek(PIECE_BYTES + place)
        piece = _bytes(source, PIECE_BYTES)
        start = piece.find(b"\n") + 1
        yield _whole_lines(piece[start:], quoted=False) if start else b""


def _whole_lines(data: bytes, *, quoted: bool) -> bytes:
    """Data up to its last line end that lies outside of quotes; all of it where there is none."""
    end = data.rfind(b"\n")
    while quoted and end > 0 and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, end)
    return data[: end + 1] if end > 0 else data


def _read(units: Sequence[Item], corpus: Corpus) -> tuple[dict[str, list[Any]], int, list[str], list[BadRow]]:
    columns: dict[str, list[Any]] = {}
    paths: list[str] = []
    bad: list[BadRow] = []
    rows = 0
    for unit in units:
        left = min(ROWS, unit.most or ROWS)
        for raw in formats.read(unit, None, text_unit=corpus.text_unit, encoding=corpus.encoding):
            bad += raw.bad
            count = min(len(raw.rows), left)
            for name in {**columns, **raw.columns}:
                held = columns.setdefault(name, [None] * rows)
                own = raw.columns.get(name)
                held += [None] * count if own is None else _values(own, count)
            paths += [unit.path] * count if raw.paths is None else list(raw.paths[:count])
            rows, left = rows + count, left - count
            if left <= 0:
                break
    return columns, rows, paths, bad


def _values(column: Any, count: int) -> list[Any]:
    return (
        column.slice(0, count).to_pylist()
        if isinstance(column, pa.Array)
        else [value_at(column, row) for row in range(count)]
    )


def _total(files: Sequence[SourceFile], rows: int, corpus: Corpus, cut: bool) -> tuple[int, bool]:
    """About how many rows there are, and whether the sample holds all."""
    kind = files[0].format
    if _by_file(files, corpus):
        return len(files), not cut and rows == len(files)
    if kind not in (*LINES, "text"):
        chosen = [files[place] for place in evenly(len(files), min(len(files), FILES))]
        known = sum(formats.rows_in(unit) or 0 for unit in items(chosen, text_unit=corpus.text_unit))
        total = round(known * len(files) / len(chosen))
        return total, rows == total
    from raydelt.estimate.sample import count_rows

    if not cut and rows < ROWS:
        return rows, True
    whole = [replace(unit, most=None) for file in files for unit in [Item(file.path, kind, "corpus", file.size)]]
    return max(rows, count_rows(corpus, whole)), False
