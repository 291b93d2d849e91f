"""The trajectory stage: draw the batches, walk the trajectories with Ray Train, publish the visited steps.

Cost for each trajectory: T steps forwards, twice, and T adjoint steps of a target gradient and a Hessian-vector
product. Published: for each visited step a file of theta_t and lambda_{t+1}, 8 bytes per parameter. Memory of a
worker: 2 sqrt(T) + 6 copies of the parameters at most, and one batch's activations.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.lqs.draw import draw_batches
from raydelt.lqs.starts import Starts, check_tokenizers, model_of, spec_of, starts_of
from raydelt.lqs.terms import visited
from raydelt.lqs.walk import Work, read_record, walk_worker
from raydelt.models.moments import FeatureMoments
from raydelt.scorers.before import Before, PartReader, reader_of
from raydelt.scorers.lqs import LqsConfig
from raydelt.scorers.targets import TargetReader
from raydelt.storage import Manifest, Part, Stage
from raydelt.train.job import forget_job, run_job

log = logging.getLogger(__name__)


def walk_trajectories(config: RunConfig, corpus: Manifest, tokens: Manifest | None, stage: Stage) -> Manifest:
    """Walk all trajectories of the spec and publish their visited steps.

    Raises:
        InputError: no target example, or a trajectory that diverged.
        SpecError: fewer examples than a batch.
    """
    check_tokenizers(config)
    spec = spec_of(config)
    reader = reader_of(stage.run, Before(corpus, {"tokens": tokens} if tokens else {}))
    target = TargetReader.of(stage.run, corpus, tokens)
    starts = _starts(config, corpus, reader)
    count = spec.trajectories or starts.models
    sizes = {"steps": spec.steps, "batch_size": spec.batch_size, "seed": config.seed}
    batches = [draw_batches(reader, stage, s, **sizes) for s in range(count)]
    actors = config.cluster.actors
    work = Work(stage, spec, starts, tuple(part.file for part in batches), target, actors.batch_bytes, actors.num_gpus)
    with cluster.remote_progress("trajectory: steps", count * spec.steps) as progress:
        metrics = run_job(
            walk_worker,
            {"work": work, "progress": progress},
            stage,
            workers=spec.workers,
            num_gpus=actors.num_gpus,
            max_failures=config.train.max_failures,
        )
    if metrics["failed"]:
        raise InputError(metrics["failed"])
    manifest = _published(stage, spec, count, starts)
    forget_job(stage)
    return manifest


def _published(stage: Stage, spec: LqsConfig, count: int, starts: Starts) -> Manifest:
    records = [read_record(stage, s) for s in range(count)]
    facts: dict[str, Any] = {
        "trajectories": count,
        "visits": visited(spec.mode, spec.steps, spec.interval),
        "rows_processed": count * spec.steps * spec.batch_size,
        "losses": [record["losses"] for record in records],
        "target_losses": [record["target_losses"] for record in records],
        "scales": [record["scales"] for record in records],
        "seconds_per_visit": float(np.median([record["seconds_per_visit"] for record in records])),
        "standardisation": [np.asarray(starts.mean).tolist(), np.asarray(starts.scale).tolist()],
    }
    steps = [Part(**part) for record in records for part in record["steps"]]
    for s, record in enumerate(records):
        early, late = record["losses"][0], record["losses"][-1]
        log.info("trajectory %d: %d steps, corpus loss %.4g to %.4g", s, spec.steps, early, late)
    return stage.publish([], facts, {"steps": steps})


def _starts(config: RunConfig, corpus: Manifest, reader: PartReader) -> Starts:
    model, facts, mean, scale = model_of(config), corpus.facts, np.zeros(1), np.ones(1)
    if facts["standardize"] and model.kind != "causal_lm" and not model.checkpoints:
        bare = PartReader(reader.run, reader.files)
        moments = cluster.reduce_parts(
            FeatureMoments(facts["width"]), bare, len(reader.files), label="trajectory: moments"
        )
        mean, scale = moments.standardisation(facts["input_shape"])
    return starts_of(model, facts, mean, scale, seed=config.seed)
