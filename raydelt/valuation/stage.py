"""The values stage: what valuations say of every example of the corpus, in files that lie beside its parts.

The features of corpus and validation split, or where the spec has an encoder their embeddings, lie once in the object
store, standardised as the corpus says; the pieces of every method run as Ray tasks that read them without copying, and
are added in order, so no number of workers changes a value. Memory: the features once, and of a task what its method
states.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.examples import EMBEDDING, EXAMPLE_ID, FEATURES, LABEL, column_of, features_of, vectors_of
from raydelt.models.moments import Moments
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Stage, Store
from raydelt.valuation.methods import LossValConfig, Valuation
from raydelt.valuation.problem import Problem, Values


def value_corpus(
    config: RunConfig, methods: Sequence[Valuation], corpus: Manifest, embeddings: Manifest | None, stage: Stage
) -> Manifest:
    """Value every example of the corpus by every method and publish the values, part by part of the corpus.

    Raises:
        InputError: the validation split does not fit the corpus, or a method finds the data unfit.
    """
    validation = sum(part.rows for part in corpus.sides.get("validation", []))
    if validation == 0 and any(method.by_validation for method in methods):
        raise InputError(
            "corpus.validation leaves no example that can be used, and values are measured by it: look at quarantine/"
        )
    if config.corpus.validation.source is not None and any(method.by_validation for method in methods):
        _check_classes(stage.run, corpus)
    problem = cluster.shared(_problem, stage.run, corpus, embeddings, label="values: examples")
    # Every piece of every method is asked for before the first sum is waited for.
    alone = {m.kind: _valued(m, problem, validation, config.seed) for m in methods if not on_workers(m)}
    found = [alone[m.kind] if m.kind in alone else _on_workers(m, config, problem, stage) for m in methods]
    edges = np.cumsum([0, *(part.rows for part in corpus.parts)])
    names = [method.kind for method in methods]
    calls = [
        (stage, index, part.file, slice(int(edges[index]), int(edges[index + 1])), names, *found)
        for index, part in enumerate(corpus.parts)
    ]
    parts = cluster.parallel(_write_part, calls, label="values: write")
    return stage.publish(parts, {"methods": [method.lasting() for method in methods]})


def on_workers(method: Valuation) -> bool:
    """Whether a method is one training that several workers share."""
    return isinstance(method, LossValConfig) and method.workers > 1


def _on_workers(method: Valuation, config: RunConfig, problem: Any, stage: Stage) -> Values:
    from raydelt.valuation.workers import value_on_workers

    assert isinstance(method, LossValConfig)
    failures = config.train.max_failures
    return value_on_workers(
        problem, method.settings(), stage, workers=method.workers, max_failures=failures, seed=config.seed
    )


def _valued(method: Valuation, problem: Any, validation: int, seed: int) -> Any:
    """A reference to the values of one method."""
    label = f"values: {method.kind}"
    pieces = [
        cluster.shared(_piece, method, problem, index, seed, label=label) for index in range(method.pieces(validation))
    ]
    return cluster.shared(_finished, method, validation, *pieces, label=label)


def _piece(method: Valuation, problem: Problem, index: int, seed: int) -> Array:
    from raydelt.models.classifier import one_thread

    one_thread()
    return method.piece(problem, index, seed=seed)


def _finished(method: Valuation, validation: int, *pieces: Array) -> Values:
    return method.finish(functools.reduce(np.add, pieces), validation)


def _check_classes(run: Store, corpus: Manifest) -> None:
    """Refuse a validation source with a class that the corpus has no example of."""
    strange = [index for index, count in enumerate(corpus.facts["per_class"]) if count == 0]
    calls = [(run, part.file, strange) for part in corpus.sides["validation"]] if strange else []
    rows = sum(cluster.parallel(_rows_of, calls, label="values: classes"))
    if rows:
        names = ", ".join(repr(corpus.facts["classes"][index]) for index in strange)
        raise InputError(
            f"{rows} examples of corpus.validation are of a class that the corpus has no example of ({names}): "
            "drop them, or list corpus.classes without it, and they go to quarantine/"
        )


def _rows_of(run: Store, file: str, classes: Sequence[int]) -> int:
    return int(np.isin(column_of(run.read_table(file, [LABEL]), LABEL), classes).sum())


def _problem(run: Store, corpus: Manifest, embeddings: Manifest | None) -> Problem:
    """Corpus and validation split side by side; without a validation split, the corpus stands in for it."""
    held = corpus.sides.get("validation", [])
    x, y = _examples(run, corpus.parts, embeddings.parts if embeddings else [])
    val_x, val_y = x[:1], y[:1]
    if held:
        val_x, val_y = _examples(run, held, embeddings.sides["validation"] if embeddings else [])
    if embeddings is None:
        x, val_x = standardised_alike(x, val_x, corpus.facts)
    return Problem(x, y, val_x, val_y, classes=len(corpus.facts["classes"]))


def _examples(run: Store, parts: Sequence[Part], vectors: Sequence[Part]) -> tuple[Array, Array]:
    """Features [n, d], or vectors where there are files of them, and labels [n]."""
    x, y = features_and_labels([run.read_table(part.file, [FEATURES, LABEL]) for part in parts])
    if vectors:
        x = np.concatenate([vectors_of(run.read_table(part.file, [EMBEDDING])) for part in vectors])
    return x, y


def features_and_labels(tables: Sequence[pa.Table]) -> tuple[Array, Array]:
    """Features [n, d] and labels [n] of tables, one after another."""
    labels = [column_of(table, LABEL) for table in tables]
    return np.concatenate([features_of(table) for table in tables]), np.concatenate(labels).astype(np.int64)


def standardised_alike(x: Array, other: Array, facts: dict[str, Any]) -> tuple[Array, Array]:
    """Both in units of the spread of the first about its mean, if the corpus says so."""
    if not facts["standardize"]:
        return x, other
    mean, spread = Moments.of(x).standardisation(facts["input_shape"])
    return ((x - mean) / spread).astype(np.float32), ((other - mean) / spread).astype(np.float32)


def _write_part(stage: Stage, index: int, file: str, rows: slice, names: Sequence[str], *found: Values) -> Part:
    """The values of one corpus part, row by row alike."""
    columns: dict[str, Any] = {EXAMPLE_ID: stage.run.read_table(file, [EXAMPLE_ID])[EXAMPLE_ID]}
    for name, own in zip(names, found, strict=True):
        columns[name] = pa.array(own.values[rows].astype(np.float32))
        if own.errors is not None:
            columns[f"{name}_se"] = pa.array(own.errors[rows].astype(np.float32))
    return stage.run.write_table(stage.file("part", index), pa.table(columns))
