"""Reading one unit into raw columns, a bounded number of rows at a time, every row accounted for.

A row that cannot be read becomes a `BadRow` with its number; a file that cannot be read (or not to its end) becomes
one with row None, and the rows before the fault count.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from raydelt import storage
from raydelt.corpus.sources import BUILT_IN, Item
from raydelt.errors import InputError
from raydelt.scorers.protocol import Array

ROWS = 8192
CHUNK_BYTES = 1 << 20
Column: TypeAlias = pa.Array | Sequence[Any]


@dataclass(frozen=True)
class BadRow:
    """A row (or, with row None, a file) that could not be read; `path` where it is not the unit's own."""

    row: int | None
    reason: str
    payload: bytes = b""
    path: str | None = None


@dataclass(frozen=True)
class RawRows:
    """Columns [n] as the file gives them, with the rows' numbers [n] (from 0 in each file), and rows that failed.

    `paths` [n] is given where the rows come from files of their own.
    """

    columns: Mapping[str, Column]
    rows: Array
    bad: list[BadRow] = field(default_factory=list)
    paths: Sequence[str] | None = None


def read(
    item: Item, columns: Sequence[str] | None, *, text_unit: str = "file", encoding: str = "utf-8"
) -> Iterator[RawRows]:
    """The rows of one unit; `columns` None reads all columns. Text and CSV are in this encoding."""
    reader = {
        "builtin": _builtin,
        "parquet": _parquet,
        "jsonl": _jsonl,
        "image": _images,
        "idx": _idx,
    }.get(item.format)
    if item.format == "csv":
        rows = _csv(item, columns, encoding)
    elif reader is None:
        rows = _documents(item, encoding) if text_unit == "file" else _paragraphs(item, encoding)
    else:
        rows = reader(item, columns)
    try:
        yield from rows if item.most is None else _thinned(rows, item.every, item.most)
    except InputError:
        raise
    except Exception as error:
        yield RawRows({}, np.empty(0, np.int64), [BadRow(None, _unreadable(error, item.path))])


def rows_in(item: Item) -> int | None:
    """How many rows a unit has, where that can be known without reading it."""
    if item.members:
        return len(item.members)
    if item.format == "builtin":
        return sum(len(raw.rows) for raw in _builtin(item, None))
    if item.format == "idx":
        with unpacked(item.path) as file:
            return int(struct.unpack(">II", file.read(8))[1])
    return item.rows


def _thinned(found: Iterator[RawRows], every: int, most: int) -> Iterator[RawRows]:
    """Rows whose number `every` divides, at most `most`; nothing is read beyond them."""
    left = most
    for raw in found:
        keep = np.flatnonzero(raw.rows % every == 0)[:left]
        left -= len(keep)
        columns = {
            name: column.take(pa.array(keep)) if isinstance(column, pa.Array) else [column[row] for row in keep]
            for name, column in raw.columns.items()
        }
        bad = [entry for entry in raw.bad if entry.row is None or entry.row % every == 0]
        yield RawRows(columns, raw.rows[keep], bad, None if raw.paths is None else [raw.paths[row] for row in keep])
        if left <= 0:
            return


def _builtin(item: Item, _: Sequence[str] | None) -> Iterator[RawRows]:
    """A labelled set that scikit-learn bundles: columns `x` (nested lists) and `label` (class name)."""
    from sklearn import datasets

    loaders = {
        "digits": datasets.load_digits,
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
        "breast_cancer": datasets.load_breast_cancer,
    }
    name = item.path.removeprefix(BUILT_IN)
    if name not in loaders:
        raise InputError(f"corpus.source {item.path!r}: no such bundled set; there are {', '.join(sorted(loaders))}")
    bundle = loaders[name]()
    x = np.asarray(bundle.images if name == "digits" else bundle.data, np.float32)
    if name == "digits":
        x = x[:, None]
    labels = pa.array([str(bundle.target_names[target]) for target in bundle.target])
    yield RawRows({"x": nested_lists(x), "label": labels}, np.arange(len(x)))


