"""Self-confidence against scikit-learn's cross-validated predictions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from raydelt.errors import InputError
from raydelt.valuation.problem import Problem
from raydelt.valuation.self_confidence import self_confidence


def fold_of(n: int, folds: int, seed: int) -> PredefinedSplit:
    own = np.zeros(n, int)
    for fold, held in enumerate(np.array_split(np.random.default_rng(seed).permutation(n), folds)):
        own[held] = fold
    return PredefinedSplit(own)


@pytest.mark.parametrize("folds", [2, 5])
def test_probabilities_are_those_of_scikit_learn(folds: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(83, 4))
    y = np.argmax(x[:, :3], axis=1)
    split = fold_of(83, folds, 7)
    expected = cross_val_predict(LogisticRegression(), x, y, cv=split, method="predict_proba")[np.arange(83), y]
    values = self_confidence(Problem(x, y, x[:1], y[:1], 3), seed=7, folds=folds).values
    np.testing.assert_allclose(values, expected, rtol=1e-9)


@pytest.mark.parametrize("outputs", [1, 2])
def test_residuals_are_those_of_scikit_learn(outputs: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 3))
    y = x @ rng.normal(size=(3, outputs)) + rng.normal(size=(50, outputs))
    predicted = cross_val_predict(Ridge(), x, y, cv=fold_of(50, 5, 2)).reshape(y.shape)
    values = self_confidence(Problem(x, y, x[:1], y[:1]), seed=2).values
    np.testing.assert_allclose(values, -((predicted - y) ** 2).sum(axis=1), rtol=1e-9)


def test_a_class_the_other_folds_lack_has_probability_zero() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    y = np.arange(20) % 2
    y[3] = 2
    values = self_confidence(Problem(x, y, x, y, 3), seed=0).values
    assert values[3] == 0
    assert (np.delete(values, 3) > 0).all()


def test_poor_data_give_values() -> None:
    x, y = np.ones((20, 2)), np.arange(20) % 4 // 3
    np.testing.assert_allclose(self_confidence(Problem(x, y * 0, x, y, 2), seed=0).values, 1)
    values = self_confidence(Problem(x, y, x, y, 2), seed=0).values
    assert values[y == 1].max() < 0.5 < values[y == 0].min()


def test_more_folds_than_examples_are_refused() -> None:
    x, y = np.zeros((4, 1)), np.arange(4) % 2
    with pytest.raises(InputError, match="4 examples do not make 5 folds"):
        self_confidence(Problem(x, y, x, y, 2), seed=0)
