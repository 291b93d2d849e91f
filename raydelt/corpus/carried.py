"""Examples of an earlier version of a run as canonical rows, for files that are not opened again.

What a file gave then stands in that version's corpus and quarantine, with its path; as rows they go through the same
shuffle, splits and checks as those that are read now, so the result is that of reading the files. Cost: one reading of
the earlier corpus; memory of a task: one part.

Caution: of duplicates only one row was kept. Where the file that held it is lost, the others must be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.config import Corpus
from raydelt.corpus.canonical import schema
from raydelt.corpus.features import Layout
from raydelt.corpus.sources import Split
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, FEATURES, GROUP_KEY, LABEL_CLEAN, ROW, SOURCE_FILE, TIME
from raydelt.storage import Manifest, Store

SIDES = ("validation", "test")
# Counts of rows that were read and do not stand in the corpus, since others stand for them.
HIDING = ("duplicates", "overlap", "hidden")


@dataclass(frozen=True)
class Carried:
    """The corpus of an earlier version, and the split in its source of every file that is taken from it. Picklable."""

    run: Store
    corpus: Manifest
    splits: Mapping[str, Split]

    @property
    def files(self) -> list[tuple[str, bool]]:
        """The files of the earlier corpus, each with whether it is of the quarantine."""
        own = [*self.corpus.parts, *(part for side in SIDES for part in self.corpus.sides.get(side, []))]
        bad = self.corpus.sides.get("quarantine", [])
        return [*((part.file, False) for part in own), *((part.file, True) for part in bad)]


def cannot_carry(corpus: Corpus, earlier: Manifest, *, lost: bool) -> str | None:
    """Why the earlier corpus does not say all that its files held; None where it does.

    `lost` says that some of its files are gone, or are read anew.
    """
    facts = earlier.facts
    if corpus.pool is not None or corpus.limit is not None:
        return f"corpus.{'pool' if corpus.pool is not None else 'limit'} is set"
    if corpus.duplicates == "keep":
        return "corpus.duplicates is 'keep', and copies are numbered over all files"
    if corpus.id_column is not None and facts["quarantined"]:
        return "keys of corpus.id_column may stand for several contents"
    if lost and any(facts.get(name, 0) for name in HIDING):
        return "files changed or are gone, and there were duplicates, of which one row stands for all"
    return None


def hidden(carried: Carried | None) -> int:
    """How many rows of files that were not opened others stood for when they were last read."""
    return sum(carried.corpus.facts.get(name, 0) for name in HIDING) if carried is not None else 0


def rows_of(carried: Carried, layout: Layout, file: str, bad: bool) -> pa.Table:
    """Canonical rows of one file of the earlier corpus, or of its quarantine."""
    table = carried.run.read_table(file)
    table = table.filter(pc.is_in(table[SOURCE_FILE], value_set=pa.array(sorted(carried.splits), pa.string())))
    fields, count = schema(layout), table.num_rows
    filled = {
        "split": pa.array([carried.splits[path] for path in table[SOURCE_FILE].to_pylist()], pa.string()),
        SOURCE_FILE: table[SOURCE_FILE],
        ROW: table[ROW],
    }
    filled |= _reasons(table, layout) if bad else _examples(table, carried.corpus.facts["classes"])
    return pa.table([filled.get(field.name, pa.nulls(count, field.type)) for field in fields], schema=fields)


def _examples(table: pa.Table, classes: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    filled = {name: table[name] for name in (EXAMPLE_ID, DRAW_KEY, GROUP_KEY, FEATURES)}
    filled |= {name: table[name] for name in ("text", TIME) if name in table.column_names}
    return filled | {"label_name": pc.take(pa.array(classes, pa.string()), table[LABEL_CLEAN])} if classes else filled


def _reasons(table: pa.Table, layout: Layout) -> dict[str, pa.ChunkedArray]:
    count = table.num_rows
    nothing = pa.array(np.zeros(count, np.uint64))
    x = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * layout.width, np.float32)), layout.width)
    told = {name: table[name] for name in ("reason", "payload_digest")}
    return told | {EXAMPLE_ID: pa.array([""] * count), DRAW_KEY: nothing, GROUP_KEY: nothing, FEATURES: x}
