"""Measured points made ready for fitting: the prediction at every point, and its exact derivatives, in one go.

    theta   eta_i = log(-b_i) + log a,   log tau_i,   log pivot,   kappa,   d        a = 1 - d / level
    log y0  = log(level a) + (kappa - log level) / a,   level: geometric mean of the metric

In eta and kappa a change of d leaves level and slope of the curves as they are and only bends them, so that the search
does not crawl along the valley in which d, b and y0 make up for each other (the condition falls fivefold). Cost:
O(points + pools x epochs) an evaluation. The laws are those of `laws`, the change of variables is this project's.

Caution: bounds hold for eta, so b may pass its own by the factor 1 / a.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydelt.errors import InputError, SpecError
from raydelt.plan.laws import MOST_EPOCHS, Curves, Law
from raydelt.plan.points import Points
from raydelt.scorers.protocol import Array

B_BOUNDS = (1e-4, 5.0)
TAU_BOUNDS = (0.05, 2000.0)
# What a half-life may be where nothing was repeated: the published ones lie between 1 and 9 epochs, those of language
# models on C4 up to 30.
TAU_UNKNOWN = (1.0, 30.0)


@dataclass(frozen=True)
class Options:
    """The law and what of it is given: gamma and d_inside as in `laws`; None is fitted (scale: 1 for error rates)."""

    law: Law = "utility"
    gamma: float = 1.0
    d_inside: bool = False
    floor: float | None = None
    scale: float | None = None
    pivot: float | None = None
    robust: bool = True
    starts: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.law not in ("utility", "effective_data"):
            raise SpecError(f"law {self.law!r} is not known: use utility or effective_data")
        if self.d_inside and self.law != "utility":
            raise SpecError("d_inside belongs to the law utility: leave it out for effective_data")
        if self.starts < 1 or not 0 <= self.gamma <= 2:
            raise SpecError(f"{self.starts} starts with gamma {self.gamma:g}: give 1 start or more, gamma in [0, 2]")
        if min(self.scale or 1.0, self.pivot or 1.0) <= 0 or (self.floor or 0.0) < 0:
            raise SpecError("floor must be at least 0, scale and pivot above 0: give such values, or none to fit them")


@dataclass(frozen=True)
class Design:
    """Points prepared for fitting: per point its pool and epoch, per pool [g] bucket, size and relative size."""

    points: Points
    options: Options
    sizes: Array
    pool: Array
    pool_bucket: Array
    pool_size: Array
    epoch: Array
    epochs: int
    free: Array
    low: Array
    high: Array
    fixed: Array
    unknown: Array

    @property
    def level(self) -> float:
        """A value of the metric that no floor reaches: its mean, or its largest where the floor decays as well."""
        return _level(self.points, self.options)

    def expand(self, theta: Array) -> Array:
        """All parameters [2p + 3] in natural form, log(-b), log tau, log pivot, log scale and d, from theta [free]."""
        every = self.fixed.copy()
        every[self.free] = theta
        above = 1 - every[-1] / self.level
        every[: len(self.sizes)] -= np.log(above)
        if self.free[-2]:
            every[-2] = np.log(self.level * above) + (every[-2] - np.log(self.level)) / above
        return every

    def reduce(self, every: Array) -> Array:
        """The inverse of `expand`: theta [free]."""
        every, above = every.copy(), 1 - every[-1] / self.level
        every[: len(self.sizes)] += np.log(above)
        every[-2] = np.log(self.level) + above * (every[-2] - np.log(self.level * above))
        return every[self.free]

    def chain(self, jacobian: Array, every: Array) -> Array:
        """The Jacobian [n, free] in theta of one [n, 2p + 3] in natural parameters."""
        above = 1 - every[-1] / self.level
        jacobian[:, -1] += jacobian[:, : len(self.sizes)].sum(1) / (self.level * above)
        if self.free[-2]:
            change = (every[-2] - np.log(self.level * above) - 1) / (self.level * above)
            jacobian[:, -1] += jacobian[:, -2] * change
            jacobian[:, -2] /= above
        return jacobian[:, self.free]

    def curves(self, theta: Array) -> Curves:
        p, every = len(self.sizes), self.expand(theta)
        return Curves(
            -np.exp(every[:p]),
            np.exp(every[p : 2 * p]),
            self.sizes,
            float(np.exp(every[-3])),
            float(np.exp(every[-2])),
            float(every[-1]),
            law=self.options.law,
            gamma=self.options.gamma,
            d_inside=self.options.d_inside,
        )

    def target(self, values: Array) -> Array:
        """What is compared [n]: logarithms, of error rates too, whose noise falls with them."""
        return np.log(values)

    def predict(self, theta: Array) -> tuple[Array, Array]:
        """The compared prediction [n] and its Jacobian [n, free]."""
        p, every = len(self.sizes), self.expand(theta)
        b, pivot, scale, floor = -np.exp(every[:p]), every[-3], np.exp(every[-2]), every[-1]
        first, later, slope = self.exposure(np.exp(every[p : 2 * p]))
        bucket, rows = self.points.bucket, np.arange(len(self.points.bucket))
        mine = b[bucket]
        late = np.exp(mine * later)
        power = scale * np.exp(mine * (first - pivot)) * late
        ground = floor * late if self.options.d_inside else np.full(len(mine), floor)
        jacobian = np.zeros((len(mine), len(every)))
        decaying = ground if self.options.d_inside else 0.0
        jacobian[rows, bucket] = mine * (power * (first + later - pivot) + decaying * later)
        jacobian[rows, p + bucket] = mine * slope * (power + decaying)
        jacobian[:, -3], jacobian[:, -2] = -mine * power, power
        jacobian[:, -1] = late if self.options.d_inside else 1.0
        value = power + ground
        return np.log(value), self.chain(jacobian / value[:, None], every)

    def exposure(self, tau: Array) -> tuple[Array, Array, Array]:
        """Logarithm [n] of what the first epoch counts, what later ones add to it, and the slope of that in log tau.

        A loss is scale exp(b (first + later - log pivot)) + floor.
        """
        relative = (self.pool_size / self.sizes[self.pool_bucket]) ** self.options.gamma
        halves = np.arange(self.epochs) / (tau[self.pool_bucket] * relative)[:, None]
        decay = np.exp2(-halves)
        change = decay * halves * np.log(2.0)
        seen, unique = self.points.seen, self.points.unique
        first = np.log(np.minimum(seen, unique))
        before = np.maximum(self.epoch - 1, 0)
        repeated = self.epoch > 0
        if self.options.law == "utility":
            step = np.log1p(1 / np.arange(1, self.epochs))
            part = np.log(np.where(repeated, seen, unique) / (np.maximum(self.epoch, 1) * unique))
            later = _before(decay[:, 1:] * step)[self.pool, before] + decay[self.pool, self.epoch] * part
            slope = _before(change[:, 1:] * step)[self.pool, before] + change[self.pool, self.epoch] * part
        else:
            part = seen / unique - self.epoch
            ends = np.cumsum(decay, 1)[self.pool, before] + decay[self.pool, self.epoch] * part
            later = np.log(np.where(repeated, ends, 1.0))
            slope = (np.cumsum(change, 1)[self.pool, before] + change[self.pool, self.epoch] * part) / ends
        return first, np.where(repeated, later, 0.0), np.where(repeated, slope, 0.0)


def prepare(points: Points, options: Options) -> Design:
    """The design of a fit: pools, epochs, which parameters are free, and their bounds."""
    p, sizes = len(points.names), points.sizes
    pools, pool = np.unique(np.stack([points.bucket, points.unique], 1), axis=0, return_inverse=True)
    epoch = np.maximum(np.ceil(points.epochs * (1 - 1e-12)), 1).astype(np.int64) - 1
    if epoch.max() >= MOST_EPOCHS // 10:
        raise InputError(
            f"a point repeats its pool {epoch.max():,} times: leave out those above {MOST_EPOCHS // 10:,}"
        )
    unknown = np.array([points.epochs[points.bucket == index].max() <= 1 for index in range(p)])
    scale = 1.0 if options.scale is None and points.metric == "error" else options.scale
    single = p == 1 and scale is None
    pivot = float(np.exp(np.log(points.seen).mean())) if options.pivot is None and single else options.pivot
    least = float(points.loss.min())
    low, high = _bounds(points, options)
    fixed = np.zeros(2 * p + 3)
    fixed[p : 2 * p] = np.log(TAU_UNKNOWN).mean()
    fixed[-3:] = np.log(pivot or 1.0), np.log(scale or 1.0), options.floor or 0.0
    held = np.concatenate([np.zeros(p, bool), unknown, [pivot is not None, scale is not None]])
    free = ~np.append(held, options.floor is not None)
    if options.floor is not None and options.floor >= least:
        raise SpecError(f"floor {options.floor:g} is not below the least {points.metric} {least:g}: lower it")
    where = (pool.ravel(), pools[:, 0].astype(np.int64), pools[:, 1])
    spans = (free, low[free], high[free], fixed, unknown)
    return Design(points, options, sizes, *where, epoch, int(epoch.max()) + 1, *spans)


def _level(points: Points, options: Options) -> float:
    return float(points.loss.max() if options.d_inside else np.exp(np.log(points.loss).mean()))


def _bounds(points: Points, options: Options) -> tuple[Array, Array]:
    p, level = len(points.names), float(np.log(points.loss).mean())
    ends = [np.log(B_BOUNDS)] * p + [np.log(TAU_BOUNDS)] * p
    pivot = np.log([points.seen.min() * 1e-4, points.seen.max() * 1e2])
    # A floor that decays with the epochs may lie above losses after some.
    top = (0.999 if options.d_inside else 1 - 1e-6) * (points.loss.max() if options.d_inside else points.loss.min())
    low, high = np.array([*ends, pivot, (level - 12, level + 25), (0.0, top)]).T
    return low, high


def _before(steps: Array) -> Array:
    """Sums [g, epochs] of the steps [g, epochs - 1] up to and with each, after a zero."""
    return np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, 1)], 1)
