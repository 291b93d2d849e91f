"""Outcomes: regret over draws and laws, weights of laws, and the band of one real training, in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raydelt.plan.bootstrap import Variant, bootstrap, ensemble, noise_parts
from raydelt.plan.design import Options
from raydelt.plan.fit import fit
from raydelt.plan.laws import Curves
from raydelt.plan.outcomes import Beliefs, beliefs, outcome
from raydelt.plan.points import Points
from raydelt.plan.ratios import ratios_of
from tests.unit.plan.buckets import drawn_curves, measure

RATIOS = (0, 1)


def flat(*levels: float) -> Curves:
    """Curves of two ratios of their own whose losses are these, whatever is seen: 1 + level at the pivot of either."""
    b = np.log(np.array(levels)) / np.log(1e4)
    return Curves(b, np.full(2, 1e9), np.array([1e6, 2e6]), 1.0, 1.0, 1.0)


def believed(
    drawn: list[Curves], variants: list[Curves] | None = None, weights: list[float] | None = None, spread: float = 0.0
) -> Beliefs:
    fitted = replace(fit(measure(drawn_curves(np.random.default_rng(0), 2))), curves=drawn[0])
    others = variants or [drawn[0]]
    return Beliefs(fitted, tuple(drawn), tuple(others), np.array(weights or [1.0]), np.full(2, spread), 0.0)


def test_regret_is_the_mean_over_draws_and_laws_of_the_loss_above_the_best() -> None:
    """Losses at 10,000 seen: 1.2 and 1.3 in one draw, 1.5 and 1.1 in the other; a law swaps them."""
    one, other, swapped = flat(0.2, 0.3), flat(0.5, 0.1), flat(0.3, 0.2)
    ratios = ratios_of(one, own=True)
    seen = np.full(2, 1e4)
    plain = outcome(believed([one, other]), seen, ratios, RATIOS, noise=0.05)
    np.testing.assert_allclose(plain.point, [1.2, 1.3])
    np.testing.assert_allclose(plain.regret, [0.4 / 2, 0.1 / 2])
    np.testing.assert_allclose(plain.chance, [0.5, 0.5])
    both = outcome(believed([one, other], [one, swapped], [0.75, 0.25]), seen, ratios, RATIOS, noise=0.05)
    # The law's ratio to the fit, 1.3 / 1.2 and 1.2 / 1.3, goes with every draw.
    up, down = 1.3 / 1.2, 1.2 / 1.3
    first = 0.75 * 0.0 + 0.25 * (1.2 * up - 1.3 * down)
    second = 0.75 * 0.4 + 0.25 * (1.5 * up - 1.1 * down)
    assert both.regret[0] == pytest.approx((first + second) / 2)
    assert both.regret[1] == pytest.approx(0.75 * 0.1 / 2)
    np.testing.assert_allclose(both.law, plain.law)


def test_the_band_of_one_training_holds_laws_and_noise() -> None:
    one, seen = flat(0.2, 0.3), np.full(2, 1e4)
    ratios = ratios_of(one, own=True)
    known = outcome(believed([one] * 3), seen, ratios, RATIOS, noise=0.05)
    np.testing.assert_allclose(known.real, [[1.2, 1.3], [1.2, 1.3]])
    noisy = outcome(believed([one] * 4000, spread=0.1), seen, ratios, RATIOS, noise=0.05)
    np.testing.assert_allclose(noisy.real, np.outer(np.exp([-0.16449, 0.16449]), [1.2, 1.3]), rtol=0.02)
    split = outcome(believed([one], [one, flat(0.3, 0.3)], [0.9, 0.1]), seen, ratios, RATIOS, noise=0.05)
    np.testing.assert_allclose(split.real, [[1.2, 1.3], [1.3, 1.3]])


def test_laws_weigh_as_much_as_they_are_likely_a_cell_each() -> None:
    rng = np.random.default_rng(0)
    fitted = fit(measure(drawn_curves(rng, 2), rng, seeds=3, point=0.003))
    variants = [Variant(name, Options(), fitted.curves, rmse) for name, rmse in (("a", 0.01), ("b", 0.011))]
    weights = beliefs(fitted, [], variants, ratios_of(fitted.curves)).weights
    # 7 numbers seen of 2 buckets: 14 cells, whatever the seeds.
    assert weights[1] / weights[0] == pytest.approx(1.1**-14)
    assert weights.sum() == pytest.approx(1)


def test_what_the_rule_of_mixtures_misses_widens_mixtures_alone() -> None:
    rng = np.random.default_rng(0)
    fitted = fit(measure(drawn_curves(rng, 3), rng, seeds=3, point=0.003))
    ratios = ratios_of(fitted.curves)
    plain, unsure = (beliefs(fitted, [], [], ratios, rule=rule).spread for rule in (0.0, 0.04))
    assert plain[0] == unsure[0]
    np.testing.assert_allclose(unsure[1:] ** 2 - plain[1:] ** 2, 0.04**2)


def missed(rng: np.random.Generator, true: Curves, *, cell: float, point: float) -> Points:
    """Points with noise of their own, and of the cell that seeds share."""
    points = measure(true, rng, seeds=4, point=point)
    keys = np.stack([points.bucket, points.seen], 1)
    which = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    return replace(points, loss=points.loss * np.exp(cell * rng.normal(size=which.max() + 1))[which])


def test_what_the_law_misses_is_told_apart_from_what_seeds_do() -> None:
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        parts = noise_parts(fit(missed(rng, drawn_curves(rng), cell=0.006, point=0.002)))
        found.append({part.name: part.variance for part in parts})
    assert np.sqrt(np.mean([parts["point"] for parts in found])) == pytest.approx(0.002, rel=0.1)
    assert np.sqrt(np.mean([parts["cell"] for parts in found])) == pytest.approx(0.006, rel=0.15)


def test_one_real_training_lies_in_its_band_as_often_as_said() -> None:
    inside = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        true = drawn_curves(rng)
        fitted = fit(measure(true, rng, seeds=3, point=0.003, run=0.003))
        held = beliefs(fitted, bootstrap(fitted, draws=40, seed=seed), [], ratios_of(fitted.curves))
        for n in (1e5, 4e5, 1e6):
            found = outcome(held, np.full(4, n), ratios_of(fitted.curves), range(4), noise=0.05)
            real = np.array([float(true.loss(n, range(k + 1))) for k in range(4)])
            real = real * np.exp(0.003 * np.sqrt(2) * rng.normal(size=(50, 4)))
            inside.append(np.mean((found.real[0] <= real) & (real <= found.real[1])))
    assert 0.8 <= np.mean(inside) <= 0.98


def test_other_laws_widen_the_band_of_one_training_and_not_that_of_the_law() -> None:
    rng = np.random.default_rng(1)
    fitted = fit(measure(drawn_curves(rng), rng, seeds=3, point=0.003))
    ratios, drawn = ratios_of(fitted.curves), bootstrap(fitted, draws=40)
    seen = np.full(4, 3e6)
    alone = outcome(beliefs(fitted, drawn, [], ratios), seen, ratios, range(4), noise=0.05)
    among = outcome(beliefs(fitted, drawn, ensemble(fitted.points), ratios), seen, ratios, range(4), noise=0.05)
    np.testing.assert_array_equal(alone.law, among.law)
    assert np.all(among.real[1] - among.real[0] > alone.real[1] - alone.real[0])
