"""OpenDataVal's own experiment code takes our evaluators (`make peers` brings it, without what it requires).

It imports libraries that nothing here calls; these are stood in for, its own code is as it is.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from raydelt.errors import SpecError
from raydelt.valuation.opendataval import evaluator
from raydelt.valuation.protocol import detection

PEERS = Path("build/peers").absolute()
pytestmark = pytest.mark.skipif(not (PEERS / "opendataval").exists(), reason="no OpenDataVal: run `make peers`")


class _Absent:
    """Finds modules that are not installed and that nothing here calls."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] not in self.names:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: _missing(name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        return None


def _missing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return MagicMock()


@pytest.fixture(scope="module")
def opendataval() -> Iterator[Any]:
    import geomloss

    finder = _Absent("torchvision", "pykeops", "torcheval", "pandera")
    # Where its own LAVA finds two functions in an older release.
    geomloss.utils = MagicMock()
    sys.path.append(str(PEERS))
    sys.meta_path.append(finder)
    try:
        import opendataval.dataloader
        import opendataval.experiment

        yield opendataval
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(PEERS))


def fetcher(opendataval: Any) -> Any:
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))[:500]
    labels = np.eye(10)[y[rows]]
    found = opendataval.dataloader.DataFetcher.from_data_splits(
        x[rows[:300]] / 16,
        labels[:300],
        x[rows[300:400]] / 16,
        labels[300:400],
        x[rows[400:]] / 16,
        labels[400:],
        True,
    )
    return found.noisify(opendataval.dataloader.mix_labels, noise_rate=0.2)


def test_its_own_experiment_measures_our_values(opendataval: Any, ray_session: None) -> None:
    from opendataval.experiment.exper_methods import noisy_detection

    data = fetcher(opendataval)
    noisy = np.isin(np.arange(300), data.noisy_train_indices)
    for own in (
        evaluator("knn_shapley"),
        evaluator("self_confidence"),
        evaluator("lossval"),
        evaluator("margin", {"kind": "difficulty"}, model={"network": "logistic"}),
    ):
        trained = own.train(data)
        values = trained.data_values
        assert values.shape == (300,)
        ours = detection(values, noisy)
        assert ours.auroc > 0.9
        assert noisy_detection(trained, data)["kmeans_f1"] == pytest.approx(ours.f1, abs=1e-9)


def test_tensors_of_numbers_are_a_regression(opendataval: Any) -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum(dim=1, keepdim=True)
    own = evaluator("self_confidence").input_data(x[:40], y[:40], x[40:], y[40:]).train_data_values()
    assert own.evaluate_data_values().shape == (40,)
    with pytest.raises(SpecError, match="needs classes"):
        evaluator("difficulty").input_data(x[:40], y[:40], x[40:], y[40:]).train_data_values()


def test_an_unknown_component_is_refused() -> None:
    with pytest.raises(SpecError, match="not the component"):
        evaluator("nothing", {"kind": "difficulty"})
