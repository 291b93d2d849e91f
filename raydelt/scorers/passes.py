"""Per-example gradients for scorers: one pass over a batch for all that ask for the same parameters.

Every example goes through the R models that may score it (those that never saw it, or the spec's checkpoints). A
scorer says in `setup` what it will want; the first that asks for a batch triggers the pass, and the others get the
same result. Batches are split to a memory budget, and in halves where memory runs out all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch

from raydelt.gradients import PerExampleGradients, Sketch
from raydelt.gradients.memory import backing_off
from raydelt.models.protocol import GradientModel
from raydelt.scorers.crossfit import folds_for
from raydelt.scorers.protocol import Array
from raydelt.scorers.target_alignment import TargetRequest

Parameters = str | tuple[str, ...]
Target = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Gradients:
    """Losses, norms, dot products with the target's gradient, and its norm: each [R, B], NaN where not wanted.

    `similarities` [R, B, m] are cosines with m target examples in a sketch, where they are wanted.
    """

    losses: Array
    norms: Array
    dots: Array
    target_norms: Array
    similarities: Array | None = None


@dataclass
class _Want:
    norms: bool = False
    target: TargetRequest | None = None
    near: TargetRequest | None = None


class GradientPasses:
    """Gradients of corpus batches by models[r][f]; `targets[request][r][f]` is what the target set gives for them.

    That is the mean gradient by parameter, or for a request of sketches their unit rows as `units` [m, k].
    """

    def __init__(
        self,
        models: Sequence[Sequence[GradientModel]],
        *,
        targets: Mapping[TargetRequest, Sequence[Sequence[Target]]] | None = None,
        budget: int,
    ) -> None:
        self.models, self.targets, self.budget = models, targets or {}, budget
        self._wants: dict[Parameters, _Want] = {}
        self._engines: dict[tuple[int, int, Parameters], PerExampleGradients] = {}
        self._sketches: dict[Parameters, Sketch] = {}
        self._last: tuple[Any, dict[Parameters, Gradients]] = (None, {})
        self._losses: tuple[Any, Array | None] = (None, None)

    def want(
        self,
        parameters: Parameters,
        *,
        norms: bool = False,
        target: TargetRequest | None = None,
        near: TargetRequest | None = None,
    ) -> None:
        """Announce what `of` will be asked for."""
        known = self._wants.setdefault(parameters, _Want())
        known.norms, known.target, known.near = known.norms or norms, target or known.target, near or known.near

    def of(self, batch: pa.RecordBatch, parameters: Parameters) -> Gradients:
        """All that was announced for these parameters, of one batch."""
        if self._last[0] is not batch:
            self._last = (batch, {})
        found = self._last[1]
        if parameters not in found:
            found[parameters] = self._computed(batch, parameters)
        return found[parameters]

    def losses(self, batch: pa.RecordBatch) -> Array:
        """Losses [R, B]; taken from a gradient pass where one is made anyway."""
        if self._wants:
            return self.of(batch, next(iter(self._wants))).losses
        if self._losses[0] is not batch:
            self._losses = (batch, self._forward_only(batch))
        return cast(Array, self._losses[1])

    def _computed(self, batch: pa.RecordBatch, parameters: Parameters) -> Gradients:
        want = self._wants[parameters]
        shape = (len(self.models), batch.num_rows)
        result = Gradients(*(np.full(shape, np.nan) for _ in range(4)))
        if want.near is not None:
            count = len(self.targets[want.near][0][0]["units"])
            result = replace(result, similarities=np.full((*shape, count), np.nan, np.float32))
        for r, f, rows in self._routed(batch):
            vectors = [] if want.target is None else [self.targets[want.target][r][f]]
            if vectors:
                result.target_norms[r, rows] = _norm(vectors[0])
            for own, part in self._passes(r, f, parameters, batch, rows, vectors):
                result.losses[r, own] = part.losses.double().cpu().numpy()
                if part.norms is not None:
                    result.norms[r, own] = part.norms.cpu().numpy()
                if part.dots is not None:
                    result.dots[r, own] = part.dots[:, 0].cpu().numpy()
                if want.near is not None and result.similarities is not None:
                    units = self.targets[want.near][r][f]["units"]
                    result.similarities[r, own] = (unit_rows(part.sketches) @ units.T).cpu().numpy()
        return result

    def _passes(self, r: int, f: int, parameters: Parameters, batch: pa.RecordBatch, rows: Array, vectors: Any) -> Any:
        """(rows, result) of every group of rows, in whole or in the halves that fit."""
        model, engine, want = self.models[r][f], self._engine(r, f, parameters), self._wants[parameters]
        if want.near is not None and parameters not in self._sketches:
            self._sketches[parameters] = Sketch(want.near.k, want.near.seed)
        sketch = self._sketches.get(parameters)
        for group in model.groups(batch, rows, self.budget):

            def compute(low: int, high: int, group: Array = group) -> Any:
                tensors, index = model.tensors(batch, group[low:high])
                return group[low:high], engine(tensors, norms=want.norms, vectors=vectors, sketch=sketch, index=index)

            yield from backing_off(compute, len(group), what="one example's gradient pass")

    def _forward_only(self, batch: pa.RecordBatch) -> Array:
        result = np.full((len(self.models), batch.num_rows), np.nan)
        for r, f, rows in self._routed(batch):
            model = self.models[r][f]
            # Nothing is kept for a backward pass, so a group may be several times as large; it is not, for equal bits.
            for group in model.groups(batch, rows, self.budget):
                with torch.inference_mode():
                    tensors, _ = model.tensors(batch, group)
                    result[r, group] = model.losses(model.module, tensors).double().cpu().numpy()
        return result

    def _routed(self, batch: pa.RecordBatch) -> Any:
        folds = folds_for(self.models, batch)
        for r, models in enumerate(self.models):
            for f in range(len(models)):
                rows = np.flatnonzero(folds[r] == f)
                if len(rows):
                    yield r, f, rows

    def _engine(self, r: int, f: int, parameters: Parameters) -> PerExampleGradients:
        key = (r, f, parameters)
        if key not in self._engines:
            model = self.models[r][f]
            self._engines[key] = PerExampleGradients(model.module, model.losses, parameters=parameters)
        return self._engines[key]


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """Rows [n, k] of length one; rows of zeros stay zero."""
    units: torch.Tensor = x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-30)
    return units


def _norm(vector: Target) -> float:
    return float(np.sqrt(sum(float(part.double().square().sum()) for part in vector.values())))
