"""What cannot be valued is refused before any method looks at it; what is poor but sound has finite values by all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raydelt.errors import InputError
from raydelt.valuation.data_oob import data_oob
from raydelt.valuation.knn_shapley import knn_shapley
from raydelt.valuation.lava import lava
from raydelt.valuation.lossval import LossVal, lossval
from raydelt.valuation.problem import Problem, Values
from raydelt.valuation.self_confidence import self_confidence

RNG = np.random.default_rng(3)
X, V = RNG.normal(size=(60, 4)).astype(np.float32), RNG.normal(size=(12, 4)).astype(np.float32)
Y, U = np.arange(60) % 3, np.arange(12) % 3
METHODS: dict[str, Callable[..., Values]] = {
    "knn_shapley": knn_shapley,
    "data_oob": lambda problem, seed: data_oob(problem, seed=seed, bags=20),
    "self_confidence": self_confidence,
    "lava": lava,
    "lossval": lambda problem, seed: lossval(problem, LossVal(epochs=2, repeats=1), seed=seed),
}


def faults() -> dict[str, tuple[str, dict[str, Any]]]:
    nan = V.copy()
    nan[3, 1] = np.nan
    return {
        "validation is empty": ("validation set is empty", {"val_x": V[:0], "val_y": U[:0]}),
        "training is empty": ("training set is empty", {"x": X[:0], "y": Y[:0]}),
        "other width": ("width 4, validation features 3", {"val_x": V[:, :3]}),
        "other lengths": ("60 rows of features and 59 labels", {"y": Y[:-1]}),
        "not finite": ("validation set holds values that are not finite", {"val_x": nan}),
        "no matrix": (r"features of shape \[60\]", {"x": X[:, 0], "val_x": V[:, 0]}),
        "class beyond": ("validation set holds class 3, and there are 3", {"val_y": U + 1}),
        "class below": ("training set holds class -1, and there are 3", {"y": Y - 1}),
        "half a class": ("training set holds class 0.5", {"y": Y + 0.5}),
        "other targets": ("targets have shape", {"classes": None, "y": np.zeros((60, 2)), "val_y": np.zeros(12)}),
    }


@pytest.mark.parametrize("name", sorted(faults()))
def test_what_cannot_be_valued_is_refused(name: str) -> None:
    match, changes = faults()[name]
    with pytest.raises(InputError, match=match):
        Problem(**({"x": X, "y": Y, "val_x": V, "val_y": U, "classes": 3} | changes))


POOR = {
    "constant features": Problem(np.ones_like(X), Y, np.ones_like(V), U, 3),
    "copies of one example": Problem(np.repeat(X[:1], 60, axis=0), Y, V, U, 3),
    "one validation example": Problem(X, Y, V[:1], U[:1], 3),
    "a validation class that training lacks": Problem(X, Y % 2, V, U, 3),
    "a training class that validation lacks": Problem(X, Y, V, U % 2, 3),
    "a class of one": Problem(X, np.where(np.arange(60) == 0, 2, Y % 2), V, U % 2, 3),
    "a single class of three": Problem(X, Y * 0, V, U, 3),
    "a constant target": Problem(X, np.zeros(60), V, np.zeros(12)),
}


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("name", sorted(POOR))
def test_poor_data_have_finite_values(name: str, method: str) -> None:
    values = METHODS[method](POOR[name], seed=1).values
    assert values.shape == (60,)
    assert np.isfinite(values).all()


def test_validation_examples_of_an_unknown_class_only_dilute_shapley_values() -> None:
    known = U < 2
    whole = knn_shapley(Problem(X, Y % 2, V, U, 3), seed=1).values
    part = knn_shapley(Problem(X, Y % 2, V[known], U[known], 3), seed=1).values
    np.testing.assert_allclose(whole, part * known.mean(), rtol=1e-9, atol=1e-12)
