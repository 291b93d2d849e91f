"""What is known of a ratio's loss at a budget: the law's own band, expected regret, and the band of one real training.

    pooled    draw_s x (variant_v / fit)      weight of v ~ rmse_v^-cells, shared over the draws
    regret    weighted mean of the pooled loss above that of the best ratio in the same draw
    real      pooled x exp(e),  e ~ N(0, seed + run + point + cell + rule)

The variances are those of `bootstrap.noise_parts`: what a seed changes, and what the law misses at a point. The rule's
is the mean square by which the holdout misses the law of mixtures; it counts for mixtures alone, and where nothing
measured it, it is not in the band. Ratios of losses are taken since every law is fitted to logarithms. Cost:
O(draws x variants x ratios). Weighting fits by likelihood follows Akaike; a cell counts once, whatever its seeds.

Caution: nine variants of one family are no sample of all laws, and the band is of the split that probes were measured
on: another split has its own mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raydelt.plan.bootstrap import QUANTILES, Variant, losses, noise_parts
from raydelt.plan.fit import Fit
from raydelt.plan.laws import Curves
from raydelt.plan.points import noise
from raydelt.plan.ratios import Ratios
from raydelt.scorers.protocol import Array

# A law that fits worse by this in rmse than the best is not told from it.
LEAST_RMSE = 1e-6


@dataclass(frozen=True)
class Beliefs:
    """All that predictions are drawn from: the fit, its draws, variants with weights [v], and noise in logarithms.

    `spread` [p] is the standard deviation of one real training about the mean curve, `seed` that of seeds alone.
    """

    fitted: Fit
    drawn: tuple[Curves, ...]
    variants: tuple[Curves, ...]
    weights: Array
    spread: Array
    seed: float


@dataclass(frozen=True)
class Outcome:
    """Per ratio [k]: the fit's loss, low, median and high of the law, P(best), regret, and ends of a real training."""

    point: Array
    law: Array
    chance: Array
    regret: Array
    near: Array
    real: Array


def beliefs(
    fitted: Fit, drawn: Sequence[Curves], variants: Sequence[Variant], ratios: Ratios, *, rule: float = 0.0
) -> Beliefs:
    """What is believed after a fit; `rule` is the standard deviation of what the law of mixtures misses."""
    variance = sum(part.variance for part in noise_parts(fitted))
    mixed = np.array([len(members) > 1 for members in ratios.members])
    points = fitted.points
    cells = len(np.unique(np.stack([points.bucket, points.unique, points.seen], 1), axis=0))
    rmse = np.maximum([one.rmse for one in variants] or [fitted.rmse], LEAST_RMSE)
    weights = np.exp(-cells * np.log(rmse / rmse.min()))
    seed = noise(points, relative=True)
    return Beliefs(
        fitted,
        tuple(drawn) or (fitted.curves,),
        tuple(one.curves for one in variants) or (fitted.curves,),
        weights / weights.sum(),
        np.sqrt(variance + mixed * rule**2),
        0.0 if np.isnan(seed) else seed,
    )


def outcome(held: Beliefs, seen: Array, ratios: Ratios, chosen: Sequence[int], *, noise: float) -> Outcome:
    """The outcomes of the ratios `chosen` [k] after `seen` [k]; near: no worse in a share `noise` of draws."""
    members, given = [ratios.members[k] for k in chosen], seen[:, None]

    def at(curves: Sequence[Curves]) -> Array:
        return losses(curves, given, members, ratios.sizes)[:, :, 0]

    point, values = at([held.fitted.curves])[0], at(held.drawn)
    best = int(np.argmin(point))
    pooled = values[:, None] * (at(held.variants) / point)
    weights = np.broadcast_to(held.weights / len(values), pooled.shape[:2])
    regret = np.einsum("dv,dvk->k", weights, pooled - pooled.min(2, keepdims=True))
    errors = np.random.default_rng(0).normal(size=pooled.shape) * held.spread[list(chosen)]
    real = (pooled * np.exp(errors)).reshape(-1, len(point))
    return Outcome(
        point,
        np.quantile(values, QUANTILES, axis=0),
        np.bincount(values.argmin(1), minlength=len(point)) / len(values),
        regret,
        np.mean(values <= values[:, [best]], axis=0) >= noise,
        np.array([_quantiles(column, weights.ravel()) for column in real.T]).T,
    )


def _quantiles(values: Array, weights: Array) -> Array:
    """The 5 and 95 % quantiles of weighted values [n]."""
    found: Array = np.quantile(values, (QUANTILES[0], QUANTILES[-1]), weights=weights, method="inverted_cdf")
    return found
