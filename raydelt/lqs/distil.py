"""The distilled stage: train the data scorer on the annotated sample with Ray Train, and publish its best epoch.

    target  y = clip((G - mean) / std, -3, 3)       G the exact score, mean and std those of the training share
    loss    mean over a batch of (predicted - y)^2; AdamW, warm-up, then a cosine; gradients clipped to length 1

After each epoch the held-out share, a hash of (seed, id), gives Spearman's correlation of prediction and G, the mean
squared error of y, and |top 30 % predicted and top 30 % by G| / k, which is k / n by chance. The epoch with the best
correlation is kept; the published code never came to that check, and kept the last. Batches do not depend on the
number of workers; a checkpoint holds weights, optimiser and place, so a step done twice gives the same.

Cost of an epoch: a forward and backward pass over the sample. Memory of a worker: four copies of the weights, a
batch's activations, the sample. Source: arXiv 2506.21545, sec. 5.1. Caution: the epoch is chosen on the share that its
correlation is told of, which flatters it a little.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.train.torch
import torch
from scipy.stats import spearmanr
from torch.nn.parallel import DistributedDataParallel

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, UInt64Array, column_of, shuffled, uniform
from raydelt.lqs.data_scorer import build
from raydelt.lqs.terms import columns_of
from raydelt.models.classifier import one_thread
from raydelt.scorers.lqs import Distil, LqsConfig
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Stage, Store
from raydelt.train.job import commit, committed, device_of_worker, forget_job, gpus_of_worker, run_job

log = logging.getLogger(__name__)
LEAST_EXAMPLES, CLIP, TOP, WEAK = 10, 3.0, 0.3, 0.5
WARM_UP, LAST_RATE, WEIGHT_DECAY = 10, 1e-3, 1e-2
DIVERGED = "score.lqs.annotate.lr {:g}: the training of the data scorer diverged in epoch {}: lower it"


@dataclass(frozen=True)
class Work:
    """Everything a worker needs to know; `files` are pairs of a corpus part and its annotation."""

    stage: Stage
    config: RunConfig
    settings: Distil
    facts: dict[str, Any]
    files: tuple[tuple[str, str], ...]
    column: str
    mean: float
    std: float
    steps: int


def distil(config: RunConfig, spec: LqsConfig, corpus: Manifest, annotated: Manifest, stage: Stage) -> Manifest:
    """Train the data scorer on the annotated examples and publish it.

    `annotated` has a file of `example_id` and score for each of the first corpus parts.

    Raises:
        InputError: scores too few or all alike, an encoder of no use, a training that diverged, a scorer too weak.
        SpecError: more workers than a batch has examples.
    """
    settings, column = spec.annotate, columns_of(spec.mode)[0]
    assert isinstance(settings, Distil)
    files = tuple((own.file, scores.file) for own, scores in zip(corpus.parts, annotated.parts, strict=False))
    calls = [(stage.run, *pair, column) for pair in files]
    sample = pa.concat_tables(cluster.parallel(annotated_rows, calls, label="data scorer: sample"))
    held_out = is_held_out(column_of(sample, DRAW_KEY).astype(np.uint64), config.seed, settings.validation)
    train, scores = int((~held_out).sum()), column_of(sample, column).astype(np.float64)
    mean, std = _scale(scores[~held_out], len(scores) - train, settings)
    steps = -(-train // settings.batch_size)
    gpus = _gpus(config, settings.workers, train // steps)
    # Once before the job, which would start again and again with an encoder that cannot be used.
    cluster.parallel(_try_to_build, [(config, settings, corpus.facts)], label="data scorer: model")
    work = Work(stage, config, settings, corpus.facts, files, column, mean, std, steps)
    with cluster.remote_progress("data scorer: steps", settings.epochs * steps) as progress:
        own: dict[str, Any] = {"workers": settings.workers, "max_failures": config.train.max_failures}
        found = run_job(distil_worker, {"work": work, "progress": progress}, stage, num_gpus=gpus, **own)
    try:
        facts = _judged(found, settings, train, len(scores) - train) | {"mean": mean, "std": std}
        return stage.publish([], facts, {"scorer": [Part(**found["best"]["part"])]})
    finally:
        forget_job(stage)


def annotated_rows(run: Store, file: str, scores: str, column: str, extra: tuple[str, ...] = ()) -> pa.Table:
    """The examples of a part that have a finite score: id, draw key, further columns of the corpus, score."""
    table = run.read_table(scores, [EXAMPLE_ID, column]).filter(pc.is_finite(pc.field(column)))
    rows = run.read_table(file, [EXAMPLE_ID, DRAW_KEY, *extra])
    places = pc.index_in(table[EXAMPLE_ID], rows[EXAMPLE_ID])
    if places.null_count:
        raise RuntimeError(f"{scores} has {places.null_count} examples that are not in {file}")
    return rows.take(places).append_column(column, table[column])


def is_held_out(keys: UInt64Array, seed: int, share: float) -> Array:
    """Which examples [n] validate the data scorer."""
    return cast(Array, uniform(keys, seed, "data_scorer") < share)


def agreement(predicted: Array, exact: Array, ids: Array) -> dict[str, float]:
    """Spearman's correlation, 0 where either is constant, and the share of k that both tops have; ties go by id."""
    rho = float(spearmanr(predicted, exact).statistic) if np.ptp(predicted) and np.ptp(exact) else 0.0
    k = max(1, int(TOP * len(ids)))
    both = np.intersect1d(np.lexsort((ids, -predicted))[:k], np.lexsort((ids, -exact))[:k])
    return {"spearman": rho, "top30_overlap": len(both) / k, "random_overlap": k / len(ids)}


