"""From raw rows to canonical examples with ids; what is invalid keeps its row and gets a reason.

    content    = bytes of the float32 features (with -0 as 0), or the text; a zero byte; the label's name
    example_id = xxh3-128(content), or the user's key
    group_key  = xxh3-64 of the features or the text, or of the user's group

Every row of the input becomes one row of the output, with `reason` null or saying why it goes to quarantine. The label
is part of the content, so the same features under two labels are two examples, but one group.
Cost: O(width) per row.
"""

from __future__ import annotations

import datetime
import difflib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from raydelt.config import Corpus
from raydelt.corpus import formats
from raydelt.corpus.features import Layout, Reasons, as_floats, decoded, features, value_at
from raydelt.corpus.formats import BadRow, Column, RawRows
from raydelt.corpus.sources import Item
from raydelt.errors import InputError
from raydelt.examples import content_id, draw_keys
from raydelt.scorers.protocol import Array

IMPLIED = {"text": "text", "image": "image", "idx": "image", "builtin": "x"}


def schema(layout: Layout) -> pa.Schema:
    """Columns of canonical rows on their way through the shuffle."""
    return pa.schema(
        [
            ("example_id", pa.string()),
            ("draw_key", pa.uint64()),
            ("group_key", pa.uint64()),
            ("x", pa.list_(pa.float32(), layout.width)),
            ("text", pa.string()),
            ("label_name", pa.string()),
            ("time", pa.float64()),
            ("split", pa.string()),
            ("source_file", pa.string()),
            ("row", pa.int64()),
            ("reason", pa.string()),
            ("payload_digest", pa.string()),
        ]
    )


def probe(items: Sequence[Item], corpus: Corpus) -> Layout:
    """What examples are made of, from the first rows that can be read.

    Raises:
        InputError: nothing can be read, or a column that the spec names is in no file.
    """
    fault: InputError | None = None
    for item in items:
        for raw in formats.read(item, None, text_unit=corpus.text_unit, encoding=corpus.encoding):
            if len(raw.rows) == 0:
                continue
            try:
                return _layout(raw, item, corpus)
            except InputError as error:
                fault = fault or error
            break
    if fault is not None:
        raise fault
    raise InputError(f"corpus.source {corpus.source!r} holds no readable row: check the path and corpus.format")


def _layout(raw: RawRows, item: Item, corpus: Corpus) -> Layout:
    label = corpus.label_column or ("label" if item.format in ("builtin", "idx") else None)
    named = {
        "corpus.label_column": None if item.split == "pool" else corpus.label_column,
        "corpus.id_column": corpus.id_column,
        "corpus.group_column": corpus.group_column,
        "corpus.time_column": corpus.time_column,
        "corpus.text_column": corpus.text_column,
        "corpus.image_column": corpus.image_column,
    }
    for field, name in [*named.items(), *(("corpus.feature_columns", name) for name in corpus.feature_columns or [])]:
        if name is not None and name not in raw.columns:
            near = difflib.get_close_matches(name, list(raw.columns), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(raw.columns)}"
            raise InputError(f"{field} {name!r} is no column of {item.path}: {hint}")
    if corpus.text_column or item.format == "text":
        return Layout("text", (corpus.text_column or "text",), (corpus.text_features,), label)
    if corpus.image_column:
        return _image_layout(raw, corpus.image_column, corpus, label)
    if item.format == "image":
        return _image_layout(raw, "image", corpus, label)
    names = corpus.feature_columns or _implied(raw, item, corpus, label)
    if len(names) == 1 and _shape(raw.columns[names[0]]) != ():
        shape = tuple(corpus.image_shape or _shape(raw.columns[names[0]]))
        return Layout("list", (names[0],), shape, label)
    return Layout("numbers", tuple(names), (len(names),), label)


def _implied(raw: RawRows, item: Item, corpus: Corpus, label: str | None) -> list[str]:
    """The feature columns where the spec names none: the format's own, else every column of numbers."""
    if item.format in IMPLIED:
        return [IMPLIED[item.format]]
    other = {corpus.id_column, corpus.group_column, label}
    names = [name for name in raw.columns if name not in other and _is_numeric(raw.columns[name])]
    if not names:
        raise InputError(
            f"{item.path} has no column of numbers beside id, group and label (there are {', '.join(raw.columns)}): "
            "set corpus.feature_columns, image_column or text_column"
        )
    return names


