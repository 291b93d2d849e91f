"""Where scored examples come from: the versions of a run's history, the current scores of a run, or a Parquet file.

All are read alike, table by table: `example_id`, components float32, and where known `label` (the class's name),
`error` (0..1) and `time` (seconds). The error of a row is told by its judge, the first of these that there is:

    error    1 - correct    margin < 0    difficulty (1 - p of the label)    1 - exp(-loss)

The last two are soft: how probable the model thinks anything but the label or, for a language model, but the next
token (a loss per token l is a perplexity of e^l). Errors by different judges are never compared.
Cost: the columns that are asked for, one file at a time.

Caution: `margin` and `consistency` come from held-out models only where the run made such; read it with that in mind.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydelt.errors import InputError
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, FEATURES, LABEL, TIME, column_of, features_of
from raydelt.monitor import history
from raydelt.monitor.history import CORRECT, ERROR, Shard
from raydelt.report.parts import ScoredParts, component_columns
from raydelt.rescore.versions import CURRENT, current
from raydelt.rundir import RECORD, SPEC
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Store, filesystem, opened, read_manifest

MARGIN, DIFFICULTY, LOSS = "margin", "difficulty", "loss"
JUDGES = (ERROR, CORRECT, MARGIN, DIFFICULTY, LOSS)
Tables = Callable[[Sequence[str], Shard], Iterator[pa.Table]]


@dataclass(frozen=True)
class Scored:
    """One set of scored examples; `tables(columns, shard)` reads it, `classes` name integer labels."""

    name: str
    number: int
    time: float
    rows: int
    components: tuple[str, ...]
    beside: tuple[str, ...]
    tables: Tables
    classes: tuple[str, ...] = ()

    @property
    def judge(self) -> str | None:
        """The column that tells what was got wrong; None where none does."""
        return next((name for name in JUDGES if name in (*self.beside, *self.components)), None)

    def read(self, components: Sequence[str], shard: Shard | None = None, *, whole: bool = True) -> Iterator[pa.Table]:
        """Tables of `example_id` and components; with `whole` also `label`, `error` and `time`, where known."""
        shard = shard or Shard()
        wanted = [name for name in components if name in self.components]
        if whole:
            wanted += [LABEL, TIME, *([self.judge] if self.judge else [])]
            wanted = [name for name in dict.fromkeys(wanted) if name in (*self.components, *self.beside)]
        for table in self.tables(wanted, shard):
            yield self._alike(table, components, whole)

    def _alike(self, table: pa.Table, components: Sequence[str], whole: bool) -> pa.Table:
        own = {EXAMPLE_ID: table[EXAMPLE_ID]}
        own |= {name: table[name] for name in components if name in table.column_names}
        if whole and LABEL in table.column_names:
            own[LABEL] = named(table[LABEL], self.classes)
        error = wrong(table, self.judge) if whole and self.judge else None
        if error is not None:
            own[ERROR] = error
        if whole and TIME in table.column_names:
            own[TIME] = pc.cast(table[TIME], pa.float64())
        return pa.table(own)


def wrong(table: pa.Table, judge: str) -> pa.Array:
    """How wrong each row [n] is, 0..1, by what its judge says."""
    told = pc.cast(table[judge], pa.float64())
    if judge == CORRECT:
        return pc.subtract(1.0, told)
    if judge == MARGIN:
        return pc.cast(pc.less(told, 0), pa.float64())
    if judge == LOSS:
        told = pc.subtract(1.0, pc.exp(pc.negate(told)))
    return told if judge == ERROR else _within(told)


def _within(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values clipped to 0..1; what is missing stays so."""
    return pc.min_element_wise(pc.max_element_wise(values, 0.0, skip_nulls=False), 1.0, skip_nulls=False)


def named(labels: pa.ChunkedArray, classes: Sequence[str]) -> pa.ChunkedArray:
    """The names of classes [n]; a number without a name is its own."""
    if not pa.types.is_integer(labels.type):
        return pc.cast(labels, pa.string())
    numbers = pc.cast(labels, pa.int64())
    plain = pc.cast(numbers, pa.string())
    if not classes:
        return plain
    known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(classes)))
    place = pc.if_else(known, numbers, pa.scalar(None, pa.int64()))
    return pc.if_else(pc.fill_null(known, False), pc.take(pa.array(classes, pa.string()), place), plain)


def of_history(store: Store, limit: int) -> list[Scored]:
    """The last `limit` versions of a run's history that readers may see, oldest first."""
    now = current(store)
    classes = classes_of(now.store)
    # A version is remembered just before it is published, and what came of it may never be.
    seen = [own for own in history.versions(store) if own.number <= now.number or not store.exists(CURRENT)]
    return [_of_version(store, own, classes) for own in seen[-limit:]]


def _of_version(store: Store, version: history.Version, classes: tuple[str, ...]) -> Scored:
    def tables(columns: Sequence[str], shard: Shard) -> Iterator[pa.Table]:
        return history.read(store, version, columns, shard)

    name = f"version {version.number}"
    return Scored(
        name, version.number, version.time, version.rows, version.components, version.beside, tables, classes
    )


def classes_of(store: Store) -> tuple[str, ...]:
    """The names of a run's classes; none where it has no labels or no corpus."""
    manifest = read_manifest(store, "corpus")
    return tuple(str(name) for name in (manifest.facts.get("classes") or ())) if manifest else ()


