"""The corpus stage: read every source through Ray Data, give ids, set splits apart, and put the examples in id order.

Rows are partitioned by draw key (a hash of the id) into P parts, P a function of their number and size alone, and
sorted by key within each part. So the same examples give the same parts whatever the files, blocks or row order were;
duplicates meet in one part; later stages work part by part and get the same batches everywhere; and any prefix of the
parts is a uniform random sample. Cost: one pass over the sources and one shuffle; memory of a task: one part.

Counts reconcile: read = corpus + validation + test + pool + duplicates + overlap + quarantined.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from raydelt import cluster
from raydelt.config import Corpus
from raydelt.corpus.canonical import canonical, probe
from raydelt.corpus.carried import Carried, hidden, rows_of
from raydelt.corpus.features import Layout
from raydelt.corpus.limit import limited
from raydelt.corpus.part import DonePart, finish_part
from raydelt.corpus.sources import Item, SourceFile, items
from raydelt.errors import ErrorBudgetExceeded, InputError
from raydelt.examples import QUARANTINE_SCHEMA, column_of, partition_of
from raydelt.storage import Manifest, Part, Stage, fingerprint

log = logging.getLogger(__name__)

ROWS_PER_PART = 65_536
BYTES_PER_PART = 64 << 20
BYTES_PER_TASK = 4 << 20
LEAST_PARTS = 16
ROWS_FOR_MORE_PARTS = 128


def partitions(rows: int, size: int) -> int:
    """Number of parts for a corpus: small enough to hold, enough to share out, and no function of the cluster."""
    share = min(LEAST_PARTS, -(-rows // ROWS_FOR_MORE_PARTS))
    return max(1, share, -(-rows // ROWS_PER_PART), -(-size // BYTES_PER_PART))


def read_corpus(
    corpus: Corpus,
    files: Sequence[SourceFile],
    stage: Stage,
    *,
    seed: int,
    answers: Mapping[str, str] | None = None,
    carried: Carried | None = None,
) -> Manifest:
    """Read, validate, split and publish the examples of these files; `answers` are labels by id for the pool.

    What is `carried` over from an earlier version is not opened.

    Raises:
        InputError: nothing readable, no example left, duplicates where the spec forbids them, or a single class.
        ErrorBudgetExceeded: more rows or files are bad than `corpus.error_budget` allows.
    """
    opened = [file for file in files if carried is None or file.path not in carried.splits]
    units = items(opened, text_unit=corpus.text_unit)
    if corpus.limit is not None:
        units = limited(units, corpus.limit)
    layout = probe(units if carried is None else _first(files, corpus), corpus)
    blocks = _read(units, corpus, layout) if units else []
    if carried is not None:
        # It names every file: once in the object store is enough.
        held = ray.put(carried)
        calls = [(held, layout, *file) for file in carried.files]
        blocks += cluster.scatter(rows_of, calls, 1, label="corpus: carry over")
    tallies = cluster.parallel(_tally, [(block,) for block in blocks], label="corpus: count")
    tally = _Tally.sum(tallies)
    _check_budget(tally, len(files), corpus)
    classes = _classes(tally, corpus, set((answers or {}).values()))
    count = partitions(tally.good, tally.bytes)
    finish = functools.partial(finish_part, stage, corpus, layout, classes, answers or {}, seed)
    done = cluster.shuffle(blocks, _split_by_key, finish, count, label="corpus: shuffle")
    faulty = [(stage, i, block) for i, block in enumerate(blocks) if tallies[i].bad_rows or tallies[i].bad_files]
    bad = cluster.parallel(_write_quarantine, faulty, label="corpus: quarantine")
    facts = _facts(done, tally, layout, classes, corpus) | {"hidden": hidden(carried)}
    _check_result(facts, corpus)
    return stage.publish(
        [part.corpus for part in done if part.corpus.rows],
        facts,
        {
            "validation": [part.validation for part in done if part.validation.rows],
            "test": [part.test for part in done if part.test.rows],
            "pool": [part.pool for part in done if part.pool.rows],
            "quarantine": [*bad, *(part.quarantine for part in done if part.quarantine is not None)],
        },
    )


def _first(files: Sequence[SourceFile], corpus: Corpus) -> list[Item]:
    """Units of the first file, which says what examples are made of, and where it cannot, of all."""
    first = items(files[:1], text_unit=corpus.text_unit)
    try:
        probe(first, corpus)
    except InputError:
        return items(files, text_unit=corpus.text_unit)
    return first


def bundles(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive units joined to tasks of at least `BYTES_PER_TASK`, as (first, end), so small files cost little."""
    result, first, held = [], 0, 0
    for index, size in enumerate(sizes):
        held += size
        if held >= BYTES_PER_TASK:
            result.append((first, index + 1))
            first, held = index + 1, 0
    if first < len(sizes):
        result.append((first, len(sizes)))
    return result


def _read(units: Sequence[Item], corpus: Corpus, layout: Layout) -> list[Any]:
    """Canonical rows of all units as blocks in the object store."""
    groups = bundles([unit.size for unit in units])
    listed = [{"first": low, "end": high} for low, high in groups]
    rows = ray.data.from_items(listed, override_num_blocks=len(listed))
    rows.set_name("corpus")

    def canonical_rows(batch: pa.Table) -> Iterator[pa.Table]:
        for bundle in batch.to_pylist():
            for unit in units[bundle["first"] : bundle["end"]]:
                yield from canonical(unit, corpus, layout)

    with cluster.plain_errors():
        read = rows.map_batches(canonical_rows, batch_size=1, batch_format="pyarrow")
        return list(read.materialize().to_arrow_refs())


