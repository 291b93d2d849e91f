"""LossVal on workers: the values of one process with as many shards, whoever holds them and whoever dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
from sklearn.datasets import load_diabetes, load_digits

from raydelt.storage import Stage, Store
from raydelt.train.job import SCRATCH
from raydelt.valuation.lossval import LossVal, lossval
from raydelt.valuation.problem import Problem
from raydelt.valuation.workers import value_on_workers
from tests.faults import kill_when, worker_called

pytestmark = pytest.mark.usefixtures("ray_session")


def digits(n: int = 203) -> Problem:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    return Problem(x[:n], y[:n], x[-41:], y[-41:], classes=10)


def diabetes() -> Problem:
    x, y = load_diabetes(return_X_y=True)
    return Problem(x[:150], (y[:150] - 150) / 80, x[-40:], (y[-40:] - 150) / 80)


def on_workers(problem: Problem, settings: LossVal, folder: Path, *, workers: int) -> tuple[np.ndarray, np.ndarray]:
    stage = Stage(Store(str(folder)), "values", f"{workers}" * 32)
    found = value_on_workers(ray.put(problem), settings, stage, workers=workers, max_failures=2, seed=3)
    assert found.errors is not None
    return found.values, found.errors


@pytest.mark.parametrize(
    ("problem", "settings"),
    [
        (digits, LossVal(shards=4, double=True, epochs=4, batch=16)),
        (diabetes, LossVal(shards=3, double=True, epochs=4, batch=16)),
        (digits, LossVal(mode="reference", shards=3, double=True, epochs=2, batch=32)),
    ],
)
def test_two_workers_find_the_values_of_one_process(
    problem: Callable[[], Problem], settings: LossVal, tmp_path: Path
) -> None:
    expected = lossval(problem(), settings, seed=3)
    values, errors = on_workers(problem(), settings, tmp_path, workers=2)
    assert expected.errors is not None
    np.testing.assert_allclose(values, expected.values, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(errors, expected.errors, rtol=1e-9, atol=1e-9)


def test_a_killed_worker_leaves_the_same_values(tmp_path: Path) -> None:
    settings = LossVal(shards=2, epochs=60, batch=8, hidden=(32,))
    expected = lossval(digits(), settings, seed=3)
    scratch = tmp_path / SCRATCH

    def once_committed() -> int | None:
        return worker_called("RayTrainWorker") if list(scratch.glob("*/checkpoint*")) else None

    killed: list[int] = []
    watcher = kill_when(once_committed, killed)
    values, _ = on_workers(digits(), settings, tmp_path, workers=2)
    assert killed
    watcher.join(timeout=10)
    np.testing.assert_array_equal(values, expected.values)
