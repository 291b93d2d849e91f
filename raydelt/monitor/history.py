"""What every published version of a run's scores said of every example.

    history/v000003-00000.parquet      example_id, a float32 column per component, and where known label, error (0..1),
                                       time (of the example, seconds); metadata: version, time
    history/v000003.json               the version's files; it is written last, and without it the version is not there

Within a file the rows lie in buckets by the first bits of hash(example_id), a bucket a row group, so a reader of one
range of hashes reads only its own share of every file: looking at all versions of the examples of one shard takes
memory for these alone, and reading all shards reads every row once. Cost of `append`: one table at a time.

`prune` deletes all but the newest versions, one that is begun aside; the monitor looks at no more than the last
`monitor.versions`, so nothing that it says changes.

Caution: a version that stands is never rewritten; appending it again with the same rows does nothing, with other rows
it is refused.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, LABEL, TIME, UInt64Array, column_of, draw_keys
from raydelt.scorers.protocol import Array
from raydelt.storage import Part, Store, opened

FOLDER = "history"
ERROR = "error"
CORRECT = "correct"
BESIDE = (EXAMPLE_ID, LABEL, ERROR, CORRECT, TIME)
BUCKET_ROWS = 4096
MOST_BUCKETS = 256
NAME = re.compile(r"v(\d+)\.json")


@dataclass(frozen=True)
class Shard:
    """The examples whose hash is in the `index`-th of `of` equal ranges; `of` is a power of two."""

    index: int = 0
    of: int = 1

    def rows(self, ids: pa.Array | pa.ChunkedArray) -> Array:
        """Which of these examples [n] belong here."""
        return self.holds(draw_keys(ids.to_pylist())) if self.of > 1 else np.ones(len(ids), np.bool_)

    def holds(self, keys: UInt64Array) -> Array:
        """Which of these hashes [n] belong here."""
        found: Array = _bucket(keys, self.of) == self.index
        return found


@dataclass(frozen=True)
class Version:
    """A version that stands: its number, time (seconds since 1970), components, and files."""

    number: int
    time: float
    components: tuple[str, ...]
    beside: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def _bucket(keys: UInt64Array, buckets: int) -> Array:
    """The range [n] in 0..buckets-1 of each hash; buckets is a power of two."""
    bits = buckets.bit_length() - 1
    # A shift by all 64 bits is not defined.
    found: Array = (keys >> np.uint64(1) >> np.uint64(63 - bits)).astype(np.int64)
    return found


def shards(rows: int, most: int) -> list[Shard]:
    """As few shards of so many rows that each holds about `most` at the most."""
    of = 1
    while rows > of * most:
        of *= 2
    return [Shard(index, of) for index in range(of)]


def append(store: Store, version: int, time: float, tables: Iterable[pa.Table]) -> list[Part]:
    """Publish what a version says of its examples, one file per table, and return the files.

    Raises:
        InputError: the version stands with other rows, its time is before that of an earlier version, tables differ
            in their columns, there is no component, or a value is not finite.
    """
    written = _written(store, version)
    if written is None:
        _check_time(store, version, time)
    parts, schema = [], None
    for index, table in enumerate(tables):
        table = _checked(table, version)
        if schema is not None and table.schema != schema:
            raise InputError(
                f"history: the tables of version {version} differ in their columns ({', '.join(schema.names)} and "
                f"{', '.join(table.column_names)}): give all the same"
            )
        schema, name = table.schema, f"{FOLDER}/v{version:06d}-{index:05d}.parquet"
        data = _bytes(table, {"version": str(version), "time": repr(float(time))})
        part = Part(name, table.num_rows, len(data), xxhash.xxh3_128_hexdigest(data))
        if written is not None and part not in written.parts:
            raise InputError(f"history: version {version} stands with other rows: give the next number to new scores")
        parts.append(part if written is not None else store.put(name, data, rows=table.num_rows))
    if schema is None:
        raise InputError(f"history: version {version} has no tables: there is nothing to publish")
    if written is None:
        named = [name for name in schema.names if name not in BESIDE]
        beside = [name for name in schema.names if name in BESIDE]
        found = Version(version, float(time), tuple(named), tuple(beside), tuple(parts))
        store.write_json(f"{FOLDER}/v{version:06d}.json", asdict(found))
        _sweep(store, found)
    elif list(written.parts) != parts:
        raise InputError(f"history: version {version} stands with more rows: give the next number to new scores")
    return parts


def prune(store: Store, *, keep: int) -> list[int]:
    """Delete all but the newest `keep` versions; the numbers of those that went.

    First the version, then its files: killed in between, the next call deletes what is left. One listing.
    """
    names = store.at(FOLDER).names()
    numbers = sorted(int(found[1]) for found in map(NAME.fullmatch, names) if found)
    gone = numbers[:-keep]
    store.remove(f"{FOLDER}/v{number:06d}.json" for number in gone)
    if len(numbers) > keep:
        oldest = f"v{numbers[-keep]:06d}"
        store.remove(f"{FOLDER}/{name}" for name in names if name.endswith(".parquet") and name < oldest)
    return gone


def versions(store: Store, *, latest: int | None = None) -> list[Version]:
    """The versions that stand, or so many of the latest, oldest first."""
    numbers = sorted(int(m[1]) for m in map(NAME.fullmatch, store.at(FOLDER).names()) if m)
    return [own for number in numbers[-latest if latest else 0 :] if (own := _written(store, number)) is not None]


def read(
    store: Store, version: Version, columns: Sequence[str] | None = None, shard: Shard | None = None
) -> Iterator[pa.Table]:
    """The rows of a version in one shard, file by file: `example_id` and the columns."""
    shard = shard or Shard()
    wanted = None if columns is None else [EXAMPLE_ID, *(name for name in columns if name != EXAMPLE_ID)]
    for part in version.parts:
        with opened(store.url(part.file)) as file:
            parquet = pq.ParquetFile(file)
            groups, exact = _groups(parquet, shard)
            table = parquet.read_row_groups(groups, columns=wanted) if groups else None
        if table is not None:
            yield table if exact else table.filter(pa.array(shard.rows(table[EXAMPLE_ID])))


def row_of(store: Store, part: Part, example: str) -> dict[str, Any] | None:
    """What a file says of one example: the ids of a bucket are read, and the rest of it only where it is there."""
    shard = Shard(int(_bucket(draw_keys([example]), MOST_BUCKETS)[0]), MOST_BUCKETS)
    with opened(store.url(part.file)) as file:
        parquet = pq.ParquetFile(file)
        for group in _groups(parquet, shard)[0]:
            row = pc.index(parquet.read_row_group(group, columns=[EXAMPLE_ID])[EXAMPLE_ID], example).as_py()
            if row >= 0:
                found: dict[str, Any] = parquet.read_row_group(group).slice(row, 1).to_pylist()[0]
                return found
    return None


def _check_time(store: Store, version: int, time: float) -> None:
    if version < 0 or not np.isfinite(time):
        raise InputError(f"history: version {version} at time {time} is none: give a number >= 0 and a finite time")
    earlier = [own for own in versions(store) if own.number < version and own.time > time]
    if earlier:
        raise InputError(
            f"history: version {version} would be of an earlier time than version {earlier[-1].number}: was a clock "
            "set back? mend it"
        )


def _sweep(store: Store, version: Version) -> None:
    """Delete what an unfinished attempt at this version left besides."""
    own = {part.file for part in version.parts}
    for name in store.at(FOLDER).names():
        if name.startswith(f"v{version.number:06d}-") and f"{FOLDER}/{name}" not in own:
            store.delete(f"{FOLDER}/{name}")


def _written(store: Store, number: int) -> Version | None:
    name = f"{FOLDER}/v{number:06d}.json"
    if not store.exists(name):
        return None
    raw = store.read_json(name)
    parts = tuple(Part(**part) for part in raw["parts"])
    return Version(raw["number"], raw["time"], tuple(raw["components"]), tuple(raw["beside"]), parts)


def _checked(table: pa.Table, version: int) -> pa.Table:
    """The table with components as float32, or a sentence about what is wrong with it."""
    if EXAMPLE_ID not in table.column_names:
        raise InputError(f"history: version {version} has no column {EXAMPLE_ID}: scores are kept by id")
    twice = [row["values"] for row in table[EXAMPLE_ID].value_counts().to_pylist() if row["counts"] > 1]
    if twice:
        raise InputError(f"history: version {version} holds {twice[0]!r} twice: ids must be unique")
    components = [name for name in table.column_names if name not in BESIDE]
    if not components:
        raise InputError(f"history: version {version} has no component: give at least one column of scores")
    for name in components:
        values = _numbers(table, name, version).to_numpy()
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            raise InputError(
                f"history: {bad} values of {name!r} in version {version} are not finite: quarantine those rows first"
            )
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    for name in (ERROR, CORRECT):
        if name in table.column_names:
            own = _numbers(table, name, version)
            known = column_of(pa.table({name: own.drop_null()}), name)
            if not ((known >= 0) & (known <= 1)).all():
                raise InputError(f"history: {name!r} in version {version} leaves 0..1: give rates, or true and false")
            table = table.set_column(table.column_names.index(name), name, own)
    if TIME in table.column_names:
        _numbers(table, TIME, version)
    return table


def _numbers(table: pa.Table, name: str, version: int) -> pa.ChunkedArray:
    """A column as float32."""
    kind = table.schema.field(name).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or kind == pa.null()):
        raise InputError(f"history: {name!r} in version {version} is {kind}: give numbers")
    return pc.cast(table[name], pa.float32())


def _bytes(table: pa.Table, metadata: dict[str, str]) -> bytes:
    """A Parquet file with a row group for every bucket, of which the metadata says how many there are."""
    buckets = 1
    while buckets < MOST_BUCKETS and table.num_rows > buckets * BUCKET_ROWS:
        buckets *= 2
    place = _bucket(draw_keys(table[EXAMPLE_ID].to_pylist()), buckets)
    order = np.argsort(place, kind="stable")
    counts = np.bincount(place, minlength=buckets)
    table = table.take(pa.array(order)).combine_chunks()
    filled = np.flatnonzero(counts)
    metadata = metadata | {"buckets": str(buckets), "groups": ",".join(map(str, filled))}
    table = table.replace_schema_metadata(metadata)
    buffer = io.BytesIO()
    dictionary = [name for name in table.column_names if name != EXAMPLE_ID]
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", use_dictionary=dictionary) as writer:
        start = 0
        for bucket in filled:
            writer.write_table(table.slice(start, counts[bucket]), row_group_size=max(1, int(counts[bucket])))
            start += int(counts[bucket])
    return buffer.getvalue()


def _groups(parquet: pq.ParquetFile, shard: Shard) -> tuple[list[int], bool]:
    """The row groups that can hold examples of the shard, and whether they hold no others."""
    told = parquet.schema_arrow.metadata or {}
    buckets = int(told[b"buckets"])
    filled = [int(number) for number in told[b"groups"].decode().split(",") if number]
    low, high = shard.index / shard.of, (shard.index + 1) / shard.of
    own = [g for g, bucket in enumerate(filled) if bucket / buckets < high and (bucket + 1) / buckets > low]
    return own, buckets >= shard.of
