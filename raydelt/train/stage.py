"""The train stage: one Ray Train job over all replicates, then the paired comparison of the arms.

All arms get the same number of optimiser steps, the same recipe and the same seeds. Cost: (1 + baselines) x seeds
trainings; the worker group starts once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.order.stage import Ordered
from raydelt.storage import Manifest, Part, Stage
from raydelt.train.compare import paired
from raydelt.train.job import forget_job, run_job
from raydelt.train.loop import Replicate, Work, train_worker


def train_and_compare(config: RunConfig, corpus: Manifest, ordered: Manifest, stage: Stage) -> Manifest:
    """Train the selection and its baselines over all seeds; publish the model, the results and the differences.

    Raises:
        SpecError: fewer examples than a batch, or no test split.
        InputError: a training diverged.
    """
    spec = config.train
    work = _work(config, corpus, ordered, stage)
    _check(config, work)
    total = work.steps * len(work.replicates)
    with cluster.remote_progress("train: steps", total) as progress:
        options = {"work": work, "progress": progress}
        metrics = run_job(train_worker, options, stage, workers=spec.workers, max_failures=spec.max_failures)
    if metrics.get("failed"):
        raise InputError(metrics["failed"])
    results: list[dict[str, Any]] = metrics["results"]
    model = [Part(**result.pop("model")) for result in results if "model" in result]
    manifest = stage.publish(
        [], _facts(config, results, work.steps), {"model": [*model, *_side_files(stage, work, results)]}
    )
    forget_job(stage)
    return manifest


def _work(config: RunConfig, corpus: Manifest, ordered: Manifest, stage: Stage) -> Work:
    orders = {entry["name"]: Ordered(**entry) for entry in ordered.facts["orders"]}
    later = config.order.later_epochs == "shuffled"
    replicates = [
        Replicate("selected", seed, orders["selected"], later, keep_model=index == 0)
        for index, seed in enumerate(config.train.seeds)
    ]
    for kind in config.train.baselines:
        for seed in config.train.seeds:
            order = orders[f"random-{seed}" if kind == "random" else "full"]
            replicates.append(Replicate(kind, seed, order, True))
    return Work(
        stage,
        tuple(replicates),
        config.model,
        config.train.recipe,
        config.train.recipe.total_steps(orders["selected"].rows),
        config.train.checkpoint_every,
        tuple(corpus.facts["input_shape"]),
        len(corpus.facts["classes"]),
        tuple(part.file for part in corpus.sides["test"]),
    )


def _check(config: RunConfig, work: Work) -> None:
    size = config.train.recipe.batch_size
    rows = min(replicate.order.rows for replicate in work.replicates)
    if rows < size:
        raise SpecError(
            f"train.recipe.batch_size {size} is more than the {rows} selected examples: lower it or select more"
        )
    if not work.test_files:
        raise SpecError("corpus.test leaves no test split: give corpus.test.fraction or corpus.test.source")


def _facts(config: RunConfig, results: Sequence[dict[str, Any]], steps: int) -> dict[str, Any]:
    arms = ["selected", *config.train.baselines]
    accuracy = {arm: [r["accuracy"] for r in results if r["arm"] == arm] for arm in arms}
    differences = {}
    for arm in config.train.baselines:
        difference = paired(accuracy["selected"], accuracy[arm])
        differences[arm] = {**difference.__dict__, "verdict": difference.verdict}
    processed = steps * config.train.recipe.batch_size * len(results)
    return {
        "rows_processed": processed,
        "steps": steps,
        "results": list(results),
        "accuracy": accuracy,
        "differences": differences,
    }


def _side_files(stage: Stage, work: Work, results: Sequence[dict[str, Any]]) -> list[Part]:
    """The model's description and the training log, beside the weights."""
    description = {
        "model": work.model.model_dump(mode="json"),
        "input_shape": work.input_shape,
        "num_classes": work.num_classes,
    }
    lines = "".join(json.dumps(result) + "\n" for result in results)
    return [
        stage.run.put(f"{stage.name}/config.json", (json.dumps(description, indent=2) + "\n").encode()),
        stage.run.put(f"{stage.name}/training-log.jsonl", lines.encode()),
    ]
