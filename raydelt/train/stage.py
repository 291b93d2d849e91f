"""The train stage: one Ray Train job over all replicates, then the paired comparison of the arms.

All arms get the same number of optimiser steps (fewer where they stop early), the same recipe and the same seeds.
Cost: (1 + baselines) x seeds trainings; the worker group starts once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.order.stage import Ordered
from raydelt.storage import Manifest, Part, Stage, fingerprint
from raydelt.train import certificate
from raydelt.train.compare import paired
from raydelt.train.job import forget_job, run_job
from raydelt.train.loop import Replicate, Work, train_worker
from raydelt.train.reader import read_ordered

LOG = "training-log.jsonl"
log = logging.getLogger(__name__)


def train_and_compare(
    config: RunConfig, corpus: Manifest, tokens: Manifest | None, ordered: Manifest, stage: Stage
) -> Manifest:
    """Train the selection and its baselines over all seeds; publish the model, the results and the differences.

    Raises:
        SpecError: fewer examples than a batch, or a split that is missing.
        InputError: a file of the order is not whole, or a training diverged.
    """
    spec = config.train
    work = _work(config, corpus, tokens, ordered, stage)
    _check(config, work)
    total = work.steps * len(work.replicates)
    with cluster.remote_progress("train: steps", total) as progress:
        metrics = run_job(
            train_worker,
            {"work": work, "progress": progress},
            stage,
            workers=spec.workers,
            num_gpus=config.cluster.actors.num_gpus,
            max_failures=spec.max_failures,
            resize_every=spec.resize_every,
        )
    if metrics.get("failed"):
        raise InputError(metrics["failed"])
    results: list[dict[str, Any]] = metrics["results"]
    for result in results:
        for told in result.get("untracked", []):
            log.warning("train.track: metrics of %s-%s are lost %s", result["arm"], result["seed"], told)
    sides = _sides(config, ordered, stage, results)
    manifest = stage.publish([], _facts(config, results, work.steps), sides)
    forget_job(stage)
    return manifest


def replicates(config: RunConfig, ordered: Manifest) -> tuple[Replicate, ...]:
    """All trainings of a run, in order."""
    orders = {entry["name"]: Ordered(**entry) for entry in ordered.facts["orders"]}
    later = config.order.later_epochs == "shuffled"
    found = [
        Replicate("selected", seed, orders["selected"], later, keep_model=index == 0)
        for index, seed in enumerate(config.train.seeds)
    ]
    for kind in config.train.baselines:
        for seed in config.train.seeds:
            order = orders[f"random-{seed}" if kind == "random" else "full"]
            found.append(Replicate(kind, seed, order, True))
    return tuple(found)


def _work(config: RunConfig, corpus: Manifest, tokens: Manifest | None, ordered: Manifest, stage: Stage) -> Work:
    own = replicates(config, ordered)
    # A language model reads the tokens of the held-out splits, a classifier their features.
    sides = (tokens or corpus).sides
    return Work(
        config=config,
        stage=stage,
        replicates=own,
        steps=config.train.recipe.total_steps(own[0].order.rows),
        input_shape=tuple(corpus.facts["input_shape"]),
        classes=len(corpus.facts["classes"]),
        test_files=tuple(part.file for part in sides.get("test", [])),
        validation_files=tuple(part.file for part in sides.get("validation", [])),
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
    if config.train.evaluate_every is not None and not work.validation_files:
        raise SpecError("train.evaluate_every looks at the validation split, which is empty: raise its fraction")
    orders = {replicate.order.digest: replicate for replicate in work.replicates}
    calls = [
        (work.stage, replicate, size, file)
        for replicate in orders.values()
        for file in range(len(replicate.order.files))
    ]
    cluster.parallel(_check_file, calls, label="train: check the order")


def _check_file(stage: Stage, replicate: Replicate, batch_size: int, file: int) -> None:
    """Refuse a file of an order that is not whole before any worker waits for another."""
    read_ordered(stage.run, replicate.order.files[file], file, replicate.plan(batch_size), ["position"])


def _facts(config: RunConfig, results: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """What the report shows: the metric of every arm, and its paired differences."""
    metric = "loss" if config.model.kind == "causal_lm" else "accuracy"
    arms = ["selected", *config.train.baselines]
    values = {arm: [r[metric] for r in results if r["arm"] == arm] for arm in arms}
    differences = {}
    for arm in config.train.baselines:
        difference = paired(values["selected"], values[arm])
        verdict = difference.verdict(higher_is_better=metric == "accuracy")
        differences[arm] = {**difference.__dict__, "verdict": verdict}
    return {
        "rows_processed": sum(r["steps"] for r in results) * config.train.recipe.batch_size,
        "steps": steps,
        "results": [{k: v for k, v in r.items() if k not in ("files", "chain", "kept")} for r in results],
        "metric": metric,
        "values": values,
        "differences": differences,
    }


def _sides(
    config: RunConfig, ordered: Manifest, stage: Stage, results: Sequence[dict[str, Any]]
) -> dict[str, list[Part]]:
    """Everything that belongs to the model's folder: the model, its best checkpoints, log and certificate."""
    chains = [certificate.Chain(**result["chain"]) for result in results]
    own = certificate.Certificate(spec_fingerprint(config), ordered.fingerprint, chains)
    lines = "".join(json.dumps({k: v for k, v in r.items() if k != "chain"}) + "\n" for r in results)
    best = [Part(**part) for r in results for _, _, parts in r["kept"] for part in parts]
    return {
        "model": [
            *(Part(**part) for r in results for part in r["files"]),
            stage.run.put(f"{stage.name}/{LOG}", lines.encode()),
            stage.run.put(f"{stage.name}/{certificate.FILE}", own.dump()),
        ],
        "best": best,
        "steps": [stage.run.described(chain.file) for chain in chains],
    }


def spec_fingerprint(config: RunConfig) -> str:
    """Identifies what a training was asked to follow."""
    spec = config.resolved()
    return fingerprint([{name: spec[name] for name in ("seed", "model", "select", "order")}, config.train.lasting()])