def learning_rate(step: int, total: int, peak: float) -> float:
    """The rate of a step: rising over at most ten steps, then a cosine down to a thousandth of the peak."""
    warm = max(1, min(WARM_UP, total // 10))
    fall = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, total - warm)))
    return peak * min((step + 1) / warm, LAST_RATE + (1 - LAST_RATE) * fall)


def _try_to_build(config: RunConfig, settings: Distil, facts: dict[str, Any]) -> None:
    build(config, settings, facts, device="cpu")


def _scale(train: Array, validation: int, settings: Distil) -> tuple[float, float]:
    """Mean and standard deviation of the training share's scores."""
    if min(len(train), validation) < LEAST_EXAMPLES:
        raise InputError(
            f"score.lqs.annotate.proxy {settings.proxy} leaves {len(train)} scores to train the data scorer and "
            f"{validation} to validate it, and each needs {LEAST_EXAMPLES}: raise it, or take annotate: direct"
        )
    mean, std = float(train.mean()), float(train.std())
    if std <= np.finfo(np.float32).eps * abs(mean):
        raise InputError(f"all {len(train)} annotated scores are {mean:.4g}: check lr, steps and target of score.lqs")
    return mean, std


def _gpus(config: RunConfig, workers: int, least: int) -> float:
    """The GPUs of each worker, whole ones for several, as NCCL asks; refuses what there is no room or row for."""
    if workers > least:
        raise SpecError(f"score.lqs.annotate.workers {workers} is more than the {least} examples of a batch: lower it")
    gpus = gpus_of_worker(config.cluster.actors.num_gpus, workers)
    cluster.require("CPU", workers, "score.lqs.annotate.workers")
    cluster.require("GPU", workers * gpus, "score.lqs.annotate.workers (x cluster.actors.num_gpus)")
    return gpus


def _judged(found: dict[str, Any], settings: Distil, train: int, validation: int) -> dict[str, Any]:
    """The facts of a training; tells how well the scorer predicts, and refuses one that does not."""
    if found["failed"]:
        raise InputError(found["failed"])
    history, best = [epoch["spearman"] for epoch in found["epochs"]], found["best"]["epoch"]
    facts: dict[str, Any] = found["epochs"][best - 1] | {"best_epoch": best, "history": history}
    fit = "validation Spearman {spearman:.2f}, top 30 % overlap {top30_overlap:.2f} (random {random_overlap:.2f})"
    fit, least = fit.format(**facts), settings.least_spearman
    if facts["spearman"] < least:
        raise InputError(
            f"the data scorer does not predict the scores: {fit}, below score.lqs.annotate.least_spearman {least:g}: "
            f"annotate more (proxy, now {settings.proxy}), train it otherwise (encoder, lr, epochs), take annotate: "
            "direct, or lower the bar"
        )
    log.info("data scorer: %s, epoch %d of %d", fit, best, len(history))
    if facts["spearman"] < WEAK:
        log.warning("the data scorer predicts weakly: raise score.lqs.annotate.proxy, or take annotate: direct")
    counts = {"train": train, "validation": validation, "rows_processed": len(history) * train}
    return facts | counts | {"seconds": found["seconds"]}


def distil_worker(config: dict[str, Any]) -> None:
    """Entry point of a worker."""
    one_thread()
    _Worker(cast(Work, config["work"]), config["progress"]).run(_resumed())


