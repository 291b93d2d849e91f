"""What an owner of training rows does in a valuation by learnt weights: it holds their weights, and moves them.

A shard computes the gradient of its own micro-batches and nothing else leaves it but that and counts in bins.

    reference:   a weight per member and row; dLoss/dw_n = l_n O^2 + 2 L O (f_ba - f_aa)_n, then Adam with the global
                 step counter on all rows, those outside the batch with gradient zero
    normalised:  a weight per row; theta follows (sum w l) / (sum w) on the rows that a member may see, and w is the
                 minimiser of  sum_n w_n l_n + (1 - w_n) l'_n + KL(w_n || 1 - r),  l the loss and l' that under noise
                 for the members that may not see n: w_n = P(clean), found in closed form after an epoch

Cost: O(batch) per step and member, and for the reference O(rows) for Adam. Memory: three numbers per member and row
(reference), C numbers per repeat and row (normalised).

Caution: a batch is a function of seed, shard and epoch alone, so another number of shards is another training.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydelt.scorers.protocol import Array
from raydelt.valuation.losses import class_losses
from raydelt.valuation.members import Members
from raydelt.valuation.posterior import WrongLabels, WrongTargets
from raydelt.valuation.problem import Values
from raydelt.valuation.sinkhorn import Divergence, Target

# So that an example that is given up can still come back.
LEAST_CLEAN = 0.01
# Rows of a pass without gradients: what it holds at once does not grow with the shard.
AT_ONCE = 1024
# The share of a median distance below which two rows are copies.
SAME = 1e-3

Potentials = Callable[[Tensor, Tensor], "Divergence | Future[Divergence]"]
Fitted = tuple[float, ...]


@dataclass(frozen=True)
class Rows:
    """The rows of a shard: numbers in the training set [m], inputs [m, d], classes [m] or targets [m, k]."""

    shard: int
    ids: Array
    x: Tensor
    y: Tensor
    classes: int | None

    def losses(self, outputs: Tensor, at: Tensor, mode: Any) -> Tensor:
        """l [R, B] of outputs [R, B, C] for rows `at` [R, B]."""
        if self.classes:
            return class_losses(outputs, self.y[at], mode)
        return (outputs - self.y[at]).square().sum(-1)


class Batches:
    """Which rows every member sees in a step; a member in `seen` has the rows it may see."""

    def __init__(self, seen: list[Array], size: int, key: tuple[int, int]) -> None:
        self.seen, self.size, self.key = seen, size, key
        self.rows = min(len(rows) for rows in seen)
        self.steps = -(-self.rows // size)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __call__(self, epoch: int, at: int) -> Tensor:
        """Rows [R, B] of a step; B is 0 after the last."""
        if epoch != self._epoch:
            rng = np.random.default_rng([*self.key, epoch])
            order = np.stack([rng.permutation(rows)[: self.rows] for rows in self.seen])
            self._epoch, self._order = epoch, torch.from_numpy(order)
        return self._order[:, at * self.size : (at + 1) * self.size]


class ReferenceShard:
    """Weights [R, m] that every member learns for itself, by Adam."""

    def __init__(self, rows: Rows, members: int, batches: Batches, potentials: Potentials, lr: float) -> None:
        self.rows, self.batches, self.potentials = rows, batches, potentials
        self.weights = torch.ones(members, len(rows.x), dtype=rows.x.dtype)
        self.adam = torch.optim.Adam([self.weights], lr=lr)
        self.pending: Divergence | Future[Divergence] | None = None

    def start(self, epoch: int, at: int) -> None:
        """Begin what needs no model."""
        chosen = self.batches(epoch, at)
        self.pending = self.potentials(self.rows.x[chosen], self.weights.gather(1, chosen))

    def loss(self, members: Members, epoch: int, at: int) -> Tensor:
        """The loss of the micro-batch, summed over the members; it leaves the gradient of the weights behind."""
        chosen = self.batches(epoch, at)
        w, losses = self.weights.gather(1, chosen), self.rows.losses(members(self.rows.x[chosen]), chosen, "reference")
        total = (w * losses).sum(1)
        found = self.pending.result() if isinstance(self.pending, Future) else self.pending
        assert found is not None
        o = found.value
        by_weight = losses.detach() * (o**2)[:, None] + (2 * total.detach() * o)[:, None] * found.gradient
        self.weights.grad = torch.zeros_like(self.weights).scatter_(1, chosen, by_weight)
        return (total * o**2).sum()

    def end_step(self) -> None:
        if self.weights.grad is None:
            self.weights.grad = torch.zeros_like(self.weights)
        self.adam.step()
        self.weights.grad = None

    def values(self) -> Values:
        return Values(self.weights.double().mean(0).numpy(), spread_of_mean(self.weights.double()))

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights, "adam": self.adam.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.weights.copy_(state["weights"])
        self.adam.load_state_dict(state["adam"])


class NormalisedShard:
    """A weight [m] for every row, from what the members that may not see it predict: sums [S, m, C] over epochs."""

    def __init__(
        self, rows: Rows, batches: Batches, held: list[Array], repeats: int, noise: WrongLabels | WrongTargets
    ) -> None:
        self.rows, self.batches, self.held, self.repeats, self.noise = rows, batches, held, repeats, noise
        width = rows.classes or rows.y.shape[1]
        self.familiar = torch.ones(len(rows.x), dtype=torch.float64)
        self.weights = torch.ones(len(rows.x), dtype=rows.x.dtype)
        self.sums = torch.zeros(repeats, len(rows.x), width, dtype=rows.x.dtype)
        self.seen = 0

    def start(self, epoch: int, at: int) -> None:
        return None

    def loss(self, members: Members, epoch: int, at: int) -> Tensor:
        chosen = self.batches(epoch, at)
        w, losses = self.weights[chosen], self.rows.losses(members(self.rows.x[chosen]), chosen, "normalised")
        return ((w * losses).sum(1) / w.sum(1)).sum()

    def end_step(self) -> None:
        return None

    def familiarise(self, familiar: Tensor) -> None:
        """Take the probability [m] that the features are in place, as a weight to start from and a factor."""
        self.familiar, self.weights = familiar, familiar.clamp_min(LEAST_CLEAN).to(self.weights.dtype)

    def observe(self, members: Members) -> Tensor:
        """Add what the members predict for the rows they may not see; the counts of the evidence so far."""
        most = max(len(rows) for rows in self.held)
        padded = torch.from_numpy(np.stack([np.resize(rows, most) for rows in self.held]))
        with torch.no_grad():
            parts = [members(self.rows.x[padded[:, low : low + AT_ONCE]]) for low in range(0, most, AT_ONCE)]
        outputs = torch.cat(parts, dim=1)
        outputs = outputs.softmax(-1) if self.rows.classes else outputs
        folds = len(self.held) // self.repeats
        for member, rows in enumerate(self.held):
            self.sums[member // folds, rows] += outputs[member, : len(rows)]
        self.seen += 1
        return self.noise.counts(self.noise.evidence(self.sums.mean(0) / self.seen, self.rows.y))

    def settle(self, fitted: Fitted) -> None:
        self.weights = self._clean(self.sums.mean(0), fitted).clamp_min(LEAST_CLEAN).to(self.weights.dtype)

    def values(self, fitted: Fitted) -> Values:
        each = torch.stack([self._clean(own, fitted) for own in self.sums])
        return Values(self._clean(self.sums.mean(0), fitted).numpy(), spread_of_mean(each))

    def _clean(self, sums: Tensor, fitted: Fitted) -> Tensor:
        """P(clean) [m] from sums of predictions [m, C]."""
        return self.noise.clean(self.noise.evidence(sums / self.seen, self.rows.y), fitted) * self.familiar

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights, "sums": self.sums, "seen": self.seen}

    def load(self, state: dict[str, Any]) -> None:
        self.weights, self.sums, self.seen = state["weights"].clone(), state["sums"].clone(), state["seen"]


def spread_of_mean(each: Tensor) -> Array | None:
    """The standard error [m] of the mean of values [S, m]; None of a single one."""
    if len(each) < 2:
        return None
    found: Array = (each.std(0) / len(each) ** 0.5).numpy()
    return found


def at_once(target: Target) -> Potentials:
    """Potentials of members [R, B, d] computed on the spot, each with a diameter of its own."""

    def compute(x: Tensor, weights: Tensor) -> Divergence:
        found = [target.divergence(own, w) for own, w in zip(x, weights, strict=True)]
        return Divergence(torch.stack([f.value for f in found]), torch.stack([f.gradient for f in found]))

    return compute


def neighbourhood(x: Tensor, ids: Array, among: Tensor, among_ids: Array, k: int) -> Tensor:
    """How much further than its neighbours a row is from its k nearest: log costs [m] of rows x [m, d] `among` others.

    The cost is that of moving a row's mass to the others, each of which takes one k-th at most: ln c_i, less half the
    mean of ln c over those that take it. Copies of a row are no others.
    """
    copies = SAME * float(torch.cdist(among[:256], among).median())
    own, _ = _nearest(among, among_ids, among, among_ids, k, copies)
    found, at = _nearest(x, ids, among, among_ids, k, copies)
    return found - own[at].mean(1) / 2


def _nearest(x: Tensor, ids: Array, among: Tensor, among_ids: Array, k: int, copies: float) -> tuple[Tensor, Tensor]:
    """The log of the mean distance [m] to the k nearest others, and which these are [m, k]."""
    means, places = [], []
    for low in range(0, len(x), AT_ONCE):
        far = torch.cdist(x[low : low + AT_ONCE], among)
        same = torch.from_numpy(ids[low : low + AT_ONCE, None] == among_ids[None, :])
        far[same | (far <= copies)] = torch.inf
        nearest, at = far.topk(k, largest=False)
        there = nearest.isfinite()
        means.append(torch.where(there, nearest, 0.0).sum(1) / there.sum(1).clamp_min(1))
        places.append(at)
    return torch.cat(means).clamp_min(1e-12).log(), torch.cat(places)
