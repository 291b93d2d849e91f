"""Annotation: for every example and visited step, its gradient's norm and its product with the adjoint.

One pass per visited step gives both, and all visited steps of a batch are taken in one visit, since the score divides
an example's product at one step by its norm at the next. Cost: V R passes of about one forward and backward pass per
example, for V visited steps of R trajectories. Memory: a model for each trajectory, at most `hold` pairs (theta_t,
lambda_{t+1}) of it and one more, and one batch's activations; pairs beyond are read again for every batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from raydelt.gradients import PerExampleGradients
from raydelt.gradients.answer import GradientBatch
from raydelt.gradients.memory import backing_off
from raydelt.lqs.objective import Vector
from raydelt.lqs.terms import Mode, scores
from raydelt.models.protocol import GradientModel
from raydelt.scorers.protocol import Array

Pair = tuple[Vector, Vector | None]


@dataclass
class Walked:
    """One trajectory's visited steps: `load(i)` gives theta_t and lambda_{t+1} of the i-th (None at step T)."""

    model: GradientModel
    load: Callable[[int], Pair]
    hold: int
    parameters: str | tuple[str, ...] = "all"
    _held: dict[int, Pair] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = PerExampleGradients(self.model.module, self.model.losses, parameters=self.parameters)

    def at(self, i: int) -> Vector | None:
        """Put the model at the i-th visited step; lambda of the step after it."""
        pair = self._held.get(i) or self.load(i)
        if len(self._held) < self.hold:
            self._held[i] = pair
        parameters = self.engine.selection.parameters
        with torch.no_grad():
            for name, value in pair[0].items():
                parameters[name].copy_(value)
        return pair[1]


class Visits:
    """Scores of examples along the trajectories."""

    def __init__(
        self,
        trajectories: Sequence[Walked],
        visits: Sequence[int],
        *,
        mode: Mode,
        steps: int,
        lr: float,
        budget: int,
        scales: Sequence[Mapping[str, float]] | None = None,
    ) -> None:
        self.trajectories, self.visits = trajectories, visits
        self.mode, self.steps, self.lr, self.budget = mode, steps, lr, budget
        self.scales = scales or [{}] * len(trajectories)

    def scores(self, batch: pa.RecordBatch) -> dict[str, Array]:
        """Every column of the mode, [R, B], each trajectory's over its scale where that has one."""
        found = []
        for walked, scale in zip(self.trajectories, self.scales, strict=True):
            products, norms, lengths = self._walk(walked, batch)
            own = scores(self.mode, self.visits, products, norms, lengths, steps=self.steps, lr=self.lr)
            found.append({name: x / scale.get(name, 1.0) for name, x in own.items()})
        return {name: np.stack([one[name] for one in found]) for name in found[0]}

    def _walk(self, walked: Walked, batch: pa.RecordBatch) -> tuple[Array, Array, Array]:
        """Products and norms [V, B] of a batch, and the lengths [V] of the adjoints."""
        rows = np.arange(batch.num_rows)
        products, norms = np.zeros((2, len(self.visits), batch.num_rows))
        lengths = np.zeros(len(self.visits))
        groups = walked.model.groups(batch, rows, self.budget) if len(rows) else []
        for v in range(len(self.visits)):
            adjoint = walked.at(v)
            lengths[v] = 0.0 if adjoint is None else _length(adjoint)
            for group in groups:
                for own, part in _passes(walked, batch, group, adjoint):
                    if part.norms is not None:
                        norms[v, own] = part.norms.double().cpu().numpy()
                    if part.dots is not None:
                        products[v, own] = part.dots[:, 0].double().cpu().numpy()
        return products, norms, lengths

    def seconds_per_visit(self, batch: pa.RecordBatch) -> float:
        """Measured seconds of one example at one visited step, the first pass and its checks left out."""
        self.scores(batch)
        started = time.perf_counter()
        self.scores(batch)
        visits = int(batch.num_rows) * len(self.visits) * len(self.trajectories)
        return (time.perf_counter() - started) / max(1, visits)


def _passes(
    walked: Walked, batch: pa.RecordBatch, group: Array, adjoint: Vector | None
) -> list[tuple[Array, GradientBatch]]:
    """(rows, result) of a group, in whole or in the halves that fit into memory."""
    vectors = [] if adjoint is None else [adjoint]

    def compute(low: int, high: int) -> tuple[Array, GradientBatch]:
        tensors, index = walked.model.tensors(batch, group[low:high])
        return group[low:high], walked.engine(tensors, vectors=vectors, index=index)

    return backing_off(compute, len(group), what="one example's gradient pass")


def _length(vector: Vector) -> float:
    return math.sqrt(sum(float(x.double().square().sum()) for x in vector.values()))