class _Worker:
    """One worker of the group, with the whole sample."""

    def __init__(self, work: Work, progress: Any) -> None:
        self.work, self.progress, self.settings = work, progress, work.settings
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        device = device_of_worker(work.config.cluster.actors.num_gpus)
        self.scorer = build(work.config, work.settings, work.facts, device=device)
        columns = (work.column, self.scorer.columns)
        sample = pa.concat_tables([annotated_rows(work.stage.run, *pair, *columns) for pair in work.files])
        self.inputs = self.scorer.inputs(sample)
        self.ids, self.keys = column_of(sample, EXAMPLE_ID), column_of(sample, DRAW_KEY).astype(np.uint64)
        self.scores = column_of(sample, work.column).astype(np.float64)
        self.targets = np.clip((self.scores - work.mean) / work.std, -CLIP, CLIP).astype(np.float32)
        held_out = is_held_out(self.keys, work.config.seed, work.settings.validation)
        self.train, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if work.facts["standardize"]:
            self.scorer.standardise(self.inputs, self.train)

    def run(self, state: dict[str, Any]) -> None:
        """Train from a state on, until no epoch is left or better."""
        self.started, module = time.perf_counter() - state["seconds"], self.scorer.module
        self.optimiser = torch.optim.AdamW(module.parameters(), lr=self.settings.lr, weight_decay=WEIGHT_DECAY)
        if state["model"] is not None:
            module.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimizer"])
        # Some encoders have weights for other uses, which get no gradient.
        self.wrapped: Any = module
        if self.workers > 1:
            self.wrapped = DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)
        while not self._ended(state):
            state = self._epoch(state)
            _checkpoint(state)

    def _ended(self, state: dict[str, Any]) -> bool:
        done, best = len(state["epochs"]), state["best"]["epoch"] if state["best"] else 0
        return bool(state["failed"]) or done >= self.settings.epochs or done - best >= self.settings.patience

    def _epoch(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state after an epoch, or where it diverged."""
        epoch, steps, peak = len(state["epochs"]), self.work.steps, self.settings.lr
        order = self.train[shuffled(self.keys[self.train], self.work.config.seed, "data_scorer", epoch)]
        # Of nearly equal size, so that none is left over and no worker is without a row.
        batches = np.array_split(order, steps)
        for step in range(state["step"], steps):
            rate = learning_rate(epoch * steps + step, self.settings.epochs * steps, peak)
            if not math.isfinite(self._step(batches[step], rate)):
                return state | {"failed": DIVERGED.format(peak, epoch + 1)}
            if (step + 1) % self.work.config.train.checkpoint_every == 0 and step + 1 < steps:
                _checkpoint(state | self._weights() | {"step": step + 1})
        return self._validated(state)

    def _validated(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state after an epoch's validation, of which every worker makes its share."""
        rows, epoch, best, stage = self.held_out, len(state["epochs"]), state["best"], self.work.stage
        found = torch.zeros(len(rows), dtype=torch.float64, device=self.scorer.device)
        own = self.scorer.predicted(self.inputs, rows[self.rank :: self.workers])
        found[self.rank :: self.workers] = torch.from_numpy(own).to(found)
        if self.workers > 1:
            torch.distributed.all_reduce(found)
        predicted = found.cpu().numpy()
        if not np.isfinite(predicted).all():
            return state | {"failed": DIVERGED.format(self.settings.lr, epoch + 1)}
        mse = float(((predicted - self.targets[rows]) ** 2).mean())
        epochs = [*state["epochs"], agreement(predicted, self.scores[rows], self.ids[rows]) | {"mse": mse}]
        if best is None or epochs[-1]["spearman"] > epochs[best["epoch"] - 1]["spearman"]:
            best = {"epoch": epoch + 1, "part": None}
            if self.rank == 0:
                # Those of epochs that are not the best go when the stage is published.
                best["part"] = asdict(stage.run.put(stage.file("scorer", epoch, "safetensors"), self.scorer.dump()))
        return state | self._weights() | {"step": 0, "epochs": epochs, "best": best}

    def _step(self, batch: Array, rate: float) -> float:
        """One step on a global batch; the length of its gradient, the same in all workers."""
        own = batch[len(batch) * self.rank // self.workers : len(batch) * (self.rank + 1) // self.workers]
        self.optimiser.zero_grad(set_to_none=True)
        groups = self.scorer.groups(self.inputs, own, training=True)
        for index, group in enumerate(groups):
            last = self.workers == 1 or index + 1 == len(groups)
            with contextlib.nullcontext() if last else self.wrapped.no_sync():
                predicted = self.wrapped(**self.scorer.tensors(self.inputs, group))
                targets = torch.from_numpy(self.targets[group]).to(predicted.device)
                # DDP averages over workers, so each one's share of the global mean is scaled up by their number.
                (((predicted - targets) ** 2).sum() * (self.workers / len(batch))).backward()
        self.optimiser.param_groups[0]["lr"] = rate
        norm = float(torch.nn.utils.clip_grad_norm_(self.scorer.module.parameters(), 1.0))
        self.optimiser.step()
        if self.progress is not None and self.rank == 0:
            self.progress.advance.remote(1)
        return norm

    def _weights(self) -> dict[str, Any]:
        weights = {"model": self.scorer.module.state_dict(), "optimizer": self.optimiser.state_dict()}
        return weights | {"seconds": time.perf_counter() - self.started}


def _resumed() -> dict[str, Any]:
    """The state of the last committed checkpoint, or that before the first step."""
    start = {"epochs": [], "step": 0, "seconds": 0.0, "failed": ""}
    return committed() or start | dict.fromkeys(("model", "optimizer", "best"))


def _checkpoint(state: dict[str, Any]) -> None:
    """Commit the state, and report what is known so far with it."""
    commit(state, {name: state[name] for name in ("epochs", "best", "seconds", "failed")})
