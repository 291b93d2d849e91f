"""The vocabulary of the project: identity of an example, its random draws, and the Arrow schemas of a run directory.

An `example_id` is 32 hex digits, the xxh3-128 hash of the example's content, or the user's own key. Its `draw_key`
is a 64-bit hash of that id, and every random decision about the example is

    u = mix(draw_key xor hash(seed, salt)) / 2^64        in (0, 1)

so folds, splits, label noise, augmentations and shuffles are pure functions of (seed, salt, example_id): they do not
depend on blocks, actors, workers, retries or the order of the input. `mix` is the finaliser of splitmix64 (Steele,
Lea and Flood, 2014). Cost: O(1) per draw, vectorised.

Caution: draws with the same seed and salt are the same number; give every decision a salt of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

EXAMPLE_ID = "example_id"
DRAW_KEY = "draw_key"
GROUP_KEY = "group_key"
FEATURES = "x"
EMBEDDING = "embedding"
TIME = "time"
LABEL = "label"
LABEL_CLEAN = "label_clean"
SOURCE_FILE = "source_file"
ROW = "row"

QUARANTINE_SCHEMA = pa.schema(
    [("source_file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("payload_digest", pa.string())]
)

UInt64Array = NDArray[np.uint64]
FloatArray = NDArray[np.float64]


def corpus_schema(width: int, *, text: bool = False, time: bool = False) -> pa.Schema:
    """Columns of `corpus/part-*.parquet`: identity, features `x` [width], label index, provenance.

    `label_clean` is the label before the spec's simulated noise. It is for reports alone: no scorer may read it.
    """
    fields = [
        pa.field(EXAMPLE_ID, pa.string(), nullable=False),
        pa.field(DRAW_KEY, pa.uint64(), nullable=False),
        pa.field(GROUP_KEY, pa.uint64(), nullable=False),
        pa.field(FEATURES, pa.list_(pa.float32(), width)),
        pa.field(LABEL, pa.int32()),
        pa.field(LABEL_CLEAN, pa.int32()),
        pa.field(SOURCE_FILE, pa.string()),
        pa.field(ROW, pa.int64()),
    ]
    if text:
        fields.append(pa.field("text", pa.string()))
    if time:
        fields.append(pa.field(TIME, pa.float64()))
    return pa.schema(fields)


RANKING_SCHEMA = pa.schema(
    [
        (EXAMPLE_ID, pa.string()),
        ("score", pa.float64()),
        ("score_se", pa.float64()),
        ("eligible", pa.bool_()),
        ("gate", pa.bool_()),
        ("rank", pa.int64()),
        ("percentile", pa.float64()),
        (LABEL, pa.int32()),
        ("tokens", pa.int64()),
        ("part", pa.int32()),
        ("part_row", pa.int32()),
    ]
)

SELECTION_SCHEMA = pa.schema(
    [
        (EXAMPLE_ID, pa.string()),
        ("rank", pa.int64()),
        ("position", pa.int64()),
        ("weight", pa.float64()),
        ("probability", pa.float64()),
        ("reason", pa.string()),
        ("part", pa.int32()),
        ("part_row", pa.int32()),
    ]
)


def content_id(payload: bytes) -> str:
    """The id of an example whose canonical content is `payload`: 32 hex digits of xxh3-128."""
    return xxhash.xxh3_128_hexdigest(payload)


def draw_keys(example_ids: Sequence[str]) -> UInt64Array:
    """Keys [n] uint64 for random draws: the first 64 bits of a content id, and a hash of any other key."""
    return np.fromiter((_draw_key(example_id) for example_id in example_ids), np.uint64, len(example_ids))


def _draw_key(example_id: str) -> int:
    return xxhash.xxh3_64_intdigest(example_id.encode())


def derived_seed(seed: int, *salt: int | str) -> int:
    """A seed of 63 bits for one purpose, a pure function of (seed, salt)."""
    return _stream(seed, *salt) >> 1


def _stream(seed: int, *salt: int | str) -> int:
    return xxhash.xxh3_64_intdigest(repr((seed, *salt)).encode())


def mix(keys: UInt64Array, seed: int, *salt: int | str) -> UInt64Array:
    """Pseudo-random 64-bit integers [n], a pure function of (key, seed, salt)."""
    z = keys ^ np.uint64(_stream(seed, *salt))
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(keys: UInt64Array, seed: int, *salt: int | str) -> FloatArray:
    """Uniform draws [n] in the open interval (0, 1), a pure function of (key, seed, salt)."""
    return ((mix(keys, seed, *salt) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def shuffled(keys: UInt64Array, seed: int, *salt: int | str) -> NDArray[np.int64]:
    """Indices [n] that put the examples in a random order; ties of the draw fall back to the key."""
    return np.lexsort((keys, mix(keys, seed, *salt))).astype(np.int64)


def partition_of(keys: UInt64Array, count: int) -> UInt64Array:
    """The part [n] that rows with these draw keys [n] belong to, among `count` equal ranges of keys."""
    part: UInt64Array = ((keys >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
    return part


def features_of(table: pa.Table | pa.RecordBatch) -> NDArray[np.float32]:
    """The feature matrix [n, width] of a corpus table, without copying where Arrow allows it."""
    return matrix_of(table, FEATURES)


def vectors_of(table: pa.Table | pa.RecordBatch) -> NDArray[np.float32]:
    """What examples are compared by [n, d]: their embeddings where an encoder gave any, else their features."""
    return matrix_of(table, EMBEDDING if EMBEDDING in table.schema.names else FEATURES)


def matrix_of(table: pa.Table | pa.RecordBatch, name: str) -> NDArray[Any]:
    """A column of fixed-size lists as a matrix [n, width], without copying where Arrow allows it."""
    column = table.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    width: int = column.type.list_size
    values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return values


def column_of(table: pa.Table | pa.RecordBatch, name: str) -> NDArray[Any]:
    """One column of a table as a numpy array [n]."""
    column = table.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values
