"""What every Ray Train worker of the trajectory stage runs: the trajectories one after another, forwards and back.

The examples of a step, and those of the target set, are shared out among the workers, which sum their gradients and
Hessian-vector products; all hold the same parameters. The first worker writes theta_t and lambda_{t+1} of every
visited step as safetensors. A trajectory whose record stands is not walked again, so a killed job goes on with the
next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray.train
import safetensors.torch
import torch

from raydelt.errors import InputError, RaydeltError
from raydelt.gradients.selection import select
from raydelt.lqs.adjoint import walk_back
from raydelt.lqs.annotate import Visits
from raydelt.lqs.draw import batches_of
from raydelt.lqs.objective import Batch, Objective, Vector
from raydelt.lqs.starts import Starts, visits_of
from raydelt.lqs.terms import visited
from raydelt.lqs.trajectory import Share, Trajectory
from raydelt.models.classifier import one_thread
from raydelt.models.protocol import GradientModel
from raydelt.scorers.lqs import LqsConfig
from raydelt.scorers.targets import TargetReader
from raydelt.storage import Part, Stage
from raydelt.train.job import commit, device_of_worker

MEASURED_ROWS = 16
# The scores that are as long as the adjoint; enough rows for their size, which need not be known closely.
SCALED, SCALED_ROWS = ("lqs", "pds"), 64
# A product holds the activations of a gradient and their tangents.
SHARE_OF_BUDGET = 2


@dataclass(frozen=True)
class Work:
    """Everything a worker needs to know."""

    stage: Stage
    spec: LqsConfig
    starts: Starts
    batches: tuple[str, ...]
    target: TargetReader
    budget: int
    num_gpus: float


def walk_worker(config: dict[str, Any]) -> None:
    """Entry point of a worker; what is meant for the user goes out as a metric."""
    work = cast(Work, config["work"])
    one_thread()
    try:
        walker = _Walker(work, config["progress"])
        for s in range(len(work.batches)):
            if not work.stage.run.exists(record_of(work.stage, s)):
                walker.walk(s)
        commit({}, {"failed": ""})
    except RaydeltError as error:
        commit({}, {"failed": str(error)})


def record_of(stage: Stage, s: int) -> str:
    """The name of a trajectory's record, which is written last."""
    return stage.file("record", s, "json")


class _Walker:
    """One worker of the group."""

    def __init__(self, work: Work, progress: Any) -> None:
        context, self.progress = ray.train.get_context(), progress
        self.work, self.rank, self.workers = work, context.get_world_rank(), context.get_world_size()
        self.device = device_of_worker(work.num_gpus)
        self.visits = visited(work.spec.mode, work.spec.steps, work.spec.interval)

    def walk(self, s: int) -> None:
        started, spec = time.perf_counter(), self.work.spec
        model = self.work.starts.model(s, self.device)
        chosen = select(model.module, spec.parameters).parameters
        start = {name: p.detach().clone() for name, p in chosen.items()}
        table = self.work.stage.run.read_table(self.work.batches[s])
        batches = batches_of(table, steps=spec.steps)
        shares = [self._share(model, batch) for batch in batches]
        target = self._share(model, self._target())
        trajectory = Trajectory(Objective(model.module, model.losses), start, shares, lr=spec.lr, reduce=self._summed)
        del start
        parts = dict(self._walked(s, trajectory, target))
        if self.rank > 0:
            return
        record = {
            "steps": [asdict(parts[t]) for t in self.visits],
            "losses": trajectory.losses,
            "target_losses": trajectory.target_losses,
            "seconds": time.perf_counter() - started,
            "seconds_per_visit": self._visits(s).seconds_per_visit(batches[0].slice(0, MEASURED_ROWS)),
            "scales": self._scales(s, table.slice(0, SCALED_ROWS).combine_chunks().to_batches()[0]),
        }
        self.work.stage.run.write_json(record_of(self.work.stage, s), record)

    def _walked(self, s: int, trajectory: Trajectory, target: Share) -> Iterator[tuple[int, Part]]:
        """Write the visited steps as they come, the last first."""
        last, final = trajectory.forward(), self.work.spec.steps
        if final in self.visits:
            yield final, self._write(s, final, last, {})
        for t, at, adjoint in walk_back(trajectory, last, target, final_only=self.work.spec.final_loss_only):
            last = {}  # the adjoint has its gradient, and the vector is as large as the model
            if t in self.visits:
                yield t, self._write(s, t, at, adjoint)
            if self.progress is not None and self.rank == 0:
                self.progress.advance.remote(1)

    def _write(self, s: int, t: int, at: Vector, adjoint: Vector) -> Part:
        name = step_file(self.work.stage, s, self.visits.index(t), len(self.visits))
        if self.rank > 0:
            return Part(name, 0, 0, "")
        named = {f"theta.{n}": x for n, x in at.items()} | {f"lambda.{n}": x for n, x in adjoint.items()}
        data = safetensors.torch.save({n: x.detach().cpu().contiguous() for n, x in named.items()})
        return self.work.stage.run.put(name, data)

    def _target(self) -> pa.RecordBatch:
        batches = list(self.work.target.batches())
        if not batches:
            raise InputError("corpus.validation holds no document that can be used: see its length and model.context")
        # Held-out examples lie in the order of their hashes, so the first are a uniform sample.
        limit = self.work.spec.target_limit
        return pa.Table.from_batches(batches).slice(0, limit).combine_chunks().to_batches()[0]

    def _share(self, model: GradientModel, batch: pa.RecordBatch) -> Share:
        """This worker's rows of a batch, in groups that fit the memory budget."""
        rows = np.arange(self.rank, batch.num_rows, self.workers)

        def groups() -> Iterator[Batch]:
            for group in model.groups(batch, rows, self.work.budget // SHARE_OF_BUDGET) if len(rows) else []:
                yield model.tensors(batch, group)[0]

        return Share(groups, batch.num_rows)

    def _summed(self, vector: Vector) -> Vector:
        if self.workers > 1:
            for x in vector.values():
                torch.distributed.all_reduce(x)
        return vector

    def _visits(self, s: int) -> Visits:
        """The annotation along this trajectory alone."""
        own = self.work.starts.walked(s, self.device, self._reader(s), self.work.spec)
        return visits_of([own], self.work.spec, self.work.budget)

    def _scales(self, s: int, batch: pa.RecordBatch) -> dict[str, float]:
        """The root mean squares of the scores of these examples, which the seed drew from the whole corpus."""
        if self.work.spec.weigh == "as_is":
            return {}
        found = self._visits(s).scores(batch)
        scales = {name: float(np.sqrt(np.mean(np.square(found[name])))) for name in SCALED if name in found}
        return {name: scale for name, scale in scales.items() if np.isfinite(scale) and scale > 0}

    def _reader(self, s: int) -> Callable[[int], bytes]:
        stage, count = self.work.stage, len(self.visits)
        return lambda i: stage.run.read_bytes(step_file(stage, s, i, count))


def step_file(stage: Stage, s: int, visit: int, visits: int) -> str:
    """The name of a visited step's theta and lambda."""
    return stage.file("step", s * visits + visit, "safetensors")


def read_record(stage: Stage, s: int) -> dict[str, Any]:
    """What the worker wrote of a trajectory."""
    return dict(json.loads(stage.run.read_bytes(record_of(stage, s))))
