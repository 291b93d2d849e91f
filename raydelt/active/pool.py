"""The distributed half of a round of labelling: a committee trained on the labels, and what it says of the pool.

The committee's members train on all labelled examples, each from weights of its own; no example of the pool is among
them, so no folds are needed. Every part of the pool is one task, which loads the committee, takes the utility of its
examples, and returns the best of them with what the choice of a batch needs; the states are merged in the order of
the parts and, as ties go to the lower id, do not depend on the layout.

Cost: R trainings on the labelled set, R forward passes over the pool. Memory of a task: one part, R models, and a
shortlist.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.active.points import Passes, Points, points_of
from raydelt.active.shortlist import UTILITY, Shortlist
from raydelt.active.utilities import COMMITTEE, RANDOM, UTILITIES
from raydelt.config import ModelSpec, Recipe
from raydelt.corpus.canonical import fixed_lists
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, FEATURES, LABEL, column_of, derived_seed, features_of, uniform
from raydelt.models.moments import FeatureMoments, Moments
from raydelt.scorers.difficulty import log_softmax
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Stage, Store

HIDDEN, PROBABILITIES = "hidden", "p"


@dataclass(frozen=True)
class Pool:
    """The unlabelled examples in parts, without those that are `asked` about already."""

    run: Store
    files: tuple[str, ...]
    asked: pa.Array

    def part(self, index: int, columns: Sequence[str] = (EXAMPLE_ID, DRAW_KEY, FEATURES)) -> pa.Table:
        """The rows of a part that may still be asked about."""
        table = self.run.read_table(self.files[index], columns)
        return table.filter(pc.invert(pc.is_in(table[EXAMPLE_ID], value_set=self.asked))).combine_chunks()

    def rows(self) -> int:
        """How many examples may still be asked about."""
        calls = [(self, index) for index in range(len(self.files))]
        return sum(cluster.parallel(_rows_of_part, calls, label="label: left"))

    def batch(self, index: int) -> pa.RecordBatch:
        """The same as one batch."""
        table = self.part(index)
        found = table.to_batches()
        return found[0] if found else pa.RecordBatch.from_pylist([], schema=table.schema)


def _rows_of_part(pool: Pool, index: int) -> int:
    return int(pool.part(index, [EXAMPLE_ID]).num_rows)


def standardised_passes(pool: Pool, width: int) -> Passes:
    """Passes of k-means|| over the pool's features in units of their spread."""
    moments = cluster.reduce_parts(FeatureMoments(width), pool.batch, len(pool.files), label="label: moments")
    mean, spread = moments.standardisation((width,))

    def passes(function: Callable[[Points], Any]) -> Any:
        calls = [(pool, index, mean, spread, function) for index in range(len(pool.files))]
        return functools.reduce(lambda a, b: a.merge(b), cluster.parallel(_applied, calls, label="label: cold start"))

    return passes


def _applied(pool: Pool, index: int, mean: Array, spread: Array, function: Callable[[Points], Any]) -> Any:
    points = points_of(pool.part(index))
    return function(Points(points.ids, points.keys, (points.x - mean) / spread))


def train_committee(
    model: ModelSpec, recipe: Recipe, members: int, corpus: Manifest, stage: Stage, *, seed: int
) -> Manifest:
    """Train the members on the labelled examples and publish them, with how well they do together on the validation
    split and how much they disagree there."""
    calls = [(stage, model, recipe, corpus, member, seed) for member in range(members)]
    parts = cluster.parallel(_train_member, calls, label="label: committee")
    facts: dict[str, Any] = {"members": members, "labels": corpus.rows}
    held = [part.file for part in corpus.sides.get("validation", [])]
    if held:
        calls_held = [(stage.run, model, corpus.facts, parts, file) for file in held]
        found = np.sum(cluster.parallel(_checked, calls_held, label="label: validation"), axis=0)
        facts |= {"accuracy": float(found[1] / found[0]), "disagreement": float(found[2] / found[0])}
    return stage.publish([], facts | {"rows_processed": corpus.rows}, {"models": parts})


def member_seed(seed: int, member: int) -> int:
    """The seed of a member's weights and batches."""
    return derived_seed(seed, "committee", member)


