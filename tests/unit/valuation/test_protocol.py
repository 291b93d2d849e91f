"""The measures against brute force, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from raydelt.errors import InputError, SpecError
from raydelt.valuation.problem import Problem
from raydelt.valuation.protocol import (
    addition_curve,
    area,
    detection,
    discovery_curve,
    random_values,
    removal_curve,
    two_means,
)


def squared_error(values: np.ndarray, lower: np.ndarray) -> float:
    return sum(float(((part - part.mean()) ** 2).sum()) for part in (values[lower], values[~lower]) if len(part))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=24))
def test_two_means_is_the_best_of_all_splits(whole: list[int]) -> None:
    values = np.array(whole) / 4
    lower = two_means(values)
    if len(set(whole)) == 1:
        assert not lower.any()
        return
    assert values[lower].max() < values[~lower].min()
    best = min(squared_error(values, values <= cut) for cut in np.unique(values)[:-1])
    assert squared_error(values, lower) == pytest.approx(best, abs=1e-9)


def test_two_means_prefers_the_smaller_of_equal_splits() -> None:
    assert two_means(np.array([-1.0, 0.0, 1.0])).tolist() == [True, False, False]


@pytest.mark.parametrize("seed", range(5))
def test_two_means_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 30), rng.normal(4, 1, 60)])
    labels = KMeans(2, n_init=20, random_state=0).fit_predict(values[:, None])
    assert np.array_equal(two_means(values), labels == labels[values.argmin()])


def test_two_means_survives_a_large_offset() -> None:
    values = np.array([0.0, 1.0, 2.0, 50.0, 51.0, 52.0])
    assert np.array_equal(two_means(values + 1e9), values < 10)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_detection_is_that_of_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    noisy = rng.random(200) < 0.2
    values = np.round(rng.normal(size=200) - noisy, decimals)
    found = detection(values, noisy)
    assert found.auroc == pytest.approx(roc_auc_score(noisy, -values), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(noisy, -values), abs=1e-12)
    assert found.f1 == pytest.approx(f1_score(noisy, two_means(values)), abs=1e-12)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.15, 0.2])
def test_perfect_values_discover_all_at_once(rate: float) -> None:
    noisy = np.arange(1000) < 1000 * rate
    inspected, found = discovery_curve(-noisy.astype(float), noisy)
    np.testing.assert_allclose(inspected, np.arange(21) / 20)
    np.testing.assert_allclose(found, np.minimum(inspected / rate, 1))
    assert area((inspected, found)) == pytest.approx(1 - rate / 2)


def test_equal_values_discover_as_random_ones_do() -> None:
    inspected, found = discovery_curve(np.zeros(103), np.arange(103) < 20)
    np.testing.assert_allclose(found, inspected)
    assert (inspected[0], inspected[-1]) == (0, 1)


def test_discovery_counts_the_noisy_among_the_lowest() -> None:
    rng = np.random.default_rng(0)
    values, noisy = rng.random(200), rng.random(200) < 0.3
    inspected, found = discovery_curve(values, noisy)
    for share, got in zip(inspected, found, strict=True):
        lowest = np.argsort(values)[: round(share * 200)]
        assert got == pytest.approx(noisy[lowest].sum() / noisy.sum())


def test_curves_of_fits_see_the_rows_they_should() -> None:
    values = np.random.default_rng(1).permutation(40).astype(float)
    mean = lambda rows: float(values[rows].mean())  # noqa: E731
    removed, high = removal_curve(values, mean, highest_first=True)
    np.testing.assert_allclose(removed, np.arange(0, 40, 5) / 40)
    np.testing.assert_allclose(high, [(40 - count - 1) / 2 for count in range(0, 40, 5)])
    _, low = removal_curve(values, mean, highest_first=False)
    np.testing.assert_allclose(low, 39 - high)
    added, first = addition_curve(values, mean, highest_first=False)
    np.testing.assert_allclose(added, np.arange(5, 45, 5) / 40)
    np.testing.assert_allclose(first, high[::-1])
    np.testing.assert_allclose(addition_curve(values, mean, highest_first=True)[1], 39 - first)


def test_steps_that_do_not_divide_end_with_all_rows() -> None:
    sizes: list[int] = []
    count = lambda rows: sizes.append(len(rows)) or 0.0  # noqa: E731
    addition_curve(np.arange(12.0), count, highest_first=True)
    removal_curve(np.arange(12.0), count, highest_first=True)
    assert sizes == [5, 10, 12, 12, 7, 2]


def test_area_is_the_mean_height() -> None:
    assert area((np.array([0.0, 0.5, 2.0]), np.array([1.0, 3.0, 3.0]))) == pytest.approx((1 + 4.5) / 2)
    assert area((np.array([1.0]), np.array([0.25]))) == 0.25


def test_random_values_are_of_their_seed() -> None:
    problem = Problem(np.zeros((9, 1)), np.zeros(9), np.zeros((1, 1)), np.zeros(1))
    same, other = random_values(problem, seed=1), random_values(problem, seed=2)
    assert np.array_equal(same.values, random_values(problem, seed=1).values)
    assert not np.array_equal(same.values, other.values)


def test_bad_input_is_refused() -> None:
    noisy = np.array([True, False])
    with pytest.raises(InputError, match="finite"):
        detection(np.array([0.0, np.nan]), noisy)
    with pytest.raises(InputError, match="finite"):
        two_means(np.array([]))
    for marks in (np.zeros(2, bool), np.ones(2, bool), np.array([True, False, False])):
        with pytest.raises(InputError, match="marked noisy"):
            discovery_curve(np.array([0.0, 1.0]), marks)
    with pytest.raises(SpecError, match="step of 0"):
        removal_curve(np.zeros(4), lambda rows: 0.0, highest_first=True, step=0)
