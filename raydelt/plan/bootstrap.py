"""What noise, and what the choice of the law, do to the predictions: a joint bootstrap, and an ensemble beside it.

    noise of a point = e_point + m_cell + u_run + v_seed       a cell is (bucket, seen, unique), a run (bucket, seed);
                       m is what the law misses there, whatever the seed; v is common to one seed in all buckets
    variances        MINQUE: match r'Z_k Z_k'r to its expectation under the fit's projection, none below 0
    a draw           each variance times f / chi2(f), d from its profile, normal noise on the best curves for that d at
                     every point, warm refit
    a band           5, 50 and 95 % of the refitted curves: of the mean curve, not of one more run

The variances are drawn too, because few seeds say little about them (f = their degrees of freedom). A half-life that
no point determines is drawn log-uniformly over `design.TAU_UNKNOWN`. The ensemble refits other laws (decaying utility
with d last or inside, effective data) and exponents gamma; its spread is no noise and no interval, and never goes down
with more seeds. Cost: one warm search a draw. Rao 1971 for MINQUE; the laws' sources are in `laws`.

Caution: with one seed a bucket, what changes from run to run is unknown and in no band. All bands take the law for
true; where the ensemble disagrees, believe neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from raydelt.errors import SpecError
from raydelt.plan.design import TAU_UNKNOWN, Design, Options, prepare
from raydelt.plan.fit import Fit, fit, search
from raydelt.plan.laws import Curves
from raydelt.plan.points import Points
from raydelt.plan.profile import Profile, profile, with_floor
from raydelt.scorers.protocol import Array

QUANTILES = (0.05, 0.5, 0.95)
GAMMAS = (0.0, 0.5, 1.0)
FORMS: tuple[dict[str, Any], ...] = (
    {"law": "utility", "d_inside": False},
    {"law": "utility", "d_inside": True},
    {"law": "effective_data", "d_inside": False},
)
# Below so many seeds an effect common to all buckets is not told from chance, and its interval would swamp the rest.
COMMON_SEEDS = 5


@dataclass(frozen=True)
class Part:
    """One part of the noise: its name, variance (in units of the residuals), degrees of freedom, group [n]."""

    name: str
    variance: float
    freedom: int
    group: Array


@dataclass(frozen=True)
class Variant:
    """The fit of another law: its name, options, curves, and rmse of the residuals."""

    name: str
    options: Options
    curves: Curves
    rmse: float


def bootstrap(fitted: Fit, *, draws: int = 200, seed: int = 0) -> tuple[Curves, ...]:
    """The curves of `draws` refits to noise like that of the residuals; the same seed gives the same curves."""
    if draws < 1:
        raise SpecError(f"{draws} draws of the bootstrap give no band: use at least 1, or 200 for bands")
    design, parts = prepare(fitted.points, fitted.options), noise_parts(fitted)
    floors = profile(design, fitted, _spread(parts)) if design.free[-1] else None
    return tuple(_draw(design, fitted, floors, parts, np.random.default_rng([seed, index])) for index in range(draws))


def noise_parts(fitted: Fit) -> list[Part]:
    """The parts of the residuals' noise: of each point, of cells, of runs, and of seeds common to all buckets."""
    points, n = fitted.points, len(fitted.residuals)
    groups, rank = {"point": np.arange(n)}, int(np.linalg.matrix_rank(fitted.jacobian))
    runs = _labels(points.bucket, points.seed)
    buckets, seeds = len(points.names), len(np.unique(points.seed))
    cells = _labels(points.bucket, points.unique, points.seen)
    freedom = {"run": int(runs.max() + 1 - buckets), "cell": int(cells.max() + 1 - rank)}
    # Misses of the law are told from noise only where seeds repeat a point and points outnumber parameters.
    if freedom["cell"] > 0 and cells.max() + 1 < n:
        groups["cell"] = cells
    if freedom["run"] > 0:
        groups["run"] = runs
    if seeds >= COMMON_SEEDS and buckets > 1:
        groups["seed"] = _labels(points.seed)
        freedom |= {"run": max(freedom["run"] - seeds + 1, 1), "seed": seeds - 1}
    freedom["point"] = max(n - rank - sum(freedom[name] for name in groups if name != "point"), 1)
    variances = _minque(fitted, list(groups.values()))
    return [
        Part(name, float(variance), freedom[name], group)
        for (name, group), variance in zip(groups.items(), variances, strict=True)
    ]


