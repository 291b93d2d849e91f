"""Out-of-bag value: how well models that did not see an example predict it.

    value_i = mean over the bags b without i of T(y_i, f_b(x_i)),   T = 1[y = f] for classes, -||y - f||^2 for targets

A bag is n draws with replacement; f_b is a logistic regression on it, for targets a ridge regression. The standard
error is that of the mean over the bags, given the data. Cost: B fits of n rows, and B predictions. Source: Kwon and
Zou 2023 (Data-OOB); the validation set is not used.

Caution: an example that is right but rare looks wrong, and ties are many: a value is a share of some 0.37 B bags.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from raydelt.errors import InputError
from raydelt.scorers.protocol import Array
from raydelt.valuation.problem import Problem, Values


def data_oob(problem: Problem, *, seed: int, bags: int = 100) -> Values:
    """Values [n] and their standard errors (NaN for an example that a single bag leaves out)."""
    return values_of(sums(problem, range(bags), seed=seed))


def values_of(total: Array) -> Values:
    """Values [n] and standard errors from the sums [3, n] over all bags."""
    count, worth, squares = total
    if not count.all():
        raise InputError(
            f"each of the bags holds row {int(np.argmin(count))}, which leaves it without a value: "
            f"ask for more bags, or give more than {len(count)} examples"
        )
    mean = worth / count
    spread = np.maximum(squares / count - mean**2, 0.0)
    errors = np.sqrt(np.divide(spread, count - 1, out=np.full(len(count), np.nan), where=count > 1))
    return Values(mean, errors)


def sums(problem: Problem, bags: Iterable[int], *, seed: int) -> Array:
    """Bags without each example, the sum and the sum of squares of T there [3, n]; can be made anywhere and added."""
    result = np.zeros((3, len(problem.x)))
    for bag in bags:
        drawn = np.random.default_rng([seed, bag]).integers(len(problem.x), size=len(problem.x))
        out = np.setdiff1d(np.arange(len(problem.x)), drawn)
        if len(out):
            worth = worth_of(problem, out, fitted(problem, drawn).predict(problem.x[out]))
            result[:, out] += np.stack([np.ones(len(out)), worth, worth**2])
    return result


def worth_of(problem: Problem, rows: Array, predicted: Array) -> Array:
    """T for some rows [r] and what was predicted for them."""
    if problem.classes is not None:
        return np.asarray(predicted == problem.y[rows], np.float64)
    result: Array = -np.square(predicted.reshape(len(rows), -1) - problem.targets[rows]).sum(axis=1)
    return result


def fitted(problem: Problem, rows: Array) -> Any:
    """A linear model of some rows of the training set: of classes, or of targets."""
    x = np.asarray(problem.x[rows], np.float64)
    if problem.classes is None:
        return Ridge().fit(x, problem.targets[rows])
    y = problem.y[rows]
    if (y == y[0]).all():
        return DummyClassifier().fit(x, y)
    with warnings.catch_warnings():
        # Classes that a plane separates push the weights ever farther; predictions stand long before.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression().fit(x, y)
