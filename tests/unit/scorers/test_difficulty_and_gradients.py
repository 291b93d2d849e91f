"""Difficulty and gradient norms equal their closed forms, scipy, and autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax
from scipy.stats import spearmanr
from torch import nn

from raydelt.config import ModelSpec
from raydelt.models import classifier
from raydelt.scorers.difficulty import difficulty, log_softmax
from raydelt.scorers.grad_norm import last_layer_norms
from raydelt.scorers.protocol import over_rounds

RNG = np.random.default_rng(0)


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=50))
def test_log_softmax_equals_scipy_at_any_scale(logits: list[float]) -> None:
    np.testing.assert_allclose(log_softmax(np.array(logits)), scipy_log_softmax(logits), rtol=1e-12, atol=1e-12)


def test_two_classes_have_the_closed_form() -> None:
    logits = RNG.normal(size=(3, 20, 2)) * 5
    labels = RNG.integers(0, 2, 20)
    found = difficulty(logits, labels)
    p = 1 / (1 + np.exp(np.diff(logits, axis=2)[:, :, 0] * np.where(labels == 0, 1, -1)))
    np.testing.assert_allclose(found["difficulty"], 1 - p, atol=1e-12)
    np.testing.assert_allclose(found["el2n"], np.sqrt(2) * (1 - p), atol=1e-12)
    np.testing.assert_allclose(found["loss"], -np.log(p), atol=1e-12)
    np.testing.assert_allclose(found["margin"], 2 * p - 1, atol=1e-12)


def test_components_stay_in_their_ranges_and_finite_at_extreme_logits() -> None:
    logits = RNG.choice([-1e4, 0.0, 1e4], size=(2, 200, 1000)).astype(np.float32)
    found = difficulty(logits, RNG.integers(0, 1000, 200))
    assert all(np.isfinite(values).all() for values in found.values())
    for name, low, high in (("difficulty", 0, 1), ("el2n", 0, np.sqrt(2)), ("margin", -1, 1), ("loss", 0, np.inf)):
        assert (found[name] >= low - 1e-12).all(), name
        assert (found[name] <= high + 1e-12).all(), name


def test_a_nearly_certain_label_keeps_the_digits_of_its_difficulty() -> None:
    found = difficulty(np.array([[[40.0, 0.0]]]), np.array([0]))
    assert found["difficulty"][0, 0] == pytest.approx(np.exp(-40.0), rel=1e-9)


def test_rounds_give_mean_and_standard_error() -> None:
    values = RNG.normal(size=(4, 10))
    found = over_rounds("x", values)
    np.testing.assert_allclose(found["x"], values.mean(axis=0))
    np.testing.assert_allclose(found["x_se"], values.std(axis=0, ddof=1) / 2)
    assert set(over_rounds("x", values[:1])) == {"x"}


def models() -> list[classifier.Classifier]:
    built = [
        classifier.build(ModelSpec(network="logistic"), (1, 6, 6), 4, seed=1),
        classifier.build(ModelSpec(network="mlp", hidden=[9, 7]), (1, 6, 6), 4, seed=2),
        classifier.build(ModelSpec(network="cnn", hidden=[8]), (1, 6, 6), 4, seed=3),
    ]
    for model in built:
        model.set_standardisation(RNG.normal(size=36), RNG.uniform(0.5, 2, 36))
    return built


def autograd_norms(model: classifier.Classifier, x: np.ndarray, y: np.ndarray) -> list[float]:
    """Norms of the last layer's gradient, one example and one backward pass at a time."""
    norms = []
    for row in range(len(x)):
        model.zero_grad()
        logits = model(torch.from_numpy(x[row : row + 1]))
        nn.functional.cross_entropy(logits, torch.tensor([y[row]])).backward()
        gradients = [p.grad for p in model.last_linear.parameters() if p.grad is not None]
        norms.append(float(torch.sqrt(sum((g.double() ** 2).sum() for g in gradients))))
    return norms


@pytest.mark.parametrize("index", [0, 1, 2])
def test_last_layer_norms_equal_autograd_one_by_one(index: int) -> None:
    model = models()[index]
    x, y = RNG.normal(size=(12, 36)).astype(np.float32), RNG.integers(0, 4, 12)
    found = last_layer_norms(model.predict(x)[None], y, model.predict(x, features=True)[None])[0]
    np.testing.assert_allclose(found, autograd_norms(model, x, y), rtol=1e-4)


def test_logistic_regression_has_its_closed_form() -> None:
    model = models()[0]
    x, y = RNG.normal(size=(30, 36)).astype(np.float32), RNG.integers(0, 4, 30)
    logits = model.predict(x)
    residual = np.exp(log_softmax(logits)) - np.eye(4)[y]
    inputs = (x - model.mean.numpy()) / model.scale.numpy()
    expected = np.linalg.norm(residual, axis=1) * np.sqrt(1 + (inputs**2).sum(axis=1))
    found = last_layer_norms(logits[None], y, model.predict(x, features=True)[None])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_last_layer_without_bias_has_norms_without_it() -> None:
    model = models()[1]
    x, y = RNG.normal(size=(12, 36)).astype(np.float32), RNG.integers(0, 4, 12)
    width = model.predict(x, features=True).shape[1]
    model.last_linear.bias = None
    features = model.predict(x, features=True)
    assert features.shape[1] == width - 1
    found = last_layer_norms(model.predict(x)[None], y, features[None])[0]
    np.testing.assert_allclose(found, autograd_norms(model, x, y), rtol=1e-4)


def test_norms_rank_like_el2n_but_not_equally() -> None:
    model = models()[1]
    x, y = RNG.normal(size=(400, 36)).astype(np.float32), RNG.integers(0, 4, 400)
    logits = model.predict(x)[None]
    norms = last_layer_norms(logits, y, model.predict(x, features=True)[None])[0]
    assert 0.5 < spearmanr(norms, difficulty(logits, y)["el2n"][0]).statistic < 1
