"""Samples have the inclusion probabilities that they state, and estimate totals without bias, in any layout.

Probabilities are checked against enumeration: of all orders for successive draws (gumbel), of all subsets of the
others and a quadrature over the example's own key for priority, and of all subsets for poisson.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import chisquare

from raydelt.examples import FloatArray, draw_keys
from raydelt.select.sampling import Gumbel, InclusionSum, Poisson, Priority, log_weights, poisson_threshold

WEIGHTS = np.array([5.0, 2.0, 1.0, 1.0, 0.5, 0.1])
VALUES = np.array([1.0, -2.0, 3.0, 0.5, 7.0, 20.0])
KEYS = draw_keys([f"example {i}" for i in range(len(WEIGHTS))])
SEEDS = 10_000
Z_999 = 3.2905


def threshold_of(parts: Sequence[FloatArray], k: float) -> float:
    def sum_of(threshold: float) -> float:
        total = InclusionSum(threshold)
        state = total.zero()
        for part in parts:
            state = total.merge(state, total.add(total.zero(), part))
        return total.finish(state)

    return poisson_threshold(sum_of, k)


def highest(keys: FloatArray, k: int) -> tuple[FloatArray, float]:
    """The mask [n] of the k highest keys, and the (k+1)-th highest key."""
    order = np.argsort(-keys, kind="stable")
    mask = np.zeros(len(keys), np.bool_)
    mask[order[:k]] = True
    return mask & ~np.isneginf(keys), float(keys[order[k]]) if k < len(keys) else -math.inf


def assert_covers(draws: FloatArray, truth: FloatArray | float) -> None:
    """The 99.9 % interval of the mean of draws [seeds, ...] holds the truth."""
    error = draws.std(axis=0, ddof=1) / math.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - truth) <= Z_999 * error + 1e-12).all()


def assert_frequencies(kept: FloatArray, probability: FloatArray) -> None:
    """How often each example is kept, of [seeds, n], is within the 99.9 % interval about its probability."""
    error = np.sqrt(probability * (1 - probability) / len(kept))
    assert (np.abs(kept.mean(axis=0) - probability) <= Z_999 * error + 1e-12).all()


def successive(weights: FloatArray, k: int) -> FloatArray:
    """P(i is among k successive draws in proportion to the weights that are left), over all orders."""
    found = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights)), k):
        left, probability = weights.sum(), 1.0
        for i in order:
            probability *= weights[i] / left
            left -= weights[i]
        found[list(order)] += probability
    return found


def priority_inclusion(weights: FloatArray, k: int, i: int) -> float:
    """P(fewer than k others have w_j / u_j above w_i / u), integrated over u."""
    others = np.delete(weights, i)

    def fewer_than_k_above(u: float) -> float:
        above = np.minimum(1.0, others * u / weights[i])
        subsets = itertools.product((False, True), repeat=len(others))
        return sum(float(np.prod(np.where(s, above, 1 - above))) for s in map(np.array, subsets) if s.sum() < k)

    kinks = sorted({float(weights[i] / w) for w in others if w > weights[i]})
    return float(quad(fewer_than_k_above, 0, 1, points=kinks or None)[0])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_gumbel_includes_as_successive_draws_do(k: int) -> None:
    logs = np.log(WEIGHTS)
    kept = np.array([highest(Gumbel().keys(logs, KEYS, seed), k)[0] for seed in range(SEEDS)], np.float64)
    assert (kept.sum(axis=1) == k).all()
    assert_frequencies(kept, successive(WEIGHTS, k))


def test_the_first_of_gumbel_is_drawn_in_proportion_to_the_weights() -> None:
    logs = np.log(WEIGHTS)
    first = np.bincount([int(np.argmax(Gumbel().keys(logs, KEYS, s))) for s in range(SEEDS)], minlength=len(logs))
    assert chisquare(first, SEEDS * WEIGHTS / WEIGHTS.sum()).pvalue > 0.001


def test_gumbel_has_no_stated_probability_and_weight_one() -> None:
    probability, weight = Gumbel().importance(np.log(WEIGHTS), 0.3)
    assert np.isnan(probability).all()
    assert (weight == 1).all()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_priority_includes_as_enumeration_says_and_estimates_totals_without_bias(k: int) -> None:
    logs = np.log(WEIGHTS)
    masks, thresholds = zip(*(highest(Priority().keys(logs, KEYS, s), k) for s in range(SEEDS)), strict=True)
    kept, tau = np.array(masks, np.float64), np.exp(np.array(thresholds))[:, None]
    importance = [Priority().importance(logs, threshold) for threshold in thresholds]
    probability, weight = (np.array(column) for column in zip(*importance, strict=True))
    np.testing.assert_allclose(weight, np.maximum(WEIGHTS, tau) / WEIGHTS, rtol=1e-12)
    np.testing.assert_allclose(probability * weight, 1.0, rtol=1e-12)
    totals = (kept * weight) @ np.stack([WEIGHTS, VALUES], axis=1)
    assert (kept.sum(axis=1) == k).all()
    assert_frequencies(kept, np.array([priority_inclusion(WEIGHTS, k, i) for i in range(len(WEIGHTS))]))
    assert_covers(totals, np.array([WEIGHTS.sum(), VALUES.sum()]))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_poisson_includes_as_stated_and_estimates_totals_without_bias(k: int) -> None:
    logs = np.log(WEIGHTS)
    threshold = threshold_of([logs], k)
    probability, weight = Poisson().importance(logs, threshold)
    kept = np.array([Poisson().keys(logs, KEYS, seed) >= threshold for seed in range(SEEDS)], np.float64)
    assert_frequencies(kept, probability)
    assert_covers(kept.sum(axis=1), k)
    assert_covers(kept @ (weight * VALUES), VALUES.sum())
    # Draws of different examples are independent: each subset is as frequent as the product says.
    subsets = np.array(list(itertools.product((0.0, 1.0), repeat=len(logs))))
    product = np.where(subsets == 1, probability, 1 - probability).prod(axis=1)
    codes = (kept @ 2 ** np.arange(len(logs))[::-1]).astype(np.int64)
    found = np.bincount(codes, minlength=len(subsets))
    assert found[product == 0].sum() == 0
    rare = SEEDS * product < 5
    expected, seen = SEEDS * product[~rare], found[~rare]
    expected, seen = np.append(expected, SEEDS - expected.sum()), np.append(seen, SEEDS - seen.sum())
    usable = expected > 1
    assert chisquare(seen[usable], expected[usable] * seen[usable].sum() / expected[usable].sum()).pvalue > 0.001


@settings(deadline=None)
@given(
    logs=st.lists(st.floats(-30, 30), min_size=1, max_size=60),
    share=st.floats(0, 1),
)
def test_poisson_probabilities_sum_to_k(logs: list[float], share: float) -> None:
    k = max(1, round(share * len(logs)))
    threshold = threshold_of([np.array(logs)], k)
    probability, weight = Poisson().importance(np.array(logs), threshold)
    assert math.fsum(probability) == pytest.approx(k, abs=1e-9)
    np.testing.assert_allclose(probability * weight, 1.0)


def test_poisson_caps_as_the_iterated_proportional_rule_does() -> None:
    k, capped = 4, np.zeros(len(WEIGHTS), np.bool_)
    while True:
        scale = (k - capped.sum()) / WEIGHTS[~capped].sum()
        if not (over := ~capped & (scale * WEIGHTS >= 1)).any():
            break
        capped |= over
    probability, _ = Poisson().importance(np.log(WEIGHTS), threshold_of([np.log(WEIGHTS)], k))
    np.testing.assert_allclose(probability, np.where(capped, 1.0, scale * WEIGHTS), rtol=1e-12)
    assert 0 < capped.sum() < k


def test_an_example_of_probability_one_is_kept_by_every_draw() -> None:
    logs = np.log(np.array([1e6, 40.0, 1.0, 1.0, 1.0, 1.0]))
    threshold = threshold_of([logs], 3)
    certain = Poisson().importance(logs, threshold)[0] == 1
    assert certain.tolist() == [True, True, False, False, False, False]
    for seed in range(2000):
        assert (Poisson().keys(logs, KEYS, seed) >= threshold)[certain].all()


def test_all_are_kept_with_weight_one_where_k_is_n() -> None:
    logs = np.log(WEIGHTS)
    for method, threshold in ((Poisson(), threshold_of([logs], len(logs))), (Priority(), -math.inf)):
        probability, weight = method.importance(logs, threshold)
        assert (probability == 1).all()
        assert (weight == 1).all()
        assert all((method.keys(logs, KEYS, seed) >= threshold).all() for seed in range(100))


def test_equal_weights_sample_uniformly() -> None:
    logs = log_weights(np.full(6, 3.25), mean=3.25, std=0.0)
    probability, weight = Poisson().importance(logs, threshold_of([logs], 2))
    np.testing.assert_allclose(probability, 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(weight, 3.0, rtol=1e-12)
    for method in (Gumbel(), Priority()):
        kept = np.array([highest(method.keys(logs, KEYS, seed), 2)[0] for seed in range(SEEDS)], np.float64)
        assert_frequencies(kept, np.full(6, 1 / 3))


def test_zero_weights_are_not_kept_though_fewer_than_k_remain() -> None:
    logs = np.array([0.0, -math.inf, 1.0, -math.inf, -math.inf, 2.0])
    positive = ~np.isneginf(logs)
    assert threshold_of([logs], 4) == -math.inf
    for method in (Poisson(), Priority(), Gumbel()):
        keys = method.keys(logs, KEYS, 7)
        assert (np.isneginf(keys) == ~positive).all()
        mask, threshold = highest(keys, 4)
        assert (mask == positive).all()
        if not isinstance(method, Gumbel):
            probability, weight = method.importance(logs, threshold)
            assert (probability == positive).all()
            assert (weight == positive).all()


def test_extreme_scores_do_not_overflow() -> None:
    scores = np.array([-1e300, 0.0, 1e300, 1.7e308, -1.7e308])
    keys = KEYS[:5]
    with np.errstate(all="raise", under="ignore"):
        for std, temperature in ((1.0, 1.0), (1e-300, 1e-3), (1e300, 1.0)):
            logs = log_weights(scores, mean=0.0, std=std, temperature=temperature)
            assert np.isfinite(logs).all()
            assert (np.diff(logs[np.argsort(scores)]) >= 0).all()
            threshold = threshold_of([logs], 2)
            assert InclusionSum(threshold).add(0, logs) / 2**62 == pytest.approx(2)
            for method in (Poisson(), Priority(), Gumbel()):
                assert np.isfinite(method.keys(logs, keys, 1)).all()
                assert not np.isinf(method.importance(logs, threshold)[1]).any()


def test_weights_follow_the_temperature() -> None:
    scores = np.array([1.0, 3.0, 7.0])
    np.testing.assert_allclose(log_weights(scores, mean=3.0, std=2.0, temperature=0.5), [-2.0, 0.0, 4.0])


@pytest.mark.parametrize(("std", "temperature"), [(1.0, 0.0), (1.0, math.nan), (math.inf, 1.0), (-1.0, 1.0)])
def test_impossible_temperatures_and_deviations_are_refused(std: float, temperature: float) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        log_weights(np.ones(2), mean=0.0, std=std, temperature=temperature)


@pytest.mark.parametrize("method", [Poisson(), Priority(), Gumbel()])
@pytest.mark.parametrize("parts", [2, 7, 40])
def test_samples_do_not_depend_on_the_layout(method: Poisson | Priority | Gumbel, parts: int) -> None:
    rng = np.random.default_rng(parts)
    scores = rng.normal(size=1001)
    keys = draw_keys([str(i) for i in range(len(scores))])
    order = rng.permutation(len(scores))
    pieces = np.array_split(order, parts)

    def logs_of(rows: FloatArray) -> FloatArray:
        return log_weights(scores[rows], mean=0.1, std=0.9, temperature=0.7)

    whole = logs_of(np.arange(len(scores)))
    found = np.empty(len(scores))
    for piece in pieces:
        found[piece] = method.keys(logs_of(piece), keys[piece], 5)
    assert found.tobytes() == method.keys(whole, keys, 5).tobytes()
    assert threshold_of([logs_of(piece) for piece in pieces], 300) == threshold_of([whole], 300)


def test_methods_draw_apart_from_each_other_and_by_seed() -> None:
    logs = np.zeros(len(KEYS))
    draws = [method.keys(logs, KEYS, seed) for method in (Poisson(), Priority()) for seed in (1, 2)]
    assert len({draw.tobytes() for draw in draws}) == 4