def _is_numeric(column: Column) -> bool:
    """Whether most values of a column are numbers (or the first is a list of them)."""
    if _shape(column) != ():
        return len(_shape(column)) > 0 and not isinstance(value_at(column, 0), (str, bytes, dict))
    values, bad = as_floats(column)
    return len(bad) * 2 < len(values)


def _shape(column: Column) -> tuple[int, ...]:
    """The shape of the first value that is a list; () for scalars."""
    for row in range(min(len(column), 100)):
        value = value_at(column, row)
        if isinstance(value, (list, tuple)):
            try:
                return np.asarray(value, np.float32).shape
            except (TypeError, ValueError):
                continue
    return ()


def _image_layout(raw: RawRows, name: str, corpus: Corpus, label: str | None) -> Layout:
    column = raw.columns[name]
    if _shape(column) != ():
        return Layout("list", (name,), _shape(column), label)
    if corpus.image_shape:
        if len(corpus.image_shape) != 3 or corpus.image_shape[0] not in (1, 3):
            raise InputError(f"corpus.image_shape {corpus.image_shape} must be [1 or 3, height, width]")
        return Layout("image", (name,), tuple(corpus.image_shape), label)
    for row in range(len(column)):
        try:
            return Layout("image", (name,), decoded(value_at(column, row), None).shape, label)
        except Exception:
            continue
    raise InputError(f"corpus.image_column {name!r} holds no image that can be decoded: check the column")


def canonical(item: Item, corpus: Corpus, layout: Layout) -> Iterator[pa.Table]:
    """Canonical rows of one unit, a bounded number at a time."""
    label = None if item.split == "pool" else layout.label_column
    needed = [*layout.columns, label, corpus.id_column, corpus.group_column, corpus.time_column]
    columns = list(dict.fromkeys(name for name in needed if name is not None))
    for raw in formats.read(item, columns, text_unit=corpus.text_unit, encoding=corpus.encoding):
        missing = [name for name in columns if name not in raw.columns] if len(raw.rows) else []
        if missing:
            reason = f"column {missing[0]!r} is missing"
            bad = [BadRow(int(row), reason) for row in raw.rows]
            yield _bad_table([*bad, *raw.bad], item, layout)
            continue
        if raw.bad:
            yield _bad_table(raw.bad, item, layout)
        if len(raw.rows):
            yield _table(raw, item, corpus, layout)


def _table(raw: RawRows, item: Item, corpus: Corpus, layout: Layout) -> pa.Table:
    count = len(raw.rows)
    paths = [item.path] * count if raw.paths is None else raw.paths
    x, reasons = features(raw.columns, layout, count)
    texts = _strings(raw.columns[layout.columns[0]]) if layout.kind == "text" else None
    pool = item.split == "pool"
    labels = [None] * count if pool else _labels(raw.columns, paths, corpus, layout, reasons)
    contents = [text.encode() for text in texts] if texts is not None else [row.tobytes() for row in x]
    times = pa.nulls(count, pa.float64())
    if corpus.time_column is not None:
        times = seconds_of(raw.columns[corpus.time_column], corpus.time_column, reasons)
    ids = _ids(raw.columns, corpus, contents, labels, reasons)
    if corpus.group_column is not None:
        contents = [str(value).encode() for value in _values(raw.columns[corpus.group_column])]
    digests = [
        None if reason is None else content_id(repr({n: value_at(c, i) for n, c in raw.columns.items()}).encode())
        for i, reason in enumerate(reasons)
    ]
    return pa.table(
        [
            pa.array(ids, pa.string()),
            pa.array(draw_keys(ids)),
            pa.array(np.fromiter((xxhash.xxh3_64_intdigest(c) for c in contents), np.uint64, count)),
            fixed_lists(x),
            pa.array(texts, pa.string()) if texts is not None else pa.nulls(count, pa.string()),
            pa.array(labels, pa.string()),
            times,
            pa.array([item.split] * count, pa.string()),
            pa.array(paths, pa.string()),
            pa.array(raw.rows, pa.int64()),
            pa.array(reasons, pa.string()),
            pa.array(digests, pa.string()),
        ],
        schema=schema(layout),
    )


