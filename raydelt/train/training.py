"""One training along a plan, from whatever its state holds to its last step.

    g = sum_i w_i grad loss_i / sum_i count_i      over the global batch of the step, in passes that fit the memory

The state is a dictionary that a checkpoint holds and that `run` keeps up to date: step, weights, optimiser, what was
fed, curves, and the best weights so far where the validation split is looked at. Early stopping and the choice of the
best weights look at the validation split alone, never at the test split.

Caution: dropout draws from (seed, step, worker), so a model that has any depends on the number of workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.models.recipe import clip, optimizer, set_rate
from raydelt.scorers.protocol import Array
from raydelt.storage import Part, Stage
from raydelt.train import certificate
from raydelt.train.learners import EVALUATED_ROWS, Learner, evaluate
from raydelt.train.parallel import adding, load_weights, restore, states, summed, weights_of, wrapped
from raydelt.train.plan import Plan
from raydelt.train.reader import Batch, OrderedReader
from raydelt.train.track import Tracking, tracking

CURVE_POINTS = 20
BEST = "best"
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    # Mixed precision: the weights stay single.
    "bfloat16": torch.float32,
    "float16": torch.float32,
}
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
State = dict[str, Any]


class Unanimous(InputError):
    """An error that all workers of a job raise together, so that none of them waits for another."""


def fresh_state(replicate: int, results: list[dict[str, Any]]) -> State:
    """The state before the first step of a replicate."""
    return {
        "replicate": replicate,
        "results": results,
        "plan": "",
        "step": 0,
        "seconds": 0.0,
        "model": None,
        "optimizer": None,
        "scaler": {},
        "fed": torch.zeros(0, 2, dtype=torch.int64),
        "checkpoints": [],
        "window": [0.0, 0],
        "curve": [],
        "evaluations": [],
        "best": None,
        "kept": [],
    }


@dataclass
class Training:
    """One worker's part in one training."""

    config: RunConfig
    stage: Stage
    name: str
    index: int
    files: Sequence[str]
    plan: Plan
    steps: int
    learner: Learner
    validation_files: Sequence[str]
    keep_model: bool
    worker: int
    workers: int
    advance: Callable[[int], Any] | None
    save: Callable[[State], None]
    untracked: list[str] = field(default_factory=list)
    _fed: list[Array] = field(default_factory=list, repr=False)
    _shares: list[float] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        spec = self.config.train
        self.spec, self.recipe = spec, spec.recipe
        self.reader = OrderedReader(self.stage.run, self.files, self.plan, self.learner.decode)
        within = self.learner.rows_within(self.config.cluster.actors.batch_bytes)
        self.rows = min(within, spec.micro_batch or within)
        # All workers take as many passes as the one with the most rows.
        self.passes = math.ceil(math.ceil(self.recipe.batch_size / self.workers) / self.rows)
        self.module = wrapped(self.learner.module, spec.parallel, self.workers)
        self.optimiser = optimizer(self.learner.module, self.recipe)
        self.scaler = torch.amp.GradScaler("cuda", enabled=spec.precision == "float16")
        self.validation: list[Any] | None = None

    def run(self, state: State) -> dict[str, Any]:
        """Train to the last step; what was fed, as fields of a certificate's chain.

        Raises:
            InputError: the state is of another order, a file of the order is damaged, or the training diverged.
        """
        self._go_on_from(state)
        started, before = time.perf_counter(), state["seconds"]
        every = max(1, self.steps // CURVE_POINTS)
        tracked = self._tracking(state["step"])
        self.learner.module.train()
        while state["step"] < self.steps and not self._has_stalled(state):
            self._shares.append(self._step(state["step"]))
            state["step"] += 1
            step = state["step"]
            if step % every == 0 or step == self.steps:
                self._note(state, tracked)
            if self.spec.evaluate_every and (step % self.spec.evaluate_every == 0 or step == self.steps):
                self._evaluate(state, tracked)
            state["seconds"] = before + time.perf_counter() - started
            if step % self.spec.checkpoint_every == 0 and step < self.steps:
                self._checkpoint(state)
        self._take_over(state)
        tracked.close(state["step"])
        self.untracked = tracked.lost
        if state["best"] is not None:
            load_weights(self.learner.module, state["best"]["model"], self.spec.parallel)
        return self._chain(state)

    def _go_on_from(self, state: State) -> None:
        if state["step"] and state["plan"] != self.plan.fingerprint:
            raise Unanimous(
                f"the checkpoint of {self.name} at step {state['step']} belongs to another training order: delete the "
                "folder `.training` of the run and run again"
            )
        state["plan"] = self.plan.fingerprint
        if state["model"] is not None:
            restore(self.module, self.optimiser, state, self.spec.parallel)
            self.scaler.load_state_dict(state["scaler"])

    def _step(self, step: int) -> float:
        """Take one step; this worker's share of the loss."""
        batch = self.reader.step(step, worker=self.worker, workers=self.workers)
        start = self.plan.slice(step, self.worker, self.workers)[0]
        counts = self.learner.counts(batch.columns)
        total = float(self.plan.batch_size)
        if not self.learner.one_target:
            total = float(summed(torch.tensor([counts.sum()], dtype=torch.float64), self.workers))
        self._seed(hash((self.plan.seed, step, self.worker)) % 2**63)
        set_rate(self.optimiser, self.recipe, step, self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        share, digest = 0.0, np.zeros(2, np.uint64)
        for index, rows in enumerate(_groups(counts, self.passes)):
            own = batch.pick(rows) if len(rows) else batch.idle()
            with adding(self.module, last=index + 1 == self.passes):
                share += self._backward(own, total)
            # Counted from the very rows that went through the model.
            digest += certificate.fed(own.marks[: len(rows)], start + rows)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimiser)
        clip(self.learner.module.parameters(), self.recipe)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._fed.append(digest)
        return share

    def _tracking(self, step: int) -> Tracking:
        if self.worker > 0:
            return Tracking([], step)
        return tracking(self.spec.track, self.stage, self.config.name, self.name, step)

    def _seed(self, seed: int) -> None:
        # torch.manual_seed queues a call with its stack for GPUs that are not there, at every step.
        torch.default_generator.manual_seed(seed)
        if self.learner.device.startswith("cuda"):
            torch.cuda.manual_seed(seed)

    def _backward(self, batch: Batch, total: float) -> float:
        with self._autocast():
            losses = self.learner.losses(self.module, batch.columns)
        weight = torch.from_numpy(batch.weight).to(device=losses.device, dtype=losses.dtype)
        # Gradients are averaged over the workers, so each one's share of the global mean is scaled up by their number.
        loss = (losses * weight).sum() * (self.workers / total)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()) / self.workers

    def _autocast(self) -> AbstractContextManager[Any]:
        half = HALF.get(self.spec.precision)
        return nullcontext() if half is None else torch.autocast(self.learner.device.partition(":")[0], dtype=half)

    def _note(self, state: State, tracked: Tracking) -> None:
        """A point of the curve: the mean loss since the last one."""
        self._take_over(state)
        (total, count), step = state["window"], state["step"]
        loss, state["window"] = total / count, [0.0, 0]
        state["curve"].append([step, loss])
        if self.advance is not None and self.worker == 0:
            self.advance(count)
        if not math.isfinite(loss):
            raise Unanimous(f"training of {self.name} diverged by step {step}: lower train.recipe.lr")
        tracked.log(step, {"train/loss": loss, "train/lr": self.optimiser.param_groups[0]["lr"]})

    def _evaluate(self, state: State, tracked: Tracking) -> None:
        """Look at the validation split, and keep the weights if they are the best so far."""
        if self.validation is None:
            self.validation = self._held_out(self.validation_files)
        found = self._measured(self.validation)
        state["evaluations"].append([state["step"], found])
        tracked.log(state["step"], {f"validation/{name}": value for name, value in found.items()})
        if not (self.spec.keep_best or self.spec.early_stop):
            return
        if self.keep_model and self.spec.keep_best:
            self._keep(state, found["loss"])
        if state["best"] is None or found["loss"] < state["best"]["loss"]:
            state["best"] = {"step": state["step"], "loss": found["loss"], "model": self._weights()}

    def _keep(self, state: State, loss: float) -> None:
        """Hold the weights of the best few evaluations as folders of the run."""
        step, most = state["step"], self.spec.keep_best or 0
        ranked = sorted([[loss, step, []], *state["kept"]], key=lambda entry: (entry[0], entry[1]))
        state["kept"], dropped = ranked[:most], ranked[most:]
        for entry in state["kept"]:
            if entry[1] == step:
                entry[2] = [asdict(part) for part in self._write(f"{BEST}/step-{step:07d}")]
        for entry in dropped:
            if self.worker == 0:
                self.stage.run.delete(f"{BEST}/step-{entry[1]:07d}")

    def _has_stalled(self, state: State) -> bool:
        """Whether the last evaluations brought too little."""
        stop = self.spec.early_stop
        if stop is None or len(state["evaluations"]) <= stop.patience:
            return False
        losses: list[float] = [found["loss"] for _, found in state["evaluations"]]
        return min(losses[-stop.patience :]) > min(losses[: -stop.patience]) - stop.least

    def _take_over(self, state: State) -> None:
        """Add what all workers fed, and their losses, since the last time to the state."""
        if not self._shares:
            return
        own = torch.from_numpy(np.asarray(self._fed, np.uint64).view(np.int64))
        state["fed"] = torch.cat([state["fed"], summed(own, self.workers)])
        total, count = state["window"]
        added = summed(torch.tensor([sum(self._shares)], dtype=torch.float64), self.workers)
        state["window"] = [total + float(added), count + len(self._shares)]
        self._fed.clear()
        self._shares.clear()

    def _checkpoint(self, state: State) -> None:
        self._take_over(state)
        state["checkpoints"].append(state["step"])
        state |= states(self.module, self.optimiser, self.spec.parallel)
        state["scaler"] = self.scaler.state_dict()
        self.save(state)

    def _chain(self, state: State) -> dict[str, Any]:
        """Write the digests of all steps; the chain over them."""
        digests = state["fed"].numpy().view(np.uint64)
        file = self.stage.file("steps", self.index)
        if self.worker == 0:
            columns = {"step": np.arange(len(digests)), "low": digests[:, 0], "high": digests[:, 1]}
            part = self.stage.run.write_table(file, pa.table(columns))
            file = part.file
        heads = certificate.checkpoint_heads(self.plan.fingerprint, digests, [*state["checkpoints"], state["step"]])
        return {
            "plan": self.plan.fingerprint,
            "order": self.plan.order,
            "batch_size": self.plan.batch_size,
            "steps": state["step"],
            "head": heads[-1][1],
            "checkpoints": heads[:-1],
            "file": file,
        }

    def metrics(self, files: Sequence[str]) -> dict[str, float]:
        """Metrics on the rows of held-out files."""
        return self._measured(self._held_out(files))

    def _held_out(self, files: Sequence[str]) -> list[Any]:
        """This worker's share of held-out rows; all of them where the workers must take the same passes."""
        own = files if self.spec.parallel == "fsdp" else files[self.worker :: self.workers]
        return [self.learner.decode(self.stage.run.read_table(file)) for file in own]

    def _measured(self, tables: Sequence[Any]) -> dict[str, float]:
        self.learner.module.eval()
        found = evaluate(self.learner, self.learner.module, tables, rows=min(self.rows, EVALUATED_ROWS))
        self.learner.module.train()
        if self.spec.parallel == "ddp":
            found = summed(found, self.workers)
        return self.learner.metrics(dict(zip(self.learner.tallied, found.tolist(), strict=True)))

    def kept_files(self) -> list[Part]:
        """Write the model as it is now; its files."""
        return self._write(self.stage.name)

    def _write(self, folder: str) -> list[Part]:
        weights = self._weights()
        if self.worker > 0:
            return []
        return [self.stage.run.put(f"{folder}/{name}", data) for name, data in self.learner.files(weights).items()]

    def _weights(self) -> dict[str, torch.Tensor]:
        """A copy of all weights on the CPU; all workers must call."""
        held = weights_of(self.learner.module, self.spec.parallel)
        return {name: x.detach().cpu().clone() for name, x in held.items()}


def _groups(counts: Array, passes: int) -> list[Array]:
    """Rows in this many groups of equal size, those of similar length together; empty ones where rows are fewer."""
    return [np.asarray(rows) for rows in np.array_split(np.argsort(-counts, kind="stable"), passes)]
