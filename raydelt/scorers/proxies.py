"""The proxies stage: assign folds, train the R x F models as Ray tasks, publish folds and weights.

The features of at most `rank.max_proxy_examples` examples (those with the lowest draw keys, a uniform sample) lie once
in the object store, where every training reads them without copying. Folds are assigned to all examples by one task
that holds a group key and a label per example. Cost: R F trainings; memory: the shared features, 12 bytes per example
for the folds, and one model per running task.

Proxies of an earlier version of a run can be kept for a corpus that has changed since: an example that was there, or
one of its group, keeps its folds; a new one was seen by no model, and is put into folds by a draw.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import ModelSpec, Rank, Recipe
from raydelt.examples import (
    DRAW_KEY,
    EXAMPLE_ID,
    FEATURES,
    GROUP_KEY,
    LABEL,
    UInt64Array,
    column_of,
    derived_seed,
    features_of,
    mix,
)
from raydelt.scorers.cells import Earlier, origin
from raydelt.scorers.crossfit import FOLDS, assign_folds, fold_matrix
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Stage, Store, fingerprint


@dataclass(frozen=True)
class TrainingSet:
    """Features [n, width], labels [n], draw keys [n] and folds [R, n] of the examples that proxies train on."""

    x: Array
    y: Array
    keys: UInt64Array
    folds: Array


@dataclass(frozen=True)
class Fitted:
    """One trained proxy: its file, its held-out accuracy after each epoch, its training time in seconds."""

    part: Part
    history: list[float]
    seconds: float


def fit_proxies(rank: Rank, model: ModelSpec, corpus: Manifest, stage: Stage, *, seed: int) -> Manifest:
    """Train and publish every proxy.

    Raises:
        SpecError: a class has fewer examples than there are folds.
        InputError: a training diverged.
    """
    files = [part.file for part in corpus.parts]
    calls: list[tuple[Any, ...]] = [(stage, files, rank, corpus.facts["classes"], seed)]
    [folds] = cluster.parallel(_write_folds, calls, label="proxies: folds")
    fold_files = [part.file for part in folds]
    examples = cluster.shared(
        _training_set, stage.run, files, fold_files, rank.max_proxy_examples, label="proxies: examples"
    )
    pairs = [(r, f) for r in range(rank.rounds) for f in range(rank.folds)]
    calls = [(stage, model, rank, corpus.facts, r, f, seed, examples) for r, f in pairs]
    fitted = cluster.parallel(_fit_one, calls, label="proxies: train")
    epochs = min(len(one.history) for one in fitted)
    facts = {
        "rounds": rank.rounds,
        "folds": rank.folds,
        "examples": min(corpus.rows, rank.max_proxy_examples),
        "steps": rank.proxy.total_steps(max(one.part.rows for one in fitted)),
        "history": [float(np.mean([one.history[epoch] for one in fitted])) for epoch in range(epochs)],
        "training_seconds": sum(one.seconds for one in fitted),
        "settings": _settings(rank, model),
    }
    return stage.publish(folds, facts, {"models": [one.part for one in fitted]})


def may_keep(earlier: Earlier, corpus: Manifest, rank: Rank, model: ModelSpec) -> bool:
    """Whether an earlier version's proxies can score this corpus: the same network, recipe and classes."""
    held = earlier.manifests.get("proxies")
    return held is not None and earlier.keeps_for(corpus) and held.facts.get("settings") == _settings(rank, model)


def keep_proxies(earlier: Earlier, corpus: Manifest, stage: Stage, *, seed: int) -> Manifest:
    """Publish an earlier version's proxies for this corpus, as if they had been fitted for it."""
    held = earlier.manifests["proxies"]
    then = [(part.file, folds.file) for part, folds in zip(earlier.corpus.parts, held.parts, strict=True)]
    now = [part.file for part in corpus.parts]
    [folds] = cluster.parallel(
        _keep_folds, [(stage, now, earlier.run, then, held.facts["folds"], seed)], label="proxies: folds"
    )
    models = [
        stage.run.put(stage.file("model", index, "safetensors"), earlier.run.read_bytes(part.file), rows=part.rows)
        for index, part in enumerate(held.sides["models"])
    ]
    return stage.publish(folds, {**held.facts, "origin": origin(held)}, {"models": models})


def _settings(rank: Rank, model: ModelSpec) -> str:
    own = rank.model_dump(mode="json", include={"folds", "rounds", "proxy", "max_proxy_examples"})
    return fingerprint([own, model.model_dump(mode="json")])


def _keep_folds(
    stage: Stage, files: Sequence[str], run: Store, then: Sequence[tuple[str, str]], folds: int, seed: int
) -> list[Part]:
    """The folds of every corpus part: those that a group had then, or drawn ones."""
    groups = np.concatenate([column_of(run.read_table(file, [GROUP_KEY]), GROUP_KEY) for file, _ in then])
    had = np.concatenate([fold_matrix(run.read_table(file, [FOLDS])) for _, file in then], axis=1)
    known, first = np.unique(groups.astype(np.uint64), return_index=True)
    parts = []
    for index, file in enumerate(files):
        table = stage.run.read_table(file, [EXAMPLE_ID, GROUP_KEY])
        own = column_of(table, GROUP_KEY).astype(np.uint64)
        place = np.minimum(np.searchsorted(known, own), len(known) - 1)
        drawn = np.stack(
            [(mix(own, seed, "later fold", r) % np.uint64(folds)).astype(np.int16) for r in range(len(had))]
        )
        parts.append(_write_part(stage, index, table, np.where(known[place] == own, had[:, first[place]], drawn)))
    return parts


