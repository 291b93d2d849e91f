"""The order stage: the selected examples themselves, in training order, as files of a fixed number of rows.

Positions are global, so the file and row of a position follow by division: a trainer finds the examples of any step
without reading the others. Two shuffles: selection rows to the corpus parts that hold their features, and from there
to the files of the training order. Memory of a task: one corpus part or one ordered file.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.corpus.tokens import LOSS_FROM, REASON, TOKENS, usable
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, FEATURES, LABEL, column_of, features_of, mix
from raydelt.models.moments import Moments
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Stage, Store, fingerprint

ROWS_PER_FILE = 65_536
PLACE = ("part", "part_row", "position", "weight")


@dataclass(frozen=True)
class Arm:
    """A baseline: `random` takes as many examples as the selection, `full` takes all."""

    name: str
    kind: Literal["random", "full"]


@dataclass(frozen=True)
class Ordered:
    """One materialised training order: its files, rows, the digest of all of its bytes, and what to standardise its
    features by, [width] each."""

    name: str
    files: list[str]
    rows: int
    digest: str
    mean: list[float]
    scale: list[float]


@dataclass(frozen=True)
class Examples:
    """Where the rows of the corpus parts are: the parts, and their tokens where a language model reads them."""

    run: Store
    files: tuple[str, ...]
    tokens: tuple[str, ...] | None

    def usable(self, index: int) -> Array:
        """Which rows [n] of a part can be trained on."""
        return usable(self.run.read_table(self.tokens[index] if self.tokens else self.files[index], self._reason()))

    def read(self, index: int) -> pa.Table:
        """What is carried of the rows of a part: features and label, or text and tokens."""
        if self.tokens is None:
            return self.run.read_table(self.files[index], (EXAMPLE_ID, DRAW_KEY, FEATURES, LABEL))
        table = self.run.read_table(self.files[index], (EXAMPLE_ID, DRAW_KEY, "text"))
        beside = self.run.read_table(self.tokens[index], (TOKENS, LOSS_FROM))
        return table.append_column(TOKENS, beside[TOKENS]).append_column(LOSS_FROM, beside[LOSS_FROM])

    def _reason(self) -> tuple[str, ...]:
        return (REASON,) if self.tokens else (EXAMPLE_ID,)


def order_examples(
    corpus: Manifest, tokens: Manifest | None, selection: Manifest, arms: Sequence[Arm], stage: Stage, *, seed: int
) -> Manifest:
    """Publish the selection in training order, and the baseline arms beside it."""
    examples = Examples(
        stage.run, tuple(p.file for p in corpus.parts), tuple(p.file for p in tokens.parts) if tokens else None
    )
    chosen = [part.file for part in selection.parts]
    selected, moments = materialise(stage, "part", examples, chosen, _place_of_selection, selection.rows)
    orders = [described("selected", selected, moments, corpus.facts)]
    counts = [(examples, index) for index in range(len(examples.files))]
    usable_rows = sum(cluster.parallel(_count_usable, counts, label="order: count")) if arms else 0
    sides: dict[str, list[Part]] = {}
    for arm in arms:
        rows = selection.rows if arm.kind == "random" else usable_rows
        place = cluster.shared(_random_places, examples, rows, seed, arm.name, label=f"order: {arm.name}")
        parts, moments = materialise(stage, arm.name, examples, [place], _same_table, rows)
        orders.append(described(arm.name, parts, moments, corpus.facts))
        sides[arm.name] = parts
    return stage.publish(selected, {"orders": [order.__dict__ for order in orders]}, sides)


def described(name: str, parts: Sequence[Part], moments: Moments | None, facts: dict[str, Any]) -> Ordered:
    """An order that is written, for a corpus with these facts."""
    digest = fingerprint([p.digest for p in parts])
    own = Ordered(name, [p.file for p in parts], sum(p.rows for p in parts), digest, [], [])
    if moments is None:
        return own
    mean, scale = moments.standardisation(facts["input_shape"])
    if not facts["standardize"]:
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    return replace(own, mean=mean.tolist(), scale=scale.tolist())


def materialise(
    stage: Stage, kind: str, examples: Examples, inputs: Sequence[Any], place: Any, rows: int
) -> tuple[list[Part], Moments | None]:
    """Write the examples that `place` gives positions to, in files of `ROWS_PER_FILE` positions."""
    count = max(1, -(-rows // ROWS_PER_FILE))
    found = cluster.regroup(
        list(inputs),
        functools.partial(_by_corpus_part, stage.run, place),
        functools.partial(_take, examples),
        len(examples.files),
        label=f"order: {kind}",
    )
    write = functools.partial(_write_file, stage, kind)
    written = cluster.shuffle(found, _by_file, write, count, label=f"order: {kind}: write")
    moments = [entry[1] for entry in written if entry[1] is not None]
    return [entry[0] for entry in written], functools.reduce(Moments.merge, moments) if moments else None


def _place_of_selection(run: Store, file: str) -> pa.Table:
    return run.read_table(file, PLACE)


def _same_table(_: Store, table: pa.Table) -> pa.Table:
    return table


def _count_usable(examples: Examples, index: int) -> int:
    return int(np.count_nonzero(examples.usable(index)))


def _random_places(examples: Examples, rows: int, seed: int, name: str) -> pa.Table:
    """Positions of a uniform random subset of `rows` usable examples in a uniform random order, by hash of the id."""
    keys, part, row = [], [], []
    for index, file in enumerate(examples.files):
        own = np.flatnonzero(examples.usable(index))
        keys.append(column_of(examples.run.read_table(file, [DRAW_KEY]), DRAW_KEY).astype(np.uint64)[own])
        part.append(np.full(len(own), index, np.int32))
        row.append(own.astype(np.int32))
    flat = np.concatenate(keys)
    chosen = np.lexsort((flat, mix(flat, seed, "baseline", name)))[:rows]
    return pa.table(
        {
            "part": np.concatenate(part)[chosen],
            "part_row": np.concatenate(row)[chosen],
            "position": np.arange(len(chosen), dtype=np.int64),
            "weight": np.ones(len(chosen)),
        }
    )


def _by_corpus_part(run: Store, place: Any, item: Any, count: int) -> list[pa.Table]:
    table = place(run, item)
    part = column_of(table, "part")
    return [table.filter(pa.array(part == index)) for index in range(count)]


def _take(examples: Examples, index: int, pieces: list[pa.Table]) -> pa.Table:
    """The examples of one corpus part that have a position, with it."""
    places = pa.concat_tables(pieces)
    chosen = examples.read(index).take(places["part_row"])
    return chosen.append_column("position", places["position"]).append_column("weight", places["weight"])


def _by_file(table: pa.Table, count: int) -> list[pa.Table]:
    file = column_of(table, "position") // ROWS_PER_FILE
    return [table.filter(pa.array(file == index)) for index in range(count)]


def _write_file(stage: Stage, kind: str, index: int, pieces: list[pa.Table]) -> tuple[Part, Moments | None]:
    table = pa.concat_tables(pieces).sort_by("position")
    moments = Moments.of(features_of(table)) if FEATURES in table.column_names else None
    return stage.run.write_table(stage.file(kind, index), table), moments
