"""The adjoint of a trajectory: how much the target loss still to come changes with the parameters at each step.

With J the mean loss of the target set and A = sum_{t=1..T} J(theta_t),

    lambda_T = grad J(theta_T)
    lambda_t = lambda_{t+1} + grad J(theta_t) - eta H_t(theta_t) lambda_{t+1}          H_t: Hessian of L_t

so that lambda_t = d/dtheta_t of sum_{s>=t} J(theta_s). With `final_only`, A = J(theta_T) and the middle term falls
away. Cost per step: a gradient of the target set, and a Hessian-vector product on the batch. Memory: one vector more
than the trajectory holds, and three for the product. Source: arXiv 2410.07064, eq. 5 (a discrete Pontryagin
condition); arXiv 2506.21545, eq. 8.

Caution: eta times the largest curvature above 2 lets lambda grow without bound on the way back, as SGD diverges on the
way there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from raydelt.errors import InputError
from raydelt.lqs.objective import Vector
from raydelt.lqs.trajectory import Share, Trajectory


def walk_back(
    trajectory: Trajectory, last: Vector, target: Share, *, final_only: bool = False
) -> Iterator[tuple[int, Vector, Vector]]:
    """(t, theta_t, lambda_{t+1}) for t = T - 1, …, 0, where `last` is theta_T.

    Raises:
        InputError: the adjoint is not finite.
    """
    adjoint, trajectory.target_losses[len(trajectory.steps)] = trajectory.mean_gradient(target, last)
    del last
    for t, at in trajectory.backward():
        if not all(bool(torch.isfinite(x).all()) for x in adjoint.values()):
            raise InputError(
                f"score.lqs.lr {trajectory.lr:g}: the adjoint diverged, it is not finite at step {t + 1}: lower the "
                "learning rate"
            )
        yield t, at, adjoint
        if t > 0:
            adjoint = _earlier(trajectory, t, at, adjoint, target, final_only=final_only)


def _earlier(
    trajectory: Trajectory, t: int, at: Vector, adjoint: Vector, target: Share, *, final_only: bool
) -> Vector:
    """lambda_t from lambda_{t+1}."""
    share = trajectory.steps[t]
    result = trajectory.objective.product(at, adjoint, share.batches())
    result = trajectory.reduce(result)
    for name, x in result.items():
        x.mul_(-trajectory.lr / share.total).add_(adjoint[name])
    if not final_only:
        gradient, trajectory.target_losses[t] = trajectory.mean_gradient(target, at)
        for name, g in gradient.items():
            result[name] += g
    return result
