"""What every Ray Train worker runs: the replicates (arm, seed) one after another, by the same code for every arm.

Workers hold the same weights and average their gradients (DDP). The loss of a worker is its share of the global
batch's weighted mean, so a step does not depend on the number of workers beyond the order of float additions. A
checkpoint holds the weights, the optimiser, the place in the replicates and the results so far; the data position
follows from it, so a step that is done twice gives the same state.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import ray.train
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raydelt.config import ModelSpec, Recipe
from raydelt.examples import LABEL, column_of, features_of
from raydelt.models import classifier
from raydelt.order.stage import ROWS_PER_FILE, Ordered
from raydelt.storage import Part, Stage
from raydelt.train.job import commit, committed
from raydelt.train.reader import OrderedReader

CURVE_POINTS = 20


@dataclass(frozen=True)
class Replicate:
    """One training: an arm's order, and the seed of the weights and of the later epochs."""

    arm: str
    seed: int
    order: Ordered
    shuffle_later_epochs: bool
    keep_model: bool = False


@dataclass(frozen=True)
class Work:
    """Everything a worker needs to know."""

    stage: Stage
    replicates: tuple[Replicate, ...]
    model: ModelSpec
    recipe: Recipe
    steps: int
    checkpoint_every: int
    input_shape: tuple[int, ...]
    num_classes: int
    test_files: tuple[str, ...]


def train_worker(config: dict[str, Any]) -> None:
    """Entry point of a worker; reports results through Ray Train."""
    work = cast(Work, config["work"])
    classifier.one_thread()
    state = committed() or _start(0, [])
    while state["replicate"] < len(work.replicates) and not state["failed"]:
        result = _train_one(work, work.replicates[state["replicate"]], state, config["progress"])
        state = _start(state["replicate"] + 1, [*state["results"], result], result.get("failed", ""))
        _checkpoint(state)


def _start(replicate: int, results: list[dict[str, Any]], failed: str = "") -> dict[str, Any]:
    """The state before the first step of a replicate."""
    return {
        "replicate": replicate,
        "results": results,
        "failed": failed,
        "step": 0,
        "seconds": 0.0,
        "model": None,
        "optimizer": None,
        "curve": [],
        "window": [],
    }


def _train_one(work: Work, replicate: Replicate, state: dict[str, Any], progress: Any) -> dict[str, Any]:
    """Train one replicate from `state` on; its result."""
    started = time.perf_counter()
    context = ray.train.get_context()
    worker, workers = context.get_world_rank(), context.get_world_size()
    model, optimiser = _built(work, replicate, state)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if workers > 1 else model
    reader = _reader(work, replicate)
    every = max(1, work.steps // CURVE_POINTS)
    window, curve = list(state["window"]), list(state["curve"])
    model.train()
    for step in range(state["step"], work.steps):
        batch = reader.step(step, worker=worker, workers=workers)
        optimiser.zero_grad(set_to_none=True)
        logits = wrapped(torch.from_numpy(batch.x))
        losses = nn.functional.cross_entropy(logits, torch.from_numpy(batch.y), reduction="none")
        # DDP averages over workers, so each one's share of the global mean is scaled up by their number.
        loss = (losses * torch.from_numpy(batch.weight)).sum() * (workers / work.recipe.batch_size)
        loss.backward()
        optimiser.step()
        window.append(float(loss.detach()))
        if (step + 1) % every == 0 or step + 1 == work.steps:
            curve.append([step + 1, _mean_over_workers(float(np.mean(window)), workers)])
            if progress is not None and worker == 0:
                progress.advance.remote(len(window))
            window = []
        if (step + 1) % work.checkpoint_every == 0 and step + 1 < work.steps:
            parts = {
                "model": model.state_dict(),
                "optimizer": optimiser.state_dict(),
                "window": window,
                "curve": curve,
            }
            seconds = state["seconds"] + time.perf_counter() - started
            _checkpoint(state | parts | {"step": step + 1, "seconds": seconds})
    seconds = state["seconds"] + time.perf_counter() - started
    result = {"arm": replicate.arm, "seed": replicate.seed, "rows": replicate.order.rows, "seconds": seconds}
    if not np.isfinite(curve[-1][1]):
        told = f"training of {replicate.arm} (seed {replicate.seed}) diverged: lower train.recipe.lr"
        return result | {"failed": told}
    if replicate.keep_model and worker == 0:
        result["model"] = asdict(_keep(work.stage, model))
    return result | {"curve": curve} | evaluate(work, model, worker, workers)


def _built(
    work: Work, replicate: Replicate, state: dict[str, Any]
) -> tuple[classifier.Classifier, torch.optim.Optimizer]:
    """The model and its optimiser, fresh or as the state holds them."""
    model = classifier.build(work.model, work.input_shape, work.num_classes, seed=replicate.seed)
    model.set_standardisation(np.asarray(replicate.order.mean), np.asarray(replicate.order.scale))
    optimiser = classifier.optimizer(model, work.recipe)
    if state["model"] is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimizer"])
    return model, optimiser


def _reader(work: Work, replicate: Replicate) -> OrderedReader:
    order = replicate.order
    return OrderedReader(
        work.stage.run,
        order.files,
        order.rows,
        ROWS_PER_FILE,
        work.recipe.batch_size,
        replicate.seed,
        replicate.shuffle_later_epochs,
    )


def _mean_over_workers(value: float, workers: int) -> float:
    """The mean of a number over all workers; all of them must call."""
    if workers == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return float(total) / workers


def _checkpoint(state: dict[str, Any]) -> None:
    """Commit the state, and report the results so far with it."""
    commit(state, {"results": state["results"], "failed": state["failed"]})


def evaluate(work: Work, model: classifier.Classifier, worker: int, workers: int) -> dict[str, float]:
    """Accuracy and mean loss on the test split; every worker takes its share of the files."""
    totals = torch.zeros(3, dtype=torch.float64)
    for file in work.test_files[worker::workers]:
        table = work.stage.run.read_table(file)
        labels = torch.from_numpy(column_of(table, LABEL).astype(np.int64))
        logits = torch.from_numpy(model.predict(features_of(table))).double()
        hits = (logits.argmax(dim=1) == labels).sum()
        totals += torch.stack(
            [
                hits.double(),
                nn.functional.cross_entropy(logits, labels, reduction="sum"),
                torch.tensor(float(len(labels)), dtype=torch.float64),
            ]
        )
    if workers > 1:
        torch.distributed.all_reduce(totals)
    hits_, loss, count = (float(value) for value in totals)
    return {"accuracy": hits_ / max(count, 1), "loss": loss / max(count, 1)}


def _keep(stage: Stage, model: classifier.Classifier) -> Part:
    """Write the weights into the run directory."""
    return stage.run.put(f"{stage.name}/model.safetensors", classifier.dump(model))