def of_run(store: Store, name: str = "the current scores") -> Scored:
    """The current scores of a run.

    Raises:
        InputError: the place holds no run, or one without scores.
    """
    read, scores = read_manifest(store, "corpus"), read_manifest(store, "scores")
    if read is None or scores is None:
        raise InputError(f"{store.root!r} holds no scores: finish `raydelt score` for it first")
    parts = ScoredParts.of(store, read, scores)
    beside = [column for column in (LABEL, TIME) if column in _columns(store, read)]

    def tables(columns: Sequence[str], shard: Shard) -> Iterator[pa.Table]:
        own = [column for column in columns if column not in beside]
        other = [column for column in columns if column in beside]
        for index in range(len(parts)):
            table = parts.scores_of(index, [EXAMPLE_ID, *own])
            if other:
                known = parts.examples_of(index, other)
                table = pa.table(
                    dict(zip(table.column_names, table.columns, strict=True)) | {c: known[c] for c in other}
                )
            rows = shard.rows(table[EXAMPLE_ID])
            yield table if rows.all() else table.filter(pa.array(rows))

    components = tuple(component_columns(scores))
    return Scored(name, 0, _written(store), scores.rows, components, tuple(beside), tables, classes_of(store))


def of_path(path: str) -> Scored:
    """The scores of another run, or those in a Parquet file: `example_id`, numbers, and what else is known.

    Raises:
        InputError: there is neither, or the file has no ids or no numbers.
    """
    store = Store(path)
    if store.exists(SPEC):
        held = of_history(store, 1)
        return held[0] if held else of_run(current(store).store, path)
    fs, place = filesystem(path)
    if not place.endswith((".parquet", ".pq")) or not fs.exists(place):
        raise InputError(f"--against {path!r} is neither a run nor a Parquet file: check the path")
    with opened(path) as file:
        schema, rows = pq.read_schema(file), pq.read_metadata(file).num_rows
    numbers = [f.name for f in schema if pa.types.is_floating(f.type) and f.name not in history.BESIDE]
    if EXAMPLE_ID not in schema.names or not numbers:
        raise InputError(f"--against {path!r} needs a column {EXAMPLE_ID} and at least one of floating-point numbers")

    def tables(columns: Sequence[str], shard: Shard) -> Iterator[pa.Table]:
        with opened(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=[EXAMPLE_ID, *columns]):
                table = pa.Table.from_batches([batch])
                yield table.filter(pa.array(shard.rows(table[EXAMPLE_ID])))

    beside = tuple(name for name in (LABEL, ERROR, CORRECT, TIME) if name in schema.names)
    return Scored(path, 0, 0.0, rows, tuple(numbers), beside, tables)


def corpus(store: Store, shard: Shard, columns: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Ids and columns of a run's corpus in one shard; parts whose hashes lie elsewhere are not read."""
    manifest = read_manifest(store, "corpus")
    low, high = (((shard.index + k) << 64) // shard.of for k in (0, 1))
    for part in manifest.parts if manifest else ():
        with opened(store.url(part.file)) as file:
            parquet = pq.ParquetFile(file)
            place = parquet.schema_arrow.get_field_index(DRAW_KEY)
            groups = range(parquet.num_row_groups)
            spans = [parquet.metadata.row_group(g).column(place).statistics for g in groups]
            if any(span is None or not span.has_min_max or (span.min < high and span.max >= low) for span in spans):
                table = parquet.read([EXAMPLE_ID, DRAW_KEY, *columns])
                yield table.filter(pa.array(shard.holds(column_of(table, DRAW_KEY))))


def features(store: Store, shard: Shard) -> Iterator[tuple[pa.ChunkedArray, Array]]:
    """Ids [n] and features [n, d] of a run's corpus in one shard, part by part; nothing where it has none."""
    manifest = read_manifest(store, "corpus")
    for table in corpus(store, shard, [FEATURES]) if manifest and manifest.facts.get("width") else ():
        if table.num_rows and table[FEATURES].null_count == 0:
            yield table[EXAMPLE_ID], features_of(table)


def held_out(store: Store) -> pa.Array:
    """The ids of a run's validation and test examples."""
    manifest = read_manifest(store, "corpus")
    parts = [p for kind in ("validation", "test") for p in manifest.sides.get(kind, ())] if manifest else []
    found = [column_of(store.read_table(part.file, [EXAMPLE_ID]), EXAMPLE_ID) for part in parts]
    return pa.array(np.concatenate(found) if found else [], pa.string())


def _columns(store: Store, manifest: Manifest) -> list[str]:
    """The columns of a corpus that hold anything, as its first file has them."""
    if not manifest.parts:
        return []
    with opened(store.url(manifest.parts[0].file)) as file:
        names: list[str] = list(pq.read_schema(file).names)
    return [name for name in names if name != LABEL or manifest.facts.get("classes")]


def _written(store: Store) -> float:
    """When the run's record was written, in seconds; 0 where it has none."""
    record: dict[str, Any] = store.read_json(RECORD) if store.exists(RECORD) else {}
    return datetime.datetime.fromisoformat(record["written"]).timestamp() if "written" in record else 0.0
