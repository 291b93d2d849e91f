"""The ledger stage: train M models on the whole corpus, and write down after every epoch how each example fares.

    ledger_margin[i, m E + t] = z_y - max_{j != y} z_j        ledger_p[i, m E + t] = p_y

with z the logits and p the softmax of model m after its epoch t, for example i itself of the training set: in-sample,
because training dynamics are. Models are fresh, seeded by (seed, "ledger", m), and follow the recipe of the proxies; a
recipe in steps that ends within an epoch counts that epoch. Rows and files lie as those of the corpus.

Cost: M trainings on the whole corpus, and E forward passes over it for each. Memory: the features once in the object
store, and 8 n E bytes there for each model; a training holds its copy of the features, these 8 n E bytes and the
activations of one batch; loading takes 24 bytes per feature value for a moment where it standardises; a task that
writes holds one part. Sources: Toneva et al. 2019, Pleiss et al. 2020, Swayamdipta et al. 2020; see `dynamics`.

Caution: the ledger cannot be made from a sample, so a corpus above `rank.max_proxy_examples` is refused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import ModelSpec, Rank, Recipe
from raydelt.errors import SpecError
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, FEATURES, LABEL, UInt64Array, column_of, derived_seed, features_of
from raydelt.scorers.dynamics import LEDGER_MARGIN, LEDGER_P, margin_and_p
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Stage, Store

BATCH_ROWS = 1024


@dataclass(frozen=True)
class Examples:
    """Features [n, width], labels [n] and draw keys [n] in corpus order; mean and spread [width], if standardised."""

    x: Array
    y: Array
    keys: UInt64Array
    standardisation: tuple[Array, Array] | None


@dataclass(frozen=True)
class Followed:
    """Margins and probabilities [n, E] float32 of one training, and its time in seconds."""

    margin: Array
    p: Array
    seconds: float


def keep_ledger(rank: Rank, model: ModelSpec, corpus: Manifest, stage: Stage, *, seed: int) -> Manifest:
    """Train the M = `rank.rounds` models and publish, part by part of the corpus, what they saw.

    Raises:
        SpecError: the corpus is larger than `rank.max_proxy_examples`, or the network trains itself, without epochs.
        InputError: a training diverged.
    """
    if corpus.rows > rank.max_proxy_examples:
        raise SpecError(
            f"the dynamics scorer trains on all {corpus.rows} examples, but rank.max_proxy_examples is "
            f"{rank.max_proxy_examples}: raise it to {corpus.rows}, or drop the scorer dynamics"
        )
    files = [part.file for part in corpus.parts]
    examples = cluster.shared(_examples, stage.run, files, corpus.facts, label="ledger: examples")
    # References, not results: the arrays go from the trainings to the writers without passing the driver.
    followed = [
        cluster.shared(_follow, model, rank.proxy, corpus.facts, ledger_seed(seed, m), examples, label="ledger: train")
        for m in range(rank.rounds)
    ]
    seconds = cluster.parallel(_seconds, [(one,) for one in followed], label="ledger: train")
    ends = accumulate(part.rows for part in corpus.parts)
    calls = [(stage, i, part, end, *followed) for i, (part, end) in enumerate(zip(corpus.parts, ends, strict=True))]
    parts = cluster.parallel(_write_part, calls, label="ledger: write")
    steps, epochs = lengths(rank.proxy, corpus.rows)
    facts = {
        "models": rank.rounds,
        "epochs": epochs,
        "steps": steps,
        "examples": corpus.rows,
        "training_seconds": sum(seconds),
    }
    return stage.publish(parts, facts)


def ledger_seed(seed: int, m: int) -> int:
    """The seed of model m."""
    return derived_seed(seed, "ledger", m)


def lengths(recipe: Recipe, examples: int) -> tuple[int, int]:
    """Optimiser steps and epochs, a last partial one included, of a training on this many examples."""
    steps = recipe.total_steps(examples)
    return steps, -(-steps // -(-examples // recipe.batch_size))


def _examples(run: Store, files: Sequence[str], facts: dict[str, Any]) -> Examples:
    from raydelt.models.moments import Moments

    tables = [run.read_table(file, [DRAW_KEY, FEATURES, LABEL]) for file in files]
    x = np.concatenate([features_of(table) for table in tables])
    return Examples(
        x,
        np.concatenate([column_of(table, LABEL) for table in tables]).astype(np.int64),
        np.concatenate([column_of(table, DRAW_KEY) for table in tables]).astype(np.uint64),
        Moments.of(x).standardisation(facts["input_shape"]) if facts["standardize"] else None,
    )


def _follow(spec: ModelSpec, recipe: Recipe, facts: dict[str, Any], seed: int, data: Examples) -> Followed:
    from raydelt.models import classifier

    classifier.one_thread()
    started = time.perf_counter()
    model = classifier.build(spec, facts["input_shape"], len(facts["classes"]), seed=seed)
    if getattr(model.network, "fit", None) is not None:
        raise SpecError(
            f"model.factory {spec.factory!r} gives a network that trains itself by its own `fit`, but the dynamics "
            "scorer needs epoch-wise training: rename that method, or drop the scorer dynamics"
        )
    if data.standardisation is not None:
        model.set_standardisation(*data.standardisation)
    _, epochs = lengths(recipe, len(data.y))
    margin = np.empty((len(data.y), epochs), np.float32)
    p = np.empty_like(margin)

    def record(epoch: int) -> None:
        for start in range(0, len(data.y), BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            margin[rows, epoch], p[rows, epoch] = margin_and_p(model.predict(data.x[rows]), data.y[rows])

    classifier.fit(model, data.x, data.y, data.keys, recipe=recipe, seed=seed, after_epoch=record)
    return Followed(margin, p, time.perf_counter() - started)


def _seconds(followed: Followed) -> float:
    return followed.seconds


def _write_part(stage: Stage, index: int, part: Part, end: int, *followed: Followed) -> Part:
    """The ledger of one corpus part, row by row alike; its last row comes before row `end` of the corpus."""
    table = stage.run.read_table(part.file, [EXAMPLE_ID])
    rows = slice(end - part.rows, end)
    columns = {
        LEDGER_MARGIN: _lists([one.margin[rows] for one in followed]),
        LEDGER_P: _lists([one.p[rows] for one in followed]),
    }
    return stage.run.write_table(stage.file("part", index), pa.table({EXAMPLE_ID: table[EXAMPLE_ID], **columns}))


def _lists(values: Sequence[Array]) -> pa.FixedSizeListArray:
    """M matrices [rows, E] as one column of lists, a model's epochs side by side."""
    joined = np.concatenate(values, axis=1)
    return pa.FixedSizeListArray.from_arrays(pa.array(joined.reshape(-1)), joined.shape[1])
