"""Classifiers are reproducible, carry their standardisation, and refuse what does not fit."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydelt.config import ModelSpec, Recipe
from raydelt.errors import InputError, SpecError
from raydelt.models import classifier
from raydelt.models.moments import Moments

RNG = np.random.default_rng(0)
MLP = ModelSpec(network="mlp", hidden=[8])


def keys(n: int) -> np.ndarray:
    return np.arange(n).astype(np.uint64)


def separable(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    y = RNG.integers(0, 3, n)
    return (np.eye(3)[y] * 4 + RNG.normal(size=(n, 3)) * 0.3).astype(np.float32), y


def test_a_seed_names_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.rand(1)
    torch.manual_seed(1)
    one = classifier.dump(classifier.build(MLP, (5,), 3, seed=4))
    assert torch.rand(1) == before
    assert classifier.dump(classifier.build(MLP, (5,), 3, seed=4)) == one
    assert classifier.dump(classifier.build(MLP, (5,), 3, seed=5)) != one


def test_fitting_learns_and_is_reproducible_bit_by_bit() -> None:
    x, y = separable()
    fitted = []
    for _ in range(2):
        model = classifier.build(MLP, (3,), 3, seed=0)
        classifier.fit(model, x, y, keys(len(x)), recipe=Recipe(epochs=20, lr=0.01), seed=1)
        fitted.append(classifier.dump(model))
        assert (model.predict(x).argmax(axis=1) == y).mean() > 0.95
    assert fitted[0] == fitted[1]


def test_the_recipe_fixes_the_number_of_steps() -> None:
    x, y = separable(50)
    epochs: list[int] = []
    model = classifier.build(MLP, (3,), 3, seed=0)
    classifier.fit(model, x, y, keys(50), recipe=Recipe(epochs=4), seed=1, after_epoch=epochs.append)
    assert epochs == [0, 1, 2, 3]


@pytest.mark.parametrize("network", ["logistic", "mlp", "cnn"])
def test_weights_and_standardisation_survive_saving(network: str) -> None:
    spec = ModelSpec(network=network)  # type: ignore[arg-type]
    model = classifier.build(spec, (1, 8, 8), 3, seed=0)
    x = RNG.normal(5, 2, size=(20, 64)).astype(np.float32)
    model.set_standardisation(*Moments.of(x).standardisation((1, 8, 8)))
    other = classifier.restore(classifier.build(spec, (1, 8, 8), 3, seed=9), classifier.dump(model), origin="here")
    np.testing.assert_array_equal(model.predict(x), other.predict(x))


def test_predictions_do_not_depend_on_the_batch() -> None:
    model = classifier.build(ModelSpec(network="cnn"), (1, 8, 8), 3, seed=0)
    x = RNG.normal(size=(33, 64)).astype(np.float32)
    single = np.concatenate([model.predict(x[i : i + 1]) for i in range(33)])
    np.testing.assert_allclose(model.predict(x), single, atol=1e-5)


@pytest.mark.parametrize("fault", ["pickle", "missing", "extra", "shape", "garbage"])
def test_a_checkpoint_that_does_not_fit_is_refused(fault: str) -> None:
    model = classifier.build(MLP, (5,), 3, seed=0)
    state = safetensors.torch.load(classifier.dump(model))
    if fault == "missing":
        state.pop("network.1.weight")
    if fault == "extra":
        state["more"] = torch.zeros(1)
    if fault == "shape":
        state["network.1.weight"] = torch.zeros(1, 1)
    data = {"pickle": b"\x80\x04K\x01.", "garbage": b"x"}.get(fault) or safetensors.torch.save(state)
    with pytest.raises(InputError, match=r"checkpoint here does not fit the model of the spec .*: use a safetensors"):
        classifier.restore(model, data, origin="here")


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.pt", "is a pickle: convert it to safetensors"), ("none", "does not exist: check the path")],
)
def test_a_checkpoint_that_is_a_pickle_or_missing_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "model.pt").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(InputError, match=message):
        classifier.read_checkpoint(str(tmp_path / name))


def test_a_network_for_images_needs_images() -> None:
    with pytest.raises(SpecError, match=r"model\.network 'cnn' needs images .*: set corpus\.image_shape"):
        classifier.build(ModelSpec(network="cnn"), (64,), 3, seed=0)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("builtins:max", "failed when called with"),
        ("builtins:print", "returned NoneType"),
        ("no.module:x", "cannot be loaded"),
        ("json:nothing", "cannot be loaded"),
    ],
)
def test_a_factory_that_does_not_work_is_refused(factory: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        classifier.build(ModelSpec(kind="torch", factory=factory), (3,), 2, seed=0)


def test_a_module_with_its_own_fit_is_trained_by_it() -> None:
    model = classifier.build(ModelSpec(kind="torch", factory="tests.plugins:memoriser"), (3,), 4, seed=0)
    x, y = separable(30)
    classifier.fit(model, x, y, keys(30), recipe=Recipe(), seed=0)
    assert (model.predict(x).argmax(axis=1) == y).all()
    assert (model.predict(x + 1).argmax(axis=1) == 3).all()


def test_a_diverging_fit_is_told() -> None:
    x, y = separable()
    model = classifier.build(ModelSpec(network="logistic"), (3,), 3, seed=0)
    with pytest.raises(InputError, match=r"diverged .*: .*lower the learning rate"):
        classifier.fit(model, x, y, keys(len(x)), recipe=Recipe(optimizer="sgd", lr=1e38, epochs=3), seed=0)


@given(st.lists(st.integers(0, 40), max_size=4))
def test_moments_merge_to_those_of_the_whole(cuts: list[int]) -> None:
    x = np.random.default_rng(3).normal(100, 3, size=(40, 3))
    total = Moments.of(x[:0])
    edges = [0, *sorted(cuts), 40]
    for low, high in itertools.pairwise(edges):
        total = total.merge(Moments.of(x[low:high]))
    mean, scale = total.standardisation((3,))
    np.testing.assert_allclose(mean, x.mean(axis=0))
    np.testing.assert_allclose(scale, x.std(axis=0))


def test_images_are_standardised_by_channel_and_constants_become_zero() -> None:
    x = RNG.normal(3, 2, size=(50, 2, 4, 4))
    x[:, 1] = 7
    mean, scale = Moments.of(x.reshape(50, -1)).standardisation((2, 4, 4))
    np.testing.assert_allclose(mean[:16], x[:, 0].mean())
    np.testing.assert_allclose(scale[:16], x[:, 0].std())
    assert set(mean[16:].round(9)) == {7.0}
    assert set(scale[16:]) == {1.0}
