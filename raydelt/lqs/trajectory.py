"""T steps of plain SGD, theta_{t+1} = theta_t - eta grad L_t(theta_t), walked forwards once and then backwards.

Every k-th step is kept (k = ceil(sqrt(T)), or 1 to keep all); on the way back the steps between are computed again
from the one before them, a segment at a time, by the same operations in the same order, so they are the same bits; a
digest of every segment's last step tells if they were not. Cost: two forward and backward passes over the batches.
Memory: T / k + k copies of the parameters at most. Source of the scheme: Griewank 1992, in its one-level form.

Caution: only plain SGD without momentum; another optimiser has a state that the adjoint does not know.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import xxhash

from raydelt.errors import InputError
from raydelt.lqs.objective import Batch, Objective, Vector

log = logging.getLogger(__name__)

# Losses of batches differ, but not a thousandfold from the first unless the steps are too long.
BLOWN_UP = 1e3


@dataclass(frozen=True)
class Share:
    """The batches that this worker computes of the `total` examples of a mean."""

    batches: Callable[[], Iterable[Batch]]
    total: int


Reduce = Callable[[Vector], Vector]


def alone(vector: Vector) -> Vector:
    """The sum over a single worker."""
    return vector


class Trajectory:
    """`steps[t]` is the mean loss L_t of step t; `reduce` sums a vector over the workers that share its examples."""

    def __init__(
        self,
        objective: Objective,
        start: Vector,
        steps: list[Share],
        *,
        lr: float,
        every: int | None = None,
        reduce: Reduce = alone,
    ) -> None:
        self.objective, self.steps, self.lr, self.reduce = objective, steps, lr, reduce
        self.every = every or math.ceil(math.sqrt(len(steps)))
        self.kept: dict[int, Vector] = {0: start}
        self.digests: dict[int, str] = {}
        self.losses: list[float] = []
        self.target_losses: dict[int, float] = {}

    def forward(self) -> Vector:
        """Walk to the last step, keeping what the way back needs; theta_T.

        Raises:
            InputError: a loss or a gradient is not finite, or the loss has left all bounds.
        """
        at = self.kept[0]
        for t in range(len(self.steps)):
            at, loss = self._step(t, at)
            self.losses.append(loss)
            if not loss <= BLOWN_UP * (1 + self.losses[0]):
                raise self._diverged(t, f"its loss is {loss:.3g}")
            if (t + 1) % self.every == 0:
                self.kept[t + 1] = at
            if (t + 2) % self.every == 0 and self.every > 1:
                self.digests[t + 1] = _digest(at)
        return at

    def backward(self) -> Iterator[tuple[int, Vector]]:
        """(t, theta_t) for t = T - 1, …, 0; what is kept is let go on the way."""
        count = len(self.steps)
        for low in range((count - 1) // self.every * self.every, -1, -self.every):
            self.kept.pop(low + self.every, None)
            segment = [self.kept[low]]
            for t in range(low, min(low + self.every, count) - 1):
                segment.append(self._step(t, segment[-1])[0])
            self._compare(low + len(segment) - 1, segment[-1])
            for t in range(low + len(segment) - 1, low - 1, -1):
                yield t, segment.pop()

    def mean_gradient(self, share: Share, at: Vector) -> tuple[Vector, float]:
        """Gradient of a mean loss, and the loss, over all workers."""
        gradient, value = self.objective.gradient(at, share.batches())
        device = next(iter(at.values())).device
        loss = self.reduce({"": torch.tensor(value, dtype=torch.float64, device=device)})[""]
        gradient = self.reduce(gradient)
        for x in gradient.values():
            x /= share.total
        return gradient, float(loss) / share.total

    def _step(self, t: int, at: Vector) -> tuple[Vector, float]:
        gradient, loss = self.mean_gradient(self.steps[t], at)
        if not all(bool(torch.isfinite(g).all()) for g in gradient.values()):
            raise self._diverged(t, "its gradient is not finite")
        for name, g in gradient.items():
            g.mul_(-self.lr).add_(at[name])
        return gradient, loss

    def _diverged(self, t: int, how: str) -> InputError:
        return InputError(
            f"score.lqs.lr {self.lr:g}: the trajectory diverged, {how} at step {t} of {len(self.steps)}: lower the "
            "learning rate"
        )

    def _compare(self, t: int, at: Vector) -> None:
        if t in self.digests and self.digests[t] != _digest(at):
            log.warning("step %d of the trajectory came out otherwise when computed again: kernels differ by run", t)


def _digest(vector: Vector) -> str:
    digest = xxhash.xxh3_128()
    for x in vector.values():
        digest.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
