"""One joint fit of the laws of all buckets: b and tau of each, pivot, scale and floor for all of them.

    minimise  sum_j rho(r_j),   r_j = log y_j - log yhat_j
    rho       soft l1 beyond three robust standard deviations of the residuals of a first, quadratic fit

Parameters are log(-b_i), log tau_i, log pivot, log y0 and d; y0 is 1 for error rates, and with one bucket of losses
the pivot stays put, because only y0 pivot^-b is there to be found. Error rates are compared by their logarithms too:
plain differences follow the first, large and noisy ones, and miss those that a budget leads to. Derivatives are exact.
Starts: for seeded d and tau the rest is linear regression. scipy's trust region with bounds does the search. Cost:
O(points + pools x epochs) an evaluation, some tens of them a start. Goyal et al. 2024 (arXiv 2404.07177) search a grid
instead.

Caution: pivot and floor are nearly interchangeable within the range of the data. Fixing either makes every interval
falsely tight, and the exponents of other floors differ: look at `condition` before reading one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from raydelt.plan.checks import cautions
from raydelt.plan.design import Design, Options, prepare
from raydelt.plan.laws import Curves
from raydelt.plan.points import Caution, Points
from raydelt.scorers.protocol import Array

NEAR = 1e-3
SPARE = 5


@dataclass(frozen=True)
class Fit:
    """Fitted curves; rmse and condition of the fit, residuals [n] and their Jacobian [n, free] at its end."""

    curves: Curves
    points: Points
    options: Options
    theta: Array
    residuals: Array
    jacobian: Array
    rmse: float
    condition: float
    soft: float
    cautions: tuple[Caution, ...]


def fit(points: Points, options: Options | None = None) -> Fit:
    """The best of `options.starts` seeded searches, then a robust one from there.

    Raises:
        SpecError: the floor given is not below the data.
    """
    options = options or Options()
    design = prepare(points, options)
    target = design.target(points.loss)
    tried = [search(design, target, start, exact=False) for start in _starts(design, target)]
    found = search(design, target, min(tried, key=lambda result: float(result.cost)).x)
    soft = 3 * 1.4826 * float(np.median(np.abs(found.fun))) if options.robust else np.inf
    if options.robust and soft > 1e-9 and np.abs(found.fun).max() > soft:
        found = search(design, target, found.x, soft=soft)
    predicted, jacobian = design.predict(found.x)
    residuals = target - predicted
    norms = np.linalg.norm(jacobian, axis=0)
    condition = float(np.linalg.cond(jacobian / np.where(norms > 0, norms, 1.0)))
    fitted = Fit(
        design.curves(found.x),
        points,
        options,
        found.x,
        residuals,
        jacobian,
        float(np.sqrt(np.mean(residuals**2))),
        condition,
        soft,
        (),
    )
    return replace(fitted, cautions=cautions(points) + _at_bounds(design, fitted))


def search(design: Design, target: Array, start: Array, *, soft: float = np.inf, exact: bool = True) -> Any:
    """scipy's result of one search from `start` [free]; residuals beyond `soft` count linearly."""
    cache: dict[bytes, tuple[Array, Array]] = {}

    def at(theta: Array) -> tuple[Array, Array]:
        key = theta.tobytes()
        if key not in cache:
            cache.clear()
            cache[key] = design.predict(theta)
        return cache[key]

    margin = 1e-9 * (design.high - design.low)
    tolerance = 1e-14 if exact else 1e-5
    return least_squares(
        lambda theta: at(theta)[0] - target,
        np.clip(start, design.low + margin, design.high - margin),
        lambda theta: at(theta)[1],
        bounds=(design.low, design.high),
        x_scale="jac",
        loss="soft_l1" if np.isfinite(soft) else "linear",
        f_scale=soft if np.isfinite(soft) else 1.0,
        ftol=tolerance,
        xtol=tolerance,
        gtol=1e-14 if exact else 1e-9,
        max_nfev=300 if exact else 30,
    )


def _starts(design: Design, target: Array) -> list[Array]:
    """Parameters [free] to start from: a seeded floor and half-life, and the rest by two linear regressions."""
    rng = np.random.default_rng(design.options.seed)
    values = np.exp(target)
    starts = []
    for index in range(design.options.starts):
        share, tau = (0.3, 6.0) if index == 0 else (rng.uniform(0, 0.9), np.exp(rng.uniform(0, np.log(40))))
        floor = share * values.min() if design.options.floor is None else design.options.floor
        starts.append(_regressed(design, np.maximum(values - floor, 1e-6 * values), floor, tau))
    return starts


def _regressed(design: Design, power: Array, floor: float, tau: float) -> Array:
    """log power = c_i + b_i (first + later) by bucket, then c_i = log scale - b_i log pivot over the buckets."""
    p = len(design.sizes)
    first, later, _ = design.exposure(np.full(p, tau))
    lines = np.array(
        [
            np.polyfit((first + later)[mine], np.log(power[mine]), 1)
            for mine in (design.points.bucket == index for index in range(p))
        ]
    )
    b, level = np.minimum(lines[:, 0], -0.005), lines[:, 1]
    free = design.free[-3:-1]
    sides = np.stack([-b, np.ones(p)], 1)
    rest = level - sides[:, ~free] @ design.fixed[-3:-1][~free]
    every = np.concatenate([np.log(-b), np.full(p, np.log(tau)), design.fixed[-3:-1], [floor]])
    if free.any():
        every[[-3, -2]] = np.where(free, 0.0, every[-3:-1])
        every[np.flatnonzero(free) - 3] = np.linalg.lstsq(sides[:, free], rest, rcond=1e-6)[0]
    return design.reduce(every)


def _at_bounds(design: Design, fitted: Fit) -> tuple[Caution, ...]:
    """A caution for each parameter at a bound, for too few points, and if the parameters are not told apart."""
    p, names = len(design.sizes), fitted.points.names
    labels = [f"b of bucket {name!r}" for name in names] + [f"half-life of bucket {name!r}" for name in names]
    labels += ["pivot", "scale", "floor d"]
    span = design.high - design.low
    near = NEAR * span
    every = np.zeros(2 * p + 3, np.int64)
    every[design.free] = (fitted.theta >= design.high - near).astype(int) - (fitted.theta <= design.low + near)
    found = [
        Caution(
            "at_bound",
            f"the {labels[index]} is at its {'upper' if every[index] > 0 else 'lower'} bound: the points do not "
            "determine it; do not read it, and mind the bands",
        )
        for index in np.flatnonzero(every)
    ]
    spare = len(fitted.residuals) - len(fitted.theta)
    if spare < SPARE:
        found.append(
            Caution(
                "few_points",
                f"{len(fitted.residuals)} points for {len(fitted.theta)} parameters leave {spare} to tell noise from: "
                "the bands mean little; measure more, or give the floor",
            )
        )
    if fitted.condition > 1e8:
        found.append(Caution("degenerate", f"the parameters are not told apart (condition {fitted.condition:.1g})"))
    return tuple(found)
