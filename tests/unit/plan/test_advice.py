"""Advice: it finds the known best, charges the scoring, says when selection does not pay, and flags its guesses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from raydelt.errors import SpecError
from raydelt.plan.advice import TIE, Price, advise
from raydelt.plan.answer import Plan
from raydelt.plan.bootstrap import bootstrap, ensemble
from raydelt.plan.crossovers import crossing, crossovers
from raydelt.plan.fit import Fit, fit
from raydelt.plan.laws import Curves
from raydelt.plan.points import noise
from raydelt.plan.ratios import ratios_of
from raydelt.plan.table import table
from tests.unit.plan.buckets import measure, published

SIZES = np.full(4, 12.8e6)


@pytest.fixture(scope="module")
def exact() -> Fit:
    """The published laws of set D by decaying utility, without noise."""
    return fit(measure(published("D")))


@pytest.fixture(scope="module")
def noisy() -> tuple[Fit, tuple[Curves, ...]]:
    fitted = fit(measure(published("D"), np.random.default_rng(0), seeds=3, point=0.003, run=0.002))
    return fitted, bootstrap(fitted, draws=60)


@pytest.fixture(scope="module")
def plan(noisy: tuple[Fit, tuple[Curves, ...]]) -> Plan:
    return advise(*noisy, [32e6, 128e6, 640e6], variants=ensemble(noisy[0].points))


def test_the_best_ratio_at_each_budget_is_that_of_the_law(exact: Fit) -> None:
    true, budgets = published("D"), [32e6, 64e6, 128e6, 640e6, 5e9]
    found = advise(exact, [], budgets, whole=False)
    expected = [int(np.argmin([true.loss(n, range(k)) for k in range(1, 5)])) + 1 for n in budgets]
    assert [advice.best for advice in found.advice] == expected
    assert set(expected) == {1, 2, 3}
    for advice in found.advice:
        for choice in advice.choices:
            assert choice.loss == pytest.approx(float(true.loss(advice.budget, range(choice.buckets))), rel=1e-6)
            assert choice.repeats == pytest.approx(advice.budget / (choice.buckets * 12.8e6))


def test_probabilities_sum_to_one_and_bands_hold_their_median(plan: Plan) -> None:
    for advice in plan.advice:
        assert sum(choice.p_best for choice in advice.choices) == pytest.approx(1)
        assert all(choice.low <= choice.median <= choice.high for choice in advice.choices)
        assert min(choice.regret for choice in advice.choices) >= 0
        assert next(choice for choice in advice.choices if choice.buckets == advice.best).within_noise


def test_the_cheapest_of_the_tied_is_recommended_and_the_cheapest_within_noise_told(
    plan: Plan, noisy: tuple[Fit, tuple[Curves, ...]]
) -> None:
    seed = noise(noisy[0].points, relative=True)
    for advice in plan.advice:
        near = [choice.buckets for choice in advice.choices if choice.within_noise]
        assert advice.cheapest == (4 if 4 in near else min(near))
        allowed = min(c.regret for c in advice.choices) + TIE * seed * min(c.loss for c in advice.choices)
        tied = [choice.buckets for choice in advice.choices if choice.regret <= allowed]
        assert advice.recommended == (4 if 4 in tied else min(tied))
        assert advice.pays == (4 not in tied)


def alike(third: float) -> Curves:
    """Four buckets of 100,000 that lose nothing to each other but by the third, from the first epoch on."""
    return Curves(np.array([-0.2, -0.2, third, -0.1]), np.full(4, 1e3), np.full(4, 1e5), 1e4, 2.0, 1.0)


def test_what_cannot_be_excluded_is_not_recommended_for_being_cheap() -> None:
    """In one draw of ten a quarter of the buckets is best, in the other nine three are, by much more."""
    drawn = [alike(-0.26)] * 9 + [alike(-0.19)]
    advice = advise(fit(measure(alike(-0.26))), drawn, [9e4], whole=False).advice[0]
    assert (advice.cheapest, advice.recommended) == (1, 3)
    first, _, third, _ = advice.choices
    one, most, least = (float(alike(b).loss(9e4, range(k))) for b, k in ((-0.26, 1), (-0.26, 3), (-0.19, 3)))
    assert first.regret == pytest.approx(0.9 * (one - most), rel=1e-5)
    assert third.regret == pytest.approx(0.1 * (least - one), rel=1e-4)


@pytest.mark.parametrize(("third", "kept"), [(-0.2, 1), (-0.2003, 1), (-0.23, 3)])
def test_a_smaller_pool_is_taken_where_the_difference_is_below_a_quarter_of_what_a_seed_does(
    third: float, kept: int
) -> None:
    """Curves are known exactly here, so that the tie is by size alone; seeds change a training by 1 %."""
    true = alike(third)
    noisy = fit(measure(true, np.random.default_rng(0), seeds=6, point=0.01))
    advice = advise(replace(noisy, curves=fit(measure(true)).curves), [], [9e4], whole=False).advice[0]
    assert advice.recommended == kept


def test_selection_does_not_pay_where_the_whole_corpus_is_best() -> None:
    alike = Curves(np.array([-0.2, -0.19, -0.18, -0.17]), np.full(4, 2.0), SIZES, 4e6, 2.0, 1.0)
    advice = advise(fit(measure(alike)), [], [200e6]).advice[0]
    assert (advice.best, advice.recommended, advice.pays) == (4, 4, False)
    assert advice.verdict.startswith("selection does not pay at this budget")


def test_scoring_is_charged_to_every_ratio_but_the_whole_corpus(exact: Fit) -> None:
    free, charged = (advise(exact, [], [40e6], price=Price(scoring=cost)).advice[0] for cost in (0.0, 30e6))
    assert [choice.seen for choice in charged.choices] == [10e6, 10e6, 10e6, 40e6]
    assert (free.best, charged.best) == (1, 4)
    assert all(
        choice.seen == 10e6
        for choice in advise(exact, [], [40e6], price=Price(scoring=30e6), whole=False).advice[0].choices
    )


def test_a_budget_below_the_cost_of_scoring_leaves_the_whole_corpus(exact: Fit) -> None:
    advice = advise(exact, [], [40e6], price=Price(scoring=50e6)).advice[0]
    assert [choice.buckets for choice in advice.choices] == [4]
    assert "scoring alone" in advice.verdict
    with pytest.raises(SpecError, match="above the scoring cost"):
        advise(exact, [], [40e6], price=Price(scoring=50e6), whole=False)


@pytest.mark.parametrize("unit", ["tokens", "flops", "gpu_hours"])
def test_budgets_are_converted_to_what_is_seen(exact: Fit, unit: str) -> None:
    plain = advise(exact, [], [64e6]).advice[0].choices
    other = advise(exact, [], [128.0], price=Price(unit, per_seen=2e-6)).advice[0].choices
    assert [choice.seen for choice in other] == pytest.approx([choice.seen for choice in plain])
    with pytest.raises(SpecError, match=r"give plan\.per_seen"):
        advise(exact, [], [128.0], price=Price(unit))


def test_what_lies_beyond_the_data_is_flagged(exact: Fit) -> None:
    low, near, far = (advice.choices for advice in advise(exact, [], [5e6, 100e6, 500e6]).advice)
    assert low[0].flags == ("below_data",)
    assert near[0].flags == ()
    assert "beyond_seen" in far[0].flags
    assert "beyond_repeats" in far[0].flags
    assert "beyond_repeats" not in advise(exact, [], [400e6]).advice[0].choices[3].flags + near[3].flags


def test_repeats_of_a_bucket_never_seen_twice_are_flagged() -> None:
    once = fit(measure(published("D"), fractions=(0.3, 0.5, 0.7, 1)))
    choices = advise(once, [], [20e6]).advice[0].choices
    assert "half_life_unknown" in choices[0].flags
    assert "half_life_unknown" not in choices[1].flags


def test_crossovers_have_intervals_around_them(plan: Plan) -> None:
    first = plan.crossovers[0]
    assert (first.narrower, first.wider, first.share) == (1, 2, 1.0)
    budgets = np.geomspace(6e6, 1e9, 241)
    true = published("D")
    crossed = crossovers(true, [], np.tile(budgets, (2, 1)), budgets, ratios_of(true))[0].budget
    assert first.low < first.budget < first.high
    assert first.low < crossed < first.high


def test_a_crossing_turns_positive_for_good() -> None:
    budgets = np.array([1.0, 10.0, 100.0, 1000.0])
    assert crossing(budgets, np.array([-1.0, 1.0, -1.0, 1.0])) == pytest.approx(10**2.5)
    assert crossing(budgets, np.array([1.0, 1.0, 1.0, 1.0])) == 0
    assert crossing(budgets, np.array([1.0, 1.0, 1.0, -1.0])) == float("inf")


def test_the_small_run_stands_beside_the_plan(plan: Plan) -> None:
    assert plan.small_run_seen == 8 * 12.8e6
    assert [name for name, _ in plan.small_run] == [f"bucket {index}" for index in range(4)]


def test_other_laws_are_heard_apart_from_the_noise(plan: Plan) -> None:
    assert len(plan.ensemble) == 9
    assert all(len(opinion.best) == len(plan.advice) for opinion in plan.ensemble)


def test_larger_pools_than_measured_are_cautioned(exact: Fit) -> None:
    codes = [caution.code for caution in advise(exact, [], [1e9], sizes=SIZES * 100).cautions]
    assert "larger_pools" in codes
    flat = replace(exact, curves=replace(exact.curves, gamma=0.0))
    assert "larger_pools" not in [caution.code for caution in advise(flat, [], [1e9], sizes=SIZES * 100).cautions]


def test_a_plan_is_plain_json(plan: Plan) -> None:
    given = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert given["advice"][0]["choices"][0]["buckets"] == 1
    assert len(given["buckets"]) == 4


def test_the_table_names_every_verdict(plan: Plan) -> None:
    text = table(plan)
    for advice in plan.advice:
        assert advice.verdict in text
    assert "naive ranking" in text
    assert text.count("P(best)") == 3
    assert "caution" not in text or all(caution.sentence in text for caution in plan.cautions)


@pytest.mark.parametrize("budgets", [[], [-1.0], [float("nan")]])
def test_budgets_that_make_no_sense_are_refused(exact: Fit, budgets: list[float]) -> None:
    with pytest.raises(SpecError, match="budgets"):
        advise(exact, [], budgets)


def test_wrong_sizes_and_prices_are_refused(exact: Fit) -> None:
    with pytest.raises(SpecError, match="4 buckets"):
        advise(exact, [], [1e7], sizes=[1.0])
    with pytest.raises(SpecError, match=r"plan\.scoring"):
        advise(exact, [], [1e7], price=Price(scoring=-1.0))
