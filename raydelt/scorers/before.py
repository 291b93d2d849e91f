"""What the score stage reads: the corpus, and the stages whose files lie beside its parts, row by row alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from raydelt.examples import DRAW_KEY, EXAMPLE_ID, FEATURES, LABEL
from raydelt.scorers.protocol import Need, Scorer
from raydelt.storage import Manifest, Part, Store

READ = (EXAMPLE_ID, DRAW_KEY, FEATURES, LABEL)


@dataclass(frozen=True)
class Before:
    """What the score stage reads: the corpus, the stages whose files lie beside its parts, and those of the model.

    `only` names, part by part, the rows to score; all where it is None.
    """

    corpus: Manifest
    beside: Mapping[str, Manifest] = field(default_factory=dict)
    models: Mapping[str, Manifest] = field(default_factory=dict)
    only: Manifest | None = None

    @property
    def rows(self) -> int:
        """How many examples are to be scored."""
        return self.corpus.rows if self.only is None else self.only.rows

    @property
    def proxies(self) -> Manifest | None:
        return self.beside.get("proxies")

    def first(self, rows: int) -> Before:
        """Only the first rows of the corpus, which are a uniform sample of it: it lies in the order of its hashes."""
        parts: list[Part] = []
        for part in self.corpus.parts:
            if rows > 0:
                parts.append(replace(part, rows=min(part.rows, rows)))
                rows -= part.rows
        return replace(self, corpus=replace(self.corpus, parts=parts))


@dataclass(frozen=True)
class PartReader:
    """Reads what scorers may see of one corpus part, with what lies beside it. Never the clean label.

    `rows` are those of each part to read, from its first on, and `only` files of their places in `part_row`; all rows
    where they are empty.
    """

    run: Store
    files: tuple[str, ...]
    beside: tuple[tuple[str, ...], ...] = ()
    extra: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    only: tuple[str, ...] = ()

    def table(self, index: int) -> pa.Table:
        """The rows of a part, in order."""
        return self.columns(index, (*READ, *self.extra))

    def columns(self, index: int, own: Sequence[str]) -> pa.Table:
        """Some of a part's own columns, and all that lies beside it."""
        table = self.run.read_table(self.files[index], own)
        for files in self.beside:
            other = self.run.read_table(files[index])
            for name in other.column_names:
                if name not in table.column_names:
                    table = table.append_column(name, other[name])
        if self.only:
            return table.take(self.run.read_table(self.only[index])["part_row"])
        return table.slice(0, self.rows[index]) if self.rows else table

    def __call__(self, index: int) -> pa.RecordBatch:
        [batch] = self.table(index).combine_chunks().to_batches()
        return batch


def reader_of(run: Store, before: Before, *, extra: tuple[str, ...] = ()) -> PartReader:
    """The corpus parts with all that lies beside them."""
    return PartReader(
        run,
        tuple(part.file for part in before.corpus.parts),
        tuple(tuple(part.file for part in manifest.parts) for manifest in before.beside.values()),
        extra,
        tuple(part.rows for part in before.corpus.parts),
        tuple(part.file for part in before.only.parts) if before.only else (),
    )


def needs_of(scorers: Sequence[Scorer]) -> frozenset[Need]:
    """All that any of these scorers needs."""
    return frozenset().union(*(scorer.needs for scorer in scorers))