def _bad_table(bad: Sequence[BadRow], item: Item, layout: Layout) -> pa.Table:
    """Rows that were not read, as canonical rows with a reason."""
    count = len(bad)
    filled = {
        "example_id": pa.array([""] * count),
        "draw_key": pa.array(np.zeros(count, np.uint64)),
        "group_key": pa.array(np.zeros(count, np.uint64)),
        "split": pa.array([item.split] * count, pa.string()),
        "source_file": pa.array([entry.path or item.path for entry in bad], pa.string()),
        "row": pa.array([entry.row for entry in bad], pa.int64()),
        "reason": pa.array([entry.reason for entry in bad], pa.string()),
        "payload_digest": pa.array([content_id(entry.payload) for entry in bad], pa.string()),
        "x": fixed_lists(np.zeros((count, layout.width), np.float32)),
    }
    fields = schema(layout)
    return pa.table([filled.get(f.name, pa.nulls(count, f.type)) for f in fields], schema=fields)


def _ids(
    columns: Mapping[str, Column],
    corpus: Corpus,
    contents: Sequence[bytes],
    labels: Sequence[str | None],
    reasons: Reasons,
) -> list[str]:
    if corpus.id_column is None:
        pairs = zip(contents, labels, strict=True)
        return [content_id(content + b"\0" + (label or "").encode()) for content, label in pairs]
    keys = names_of(columns[corpus.id_column])
    for row, key in enumerate(keys):
        if not key and reasons[row] is None:
            reasons[row] = f"key {corpus.id_column!r} is missing"
    return [key or "" for key in keys]


def _labels(
    columns: Mapping[str, Column], paths: Sequence[str], corpus: Corpus, layout: Layout, reasons: Reasons
) -> list[str | None]:
    """The class name of each row; what has none, or one that the spec does not list, gets a reason."""
    if corpus.label_from_folder:
        labels: list[str | None] = [posixpath.basename(posixpath.dirname(path)) for path in paths]
    elif layout.label_column is None:
        return [None] * len(paths)
    else:
        labels = names_of(columns[layout.label_column])
    known = None if corpus.classes is None else set(corpus.classes)
    for row, label in enumerate(labels):
        if reasons[row] is not None:
            continue
        if label is None:
            reasons[row] = f"label {layout.label_column!r} is missing"
        elif known is not None and label not in known:
            reasons[row] = f"label {label!r} is none of corpus.classes"
    return labels


def seconds_of(column: Column, name: str, reasons: Reasons) -> pa.Array:
    """Float64 seconds since 1970, null where missing, of timestamps, dates, ISO texts, or numbers of seconds."""
    if isinstance(column, pa.Array) and (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        micros = pc.cast(pc.cast(column, pa.timestamp("us", tz="UTC" if _zoned(column.type) else None)), pa.int64())
        return pc.divide(pc.cast(micros, pa.float64()), 1e6)
    seconds: list[float | None] = []
    for row, value in enumerate(_values(column)):
        try:
            seconds.append(_seconds(value))
        except ValueError:
            seconds.append(None)
            reasons[row] = reasons[row] or f"time {name!r} is {value!r:.40}: no ISO date and no number of seconds"
    return pa.array(seconds, pa.float64())


def _zoned(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is not None


def _seconds(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        time = datetime.datetime.fromisoformat(str(value))
        return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()
    if not np.isfinite(number):
        raise ValueError(value)
    return number


def names_of(column: Column) -> list[str | None]:
    """Values as names: 1, 1.0 and "1" alike are "1"; missing ones and NaN are None."""
    if isinstance(column, pa.Array) and (pa.types.is_integer(column.type) or pa.types.is_string(column.type)):
        return [name or None for name in pc.cast(column, pa.string()).to_pylist()]
    return [_name(value) for value in _values(column)]


def _name(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and not np.isfinite(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def _values(column: Column) -> Sequence[Any]:
    return list(column.to_pylist()) if isinstance(column, pa.Array) else column


def _strings(column: Column) -> list[str]:
    return [value if isinstance(value, str) else "" for value in _values(column)]


def fixed_lists(x: Array) -> pa.FixedSizeListArray:
    """A matrix [n, width] as an Arrow column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).reshape(-1)), x.shape[1])
