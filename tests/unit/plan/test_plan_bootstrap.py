"""The bootstrap: its bands cover the truth as often as they say, its noise is that of the data, seeds are clusters."""

from __future__ import annotations

import numpy as np
import pytest

from raydelt.errors import SpecError
from raydelt.plan.bootstrap import bands, bootstrap, ensemble, losses, noise_parts
from raydelt.plan.design import Options
from raydelt.plan.fit import fit
from raydelt.plan.laws import Curves
from raydelt.plan.points import from_columns
from tests.unit.plan.buckets import drawn_curves, measure, published

BUDGETS = np.array([1e5, 4e5, 1e6, 3e6])


def covered(problems: int, draws: int, **noise: float) -> float:
    """The share of predictions, over ratios, budgets and random problems, whose true loss is in the 90 % band."""
    inside = []
    for seed in range(problems):
        rng = np.random.default_rng(seed)
        true = drawn_curves(rng)
        mixtures = [range(k + 1) for k in range(len(true.b))]
        fitted = fit(measure(true, rng, seeds=3, **noise))
        low, _, high = bands(losses(bootstrap(fitted, draws=draws, seed=seed), BUDGETS, mixtures))
        loss = losses([true], BUDGETS, mixtures)[0]
        inside.append(np.mean((low <= loss) & (loss <= high)))
    return float(np.mean(inside))


def test_bands_cover_the_truth_in_a_few_problems() -> None:
    assert 0.75 <= covered(25, 60, point=0.003, run=0.003) <= 1.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("noise", [{"point": 0.004}, {"point": 0.003, "run": 0.003}])
def test_bands_cover_the_truth_in_200_problems(noise: dict[str, float]) -> None:
    assert 0.85 <= covered(200, 200, **noise) <= 0.95


def test_bands_are_wide_where_noise_pushes_the_floor_to_zero() -> None:
    rng = np.random.default_rng(15)
    true = drawn_curves(rng)
    fitted = fit(measure(true, rng, seeds=3, point=0.004))
    assert fitted.curves.floor < 1e-3 < true.floor
    floors = np.array([curves.floor for curves in bootstrap(fitted, draws=100)])
    assert np.quantile(floors, 0.95) > 0.5 * true.floor
    assert np.mean(floors < 1e-3) < 0.1


def test_without_noise_the_bands_close_on_the_truth() -> None:
    true = published("D")
    low, _, high = bands(losses(bootstrap(fit(measure(true)), draws=5), [64e6, 640e6], [[0], [0, 1]]))
    np.testing.assert_allclose(high - low, 0, atol=1e-6)


def test_the_noise_of_points_and_runs_is_told_apart() -> None:
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        parts = noise_parts(fit(measure(drawn_curves(rng), rng, seeds=4, point=0.002, run=0.006)))
        found.append({part.name: part.variance for part in parts})
    assert np.sqrt(np.mean([parts["point"] for parts in found])) == pytest.approx(0.002, rel=0.1)
    assert np.sqrt(np.mean([parts["run"] for parts in found])) == pytest.approx(0.006, rel=0.15)


def test_clusters_widen_the_bands() -> None:
    """Noise of the same size spreads predictions more when a run shares it than when every point has its own."""
    widths = {}
    for name, noise in {"run": {"run": 0.005}, "point": {"point": 0.005}}.items():
        widths[name] = 0.0
        for seed in range(6):
            rng = np.random.default_rng(seed)
            drawn = bootstrap(fit(measure(drawn_curves(rng), rng, seeds=3, **noise)), draws=40)
            low, _, high = bands(losses(drawn, [4e5], [[0]]))
            widths[name] += float((high - low)[0, 0])
    assert widths["run"] > 1.4 * widths["point"]


def test_draws_depend_on_their_seed_and_number_alone() -> None:
    rng = np.random.default_rng(0)
    fitted = fit(measure(drawn_curves(rng), rng, point=0.004, seeds=2))
    few, more = bootstrap(fitted, draws=3, seed=5), bootstrap(fitted, draws=4, seed=5)
    assert [curves.floor for curves in few] == [curves.floor for curves in more[:3]]
    assert few[0].floor != bootstrap(fitted, draws=1, seed=6)[0].floor


def test_a_half_life_that_nothing_determines_is_drawn_over_its_whole_range() -> None:
    true = drawn_curves(np.random.default_rng(3), 2)
    points = measure(true, np.random.default_rng(3), point=0.004, fractions=(0.2, 0.3, 0.5, 0.7, 1))
    taus = np.array([curves.tau for curves in bootstrap(fit(points), draws=60)])
    assert taus.min() < 2
    assert taus.max() > 20


def test_a_given_floor_stays() -> None:
    rng = np.random.default_rng(0)
    fitted = fit(measure(drawn_curves(rng), rng, point=0.004), Options(floor=0.4))
    assert {curves.floor for curves in bootstrap(fitted, draws=3)} == {0.4}


def test_the_ensemble_holds_every_law_and_gamma() -> None:
    rng = np.random.default_rng(0)
    variants = ensemble(measure(drawn_curves(rng), rng, point=0.004))
    assert len({variant.name for variant in variants}) == 9
    by_gamma = [variant.curves for variant in variants[:3]]
    assert [curves.gamma for curves in by_gamma] == [0.0, 0.5, 1.0]
    # One pool a bucket: gamma is seen by mixtures alone, where a bonus of size lowers the loss of repeats.
    assert by_gamma[0].loss(8e5, [0]) == by_gamma[2].loss(8e5, [0])
    assert by_gamma[0].loss(3e6, [0, 1]) > by_gamma[2].loss(3e6, [0, 1])


def test_with_pools_of_several_sizes_every_gamma_is_fitted() -> None:
    true = Curves(np.array([-0.2]), np.array([5.0]), np.array([4000.0]), 900.0, 2.0, 1.0)
    rows = [(n, u) for u in (1000.0, 4000.0) for n in (500.0, 2000.0, 8000.0, 16000.0)]
    loss = [float(true.loss(n, [0], [u])) for n, u in rows]
    points = from_columns(
        {"bucket": ["a"] * 8, "seen": [n for n, _ in rows], "unique": [u for _, u in rows], "loss": loss}
    )
    rmse = {variant.options.gamma: variant.rmse for variant in ensemble(points)[:3]}
    assert rmse[1.0] < 1e-8 < rmse[0.0]


def test_no_draws_are_refused() -> None:
    with pytest.raises(SpecError, match="0 draws"):
        bootstrap(fit(measure(drawn_curves(np.random.default_rng(0)))), draws=0)
