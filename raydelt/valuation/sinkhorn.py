"""Debiased Sinkhorn divergence of weighted points from a target set, with the gradient by the weights in closed form.

    O(w) = sum_n w_n (f_ba - f_aa)_n + sum_j (g_ab - g_bb)_j        dO/dw_n = (f_ba - f_aa)_n

f and g are the dual potentials of entropic transport at cost |x - v|^2 / 2, found by symmetric averaged updates while
eps falls from diameter^2 to blur^2, a factor scaling^2 at a time, and one last full update: the algorithm of geomloss
(Feydy et al. 2019), whose autograd gives the same gradient, because only the last update is differentiated. Masses
are free: w_n against 1 for every target point, or with `unit_mass` both sides scaled to mass one. A weight <= 0 has
the logarithm -1e5. Cost: about 14 rounds of n J + J n + n n + J J exponentials; J J is left out from the second call
on where the diameter is fixed.

Caution: with masses that differ the iteration has no fixed point, and O grows with their difference whatever the
points; only the unit-mass version is a distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydelt.errors import InputError

# Larger than any batch diameter, as every method that is compared sets it.
MARGIN = 1.1
NO_MASS = -1e5
LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Divergence:
    """Values [...] and their gradients by the weights [..., n]."""

    value: Tensor
    gradient: Tensor


class Target:
    """Target points [J, d] and what depends on them alone; a `diameter` fixes the schedule for all batches."""

    def __init__(
        self,
        points: Tensor,
        *,
        unit_mass: bool = False,
        diameter: float | None = None,
        blur: float = 0.05,
        scaling: float = 0.5,
    ) -> None:
        if not blur > 0 or not 0 < scaling < 1:
            raise InputError(f"blur {blur:g} and scaling {scaling:g}: blur must be above 0 and scaling within (0, 1)")
        self.points, self.unit_mass, self.diameter, self.blur, self.scaling = (
            points.detach(),
            unit_mass,
            diameter,
            blur,
            scaling,
        )
        self.costs = costs(self.points, self.points)
        self.mass = 1 / len(points) if unit_mass else 1.0
        self.log_mass = torch.full_like(self.points[:, 0], math.log(self.mass))
        self._own: Tensor | None = None

    def divergence(self, x: Tensor, weights: Tensor) -> Divergence:
        """O and dO/dw of points x [..., n, d] with weights [..., n]; leading axes need a fixed diameter."""
        if x.ndim > 2 and self.diameter is None:
            raise InputError("batches of different diameters have different schedules: fix the target's diameter")
        with torch.no_grad():
            x, w = x.detach(), weights.detach()
            total = w.sum(-1, keepdim=True)
            masses = w / total if self.unit_mass else w
            f, g = self._potentials(x, masses)
            value = (masses * f).sum(-1) + self.mass * g.sum(-1)
            if self.unit_mass:
                f = (f - (masses * f).sum(-1, keepdim=True)) / total
        return Divergence(value, f)

    def _potentials(self, x: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
        """f_ba - f_aa [..., n] and g_ab - g_bb [..., J]."""
        log_a, log_b = log_masses(masses), self.log_mass
        c_ab = costs(x, self.points)
        c_ba = c_ab.mT.contiguous()
        # The largest cost rounds otherwise than the largest distance, and with it the schedule.
        diameter = self.diameter or MARGIN * float(torch.cdist(x, self.points).max())
        schedule = temperatures(diameter, self.blur, self.scaling)
        f, g = softmin(schedule[0], c_ab, log_b), softmin(schedule[0], c_ba, log_a)
        for eps in schedule:
            f, g = (
                (f + softmin(eps, c_ab, log_b + g / eps)).mul_(0.5),
                (g + softmin(eps, c_ba, log_a + f / eps)).mul_(0.5),
            )
        eps = schedule[-1]
        f, g = softmin(eps, c_ab, log_b + g / eps), softmin(eps, c_ba, log_a + f / eps)
        return f - own_potential(costs(x, x), log_a, schedule), g - self._own_potential(schedule)

    def _own_potential(self, schedule: list[float]) -> Tensor:
        if self._own is not None:
            return self._own
        found = own_potential(self.costs, self.log_mass, schedule)
        if self.diameter is not None:
            self._own = found
        return found


def temperatures(diameter: float, blur: float, scaling: float) -> list[float]:
    """The falling values of eps, from diameter^2 to blur^2."""
    if not diameter > 0:
        fault = "all points are the same point" if diameter == 0 else "the squares of the features overflow"
        raise InputError(f"diameter {diameter:g}: {fault}; give features that differ, standardised ones at best")
    between = np.arange(2 * np.log(diameter), 2 * np.log(blur), 2 * np.log(scaling))
    return [diameter**2, *(float(np.exp(e)) for e in between), blur**2]


def diameter_of(x: Tensor, points: Tensor, *, rows: int = 4096) -> float:
    """A diameter that holds for every batch of the rows x [n, d], a margin above the largest distance."""
    return MARGIN * max(float(torch.cdist(part, points).max()) for part in torch.split(x, rows))


def costs(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|^2 / 2 for x [..., n, d] and y [..., m, d]: [..., n, m]."""
    halves = (x * x).sum(-1).unsqueeze(-1) + (y * y).sum(-1).unsqueeze(-2)
    return halves.mul_(0.5).sub_(x @ y.mT)


def log_masses(masses: Tensor) -> Tensor:
    """Logarithms [..., n]; of a mass <= 0 a very small one."""
    return torch.where(masses > 0, masses.log(), NO_MASS)


def softmin(eps: float, cost: Tensor, h: Tensor) -> Tensor:
    """-eps ln sum_j exp(h_j - cost_ij / eps) for cost [..., n, m] and h [..., m]: [..., n]."""
    # Powers of two: exp is several times slower where it underflows, and most terms do.
    terms = torch.add((LOG2_E * h).unsqueeze(-2), cost, alpha=-LOG2_E / eps)
    top = terms.amax(-1, keepdim=True)
    sums = terms.sub_(top).exp2_().sum(-1)
    return sums.log2_().add_(top.squeeze(-1)).mul_(-eps / LOG2_E)


def own_potential(cost: Tensor, log_mass: Tensor, schedule: list[float]) -> Tensor:
    """The potential [..., n] of a measure's transport to itself, cost [..., n, n]."""
    f = softmin(schedule[0], cost, log_mass)
    for eps in schedule:
        f = (f + softmin(eps, cost, log_mass + f / eps)).mul_(0.5)
    eps = schedule[-1]
    return softmin(eps, cost, log_mass + f / eps)
