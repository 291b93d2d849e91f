"""From raw rows to canonical examples: features as float32, a label name, ids; what is invalid gets a reason.

    content    = bytes of the float32 features (with -0 as 0), a zero byte, the label's name
    example_id = xxh3-128(content), or the user's key;   group_key = xxh3-64(features), or of the user's group

Every row of the input becomes one row of the output, with `reason` null or saying why it goes to quarantine.
Cost: O(width) per row; the hashes run at about a million rows a second and core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from raydelt.config import Corpus
from raydelt.corpus.formats import RawTable, read
from raydelt.corpus.sources import Item
from raydelt.errors import InputError
from raydelt.examples import content_id, draw_keys
from raydelt.scorers.protocol import Array


@dataclass(frozen=True)
class Layout:
    """The shape of every example's features: width after flattening, the shape before, names where there are any."""

    width: int
    input_shape: tuple[int, ...]
    feature_names: tuple[str, ...] = ()


def schema(layout: Layout) -> pa.Schema:
    """Columns of canonical rows on their way through the shuffle."""
    return pa.schema(
        [
            ("example_id", pa.string()),
            ("draw_key", pa.uint64()),
            ("group_key", pa.uint64()),
            ("x", pa.list_(pa.float32(), layout.width)),
            ("label_name", pa.string()),
            ("split", pa.string()),
            ("source_file", pa.string()),
            ("row", pa.int64()),
            ("reason", pa.string()),
            ("payload_digest", pa.string()),
        ]
    )


def probe(items: Sequence[Item], corpus: Corpus) -> Layout:
    """The layout, from the first readable rows."""
    for item in items:
        for raw in read(item, corpus):
            if raw.table.num_rows:
                width = raw.table.schema.field("x").type.list_size
                shape = tuple(corpus.image_shape or ((1, 8, 8) if item.path == "builtin://digits" else (width,)))
                return Layout(width, shape)
    raise InputError(f"corpus.source {corpus.source!r} holds no readable row: check the path and the format")


def canonical(item: Item, corpus: Corpus, layout: Layout) -> Iterator[pa.Table]:
    """Canonical rows of one item, a bounded number at a time."""
    for raw in read(item, corpus):
        yield _canonical_table(raw, item, layout)


def _canonical_table(raw: RawTable, item: Item, layout: Layout) -> pa.Table:
    x = raw.table.column("x").combine_chunks().flatten().to_numpy().reshape(-1, layout.width) + np.float32(0)
    labels = raw.table.column("label").to_pylist()
    ids = [content_id(row.tobytes() + b"\0" + label.encode()) for row, label in zip(x, labels, strict=True)]
    groups = np.fromiter((xxhash.xxh3_64_intdigest(row.tobytes()) for row in x), np.uint64, len(x))
    n = len(ids)
    return pa.table(
        [
            pa.array(ids),
            pa.array(draw_keys(ids)),
            pa.array(groups),
            fixed_lists(x),
            pa.array(labels, pa.string()),
            pa.array([item.split] * n),
            pa.array([item.path] * n),
            pa.array(raw.rows, pa.int64()),
            pa.nulls(n, pa.string()),
            pa.nulls(n, pa.string()),
        ],
        schema=schema(layout),
    )


def fixed_lists(x: Array) -> pa.FixedSizeListArray:
    """A matrix [n, width] as an Arrow column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).reshape(-1)), x.shape[1])