def nested_lists(x: Array) -> pa.Array:
    """An array [n, …] as an Arrow column of fixed-size lists."""
    column = pa.array(np.ascontiguousarray(x).reshape(-1))
    for size in reversed(x.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def _parquet(item: Item, columns: Sequence[str] | None) -> Iterator[RawRows]:
    with storage.opened(item.path) as opened:
        file = pq.ParquetFile(opened)
        groups = range(file.num_row_groups) if item.row_group < 0 else [item.row_group]
        start = sum(file.metadata.row_group(group).num_rows for group in range(groups[0] if len(groups) else 0))
        wanted = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(ROWS, row_groups=list(groups), columns=wanted):
            rows = np.arange(start, start + batch.num_rows)
            start += batch.num_rows
            yield RawRows({name: batch.column(name) for name in batch.schema.names}, rows)


def _jsonl(item: Item, columns: Sequence[str] | None) -> Iterator[RawRows]:
    held: list[dict[str, Any]] = []
    rows: list[int] = []
    bad: list[BadRow] = []

    def taken() -> RawRows:
        names = columns if columns is not None else list(dict.fromkeys(name for row in held for name in row))
        present = [name for name in names if any(name in row for row in held)] if held else names
        result = RawRows({name: [row.get(name) for row in held] for name in present}, np.array(rows, np.int64), bad[:])
        for filled in (held, rows, bad):
            filled.clear()
        return result

    fault: Exception | None = None
    lines = _lines(item.path)
    number = -1
    while True:
        try:
            line = next(lines)
        except StopIteration:
            break
        except Exception as error:
            fault = error
            break
        number += 1
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError) as error:
            bad.append(BadRow(number, f"line is not valid JSON: {error}", line))
        else:
            held.append(value)
            rows.append(number)
        if len(held) + len(bad) >= min(ROWS, item.most or ROWS):
            yield taken()
    if held or bad:
        yield taken()
    if fault is not None:
        raise fault


def _lines(path: str) -> Iterator[bytes]:
    """Lines of a file, without their ends."""
    with unpacked(path) as file:
        rest = b""
        # `read` of a truncated gzip stream fails and loses what it had decompressed; `read1` gives that first.
        take = getattr(file, "read1", file.read)
        while chunk := take(CHUNK_BYTES):
            *whole, rest = (rest + bytes(chunk)).split(b"\n")
            yield from whole
        if rest:
            yield rest


def unpacked(path: str) -> Any:
    """A file for reading, decompressed by its name; a context manager."""
    file = storage.opened(path)
    if path.endswith(".gz"):
        return gzip.GzipFile(fileobj=file)
    return pa.input_stream(pa.PythonFile(file), compression="zstd" if path.endswith(".zst") else None)


def _csv(item: Item, columns: Sequence[str] | None, encoding: str) -> Iterator[RawRows]:
    plain = item.path.removesuffix(".gz").removesuffix(".zst")
    delimiter = "\t" if plain.endswith(".tsv") else ","
    header = next(_lines(item.path), b"").decode(_signed(encoding)).rstrip("\r")
    if not header:
        return
    names = next(csv.reader([header], delimiter=delimiter))
    bad: list[BadRow] = []
    failed: set[int] = set()

    def refuse(row: Any) -> str:
        # Arrow numbers rows from 1 with the header as row 1.
        failed.add(row.number - 2)
        reason = f"row has {row.actual_columns} fields, not {row.expected_columns}"
        bad.append(BadRow(row.number - 2, reason, str(row.text).encode()))
        return "skip"

    with unpacked(item.path) as opened:
        reader = pa.csv.open_csv(
            opened,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=CHUNK_BYTES, encoding=encoding),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter, invalid_row_handler=refuse, newlines_in_values=True, ignore_empty_lines=True
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=None if columns is None else [name for name in columns if name in names],
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
        number = 0
        for batch in reader:
            rows: list[int] = []
            while len(rows) < batch.num_rows:
                if number not in failed:
                    rows.append(number)
                number += 1
            # The reader parses ahead, so a refused row may be told with an earlier batch than its neighbours.
            told, bad[:] = bad[:], []
            yield RawRows({name: batch.column(name) for name in batch.schema.names}, np.array(rows, np.int64), told)
    if bad:
        yield RawRows({}, np.empty(0, np.int64), bad)


