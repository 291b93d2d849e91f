"""LAVA: how the optimal transport from the training to the validation set would change with the mass of an example.

    cost_ij = |x_i - v_j|^2 / 2 + W[y_i, u_j] / 2        value_i = mean of f_l over l != i, less f_i

W is the transport between the examples of a class there and those of a class here, by the first term alone; for a
regression the targets are added to the features instead. f is the dual potential of the training set under entropic
transport, all examples of a side alike; -value_i is the slope of its cost as mass moves onto i from all others.
Potentials come from symmetric averaged updates while eps falls from diameter^2 to `eps`, to a quarter each time, then
`sweeps` at `eps` and one full update. Cost: O((9 + sweeps) n J) time and O(n J) memory. Source: Just et al. 2023
(LAVA), with the cost of Alvarez-Melis and Fusi 2020; settings and cost are those of OpenDataVal.

Caution: one sweep, as published, leaves f far from its limit; nearer to it the ranking was worse on four of the five
data sets tried (two seeds).
Strange features stand out far better than wrong labels do, and F1 can be 0 where the ranking is good: a few outliers
are then the lower cluster.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raydelt.errors import SpecError
from raydelt.valuation.problem import Problem, Values
from raydelt.valuation.sinkhorn import costs, softmin, temperatures

SCALING = 0.5


def lava(problem: Problem, *, seed: int, eps: float = 0.1, sweeps: int = 1) -> Values:
    """Values [n], which add up to zero; the seed has no part in them."""
    if not eps > 0 or sweeps < 1:
        raise SpecError(f"eps {eps:g} and {sweeps} sweeps: give an eps above 0 and at least one sweep")
    x, v = (torch.from_numpy(np.asarray(side, np.float64)) for side in (problem.x, problem.val_x))
    if problem.classes is None:
        targets = np.asarray(problem.val_y, np.float64).reshape(len(v), -1)
        x = torch.cat([x, torch.from_numpy(problem.targets)], dim=1)
        v = torch.cat([v, torch.from_numpy(targets)], dim=1)
        cost = costs(x, v)
    else:
        y, u = (torch.from_numpy(np.asarray(side, np.int64)) for side in (problem.y, problem.val_y))
        cost = costs(x, v) + class_costs(x, y, v, u, problem.classes, eps, sweeps)[y][:, u] / 2
    a, b = uniform(len(x)), uniform(len(v))
    f, _ = transport(cost, a, b, diameter_of(x, v), eps, sweeps)
    return Values(((f.sum() - len(x) * f) / max(len(x) - 1, 1)).numpy())


def class_costs(x: Tensor, y: Tensor, v: Tensor, u: Tensor, classes: int, eps: float, sweeps: int) -> Tensor:
    """W [classes, classes]: the transport from each class of the training set to each of the validation set."""
    found = torch.zeros(classes, classes, dtype=x.dtype)
    for first in np.unique(y):
        for second in np.unique(u):
            own, other = x[y == first], v[u == second]
            a, b = uniform(len(own)), uniform(len(other))
            f, g = transport(costs(own, other), a, b, diameter_of(own, other), eps, sweeps)
            found[first, second] = a @ f + b @ g
    return found


def transport(
    cost: Tensor, a: Tensor, b: Tensor, diameter: float, eps: float, sweeps: int = 1
) -> tuple[Tensor, Tensor]:
    """The dual potentials f [n] and g [m] of masses a [n] and b [m] at cost [n, m]; the value is a @ f + b @ g."""
    back, log_a, log_b = cost.T.contiguous(), a.log(), b.log()
    schedule = temperatures(max(diameter, eps**0.5), eps**0.5, SCALING)
    f, g = softmin(schedule[0], cost, log_b), softmin(schedule[0], back, log_a)
    for at in [*schedule, *[eps] * (sweeps - 1)]:
        f, g = (f + softmin(at, cost, log_b + g / at)) / 2, (g + softmin(at, back, log_a + f / at)) / 2
    return softmin(eps, cost, log_b + g / eps), softmin(eps, back, log_a + f / eps)


def uniform(n: int) -> Tensor:
    """Masses [n] that are alike and add up to one."""
    return torch.full((n,), 1.0 / n, dtype=torch.float64)


def diameter_of(x: Tensor, y: Tensor) -> float:
    """The diagonal of the box that holds both sets of points."""
    low, high = torch.minimum(x.amin(0), y.amin(0)), torch.maximum(x.amax(0), y.amax(0))
    return float((high - low).norm())