def ensemble(points: Points, options: Options | None = None, *, gammas: Sequence[float] = GAMMAS) -> list[Variant]:
    """The same points under every law, place of d and gamma; all else as in `options`."""
    options = options or Options()
    variants = []
    several = len(np.unique(np.stack([points.bucket, points.unique], 1), axis=0)) > len(points.names)
    for form in FORMS:
        found: Fit | None = None
        for gamma in gammas:
            chosen = replace(options, gamma=gamma, **form)
            # Where every bucket has one pool, gamma is in no residual: only mixtures see it.
            found = fit(points, chosen) if found is None or several else found
            place = "" if form["law"] == "effective_data" else (", d inside" if form["d_inside"] else ", d last")
            name = f"{form['law'].replace('_', ' ')}{place}, gamma {gamma:g}"
            variants.append(Variant(name, chosen, replace(found.curves, gamma=gamma), found.rmse))
    return variants


def losses(drawn: Iterable[Curves], seen: Any, mixtures: Sequence[Sequence[int]], sizes: Array | None = None) -> Array:
    """Predicted values [draws, mixtures, n] for seen [n], or [mixtures, n] each its own; sizes [p] of the buckets."""
    seen = np.asarray(seen, np.float64)
    seen = seen if seen.ndim == 2 else np.broadcast_to(seen, (len(mixtures), len(seen)))
    parts = [None if sizes is None else np.asarray(sizes, np.float64)[list(members)] for members in mixtures]
    return np.array(
        [
            [curves.loss(n, members, part) for n, members, part in zip(seen, mixtures, parts, strict=True)]
            for curves in drawn
        ]
    )


def bands(values: Array) -> Array:
    """The 5, 50 and 95 % quantiles [3, ...] over the draws of values [draws, ...]."""
    quantiles: Array = np.quantile(values, QUANTILES, axis=0)
    return quantiles


def _draw(design: Design, fitted: Fit, floors: Profile | None, parts: list[Part], rng: np.random.Generator) -> Curves:
    variances = [part.variance * part.freedom / rng.chisquare(part.freedom) for part in parts]
    theta = fitted.theta
    if floors is not None:
        floor, theta = floors.draw(floors.variance(variances, [part.group for part in parts]), rng)
        design = with_floor(design, floor)
    target, _ = design.predict(theta)
    for part, variance in zip(parts, variances, strict=True):
        target = target + np.sqrt(variance) * rng.normal(size=int(part.group.max()) + 1)[part.group]
    if design.unknown.any():
        p, fixed = len(design.sizes), design.fixed.copy()
        low, high = np.log(TAU_UNKNOWN)
        fixed[p : 2 * p][design.unknown] = rng.uniform(low, high, int(design.unknown.sum()))
        design = replace(design, fixed=fixed)
    return design.curves(search(design, target, theta, soft=fitted.soft, exact=False).x)


def _spread(parts: list[Part]) -> float:
    return float(np.sqrt(sum(part.variance for part in parts)))


def _minque(fitted: Fit, groups: list[Array]) -> Array:
    """Variances [parts] from sum_l |Z_k' M Z_l|^2 s_l = |Z_k' r|^2, with M the projection off the Jacobian."""
    residuals, jacobian = fitted.residuals, fitted.jacobian
    norms = np.linalg.norm(jacobian, axis=0)
    left, weight, _ = np.linalg.svd(jacobian / np.where(norms > 0, norms, 1.0), full_matrices=False)
    basis = left[:, weight > 1e-10 * weight.max()]
    sums = [_sums(basis, group) for group in groups]
    matrix, right = np.empty((len(groups), len(groups))), np.empty(len(groups))
    for k, group in enumerate(groups):
        right[k] = float(np.sum(_sums(residuals[:, None], group) ** 2))
        for other in range(k + 1):
            cross = np.zeros((int(group.max()) + 1, int(groups[other].max()) + 1))
            np.add.at(cross, (group, groups[other]), 1.0)
            matrix[k, other] = matrix[other, k] = float(np.sum((cross - sums[k] @ sums[other].T) ** 2))
    scale = np.sqrt(np.diag(matrix))
    return np.asarray(nnls(matrix / np.outer(scale, scale), right / scale)[0] / scale, np.float64)


def _sums(values: Array, group: Array) -> Array:
    """Sums [groups, columns] of values [n, columns] by group [n]."""
    sums = np.zeros((int(group.max()) + 1, values.shape[1]))
    np.add.at(sums, group, values)
    return sums


def _labels(*columns: Array) -> Array:
    """Groups [n], numbered from 0, of equal rows of the columns [n]."""
    labels: Array = np.unique(np.stack(columns, 1), axis=0, return_inverse=True)[1].ravel()
    return labels