def _write_folds(stage: Stage, files: Sequence[str], rank: Rank, classes: Sequence[str], seed: int) -> list[Part]:
    """One file of (example_id, folds) per corpus part, row by row alike."""
    tables = [stage.run.read_table(file, [EXAMPLE_ID, GROUP_KEY, LABEL]) for file in files]
    groups = np.concatenate([column_of(table, GROUP_KEY) for table in tables]).astype(np.uint64)
    labels = np.concatenate([column_of(table, LABEL) for table in tables]).astype(np.int64)
    folds = assign_folds(groups, labels, rounds=rank.rounds, folds=rank.folds, seed=seed, classes=classes)
    parts, start = [], 0
    for index, table in enumerate(tables):
        parts.append(_write_part(stage, index, table, folds[:, start : start + table.num_rows]))
        start += table.num_rows
    return parts


def _write_part(stage: Stage, index: int, rows: pa.Table, folds: Array) -> Part:
    """The folds [R, n] of the rows of one corpus part, beside their ids."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(folds.T).reshape(-1)), len(folds))
    return stage.run.write_table(stage.file("part", index), pa.table({EXAMPLE_ID: rows[EXAMPLE_ID], FOLDS: column}))


def _training_set(run: Store, files: Sequence[str], fold_files: Sequence[str], limit: int) -> TrainingSet:
    """The first `limit` examples in id order, which is a random order."""
    taken: list[pa.Table] = []
    folds: list[Array] = []
    room = limit
    for file, fold_file in zip(files, fold_files, strict=True):
        if room <= 0:
            break
        table = run.read_table(file, [DRAW_KEY, FEATURES, LABEL]).slice(0, room)
        folds.append(fold_matrix(run.read_table(fold_file, [FOLDS]).slice(0, room)))
        taken.append(table)
        room -= table.num_rows
    return TrainingSet(
        np.concatenate([features_of(table) for table in taken]),
        np.concatenate([column_of(table, LABEL) for table in taken]).astype(np.int64),
        np.concatenate([column_of(table, DRAW_KEY) for table in taken]).astype(np.uint64),
        np.concatenate(folds, axis=1),
    )


def proxy_seed(seed: int, r: int, f: int) -> int:
    """The seed of the model of round r and fold f."""
    return derived_seed(seed, "proxy", r, f)


def _fit_one(
    stage: Stage, spec: ModelSpec, rank: Rank, facts: dict[str, Any], r: int, f: int, seed: int, data: TrainingSet
) -> Fitted:
    from raydelt.models import classifier
    from raydelt.models.moments import Moments

    classifier.one_thread()
    started = time.perf_counter()
    shape, classes = facts["input_shape"], len(facts["classes"])
    held_out = data.folds[r] == f
    x, y = data.x[~held_out], data.y[~held_out]
    model = classifier.build(spec, shape, classes, seed=proxy_seed(seed, r, f))
    if facts["standardize"]:
        model.set_standardisation(*Moments.of(x).standardisation(shape))
    history: list[float] = []

    def measure(epoch: int) -> None:
        history.append(float((model.predict(data.x[held_out]).argmax(axis=1) == data.y[held_out]).mean()))

    recipe: Recipe = rank.proxy
    classifier.fit(model, x, y, data.keys[~held_out], recipe=recipe, seed=proxy_seed(seed, r, f), after_epoch=measure)
    name = stage.file("model", r * rank.folds + f, "safetensors")
    part = stage.run.put(name, classifier.dump(model), rows=len(x))
    return Fitted(part, history, time.perf_counter() - started)


def load_models(
    run: Store, spec: ModelSpec, facts: dict[str, Any], proxies: Manifest | None, *, device: str = "cpu"
) -> list[list[Any]]:
    """Models [R][F] of a published proxies stage, or [M][1] for the spec's own M checkpoints."""
    rounds, folds = len(spec.checkpoints), 1
    if proxies is not None:
        rounds, folds = proxies.facts["rounds"], proxies.facts["folds"]
    return [[load_model(run, spec, facts, proxies, r, f, device=device) for f in range(folds)] for r in range(rounds)]


def load_model(
    run: Store,
    spec: ModelSpec,
    facts: dict[str, Any],
    proxies: Manifest | None,
    r: int,
    f: int,
    *,
    device: str = "cpu",
) -> Any:
    """One of them."""
    from raydelt.models import classifier

    fresh = classifier.build(spec, facts["input_shape"], len(facts["classes"]), seed=0)
    if proxies is None:
        origin = spec.checkpoints[r]
        data = classifier.read_checkpoint(origin)
    else:
        origin = proxies.sides["models"][r * proxies.facts["folds"] + f].file
        data = run.read_bytes(origin)
    return classifier.restore(fresh, data, origin=origin).to(device)