@dataclass(frozen=True)
class _Tally:
    """Counts over canonical rows."""

    good: int
    bytes: int
    bad_rows: int
    bad_files: int
    labels: Counter[str]
    example: tuple[str, int | None, str] | None

    @staticmethod
    def sum(parts: Sequence[_Tally]) -> _Tally:
        return _Tally(
            sum(p.good for p in parts),
            sum(p.bytes for p in parts),
            sum(p.bad_rows for p in parts),
            sum(p.bad_files for p in parts),
            sum((p.labels for p in parts), Counter[str]()),
            min((p.example for p in parts if p.example is not None), key=str, default=None),
        )


def _tally(block: pa.Table) -> _Tally:
    bad = block.filter(block["reason"].is_valid())
    good = block.filter(block["reason"].is_null())
    counts = pc.value_counts(good["label_name"].combine_chunks())
    labels = {str(entry["values"]): entry["counts"].as_py() for entry in counts if entry["values"].is_valid}
    first = bad.slice(0, 1).to_pylist()
    return _Tally(
        good.num_rows,
        good.nbytes,
        pc.sum(bad["row"].is_valid()).as_py() or 0,
        pc.sum(bad["row"].is_null()).as_py() or 0,
        Counter(labels),
        (first[0]["source_file"], first[0]["row"], first[0]["reason"]) if first else None,
    )


def _check_budget(tally: _Tally, files: int, corpus: Corpus) -> None:
    rows = tally.good + tally.bad_rows
    share = max(tally.bad_rows / max(rows, 1), tally.bad_files / max(files, 1))
    if tally.example is not None and share > corpus.error_budget:
        file, row, reason = tally.example
        where = file if row is None else f"{file} row {row}"
        raise ErrorBudgetExceeded(
            f"{tally.bad_rows} of {rows} rows and {tally.bad_files} of {files} files are bad, more than "
            f"corpus.error_budget {corpus.error_budget:g} allows; the first: {where}: {reason}. "
            "Mend the input or raise the budget"
        )


def _classes(tally: _Tally, corpus: Corpus, answered: set[str]) -> list[str]:
    """The class names in the order of their indices: as the spec lists them, else sorted (numbers as numbers)."""
    if not corpus.labelled:
        return []
    if corpus.pool is not None and corpus.classes is not None:
        return corpus.classes
    found = sorted(
        {*tally.labels, *answered}, key=lambda name: (0, int(name), name) if _is_int(name) else (1, 0, name)
    )
    if len(found) < 2:
        raise InputError(
            f"corpus.label_column {corpus.label_column!r} holds {len(found)} classes ({', '.join(found) or 'none'}): "
            "a classifier needs at least two"
        )
    return corpus.classes or found


def _is_int(name: str) -> bool:
    return name.lstrip("-").isdecimal()


def _split_by_key(block: pa.Table, count: int) -> list[pa.Table]:
    good = block.filter(block["reason"].is_null()).sort_by("draw_key")
    part = partition_of(column_of(good, "draw_key").astype(np.uint64), count)
    edges = np.searchsorted(part, np.arange(count + 1, dtype=np.uint64))
    return [good.slice(low, high - low) for low, high in itertools.pairwise(edges.tolist())]


def _write_quarantine(stage: Stage, index: int, block: pa.Table) -> Part:
    bad = block.filter(block["reason"].is_valid())
    table = bad.select(["source_file", "row", "reason", "payload_digest"]).cast(QUARANTINE_SCHEMA)
    return stage.run.write_table(stage.file("part-corpus", index, folder="quarantine"), table)


def _facts(
    done: Sequence[DonePart], tally: _Tally, layout: Layout, classes: list[str], corpus: Corpus
) -> dict[str, Any]:
    counts = sum((part.counts for part in done), Counter[str]())
    per_class = sum((part.per_class for part in done), Counter[int]())
    return {
        "read": tally.good + tally.bad_rows,
        "corpus": sum(part.corpus.rows for part in done),
        "validation": sum(part.validation.rows for part in done),
        "test": sum(part.test.rows for part in done),
        "pool": sum(part.pool.rows for part in done),
        "duplicates": counts["duplicates"],
        "overlap": counts["overlap"],
        "quarantined": tally.bad_rows + counts["conflicts"],
        "bad_files": tally.bad_files,
        "flipped": counts["flipped"],
        "classes": classes,
        "per_class": [per_class[index] for index in range(len(classes))],
        "input_shape": list(layout.input_shape),
        "standardize": corpus.standardize,
        "width": layout.width,
        "text": layout.kind == "text",
        "content": fingerprint([part.content for part in done]),
        "partitions": len(done),
        "partition": [index for index, part in enumerate(done) if part.corpus.rows],
    }


def _check_result(facts: dict[str, Any], corpus: Corpus) -> None:
    """Refuse a corpus that cannot be used, and tell of classes without a training example."""
    empty = [name for name, count in zip(facts["classes"], facts["per_class"], strict=True) if count == 0]
    if empty:
        log.warning("no training example of class %s", ", ".join(empty))
    if facts["overlap"]:
        log.warning(
            "%d %s of the corpus %s also in a held-out source (by id): left out of the corpus",
            facts["overlap"],
            *(("example", "is") if facts["overlap"] == 1 else ("examples", "are")),
        )
    if facts["corpus"] == 0 and not facts["pool"]:
        raise InputError(
            f"corpus.source {corpus.source!r} leaves no example to score ({facts['read']} rows read, "
            f"{facts['quarantined']} quarantined): check the columns and the held-out fractions"
        )
    if corpus.duplicates == "error" and facts["duplicates"]:
        raise InputError(
            f"corpus.duplicates is 'error' and {facts['duplicates']} rows are duplicates: "
            "remove them, or say drop or keep"
        )