def _train_member(stage: Stage, spec: ModelSpec, recipe: Recipe, corpus: Manifest, member: int, seed: int) -> Part:
    from raydelt.models import classifier

    classifier.one_thread()
    facts, own = corpus.facts, member_seed(seed, member)
    tables = [stage.run.read_table(part.file, [DRAW_KEY, FEATURES, LABEL]) for part in corpus.parts]
    x = np.concatenate([features_of(table) for table in tables])
    y = np.concatenate([column_of(table, LABEL) for table in tables]).astype(np.int64)
    keys = np.concatenate([column_of(table, DRAW_KEY) for table in tables]).astype(np.uint64)
    model = classifier.build(spec, facts["input_shape"], len(facts["classes"]), seed=own)
    if facts["standardize"]:
        model.set_standardisation(*Moments.of(x).standardisation(facts["input_shape"]))
    classifier.fit(model, x, y, keys, recipe=recipe, seed=own)
    return stage.run.put(stage.file("model", member, "safetensors"), classifier.dump(model), rows=len(x))


def load_committee(run: Store, spec: ModelSpec, facts: dict[str, Any], parts: Sequence[Part]) -> list[Any]:
    """The members."""
    from raydelt.models import classifier

    classifier.one_thread()
    fresh = (classifier.build(spec, facts["input_shape"], len(facts["classes"]), seed=0) for _ in parts)
    return [classifier.restore(m, run.read_bytes(p.file), origin=p.file) for m, p in zip(fresh, parts, strict=True)]


def probabilities(members: Sequence[Any], x: Array) -> Array:
    """Probabilities [R, n, C] of features [n, d]."""
    found: Array = np.exp(np.stack([log_softmax(member.predict(x)) for member in members]))
    return found


def _checked(run: Store, spec: ModelSpec, facts: dict[str, Any], parts: Sequence[Part], file: str) -> Array:
    """Rows, rows that the mean of the members gets right, and summed disagreement [3]."""
    table = run.read_table(file, [FEATURES, LABEL])
    p = probabilities(load_committee(run, spec, facts, parts), features_of(table))
    right = p.mean(axis=0).argmax(axis=1) == column_of(table, LABEL)
    return np.array([table.num_rows, np.count_nonzero(right), UTILITIES["bald"](p).sum()])


def shortlisted(
    pool: Pool, utility: str, model: ModelSpec, corpus: Manifest, committee: Manifest, size: int, *, seed: int
) -> pa.Table:
    """The `size` examples of highest utility with `p` [C] and `hidden` [h], best first."""
    state, best = None, Shortlist(size)
    calls = [
        (pool, index, utility, best, corpus.facts, model, committee.sides["models"], seed)
        for index in range(len(pool.files))
    ]
    for part in cluster.parallel(_best_of_part, calls, label="label: pool"):
        state = best.merge(state, part)
    return best.finish(state)


def _best_of_part(
    pool: Pool,
    index: int,
    utility: str,
    best: Shortlist,
    facts: dict[str, Any],
    spec: ModelSpec,
    parts: Sequence[Part],
    seed: int,
) -> pa.Table | None:
    """The best rows of one part."""
    table = pool.part(index)
    if table.num_rows == 0:
        return None
    members, x = load_committee(pool.run, spec, facts, parts), features_of(table)
    p = probabilities(members, x)
    keys = column_of(table, DRAW_KEY).astype(np.uint64)
    rows = table.select([EXAMPLE_ID]).append_column(UTILITY, pa.array(utility_of(utility, p, keys, seed)))
    rows = rows.append_column(PROBABILITIES, fixed_lists(p.mean(axis=0)))
    rows = rows.append_column("row", pa.array(np.arange(len(x))))
    found = best.add(None, rows)
    assert found is not None
    hidden = members[0].predict(x[column_of(found, "row")], features=True)
    return found.drop_columns("row").append_column(HIDDEN, fixed_lists(hidden))


def utility_of(name: str, p: Array, keys: Array, seed: int) -> Array:
    """Utilities [n] of probabilities [R, n, C]; a function of the user's own chooses among the highest margins."""
    if name == RANDOM:
        return uniform(keys, seed, "random utility")
    if name in COMMITTEE:
        return UTILITIES[name](p)
    return UTILITIES[name if name in UTILITIES else "margin"](p.mean(axis=0))