def _documents(item: Item, encoding: str) -> Iterator[RawRows]:
    """Column `text`: one document per file."""
    texts: list[str] = []
    paths: list[str] = []
    bad: list[BadRow] = []
    for path in item.members:
        try:
            with unpacked(path) as file:
                data = bytes(file.read())
        except Exception as error:
            bad.append(BadRow(None, _unreadable(error, path), path=path))
            continue
        text, fault = _decoded(data, encoding)
        if fault is None:
            texts.append(text)
            paths.append(path)
        else:
            bad.append(BadRow(0, fault, data, path))
    yield RawRows({"text": texts}, np.zeros(len(texts), np.int64), bad, paths)


def _unreadable(error: Exception, path: str) -> str:
    """Why a file cannot be read; what is wrong with the store and not with the file ends the run, and loses no row.

    Raises:
        InputError: the store failed at every try, or the file is gone since it was listed.
    """
    gone = isinstance(error, FileNotFoundError) and storage.scheme(path) != ""
    if gone or storage.of_store(error):
        raise storage.told(error, path, "read") from error
    return f"file cannot be read to its end: {' '.join(str(error).split()) or type(error).__name__}"


def _decoded(data: bytes, encoding: str) -> tuple[str, str | None]:
    """Bytes as text, and why they are none."""
    try:
        return data.decode(encoding), None
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == "utf-8" else encoding
        return "", f"text is not valid {name}: {error.reason} at byte {error.start}"


def _signed(encoding: str) -> str:
    """An encoding that passes over a byte-order mark."""
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _paragraphs(item: Item, encoding: str) -> Iterator[RawRows]:
    """Column `text`: one document per paragraph (part between blank lines)."""
    texts: list[str] = []
    rows: list[int] = []
    bad: list[BadRow] = []
    for number, piece in enumerate(_parts_between_blank_lines(item.path)):
        text, fault = _decoded(piece, encoding)
        if fault is None:
            texts.append(text)
            rows.append(number)
        else:
            bad.append(BadRow(number, fault, piece))
        if len(texts) + len(bad) >= min(ROWS, item.most or ROWS):
            yield RawRows({"text": texts}, np.array(rows, np.int64), bad)
            texts, rows, bad = [], [], []
    if texts or bad:
        yield RawRows({"text": texts}, np.array(rows, np.int64), bad)


def _parts_between_blank_lines(path: str) -> Iterator[bytes]:
    held: list[bytes] = []
    for line in _lines(path):
        if line.strip():
            held.append(line.rstrip(b"\r"))
        elif held:
            yield b"\n".join(held)
            held = []
    if held:
        yield b"\n".join(held)


def _images(item: Item, _: Sequence[str] | None) -> Iterator[RawRows]:
    """Column `image`: the bytes of one file each."""
    images: list[bytes] = []
    paths: list[str] = []
    bad: list[BadRow] = []
    for path in item.members:
        try:
            with storage.opened(path) as file:
                images.append(file.read())
            paths.append(path)
        except Exception as error:
            bad.append(BadRow(None, _unreadable(error, path), path=path))
    yield RawRows({"image": images}, np.zeros(len(images), np.int64), bad, paths)


def _idx(item: Item, _: Sequence[str] | None) -> Iterator[RawRows]:
    """Columns `image` [1, H, W] and `label` from an IDX file of images and the file of labels beside it."""
    images = _idx_array(item.path)
    labels = _idx_array(item.path.replace("images", "labels").replace("idx3", "idx1"))
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    for start in range(0, len(images), ROWS):
        own = images[start : start + ROWS, None].astype(np.float32) / 255
        rows = np.arange(start, start + len(own))
        yield RawRows({"image": nested_lists(own), "label": pa.array(labels[start : start + ROWS])}, rows)


def _idx_array(path: str) -> Array:
    with unpacked(path) as file:
        data = io.BytesIO(bytes(file.read()))
    magic = data.read(4)
    if magic[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no IDX file of bytes")
    shape = struct.unpack(f">{magic[3]}I", data.read(4 * magic[3]))
    values = np.frombuffer(data.read(), np.uint8)
    if len(values) != prod(shape):
        raise ValueError(f"{path} holds {len(values)} values, not {prod(shape)}")
    return values.reshape(shape)
