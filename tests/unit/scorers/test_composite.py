"""Combination: normalisations equal scipy and numpy, weights follow the article's rule and the simplex."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import rankdata

from raydelt.config import Combine, Dynamic
from raydelt.errors import SpecError
from raydelt.rank.fusion import fused
from raydelt.scorers.composite import (
    Distribution,
    combined,
    dynamic_weights,
    effective_weights,
    improvement,
    normalised,
    simplex,
)

START = np.array([0.4, 0.3, 0.3])
VALUES = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0]) | st.floats(-5, 5), min_size=1, max_size=60)


@given(VALUES)
def test_the_distribution_function_is_the_mid_rank(values: list[float]) -> None:
    x = np.array(values)
    expected = (rankdata(x, method="average") - 0.5) / len(x)
    np.testing.assert_allclose(Distribution.of(x).ecdf(x), expected)


@given(VALUES, VALUES, VALUES)
def test_distributions_merge_in_any_grouping(a: list[float], b: list[float], c: list[float]) -> None:
    parts = [Distribution.of(np.array(v)) for v in (a, b, c)]
    whole = Distribution.of(np.array([*a, *b, *c]))
    for merged in (parts[0].merge(parts[1]).merge(parts[2]), parts[2].merge(parts[0].merge(parts[1]))):
        np.testing.assert_array_equal(merged.values, whole.values)
        np.testing.assert_array_equal(merged.counts, whole.counts)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=50))
def test_z_scores_equal_numpy(values: list[float]) -> None:
    x = np.array(values)
    spread = x.std() if x.std() > 1e-9 else None
    if spread is None:
        return
    np.testing.assert_allclose(normalised(x, Distribution.of(x), "z"), (x - x.mean()) / spread, rtol=1e-6, atol=1e-6)


def test_robust_scores_use_median_and_quartiles_and_constants_are_zero() -> None:
    x = np.arange(101.0)
    found = normalised(x, Distribution.of(x), "robust")
    assert found[50] == 0
    assert found[75] - found[25] == pytest.approx(1.0)
    same = np.full(5, 3.0)
    for method in ("z", "robust"):
        assert normalised(same, Distribution.of(same), method).tolist() == [0.0] * 5
    assert normalised(same, Distribution.of(same), "ecdf").tolist() == [0.5] * 5


def test_the_score_is_the_weighted_sum_and_its_error_the_independent_one() -> None:
    components = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 5.0])}
    errors = {"a": np.array([0.1, 0.2]), "b": np.array([0.3, 0.0])}
    distributions = {name: Distribution.of(values) for name, values in components.items()}
    score, se = combined(components, errors, distributions, {"a": 0.25, "b": 0.75}, Combine(normalise="raw"))
    assert score.tolist() == [2.5, 4.25]
    np.testing.assert_allclose(se, np.hypot(0.25 * np.array([0.1, 0.2]), 0.75 * np.array([0.3, 0.0])))


@pytest.mark.parametrize("fusion", ["reciprocal", "borda", "product"])
def test_fused_ranks_stand_in_for_the_sum_with_errors_of_their_own(fusion: Any) -> None:
    generator = np.random.default_rng(0)
    components = {name: generator.normal(size=200) for name in ("a", "b")}
    errors = {"a": np.full(200, 0.2)}
    distributions = {name: Distribution.of(values) for name, values in components.items()}
    weights = {"a": 0.25, "b": 0.75}
    score, se = combined(components, errors, distributions, weights, Combine(fusion=fusion))
    places = {name: (rankdata(values) - 0.5) / 200 for name, values in components.items()}
    np.testing.assert_allclose(score, fused(places, weights, n=200, method=fusion))
    ends = []
    for step in (0.2, -0.2):
        moved = places | {"a": distributions["a"].ecdf(components["a"] + step)}
        # Beyond the ends of the corpus the distribution function is 0 or 1.
        ends.append(fused(moved, weights, n=200, method=fusion))
    inside = np.isfinite(ends[0]) & np.isfinite(ends[1])
    np.testing.assert_allclose(se[inside], (np.abs(ends[0] - ends[1]) / 2)[inside])
    assert np.isfinite(se).all()


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        ({"weights": {"difficulty": 2, "diversity": 2}, "gate": None}, {"difficulty": 0.5, "diversity": 0.5}),
        ({"weights": {"difficulty": 4, "consistency": 3}}, {"difficulty": 1.0}),
        ({"weights": {"difficulty": 4, "consistency": 4}, "gate": None}, {"difficulty": 0.5, "consistency": 0.5}),
        ({"weights": {"consistency": 4}}, {"consistency": 1.0}),
        ({"weights": {"difficulty": 1, "diversity": 0}}, {"difficulty": 1.0}),
    ],
)
def test_weights_sum_to_one_and_the_gate_is_set_aside(combine: dict[str, Any], expected: dict[str, float]) -> None:
    assert effective_weights(Combine(**combine), []) == expected


THREE = {"difficulty": 0.4, "diversity": 0.3, "consistency": 0.3}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([0.5, 0.5, 0.5, 0.509, 0.509, 0.509], [0.3, 0.5, 0.2]),
        ([0.5, 0.5, 0.5, 0.52, 0.52, 0.52], [0.5, 0.3, 0.2]),
        ([0.9, 0.9, 0.9, 0.5, 0.5, 0.5], [0.3, 0.5, 0.2]),
        ([0.5, 0.5, 0.5, 0.6, 0.6], [0.4, 0.3, 0.3]),
        ([], [0.4, 0.3, 0.3]),
        ([0.5, float("nan"), 0.5, 0.5, 0.6, 0.6, 0.6], [0.5, 0.3, 0.2]),
    ],
)
def test_the_articles_step_rule(history: list[float], expected: list[float]) -> None:
    combine = Combine(weights=THREE, gate=None, dynamic=Dynamic(mode="article"))
    found = effective_weights(combine, history)
    assert [found[name] for name in THREE] == pytest.approx(expected, abs=1e-12)


def test_other_components_keep_their_share_under_dynamic_weights() -> None:
    weights = {**THREE, "grad_norm": 1.0}
    found = effective_weights(Combine(weights=weights, gate=None, dynamic=Dynamic(mode="article")), [0.1] * 6)
    assert found["grad_norm"] == pytest.approx(0.5)
    assert [found[name] for name in THREE] == pytest.approx([0.15, 0.25, 0.1])


def test_dynamic_weights_need_the_three_components() -> None:
    combine = Combine(weights={"difficulty": 1}, dynamic=Dynamic())
    with pytest.raises(SpecError, match=r"rank\.combine\.dynamic needs weights .* missing: diversity, consistency"):
        effective_weights(combine, [])


@given(st.lists(st.floats(0, 1), max_size=30))
def test_smooth_weights_stay_on_the_simplex_above_the_floor(history: list[float]) -> None:
    found = dynamic_weights(history, Dynamic(mode="smooth"), START)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0.05 - 1e-12).all()


def test_smooth_weights_deepen_with_the_gain() -> None:
    gains = [-0.05, 0.0, 0.005, 0.01, 0.02, 0.1]
    difficulty = [dynamic_weights([0.5] * 3 + [0.5 + gain] * 3, Dynamic(mode="smooth"), START)[0] for gain in gains]
    assert difficulty == sorted(difficulty)
    assert difficulty[0] < difficulty[-1]


def test_improvement_is_the_difference_of_two_windows() -> None:
    assert improvement([9, 1, 2, 3, 4, 5, 6], 3) == pytest.approx(5 - 2)
    assert improvement([1, 2, 3, 4, 5], 3) is None


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=5), st.sampled_from([0.0, 0.05, 0.1]))
def test_the_projection_is_the_nearest_point_of_the_simplex(values: list[float], floor: float) -> None:
    v = np.array(values)
    found = simplex(v, floor=floor)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= floor - 1e-12).all()
    start = np.full(len(v), 1 / len(v))
    best = minimize(
        lambda w: ((w - v) ** 2).sum(),
        start,
        bounds=[(floor, 1)] * len(v),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert ((found - v) ** 2).sum() <= best.fun + 1e-5
