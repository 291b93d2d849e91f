"""Cross-fitting never shows a model what it scores, and agrees with scikit-learn's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from raydelt.config import ModelSpec, Recipe
from raydelt.corpus.canonical import fixed_lists
from raydelt.errors import SpecError
from raydelt.models import classifier
from raydelt.scorers.crossfit import HeldOutEnsemble, assign_folds
from raydelt.scorers.difficulty import difficulty, log_softmax

RNG = np.random.default_rng(0)


def names(count: int) -> list[str]:
    return [str(c) for c in range(count)]


def batch_of(x: np.ndarray, folds: np.ndarray) -> pa.RecordBatch:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(folds.T).reshape(-1)), len(folds))
    return pa.record_batch([fixed_lists(x.astype(np.float32)), lists], ["x", "folds"])


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(5, 40), min_size=2, max_size=5), folds=st.integers(2, 5), seed=st.integers(0, 2**31))
def test_folds_are_balanced_within_every_class_and_over_all(sizes: list[int], folds: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    groups = RNG.permutation(10**6)[: len(labels)].astype(np.uint64)
    found = assign_folds(groups, labels, rounds=3, folds=folds, seed=seed, classes=names(len(sizes)))
    for row in found:
        assert np.ptp(np.bincount(row, minlength=folds)) <= 1
        for c in range(len(sizes)):
            assert np.ptp(np.bincount(row[labels == c], minlength=folds)) <= 1


def test_groups_are_never_split_and_rounds_differ() -> None:
    groups = np.repeat(np.arange(50), 3).astype(np.uint64)
    labels = np.repeat(np.arange(50) % 2, 3)
    found = assign_folds(groups, labels, rounds=4, folds=5, seed=1, classes=names(2))
    for row in found:
        assert all(len(set(row[groups == g])) == 1 for g in range(50))
    assert len({tuple(row) for row in found}) == 4


def test_folds_do_not_depend_on_row_order_or_on_the_number_of_rounds() -> None:
    groups = RNG.permutation(1000)[:200].astype(np.uint64)
    labels = (groups % np.uint64(3)).astype(np.int64)
    whole = assign_folds(groups, labels, rounds=3, folds=4, seed=9, classes=names(3))
    order = RNG.permutation(200)
    mixed = assign_folds(groups[order], labels[order], rounds=3, folds=4, seed=9, classes=names(3))
    np.testing.assert_array_equal(mixed, whole[:, order])
    np.testing.assert_array_equal(assign_folds(groups, labels, rounds=1, folds=4, seed=9, classes=names(3)), whole[:1])


def test_a_rare_class_is_refused_and_an_absent_one_is_not() -> None:
    groups, labels = np.arange(22).astype(np.uint64), np.array([0] * 10 + [1] * 10 + [2] * 2)
    with pytest.raises(
        SpecError, match=r"class 'rare' has 2 distinct examples but rank\.folds is 3: lower rank\.folds"
    ):
        assign_folds(groups, labels, rounds=1, folds=3, seed=0, classes=["a", "b", "rare", "absent"])
    found = assign_folds(groups, labels, rounds=1, folds=2, seed=0, classes=["a", "b", "rare", "absent"])
    assert set(found[0]) == {0, 1}


class Seen:
    """A stand-in for a model: remembers its training rows, and objects to being asked about one of them."""

    def __init__(self, rows: set[float]) -> None:
        self.rows, self.asked = rows, []  # type: ignore[var-annotated]

    def predict(self, x: np.ndarray, *, features: bool = False) -> np.ndarray:
        assert self.rows.isdisjoint(x[:, 0].tolist()), "a model was asked about an example that it saw"
        self.asked += x[:, 0].tolist()
        return np.zeros((len(x), 2), np.float32)


def test_every_example_is_asked_of_exactly_r_models_that_never_saw_it() -> None:
    n, rounds, folds = 60, 3, 4
    ids = np.arange(n, dtype=np.float32)
    assigned = assign_folds(
        ids.astype(np.uint64), np.arange(n) % 2, rounds=rounds, folds=folds, seed=0, classes=names(2)
    )
    models = [[Seen(set(ids[assigned[r] != f].tolist())) for f in range(folds)] for r in range(rounds)]
    ensemble = HeldOutEnsemble(models)
    for low in (0, 20, 40):
        ensemble.logits(batch_of(ids[low : low + 20, None], assigned[:, low : low + 20]))
    asked = [value for row in models for model in row for value in model.asked]
    assert sorted(asked) == sorted(ids.tolist() * rounds)
    variants = np.repeat(ids[:20, None, None], 5, axis=1)
    ensemble.logits_of(variants, batch_of(ids[:20, None], assigned[:, :20]))


class Wrapped:
    def __init__(self, model: LogisticRegression) -> None:
        self.model = model

    def predict(self, x: np.ndarray, *, features: bool = False) -> np.ndarray:
        return self.model.predict_log_proba(x)


def test_held_out_probabilities_equal_scikit_learns_cross_val_predict() -> None:
    data = load_digits()
    x, y = (data.data[:500] / 16).astype(np.float32), data.target[:500]
    folds = assign_folds(np.arange(500).astype(np.uint64), y, rounds=2, folds=5, seed=3, classes=names(10))
    models: list[list[Any]] = [
        [Wrapped(LogisticRegression(max_iter=500).fit(x[row != f], y[row != f])) for f in range(5)] for row in folds
    ]
    found = np.exp(log_softmax(HeldOutEnsemble(models).logits(batch_of(x, folds))))
    for r, row in enumerate(folds):
        expected = cross_val_predict(
            LogisticRegression(max_iter=500), x, y, cv=PredefinedSplit(row), method="predict_proba"
        )
        np.testing.assert_allclose(found[r], expected, atol=1e-6)


def test_our_own_logistic_regression_agrees_with_scikit_learn_out_of_fold() -> None:
    data = load_digits()
    x, y = data.data[:400].astype(np.float32), data.target[:400]
    [folds] = assign_folds(np.arange(400).astype(np.uint64), y, rounds=1, folds=4, seed=3, classes=names(10))
    mean, scale = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    penalty = 0.05
    models = []
    for f in range(4):
        model = classifier.build(ModelSpec(network="logistic"), (64,), 10, seed=f)
        model.set_standardisation(mean, scale)
        torch_fit(model, x[folds != f], y[folds != f], penalty)
        models.append(model)
    ours = np.exp(log_softmax(HeldOutEnsemble([models]).logits(batch_of(x, folds[None]))[0]))
    # scikit-learn sums the loss and halves the penalty: C = 1 / (n * penalty), on n = 300 examples.
    reference = LogisticRegression(C=1 / (300 * penalty), max_iter=5000, tol=1e-8)
    expected = cross_val_predict(reference, (x - mean) / scale, y, cv=PredefinedSplit(folds), method="predict_proba")
    np.testing.assert_allclose(ours, expected, atol=5e-3)


def torch_fit(model: classifier.Classifier, x: np.ndarray, y: np.ndarray, penalty: float) -> None:
    """Full-batch gradient descent to the optimum of mean loss + penalty / 2 ||W||^2, the bias unpenalised."""
    import torch

    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> Any:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        loss = loss + penalty / 2 * (model.last_linear.weight**2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)


def test_a_memoriser_finds_every_unseen_example_as_hard_as_can_be() -> None:
    x = RNG.normal(size=(90, 2)).astype(np.float32)
    y = RNG.integers(0, 3, 90)
    x[80:] = x[:10]
    y[80:] = (y[:10] + 1) % 3
    groups = np.array([hash(row.tobytes()) % 2**63 for row in x], np.uint64)
    folds = assign_folds(groups, y, rounds=2, folds=3, seed=0, classes=names(3))

    class Memoriser:
        def __init__(self, rows: np.ndarray) -> None:
            self.known = {x[i].tobytes(): y[i] for i in np.flatnonzero(rows)}

        def predict(self, asked: np.ndarray, *, features: bool = False) -> np.ndarray:
            known = [self.known.get(row.tobytes(), 3) for row in asked]
            return np.eye(4, dtype=np.float32)[known] * 1000

    models = [[Memoriser(row != f) for f in range(3)] for row in folds]
    found = difficulty(HeldOutEnsemble(models).logits(batch_of(x, folds)), y)["difficulty"]
    assert (found == 1.0).all()


def test_a_recipe_counts_its_steps() -> None:
    assert Recipe(epochs=3, batch_size=10).total_steps(25) == 9
    assert Recipe(steps=7).total_steps(25) == 7
