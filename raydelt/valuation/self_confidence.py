"""Self-confidence: how probable a model that did not see an example finds its label.

    value_i = p_{-fold(i)}(y_i | x_i) for classes,   -||y_i - f_{-fold(i)}(x_i)||^2 for targets

The model is a logistic or a ridge regression on the other folds, which are drawn at random and of equal size. Cost:
one fit for each fold. Source: Northcutt et al. 2021 (Confident learning); the validation set is not used.

Caution: a hard example and a wrong one are alike here, and a class that the other folds lack has probability 0.
"""

from __future__ import annotations

import numpy as np

from raydelt.errors import InputError
from raydelt.scorers.protocol import Array
from raydelt.valuation.data_oob import fitted, worth_of
from raydelt.valuation.problem import Problem, Values


def self_confidence(problem: Problem, *, seed: int, folds: int = 5) -> Values:
    """Values [n]: probabilities in [0, 1], or negative squared errors."""
    n = len(problem.x)
    if not 2 <= folds <= n:
        raise InputError(f"{n} examples do not make {folds} folds: ask for at least 2, and no more than examples")
    values = np.zeros(n)
    for held in np.array_split(np.random.default_rng(seed).permutation(n), folds):
        model = fitted(problem, np.setdiff1d(np.arange(n), held))
        if problem.classes is None:
            values[held] = worth_of(problem, held, model.predict(problem.x[held]))
        else:
            values[held] = _of_label(model.predict_proba(problem.x[held]), model.classes_, problem.y[held])
    return Values(values)


def _of_label(p: Array, classes: Array, labels: Array) -> Array:
    """The probability [r] of each label, from those [r, c] of the classes that the model knows."""
    return np.asarray((p * (classes == labels[:, None])).sum(axis=1))
