"""What the points say about the floor d: for every d the best fit of all else, and how much worse it is.

    rise(d)    = min_theta S(theta; d) - min S,   S = sum of (robust) squares
    density(d) ~ exp(-rise(d) / (2 v)),  0 <= d < least value     flat before the points
    v          = sum_k s_k |Z_k'g|^2 / |g|^2      g: the part of dy/dd that nothing else can make up for

The floor is the one parameter that noise pushes to its bound and that all extrapolation hangs on; refits of curves
with d = 0 would take it for known. v is the noise that g picks up, from parts s_k with groups Z_k. Between nodes (at
most 30, dense near the best) the signed root of the rise is linear. Cost: one warm search a node.

Caution: with a flat density half of the range is a floor above half the least loss; give `floor` if it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raydelt.plan.design import Design
from raydelt.plan.fit import Fit, search
from raydelt.scorers.protocol import Array

STEPS = np.array([0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])
FINE = 2001


@dataclass(frozen=True)
class Profile:
    """Floors [nodes], theta without the floor [nodes, free - 1], signed root of the rise [nodes], direction g [n]."""

    floors: Array
    thetas: Array
    roots: Array
    direction: Array

    def draw(self, variance: float, rng: np.random.Generator) -> tuple[float, Array]:
        """A floor by its density for v = `variance`, and the theta that goes with it."""
        grid = np.linspace(self.floors[0], self.floors[-1], FINE)
        # Nodes are much denser than the grid where the points know the floor well.
        grid = np.unique(np.concatenate([grid, *(np.linspace(a, b, 9) for a, b in self._intervals())]))
        rise = np.interp(grid, self.floors, self.roots) ** 2
        weight = np.exp(-(rise - rise.min()) / (2 * max(variance, 1e-300)))
        mass = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2 * np.diff(grid))])
        floor = float(np.interp(rng.uniform(0, mass[-1]), mass, grid))
        return floor, np.array([np.interp(floor, self.floors, column) for column in self.thetas.T])

    def _intervals(self) -> list[tuple[float, float]]:
        return list(zip(self.floors[:-1].tolist(), self.floors[1:].tolist(), strict=True))

    def variance(self, variances: Sequence[float], groups: Sequence[Array]) -> float:
        """v for parts of the noise with these variances and groups [n]."""
        picked = (np.sum(np.bincount(group, self.direction) ** 2) for group in groups)
        return float(sum(part * sums for part, sums in zip(variances, picked, strict=True)))


def profile(design: Design, fitted: Fit, spread: float) -> Profile:
    """The profile of a fitted floor; residuals have a standard deviation of about `spread`."""
    target, best = design.target(fitted.points.loss), float(fitted.theta[-1])
    direction = _alone(fitted.jacobian)
    length = max(float(np.linalg.norm(direction)), 1e-300)
    top = float(design.high[-1])
    steps = np.concatenate([STEPS, [10.0, 20.0]]) * spread / length
    nodes = np.concatenate([[0.0, best], best - steps, best + steps, np.linspace(0, top * 0.999, 8)])
    nodes = np.unique(nodes[(nodes >= 0) & (nodes < top)])
    middle = int(np.argmin(np.abs(nodes - best)))
    costs, thetas = np.empty(len(nodes)), np.empty((len(nodes), len(fitted.theta) - 1))
    for order in (range(middle, len(nodes)), range(middle - 1, -1, -1)):
        start = fitted.theta[:-1]
        for index in order:
            found = search(with_floor(design, float(nodes[index])), target, start, soft=fitted.soft, exact=False)
            costs[index], thetas[index], start = 2 * found.cost, found.x, found.x
    roots = np.sqrt(np.maximum(costs - costs.min(), 0.0)) * np.sign(nodes - nodes[costs.argmin()])
    return Profile(nodes, thetas, roots, direction / length)


def with_floor(design: Design, floor: float) -> Design:
    """The same design with the floor given."""
    free, fixed = design.free.copy(), design.fixed.copy()
    free[-1], fixed[-1] = False, floor
    return replace(design, free=free, fixed=fixed, low=design.low[:-1], high=design.high[:-1])


def _alone(jacobian: Array) -> Array:
    """The last column of a Jacobian [n, free] without what the others can make up for [n]."""
    norms = np.linalg.norm(jacobian[:, :-1], axis=0)
    left, weight, _ = np.linalg.svd(jacobian[:, :-1] / np.where(norms > 0, norms, 1.0), full_matrices=False)
    basis = left[:, weight > 1e-10 * weight.max()]
    alone: Array = jacobian[:, -1] - basis @ (basis.T @ jacobian[:, -1])
    return alone
