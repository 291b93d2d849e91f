"""The order stage: the selected examples themselves, in training order, as files of a fixed number of rows.

Positions are global, so the file and row of a position follow by division: a trainer finds the examples of any step
without reading the others. Two shuffles: selection rows to the corpus parts that hold their features, and from there
to the files of the training order. Memory of a task: one corpus part or one ordered file.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, FEATURES, LABEL, column_of, features_of, mix
from raydelt.models.moments import Moments
from raydelt.storage import Manifest, Part, Stage, Store

ROWS_PER_FILE = 65_536
CARRIED = (EXAMPLE_ID, DRAW_KEY, FEATURES, LABEL)
PLACE = ("part", "part_row", "position", "weight")


@dataclass(frozen=True)
class Arm:
    """A baseline: `random` takes as many examples as the selection, `full` takes all."""

    name: str
    kind: Literal["random", "full"]


@dataclass(frozen=True)
class Ordered:
    """One materialised training order: its files, rows, and what to standardise its features by, [width] each."""

    name: str
    files: list[str]
    rows: int
    mean: list[float]
    scale: list[float]


def order_examples(corpus: Manifest, selection: Manifest, arms: Sequence[Arm], stage: Stage, *, seed: int) -> Manifest:
    """Publish the selection in training order, and the baseline arms beside it."""
    files = [part.file for part in corpus.parts]
    selected, moments = _materialise(
        stage, "part", files, [part.file for part in selection.parts], _place_of_selection, selection.rows
    )
    orders = [_described("selected", selected, moments, corpus.facts)]
    sides: dict[str, list[Part]] = {}
    for arm in arms:
        rows = selection.rows if arm.kind == "random" else corpus.rows
        place = cluster.shared(_random_places, stage.run, files, rows, seed, arm.name, label=f"order: {arm.name}")
        parts, moments = _materialise(stage, arm.name, files, [place], _same_table, rows)
        orders.append(_described(arm.name, parts, moments, corpus.facts))
        sides[arm.name] = parts
    return stage.publish(selected, {"orders": [order.__dict__ for order in orders]}, sides)


def _described(name: str, parts: Sequence[Part], moments: Moments, facts: dict[str, Any]) -> Ordered:
    mean, scale = moments.standardisation(facts["input_shape"])
    if not facts["standardize"]:
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    return Ordered(name, [p.file for p in parts], sum(p.rows for p in parts), mean.tolist(), scale.tolist())


def _materialise(
    stage: Stage, kind: str, corpus: Sequence[str], inputs: Sequence[Any], place: Any, rows: int
) -> tuple[list[Part], Moments]:
    """Write the examples that `place` gives positions to, in files of `ROWS_PER_FILE` positions."""
    count = max(1, -(-rows // ROWS_PER_FILE))
    found = cluster.regroup(
        list(inputs),
        functools.partial(_by_corpus_part, stage.run, place),
        functools.partial(_take, stage.run, list(corpus)),
        len(corpus),
        label=f"order: {kind}",
    )
    write = functools.partial(_write_file, stage, kind)
    written = cluster.shuffle(found, _by_file, write, count, label=f"order: {kind}: write")
    moments = functools.reduce(Moments.merge, [entry[1] for entry in written])
    return [entry[0] for entry in written], moments


def _place_of_selection(run: Store, file: str) -> pa.Table:
    return run.read_table(file, PLACE)


def _same_table(_: Store, table: pa.Table) -> pa.Table:
    return table


def _random_places(run: Store, corpus: Sequence[str], rows: int, seed: int, name: str) -> pa.Table:
    """Positions of a uniform random subset of `rows` examples in a uniform random order, by hash of the id."""
    keys = [column_of(run.read_table(file, [DRAW_KEY]), DRAW_KEY).astype(np.uint64) for file in corpus]
    part = np.repeat(np.arange(len(keys), dtype=np.int32), [len(k) for k in keys])
    row = np.concatenate([np.arange(len(k), dtype=np.int32) for k in keys])
    flat = np.concatenate(keys)
    chosen = np.lexsort((flat, mix(flat, seed, "baseline", name)))[:rows]
    return pa.table(
        {
            "part": part[chosen],
            "part_row": row[chosen],
            "position": np.arange(len(chosen), dtype=np.int64),
            "weight": np.ones(len(chosen)),
        }
    )


def _by_corpus_part(run: Store, place: Any, item: Any, count: int) -> list[pa.Table]:
    table = place(run, item)
    part = column_of(table, "part")
    return [table.filter(pa.array(part == index)) for index in range(count)]


def _take(run: Store, corpus: list[str], index: int, pieces: list[pa.Table]) -> pa.Table:
    """The examples of one corpus part that have a position, with it."""
    places = pa.concat_tables(pieces)
    examples = run.read_table(corpus[index], CARRIED).take(places["part_row"])
    return examples.append_column("position", places["position"]).append_column("weight", places["weight"])


def _by_file(table: pa.Table, count: int) -> list[pa.Table]:
    file = column_of(table, "position") // ROWS_PER_FILE
    return [table.filter(pa.array(file == index)) for index in range(count)]


def _write_file(stage: Stage, kind: str, index: int, pieces: list[pa.Table]) -> tuple[Part, Moments]:
    table = pa.concat_tables(pieces).sort_by("position")
    return stage.run.write_table(stage.file(kind, index), table), Moments.of(features_of(table))
