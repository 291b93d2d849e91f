"""Data-OOB against a plain loop over bags and examples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from raydelt.errors import InputError
from raydelt.valuation.data_oob import data_oob, sums
from raydelt.valuation.problem import Problem


def drawn(classes: int | None, n: int = 60) -> Problem:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    y = np.argmax(x, axis=1) if classes else x @ np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    if classes:
        y[: n // 10] = (y[: n // 10] + 1) % classes
    return Problem(x, y, x[:2], y[:2], classes)


@pytest.mark.parametrize("classes", [3, None])
def test_values_are_those_of_a_plain_loop(classes: int | None) -> None:
    problem, bags = drawn(classes), 12
    found: list[list[float]] = [[] for _ in problem.x]
    for bag in range(bags):
        rows = np.random.default_rng([4, bag]).integers(60, size=60)
        model = (LogisticRegression() if classes else Ridge()).fit(problem.x[rows], problem.y[rows])
        for i in set(range(60)) - set(rows.tolist()):
            [predicted] = model.predict(problem.x[[i]])
            worth = float(predicted == problem.y[i]) if classes else -float(((predicted - problem.y[i]) ** 2).sum())
            found[i].append(worth)
    values = data_oob(problem, seed=4, bags=bags)
    assert values.errors is not None
    np.testing.assert_allclose(values.values, [np.mean(own) for own in found], rtol=1e-9)
    errors = [np.std(own, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.nan for own in found]
    np.testing.assert_allclose(values.errors, errors, rtol=1e-6, atol=1e-12)


def test_sums_of_parts_add_up() -> None:
    problem = drawn(3)
    whole = sums(problem, range(9), seed=1)
    assert np.array_equal(whole, sums(problem, [8, 0, 4], seed=1) + sums(problem, [1, 2, 3, 5, 6, 7], seed=1))


def test_wrong_labels_have_less_value() -> None:
    problem = drawn(3, 300)
    values = data_oob(problem, seed=0, bags=20).values
    assert np.quantile(values[:30], 0.9) < np.quantile(values[30:], 0.3)


def test_a_bag_of_one_class_predicts_it() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    values = data_oob(Problem(x, np.ones(30, int), x, np.ones(30, int), 2), seed=0, bags=20)
    assert (values.values == 1).all()
    rare = np.arange(30) == 0
    assert data_oob(Problem(x, rare.astype(int), x, rare.astype(int), 2), seed=0, bags=20).values[0] == 0


def test_features_without_spread_give_values() -> None:
    x, y = np.ones((40, 2)), np.arange(40) % 4 // 3
    values = data_oob(Problem(x, y, x, y, 2), seed=0, bags=20).values
    assert np.array_equal(values, 1 - y)


def test_an_example_in_every_bag_is_refused() -> None:
    x = np.zeros((1, 2))
    with pytest.raises(InputError, match="each of the bags holds row 0"):
        data_oob(Problem(x, np.zeros(1, int), x, np.zeros(1, int), 2), seed=0, bags=5)
