"""LossVal on a group of Ray Train workers: every worker owns some shards, their weights and their Adam state.

Worker r of K holds the shards k with k mod K = r and a copy of the model. A step exchanges what its shards found, a
gradient of the model's size from each, and adds them in the order of the shards, so the values are those of one
process with as many shards. Potentials of a step need no model: they are computed on a thread of their own while the
forward and backward pass runs. The state of all shards is committed every few epochs; a killed job goes on from there.

Cost: per step one gather of shards x parameters x members numbers. Memory of a worker: its shards, the model's
members, and the training set once per machine, in the object store.

Caution: the exchange is as fast as the slowest worker; with a small model and many workers it takes longer than the
step.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import ray
import ray.train
import torch
from torch import Tensor

from raydelt.errors import InputError, RaydeltError
from raydelt.examples import column_of
from raydelt.models.classifier import one_thread
from raydelt.storage import Stage
from raydelt.train.job import commit, committed, forget_job, run_job
from raydelt.valuation.exchange import gathered, in_order
from raydelt.valuation.lossval import LossVal, Training
from raydelt.valuation.problem import Problem, Values
from raydelt.valuation.shards import Potentials, at_once
from raydelt.valuation.sinkhorn import Divergence, Target

FILE = "lossval"
COMMIT_EPOCHS = 5


@dataclass(frozen=True)
class Work:
    """Everything a worker needs to know; `problem` is a reference in the object store."""

    stage: Stage
    problem: Any
    settings: LossVal
    seed: int


def value_on_workers(
    problem: Any, settings: LossVal, stage: Stage, *, workers: int, max_failures: int, seed: int
) -> Values:
    """Values of the referenced problem; the stage's folder keeps them until it is published.

    Raises:
        InputError: the data do not fit the settings.
    """
    name = stage.file(FILE, 0)
    if not stage.run.exists(name):
        work = Work(stage, problem, settings, seed)
        metrics = run_job(value_worker, {"work": work}, stage, workers=workers, max_failures=max_failures)
        if metrics["failed"]:
            raise InputError(metrics["failed"])
        forget_job(stage)
    table = stage.run.read_table(name)
    return Values(*(column_of(table, column) for column in table.column_names))


def value_worker(config: dict[str, Any]) -> None:
    """Entry point of a worker; what is meant for the user goes out as a metric."""
    work = cast(Work, config["work"])
    one_thread()
    try:
        _value(work)
        commit({}, {"failed": ""})
    except RaydeltError as error:
        commit({}, {"failed": str(error)})


def _value(work: Work) -> None:
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    problem: Problem = ray.get(work.problem)
    owned = [k for k in range(work.settings.shards) if k % size == rank]
    exchange = Gathering(rank, size)
    with ThreadPoolExecutor(1) as pool:
        potentials = beside(pool, problem, work.settings)
        training = Training(
            problem, work.settings, seed=work.seed, owned=owned, exchange=exchange, potentials=potentials
        )
        state = committed()
        if state is not None and state:
            training.load_state_dict(state)
        while training.step < training.total:
            training.advance()
            epoch, within = divmod(training.step, training.steps)
            if within == 0 and epoch % COMMIT_EPOCHS == 0 and training.step < training.total:
                commit(exchange.together(training.state_dict()), {"failed": ""})
    parts = exchange.objects(training.values())
    if rank == 0:
        values = gathered(parts, len(problem.x))
        columns = {"value": values.values} | ({} if values.errors is None else {"error": values.errors})
        work.stage.run.write_table(work.stage.file(FILE, 0), pa.table(columns))


def beside(pool: ThreadPoolExecutor, problem: Problem, settings: LossVal) -> Potentials:
    """Potentials that are computed on a thread of the pool while the model works."""
    dtype = torch.float64 if settings.double else torch.float32
    compute = at_once(Target(torch.as_tensor(problem.val_x).to(dtype)))

    def start(x: Tensor, weights: Tensor) -> Future[Divergence]:
        return cast("Future[Divergence]", pool.submit(compute, x, weights))

    return start


@dataclass(frozen=True)
class Gathering:
    """The exchange of a group of workers that hold the shards k with k mod `size` = `rank`."""

    rank: int
    size: int

    def sum(self, parts: dict[int, list[Tensor]]) -> list[Tensor]:
        """The sums over all shards in the order of their numbers."""
        if self.size == 1:
            return in_order(parts)
        mine = [torch.cat([x.reshape(-1) for x in parts[k]]) for k in sorted(parts)]
        shapes = [x.shape for x in next(iter(parts.values()))]
        every = self._every(torch.stack(mine))
        total = functools.reduce(torch.add, every)
        ends = itertools.accumulate(shape.numel() for shape in shapes)
        return [total[end - shape.numel() : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]

    def _every(self, mine: Tensor) -> list[Tensor]:
        """What every shard found [numbers], in the order of the shards."""
        counts = self.objects(len(mine))
        padded = torch.cat([mine, mine.new_zeros(max(counts) - len(mine), mine.shape[1])])
        held = [torch.empty_like(padded) for _ in range(self.size)]
        torch.distributed.all_gather(held, padded)
        return [held[k % self.size][k // self.size] for k in range(sum(counts))]

    def objects(self, own: Any) -> list[Any]:
        """The objects of all workers, in the order of the workers."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, own)
        return found

    def together(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state with the shards of all workers."""
        shards = {k: shard for own in self.objects(state["shards"]) for k, shard in own.items()}
        return state | {"shards": shards}
