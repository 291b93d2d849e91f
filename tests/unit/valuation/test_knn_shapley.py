"""KNN-Shapley against the definition: the mean worth an example adds, over all sets of others."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from raydelt.errors import InputError, SpecError
from raydelt.valuation.knn_shapley import knn_shapley, squared_distances, sums
from raydelt.valuation.problem import Problem


def drawn(n: int, classes: int | None, seed: int, outputs: int = 1, j: int = 3) -> Problem:
    rng = np.random.default_rng(seed)
    x, val_x = rng.normal(size=(n, 2)), rng.normal(size=(j, 2))
    if classes:
        return Problem(x, rng.integers(classes, size=n), val_x, rng.integers(classes, size=j), classes)
    return Problem(x, rng.normal(size=(n, outputs)), val_x, rng.normal(size=(j, outputs)))


def worth(problem: Problem, chosen: tuple[int, ...], k: int) -> float:
    total = 0.0
    for point, target in zip(problem.val_x, problem.val_y, strict=True):
        nearest = sorted(chosen, key=lambda i: float(((problem.x[i] - point) ** 2).sum()))[:k]
        if problem.classes:
            total += sum(problem.y[i] == target for i in nearest) / k
        else:
            mean = sum((problem.y[i] for i in nearest), np.zeros_like(target)) / k
            total -= float(((mean - target) ** 2).sum())
    return total / len(problem.val_x)


def brute_force(problem: Problem, k: int) -> np.ndarray:
    n = len(problem.x)
    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            for chosen in combinations(others, size):
                added = worth(problem, (*chosen, i), k) - worth(problem, chosen, k)
                values[i] += added / (n * comb(n - 1, size))
    return values


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize("kind", ["classes", "target", "two targets"])
def test_values_are_those_of_all_sets(n: int, k: int, kind: str) -> None:
    problem = drawn(n, 3 if kind == "classes" else None, n + k, outputs=2 if kind == "two targets" else 1)
    np.testing.assert_allclose(knn_shapley(problem, seed=0, k=k).values, brute_force(problem, k), atol=1e-11)


def test_values_add_up_to_the_worth_of_all() -> None:
    for classes in (4, None):
        problem = drawn(300, classes, 1, j=8)
        total = worth(problem, tuple(range(300)), 10) - worth(problem, (), 10)
        assert knn_shapley(problem, seed=0).values.sum() == pytest.approx(total, abs=1e-8)


def test_sums_of_parts_add_up_to_the_same_bits() -> None:
    problem = drawn(200, 3, 2, j=30)
    rows = np.random.default_rng(0).permutation(30)
    parts = [sums(problem, part, seed=5) for part in np.array_split(rows, 7)]
    assert np.array_equal(sum(parts) / 30, knn_shapley(problem, seed=5).values)
    assert not sums(problem, rows[:0], seed=5).any()


def test_a_wrong_label_has_less_value() -> None:
    rng = np.random.default_rng(3)
    y = np.arange(200) % 2
    x = rng.normal(size=(200, 2)) * 0.3 + y[:, None]
    noisy = y.copy()
    noisy[:20] = 1 - noisy[:20]
    values = knn_shapley(Problem(x, noisy, x[100:], y[100:], 2), seed=0).values
    assert values[:20].max() < np.median(values[20:])


def test_equal_distances_do_not_depend_on_the_place() -> None:
    y = np.arange(60) % 2
    problem = Problem(np.zeros((60, 4)), y, np.zeros((400, 4)), np.zeros(400, np.int64), 2)
    values = knn_shapley(problem, seed=0, k=5).values
    assert np.isfinite(values).all()
    right = values[y == 0]
    assert np.ptp(right) < 0.6 * right.mean()
    assert values[y == 1].max() < right.min()


def test_equal_rows_are_equally_far() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(1, 7)).astype(np.float32), 5, axis=0)
    assert len(np.unique(squared_distances(x, np.ones(7, np.float32)))) == 1


def test_a_single_class_gives_values() -> None:
    problem = Problem(
        np.random.default_rng(0).normal(size=(20, 2)), np.zeros(20, int), np.zeros((3, 2)), np.zeros(3), 1
    )
    values = knn_shapley(problem, seed=0).values
    np.testing.assert_allclose(values, 0.05, atol=1e-11)


def test_bad_input_is_refused() -> None:
    problem = drawn(5, 2, 0)
    with pytest.raises(SpecError, match="0 neighbours"):
        knn_shapley(problem, seed=0, k=0)
    with pytest.raises(InputError, match="row 3"):
        sums(problem, np.array([3]), seed=0)
    with pytest.raises(InputError, match="validation set is empty"):
        Problem(problem.x, problem.y, problem.x[:0], problem.y[:0], 2)
