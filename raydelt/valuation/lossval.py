"""LossVal: a weight per training example, learnt beside the model from the weighted loss; the weight is the value.

mode "normalised" (default). R = folds x repeats models learn from (sum w l) / (sum w), each from the rows outside its
fold; after every epoch from half way on, w_n becomes the minimiser of w_n l_n + (1 - w_n) l'_n + KL(w_n || 1 - r): the
probability that n is clean, by the mean prediction of the models that did not see n; l' is the loss under noise and r
its rate, which keep all weights from falling to zero together. With `transport` it is multiplied by the probability
that the features are in place, by the cost of moving the row's mass to its nearest others. One setting serves all.
mode "reference". As published: loss L O^2, Adam on model and weights together, values the weights after 30 epochs.

Training rows are dealt to `shards` owners; a step takes one micro-batch of each, sums their gradients in order, and
all take the same step. So the values depend on the number of shards and not on who computes them. Cost: R models of
`epochs` passes at once, about half a second for 1000 rows; O(n) memory. Source: Wibiral et al. 2024 (LossVal).

Caution: the normalised values learn from held-out predictions; examples of a rare kind look noisy. Values are
probabilities of being clean, not of being useful: all clean examples are near 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from raydelt.errors import InputError, SpecError
from raydelt.scorers.protocol import Array
from raydelt.valuation.exchange import Alone, Exchange, gathered
from raydelt.valuation.losses import Mode
from raydelt.valuation.members import Members, StackedMlp, StackedModule
from raydelt.valuation.posterior import StrangeFeatures, WrongLabels, WrongTargets
from raydelt.valuation.problem import Problem, Values
from raydelt.valuation.shards import (
    Batches,
    NormalisedShard,
    Potentials,
    ReferenceShard,
    Rows,
    at_once,
    neighbourhood,
)
from raydelt.valuation.sinkhorn import Target

# Rows beside which strange features are looked for; more would change little and cost the square.
AMONG = 4096
OBSERVED_FROM = 0.5
# Epochs, batch and hidden widths; those of the reference are the published ones.
Defaults = tuple[int, int, tuple[int, ...]]
NORMALISED: Defaults = (12, 64, (100,))
REFERENCE_CLASSES: Defaults = (30, 128, (100, 100, 100, 100))
REFERENCE_TARGETS: Defaults = (30, 32, (90, 90))


@dataclass(frozen=True)
class LossVal:
    """Settings; None takes the default of the mode and the task."""

    mode: Mode = "normalised"
    shards: int = 1
    repeats: int = 2
    folds: int = 5
    epochs: int | None = None
    batch: int | None = None
    lr: float = 0.01
    hidden: tuple[int, ...] | None = None
    transport: bool = True
    neighbours: int = 5
    double: bool = False

    def resolved(self, classes: int | None) -> LossVal:
        """These settings with every default filled in.

        Raises:
            SpecError: a setting is out of range.
        """
        for name, least in (("shards", 1), ("repeats", 1), ("folds", 2), ("neighbours", 1)):
            if getattr(self, name) < least:
                raise SpecError(f"lossval.{name} {getattr(self, name)}: give at least {least}")
        defaults = NORMALISED
        if self.mode == "reference":
            defaults = REFERENCE_CLASSES if classes else REFERENCE_TARGETS
        epochs = defaults[0] if self.epochs is None else self.epochs
        batch = defaults[1] if self.batch is None else self.batch
        hidden = defaults[2] if self.hidden is None else self.hidden
        if epochs < 1 or batch < 1 or not self.lr > 0:
            raise SpecError(f"lossval: epochs {epochs}, batch {batch} and lr {self.lr:g} must be above 0")
        return replace(self, epochs=epochs, batch=batch, hidden=hidden)


def lossval(
    problem: Problem, settings: LossVal, *, seed: int, module: Callable[[], nn.Module] | None = None
) -> Values:
    """Values [n] of a training set, with standard errors over the repeats; `module` makes a model of one's own.

    Raises:
        SpecError: a setting is out of range.
        InputError: there are too few rows for the shards.
    """
    training = Training(problem, settings, seed=seed, module=module)
    training.run()
    return gathered([training.values()], len(problem.x))


class Training:
    """A valuation that goes on step by step, on the shards `owned` here (all by default)."""

    def __init__(
        self,
        problem: Problem,
        settings: LossVal,
        *,
        seed: int,
        owned: Sequence[int] | None = None,
        exchange: Exchange | None = None,
        module: Callable[[], nn.Module] | None = None,
        potentials: Potentials | None = None,
    ) -> None:
        self.problem, self.settings, self.seed = problem, settings.resolved(problem.classes), seed
        self.exchange = exchange or Alone()
        self.reference = settings.mode == "reference"
        self._check()
        self.x, self.y = self._tensors(module is not None)
        count = settings.repeats * (1 if self.reference else settings.folds)
        self.members = self._members(count, module)
        for p in self.members.parameters:
            p.requires_grad_()
        self.adam = torch.optim.Adam(self.members.parameters, lr=settings.lr)
        self.step = 0
        self.fitted: tuple[float, ...] = ()
        self.steps = max(self._batches(k)[0].steps for k in range(settings.shards))
        potentials = potentials or at_once(Target(torch.as_tensor(problem.val_x).to(self.x.dtype)))
        numbers = range(settings.shards) if owned is None else owned
        self.shards: dict[int, ReferenceShard | NormalisedShard] = {
            k: self._shard(k, count, potentials) for k in numbers
        }
        if not self.reference and settings.transport:
            self._familiarise()

    @property
    def total(self) -> int:
        """The number of steps."""
        return cast(int, self.settings.epochs) * self.steps

    def run(self) -> None:
        while self.step < self.total:
            self.advance()

    def advance(self) -> None:
        """One step of all shards, and what follows the last one of an epoch."""
        epoch, at = divmod(self.step, self.steps)
        busy = {k: shard for k, shard in self.shards.items() if at < shard.batches.steps}
        for shard in busy.values():
            shard.start(epoch, at)
        parts = {k: [torch.zeros_like(p) for p in self.members.parameters] for k in self.shards}
        for k, shard in busy.items():
            parts[k] = list(torch.autograd.grad(shard.loss(self.members, epoch, at), self.members.parameters))
        for p, gradient in zip(self.members.parameters, self.exchange.sum(parts), strict=True):
            p.grad = gradient
        self.adam.step()
        for shard in self.shards.values():
            shard.end_step()
        self.step += 1
        if self.step % self.steps == 0:
            self._end_epoch(epoch + 1)

    def values(self) -> tuple[Array, Values]:
        """The rows held here, and their values so far."""
        shards = self.shards.values()
        found = [s.values(self.fitted) if isinstance(s, NormalisedShard) else s.values() for s in shards]
        errors = [own.errors for own in found if own.errors is not None]
        values = Values(np.concatenate([own.values for own in found]), np.concatenate(errors) if errors else None)
        return np.concatenate([s.rows.ids for s in shards]), values

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, of the model and the shards held here."""
        return {
            "step": self.step,
            "fitted": self.fitted,
            "theta": [p.detach() for p in self.members.parameters],
            "adam": self.adam.state_dict(),
            "shards": {k: shard.state() for k, shard in self.shards.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.fitted = state["step"], tuple(state["fitted"])
        with torch.no_grad():
            for p, saved in zip(self.members.parameters, state["theta"], strict=True):
                p.copy_(saved)
        self.adam.load_state_dict(state["adam"])
        for k, shard in self.shards.items():
            shard.load(state["shards"][k])

    def _end_epoch(self, epochs: int) -> None:
        if self.reference or epochs < OBSERVED_FROM * cast(int, self.settings.epochs):
            return
        shards = cast(dict[int, NormalisedShard], self.shards)
        [counts] = self.exchange.sum({k: [shard.observe(self.members)] for k, shard in shards.items()})
        self.fitted = self._noise().fit(counts)
        for shard in shards.values():
            shard.settle(self.fitted)

    def _familiarise(self) -> None:
        """Start the weights from the probability that the features are in place."""
        x = torch.as_tensor(np.asarray(self.problem.x, np.float64)).flatten(1)
        v = torch.as_tensor(np.asarray(self.problem.val_x, np.float64)).flatten(1)
        chosen = np.sort(np.random.default_rng([self.seed, 1]).permutation(len(x))[:AMONG])
        among, ids = torch.cat([x[chosen], v]), np.concatenate([chosen, -1 - np.arange(len(v))])
        k = min(self.settings.neighbours, len(ids) - 1)
        shards, mixture = cast(dict[int, NormalisedShard], self.shards), StrangeFeatures(self.problem.classes or 1)
        labels = {
            n: s.rows.y if self.problem.classes else torch.zeros(len(s.rows.x)).long() for n, s in shards.items()
        }
        costs = {n: neighbourhood(x[s.rows.ids], s.rows.ids, among, ids, k) for n, s in shards.items()}
        [counts] = self.exchange.sum({n: [mixture.counts(cost, labels[n])] for n, cost in costs.items()})
        fitted = mixture.fit(counts)
        for n, shard in shards.items():
            shard.familiarise(mixture.clean(costs[n], labels[n], fitted))

    def _check(self) -> None:
        n, least = len(self.problem.x) // self.settings.shards, 1 if self.reference else 2 * self.settings.folds
        if n < least:
            raise InputError(
                f"{len(self.problem.x)} training rows in {self.settings.shards} shards leave {n} to one, and it needs "
                f"{least}: take fewer shards or folds"
            )
        if self.problem.classes is not None and self.problem.classes < 2:
            raise InputError("one class only: there is no other class that a label could have been")

    def _tensors(self, own_model: bool) -> tuple[Tensor, Tensor]:
        """Inputs of the model and targets; as given for the reference and for a model of one's own."""
        dtype = torch.float64 if self.settings.double else torch.float32
        x, y = np.asarray(self.problem.x, np.float64), self.problem.targets
        if not self.reference:
            # Few and far values would rule a small network; the inverse sine leaves the rest as they are.
            x = x if own_model else np.arcsinh(standard(x))
            y = standard(y)
        targets = torch.from_numpy(np.asarray(self.problem.y)).long() if self.problem.classes else torch.from_numpy(y)
        return torch.from_numpy(x).to(dtype), targets if self.problem.classes else targets.to(dtype)

    def _members(self, count: int, module: Callable[[], nn.Module] | None) -> Members:
        members: Members
        if module is not None:
            members = StackedModule(module, count, seed=self.seed)
        else:
            outputs = self.problem.classes or self.y.shape[1]
            activation = torch.tanh if self.reference and not self.problem.classes else torch.relu
            widths = (self.x.shape[1], *cast(tuple[int, ...], self.settings.hidden), outputs)
            generator = torch.Generator().manual_seed(self.seed)
            members = StackedMlp(widths, count, activation=activation, generator=generator)
        members.parameters = [p.to(self.x.dtype) for p in members.parameters]
        return members

    def _noise(self) -> WrongLabels | WrongTargets:
        return WrongLabels(self.problem.classes) if self.problem.classes else WrongTargets(self.y.shape[1])

    def _batches(self, k: int) -> tuple[Batches, list[Array]]:
        """The batches of a shard, and for every member the rows it may not see."""
        rows, size = len(range(k, len(self.x), self.settings.shards)), cast(int, self.settings.batch)
        if self.reference:
            return Batches([np.arange(rows)] * self.settings.repeats, size, (self.seed, k)), []
        held: list[Array] = []
        for repeat in range(self.settings.repeats):
            order = np.random.default_rng([self.seed, k, 0, repeat]).permutation(rows)
            held += [np.sort(order[fold :: self.settings.folds]) for fold in range(self.settings.folds)]
        return Batches([np.setdiff1d(np.arange(rows), own) for own in held], size, (self.seed, k)), held

    def _shard(self, k: int, count: int, potentials: Potentials) -> ReferenceShard | NormalisedShard:
        ids = np.arange(k, len(self.x), self.settings.shards)
        rows, (batches, held) = Rows(k, ids, self.x[ids], self.y[ids], self.problem.classes), self._batches(k)
        if self.reference:
            return ReferenceShard(rows, count, batches, potentials, self.settings.lr)
        return NormalisedShard(rows, batches, held, self.settings.repeats, self._noise())


def standard(x: Array) -> Array:
    """Columns [n, ...] in units of their spread about their mean; one without spread becomes zeros."""
    spread = x.std(axis=0)
    result: Array = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return result
