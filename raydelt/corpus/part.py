"""Finishing one part of the corpus: sort by id, settle duplicates, set splits apart, flip labels as the spec says.

All rows of an id meet in one part, so each of these is a local decision. Pure but for the files it writes; memory: one
part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from raydelt.config import Corpus
from raydelt.corpus.features import Layout
from raydelt.examples import QUARANTINE_SCHEMA, TIME, column_of, corpus_schema, uniform
from raydelt.storage import Part, Stage


@dataclass(frozen=True)
class DonePart:
    """One finished part: its files and counts."""

    corpus: Part
    validation: Part
    test: Part
    pool: Part
    quarantine: Part | None
    content: str
    counts: Counter[str]
    per_class: Counter[int]


def finish_part(
    stage: Stage,
    corpus: Corpus,
    layout: Layout,
    classes: list[str],
    answers: Mapping[str, str],
    seed: int,
    index: int,
    pieces: list[pa.Table],
) -> DonePart:
    """Sort one part by id, settle duplicates, set splits apart, flip labels as the spec says, write the files.

    `answers` are labels by id, which take their examples out of the pool into the corpus.
    """
    rows = pa.concat_tables(pieces).sort_by(
        [(name, "ascending") for name in ("draw_key", "example_id", "group_key", "label_name", "source_file", "row")]
    )
    rows, overlap = _without_overlap(rows)
    rows, duplicates, conflicts = _settle_duplicates(rows, corpus)
    rows = _answered(_with_splits(rows, corpus, seed), answers)
    written = {}
    for split in ("corpus", "validation", "test", "pool"):
        own = rows.filter(pc.equal(rows["split"], split))
        table = _corpus_table(own, corpus, layout, classes, seed, noisy=split == "corpus")
        kind = "part" if split == "corpus" else split
        written[split] = (stage.run.write_table(stage.file(kind, index), table), table)
    quarantine = None
    if conflicts.num_rows:
        quarantine = stage.run.write_table(stage.file("part-id-conflict", index, folder="quarantine"), conflicts)
    train = written["corpus"][1]
    flipped = pc.sum(pc.not_equal(train["label"], train["label_clean"])).as_py() or 0 if classes else 0
    return DonePart(
        written["corpus"][0],
        written["validation"][0],
        written["test"][0],
        written["pool"][0],
        quarantine,
        _content(train),
        Counter(duplicates=duplicates, conflicts=conflicts.num_rows, overlap=overlap, flipped=flipped),
        Counter(train["label"].drop_null().to_pylist()),
    )


def _without_overlap(rows: pa.Table) -> tuple[pa.Table, int]:
    """Drop training rows whose id also stands in a held-out source, and pool rows whose id stands anywhere else."""
    ids, split = column_of(rows, "example_id").astype(str), column_of(rows, "split")
    held_out = (split == "validation") | (split == "test")
    lost = (split == "corpus") & np.isin(ids, ids[held_out])
    lost |= (split == "pool") & np.isin(ids, ids[split != "pool"])
    return rows.filter(pa.array(~lost)), int(np.count_nonzero(lost))


def _settle_duplicates(rows: pa.Table, corpus: Corpus) -> tuple[pa.Table, int, pa.Table]:
    """Rows with unique ids, the number of duplicates left out, and rows whose user key stands for other content.

    Rows are sorted by (id, content), so the first of an id is the same in every layout; with `duplicates: keep`, the
    k-th copy gets the id with `-k` appended.
    """
    ids = column_of(rows, "example_id").astype(str)
    if len(ids) == 0:
        return rows, 0, QUARANTINE_SCHEMA.empty_table()
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    first = np.repeat(starts, np.diff(np.append(starts, len(ids))))
    groups, labels = column_of(rows, "group_key"), column_of(rows, "label_name").astype(str)
    conflict = (groups != groups[first]) | (labels != labels[first])
    again = (np.arange(len(ids)) != first) & ~conflict
    keep = ~conflict if corpus.duplicates == "keep" else ~conflict & ~again
    # Conflicts are told apart by content, so among the rows of one id the copies of the first come first.
    copies = np.arange(len(ids)) - first
    names = np.where(again, np.char.add(np.char.add(ids, "-"), copies.astype(str)), ids)
    index = rows.schema.get_field_index("example_id")
    kept = rows.set_column(index, "example_id", pa.array(names, pa.string())).filter(pa.array(keep))
    clash = rows.filter(pa.array(conflict))
    reasons = [f"key {key!r} of corpus.id_column also stands for other content" for key in ids[conflict].tolist()]
    quarantined = pa.table(
        [clash["source_file"], clash["row"], pa.array(reasons, pa.string()), clash["example_id"]],
        schema=QUARANTINE_SCHEMA,
    )
    return kept, int(np.count_nonzero(again & ~keep)), quarantined


def _with_splits(rows: pa.Table, corpus: Corpus, seed: int) -> pa.Table:
    """Set examples of the corpus apart by hash of their group, so that a group never spans two splits."""
    split = column_of(rows, "split").astype(object)
    own = split == "corpus"
    u = uniform(column_of(rows, "group_key").astype(np.uint64), seed, "split")
    upper = corpus.test.fraction + corpus.validation.fraction
    split[own & (u < corpus.test.fraction)] = "test"
    split[own & (u >= corpus.test.fraction) & (u < upper)] = "validation"
    return rows.set_column(rows.schema.get_field_index("split"), "split", pa.array(split, pa.string()))


def _answered(rows: pa.Table, answers: Mapping[str, str]) -> pa.Table:
    """The rows with what people answered: those of the pool that have a label now belong to the corpus."""
    if not answers:
        return rows
    ids, split = rows["example_id"].to_pylist(), rows["split"].to_pylist()
    told = [answers.get(key) if part == "pool" else None for key, part in zip(ids, split, strict=True)]
    labels = pc.coalesce(pa.array(told, pa.string()), rows["label_name"].combine_chunks())
    parts = pa.array(["corpus" if new is not None else old for new, old in zip(told, split, strict=True)], pa.string())
    rows = rows.set_column(rows.schema.get_field_index("label_name"), "label_name", labels)
    return rows.set_column(rows.schema.get_field_index("split"), "split", parts)


def _corpus_table(
    rows: pa.Table, corpus: Corpus, layout: Layout, classes: list[str], seed: int, *, noisy: bool
) -> pa.Table:
    clean = pc.index_in(rows["label_name"], pa.array(classes, pa.string())).combine_chunks()
    label = clean
    if noisy and corpus.noise is not None and classes:
        keys = column_of(rows, "draw_key").astype(np.uint64)
        flip = uniform(keys, seed, "label_flip") < corpus.noise.fraction
        step = 1 + np.floor(uniform(keys, seed, "label_flip", "to") * (len(classes) - 1)).astype(np.int32)
        known = column_of(rows.append_column("clean", clean), "clean")
        label = pa.array(np.where(flip, (known + step) % len(classes), known).astype(np.int32))
    columns = [rows["example_id"], rows["draw_key"], rows["group_key"], rows["x"], label, clean]
    columns += [rows["source_file"], rows["row"]]
    if layout.kind == "text":
        columns.append(rows["text"])
    if corpus.time_column is not None:
        columns.append(rows["time"])
    fields = corpus_schema(layout.width, text=layout.kind == "text", time=corpus.time_column is not None)
    return pa.table(columns, schema=fields)


def _content(table: pa.Table) -> str:
    """Identifies what later stages read of a part: ids, content, labels and times, not where they came from."""
    digest = xxhash.xxh3_128()
    digest.update("\n".join(table["example_id"].to_pylist()).encode())
    for name in ("x", "label"):
        column = table[name].combine_chunks()
        values = column.flatten() if name == "x" else column.fill_null(-1)
        digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
    if "text" in table.column_names:
        # A key of the user's own says nothing of the text, and hashed words nothing of their order.
        digest.update("\0".join(table["text"].to_pylist()).encode())
    if TIME in table.column_names:
        digest.update(table[TIME].fill_null(np.inf).to_numpy().tobytes())
    return digest.hexdigest()
