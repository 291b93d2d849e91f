"""Rows to export: the selection in training order, or the corpus or its scores part by part, with everything joined.

    selection   the files of the training order, with scores, rank, source and reason beside what the trainer sees
    corpus      every scored example with label, text or features, its scores, rank, and position where it is kept
    scores      id, components, combined score, rank and position

What is joined lies in another order, so it is read again for each `AT_ONCE` rows that go out: cost (rows / 1M) passes
over the ranking, the selection and the components. Memory: these columns of 1M rows, and one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.ask import files
from raydelt.ask.lookup import CORPUS
from raydelt.ask.run import Run
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, column_of
from raydelt.rank import keys
from raydelt.scorers.protocol import Array
from raydelt.storage import Part

AT_ONCE = 1 << 20
RANKED = ("rank", "score", "score_se", "percentile", "eligible", "gate", "part", "part_row")
KEPT = ("rank", "position", "weight", "probability", "reason")
SOURCE = ("source_file", "row")
# Keys of the corpus that say nothing to anybody else.
INTERNAL = (DRAW_KEY, "group_key", "label_clean")


def selection(run: Run, *, at_once: int = AT_ONCE) -> Iterator[pa.Table]:
    """The kept examples in training order, a file of the order at a time."""
    ordered = run.manifest("ordered")
    for parts in _batches(ordered.parts, at_once):
        low = column_of(files.read(run.store, parts[0], ["position"]), "position")[0]
        rows = sum(part.rows for part in parts)
        beside = _beside(run, _ranked(run, positions=(int(low), int(low) + rows)).sort_by("position"))
        start = 0
        for part in parts:
            table = files.read(run.store, part)
            own = beside.slice(start, part.rows)
            start += part.rows
            if not table["position"].equals(own["position"]):
                raise RuntimeError(f"{part.file} and the selection differ in their positions")
            yield _named(run, _side_by_side(table, own))


def corpus(run: Run, *, at_once: int = AT_ONCE) -> Iterator[pa.Table]:
    """Every scored example, a part of the corpus at a time."""
    yield from _by_part(run, run.manifest(CORPUS).parts, at_once, whole=True)


def scores(run: Run, *, at_once: int = AT_ONCE) -> Iterator[pa.Table]:
    """The components and the rank of every scored example, a part at a time."""
    yield from _by_part(run, run.manifest(CORPUS).parts, at_once, whole=False)


def _by_part(run: Run, parts: Sequence[Part], at_once: int, *, whole: bool) -> Iterator[pa.Table]:
    start = 0
    for batch in _batches(parts, at_once):
        ranked = None
        if run.found("ranking") is not None:
            ranked = _ranked(run, parts=(start, start + len(batch)))
        for index in range(start, start + len(batch)):
            yield _part(run, index, ranked, whole=whole)
        start += len(batch)


def _part(run: Run, index: int, ranked: pa.Table | None, *, whole: bool) -> pa.Table:
    """The scored examples of one part of the corpus, with what is joined."""
    table = files.read(run.store, run.manifest(CORPUS).parts[index], None if whole else [EXAMPLE_ID])
    own = files.read(run.store, run.scored.parts[index], _score_columns(run))
    where = pc.index_in(keys.one_array(table[EXAMPLE_ID]), value_set=keys.one_array(own[EXAMPLE_ID]))
    beside = own.take(where)
    if ranked is not None:
        mine = ranked.filter(pc.equal(ranked["part"], index))
        at = pc.index_in(pa.array(np.arange(table.num_rows, dtype=np.int32)), value_set=_whole(mine["part_row"]))
        beside = _side_by_side(beside, mine.drop_columns(["part", "part_row"]).take(at))
    joined = _side_by_side(table, beside)
    return _named(run, joined.filter(where.is_valid()))


def _ranked(run: Run, *, parts: tuple[int, int] | None = None, positions: tuple[int, int] | None = None) -> pa.Table:
    """The ranking and the selection side by side: of some parts of the corpus, or of a range of positions."""
    found = []
    ranking, kept = run.manifest("ranking"), run.found("selection")
    for index, part in enumerate(ranking.parts):
        table = files.read(run.store, part, files.present(run.store, part, RANKED))
        chosen = pa.table({name: pa.array([], _KINDS[name]) for name in KEPT})
        if kept is not None:
            chosen = files.read(run.store, kept.parts[index], files.present(run.store, kept.parts[index], KEPT))
        if positions is not None:
            chosen = chosen.filter(_within(column_of(chosen, "position"), positions))
            table = table.filter(pc.is_in(table["rank"], value_set=_whole(chosen["rank"])))
        if parts is not None:
            table = table.filter(_within(column_of(table, "part"), parts))
        at = pc.index_in(_whole(table["rank"]), value_set=_whole(chosen["rank"]))
        found.append(_side_by_side(table, chosen.take(at)))
    return pa.concat_tables(found, promote_options="default")


_KINDS = {"rank": pa.int64(), "position": pa.int64(), "weight": pa.float64(), "probability": pa.float64()}
_KINDS |= {"reason": pa.string()}


def _beside(run: Run, ranked: pa.Table) -> pa.Table:
    """Rows of the ranking with their components and source, in the order that they have."""
    part, row = column_of(ranked, "part"), column_of(ranked, "part_row")
    pieces, places = [], []
    for index in np.unique(part):
        own = np.flatnonzero(part == index)
        corpus = files.read(run.store, run.manifest(CORPUS).parts[index], [EXAMPLE_ID, *SOURCE]).take(
            pa.array(row[own])
        )
        scored = files.read(run.store, run.scored.parts[index], _score_columns(run))
        at = pc.index_in(keys.one_array(corpus[EXAMPLE_ID]), value_set=keys.one_array(scored[EXAMPLE_ID]))
        pieces.append(_side_by_side(corpus.select(list(SOURCE)), scored.drop_columns([EXAMPLE_ID]).take(at)))
        places.append(own)
    back = np.argsort(np.concatenate(places))
    return _side_by_side(ranked.drop_columns(["part", "part_row"]), pa.concat_tables(pieces).take(pa.array(back)))


def _score_columns(run: Run) -> list[str]:
    names = [name for column in run.components for name in (column, f"{column}_se")]
    return files.present(run.store, run.scored.parts[0], [EXAMPLE_ID, *names, "model_version"])


def _named(run: Run, table: pa.Table) -> pa.Table:
    """The table with the names of the classes, and without what is of no use elsewhere."""
    table = table.drop_columns([name for name in INTERNAL if name in table.column_names])
    if "label" in table.column_names and run.classes:
        names = pa.array(run.classes, pa.string()).take(_whole(table["label"]))
        table = table.add_column(table.column_names.index("label") + 1, "label_name", names)
    return table.combine_chunks()


def _side_by_side(left: pa.Table, right: pa.Table) -> pa.Table:
    """The columns of both; of those that both have, the left one's."""
    for name in right.column_names:
        if name not in left.column_names:
            left = left.append_column(name, right[name])
    return left


def _batches(parts: Sequence[Part], rows: int) -> Iterator[list[Part]]:
    """Neighbouring parts, taken together up to so many rows."""
    batch: list[Part] = []
    for part in parts:
        if batch and sum(own.rows for own in batch) + part.rows > rows:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def _within(values: Array, limits: tuple[int, int]) -> pa.Array:
    return pa.array((values >= limits[0]) & (values < limits[1]))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
