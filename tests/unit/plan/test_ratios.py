"""Ratios: what was probed tells how a ratio's law comes about, and pools are the same either way."""

from __future__ import annotations

import numpy as np
import pytest

from raydelt.config import Planning, Probes
from raydelt.errors import SpecError
from raydelt.plan.advice import advise
from raydelt.plan.checks import cautions
from raydelt.plan.fit import fit
from raydelt.plan.laws import Curves
from raydelt.plan.make import Ground, make
from raydelt.plan.plot import figure
from raydelt.plan.points import Points, from_columns
from raydelt.plan.ratios import ratios_of
from raydelt.plan.table import table
from tests.unit.plan.buckets import drawn_curves, measure

# Ratios that no mixture of buckets by the theorem gives: the widest learns slowest at first, and ends far lowest.
OWN = Curves(np.array([-0.45, -0.4, -0.3]), np.array([0.5, 1.5, 40.0]), np.array([1e4, 2e4, 3e4]), 500.0, 2.0, 0.2)


def probed(curves: Curves = OWN, **noise: float) -> Points:
    """Points of ratios after the same numbers seen of each."""
    seen = 1e4 * np.array([0.25, 0.5, 1, 2, 4, 8])
    rng, rows = np.random.default_rng(0), []
    for k, size in enumerate(curves.size):
        for seed in range(3 if noise else 1):
            for n in seen:
                loss = float(curves.loss(n, [k])) * np.exp(noise.get("point", 0.0) * rng.normal())
                rows.append((f"top {k}", n, size, seed, loss, "ratio"))
    names = ("bucket", "seen", "unique", "seed", "loss", "pool")
    return from_columns(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def test_pools_and_shares_are_those_of_the_buckets_either_way() -> None:
    curves, sizes = drawn_curves(np.random.default_rng(0), 3), [1e4, 2e4, 5e4]
    single, own = ratios_of(curves, sizes), ratios_of(curves, sizes, own=True)
    for found in (single, own):
        np.testing.assert_allclose(found.pools, [1e4, 3e4, 8e4])
        np.testing.assert_allclose(found.shares, [0.125, 0.375, 1])
    assert single.members == ((0,), (0, 1), (0, 1, 2))
    assert own.members == ((0,), (1,), (2,))
    np.testing.assert_allclose(single.sizes, sizes)
    np.testing.assert_allclose(own.sizes, own.pools)
    with pytest.raises(SpecError, match="for each of the 3 buckets"):
        ratios_of(curves, [1.0, 2.0])


def test_probed_ratios_are_predicted_by_laws_of_their_own_and_the_preference_turns_where_theirs_does() -> None:
    fitted, budgets = fit(probed()), [3e3, 3e4, 3e5]
    found = advise(fitted, [], budgets)
    for advice in found.advice:
        true = [float(OWN.loss(advice.budget, [k])) for k in range(3)]
        assert [choice.loss for choice in advice.choices] == pytest.approx(true, rel=1e-5)
        assert [choice.regret for choice in advice.choices] == pytest.approx(np.array(true) - min(true), abs=1e-4)
        assert [choice.pool for choice in advice.choices] == [1e4, 2e4, 3e4]
        assert advice.recommended == int(np.argmin(true)) + 1
    assert [advice.recommended for advice in found.advice] == [1, 2, 3]
    crossed = [crossover.budget for crossover in found.crossovers]
    for k, budget in enumerate(crossed):
        assert float(OWN.loss(budget, [k])) == pytest.approx(float(OWN.loss(budget, [k + 1])), rel=1e-4)


def test_a_plan_of_ratios_of_a_larger_corpus_has_its_pools() -> None:
    points = probed(point=0.002)
    columns = {name: getattr(points, name).tolist() for name in ("seen", "unique", "loss", "seed")}
    columns |= {"bucket": [points.names[k] for k in points.bucket], "pool": ["ratio"] * len(points.seen)}
    made = make(columns, Planning(budgets=[1e6], draws=5, scoring=0), ground=Ground(sizes=(5e4, 5e4, 5e4)))
    choices = made.plan.advice[0].choices
    assert [choice.pool for choice in choices] == [5e4, 1e5, 1.5e5]
    assert [choice.repeats for choice in choices] == pytest.approx([20, 10, 20 / 3])
    assert made.plan.to_dict()["cumulative"]
    assert "larger_pools" in [caution.code for caution in made.plan.cautions]
    assert "naive ranking of ratios after 80 k" in made.text()


def test_what_is_seen_at_first_says_nothing_about_the_order_of_ratios() -> None:
    worse_first = Curves(OWN.b[::-1].copy(), OWN.tau, OWN.size, OWN.pivot, OWN.scale, OWN.floor)
    assert "out_of_order" not in [caution.code for caution in cautions(probed(worse_first))]


def test_repeats_of_a_ratio_are_held_against_its_own_probes() -> None:
    choices = advise(fit(probed()), [], [1.2e5]).advice[0].choices
    # Probes end after 8, 4 and 8 / 3 epochs of the ratios.
    assert [("beyond_repeats" in choice.flags) for choice in choices] == [True, True, True]
    assert not any("beyond_repeats" in choice.flags for choice in advise(fit(probed()), [], [8e4]).advice[0].choices)


def test_the_chart_and_the_table_say_that_ratios_were_probed() -> None:
    fitted = fit(probed(point=0.002))
    legend = figure(fitted, [], [1e5]).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["top 33.3 %", "top 66.7 %", "top 100 %"]
    assert "probes of the same" in legend.get_title().get_text()
    single = figure(fit(measure(drawn_curves(np.random.default_rng(0)))), [], [1e5]).axes[0].get_legend()
    assert "single buckets" in single.get_title().get_text()
    plan = advise(fitted, [], [1e5])
    assert all(len(line) <= 119 for line in table(plan).splitlines() if "caution" not in line)


def test_a_holdout_beside_measured_mixtures_is_refused() -> None:
    with pytest.raises(ValueError, match="mixtures are measured"):
        Probes(holdout=True)
    assert Probes(holdout=True, mixtures=False).holdout
    assert Planning().slicing() != Planning(probes=Probes(mixtures=False)).slicing()
