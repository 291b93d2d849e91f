"""LAVA against finite differences of the transport's value, and against geomloss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from raydelt.errors import InputError, SpecError
from raydelt.valuation.lava import class_costs, diameter_of, lava, transport, uniform
from raydelt.valuation.problem import Problem
from raydelt.valuation.sinkhorn import costs


def points(n: int, shift: float, seed: int, d: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, (n, d)))


def clusters(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.normal(size=(n, 3)) + 4 * np.eye(3)[y], y


def test_potentials_are_the_gradient_by_the_masses() -> None:
    x, v, eps = points(12, 0, 0), points(7, 0.5, 1), 0.5
    cost, b, diameter = costs(x, v), uniform(7), diameter_of(x, v)
    a = torch.from_numpy(np.random.default_rng(2).dirichlet(np.full(12, 9.0)))

    def value(masses: torch.Tensor) -> float:
        f, g = transport(cost, masses, b, diameter, eps, sweeps=150)
        return float(masses @ f + b @ g)

    f, g = transport(cost, a, b, diameter, eps, sweeps=150)
    plan = a[:, None] * b * torch.exp((f[:, None] + g - cost) / eps)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-9)
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-9)
    for i in range(1, 12):
        step = torch.zeros(12, dtype=torch.float64)
        step[i], step[0] = 1e-5, -1e-5
        slope = (value(a + step) - value(a - step)) / 2e-5
        assert slope == pytest.approx(float(f[i] - f[0]), abs=1e-5)


def test_potentials_are_those_of_geomloss() -> None:
    geomloss = pytest.importorskip("geomloss")
    x, v = points(30, 0, 3), points(11, 1, 4)
    settings = {"p": 2, "blur": 0.1**0.5, "debias": False, "potentials": True, "backend": "tensorized"}
    f, g = transport(costs(x, v), uniform(30), uniform(11), diameter_of(x, v), 0.1)
    own_f, own_g = geomloss.SamplesLoss("sinkhorn", **settings)(x, v)
    np.testing.assert_allclose(f, own_f.ravel(), atol=1e-10)
    np.testing.assert_allclose(g, own_g.ravel(), atol=1e-10)


def test_costs_between_classes_are_those_of_their_points() -> None:
    x, v, y, u = points(20, 0, 5), points(8, 0, 6), torch.arange(20) % 2 * 2, torch.arange(8) % 2 + 1
    found = class_costs(x, y, v, u, 3, 0.1, 400)
    assert (found[1] == 0).all()
    assert (found[:, 0] == 0).all()
    own, other = x[y == 2], v[u == 1]
    f, g = transport(costs(own, other), uniform(10), uniform(4), diameter_of(own, other), 0.1, 400)
    assert found[2, 1] == pytest.approx(float(f.mean() + g.mean()))
    two = class_costs(x, y, v, u, 3, 0.02, 500)[2, 1]
    # Without entropy: each of the 4 points takes 2.5 of the 10; with 2 copies and 5 it is an assignment of 20 units.
    units = costs(own, other).repeat_interleave(2, 0).repeat_interleave(5, 1).numpy()
    assert two == pytest.approx(units[linear_sum_assignment(units)].mean(), rel=0.03)


def test_equal_examples_have_equal_values_and_all_add_up_to_zero() -> None:
    x, y = clusters(60, 0)
    x[40], y[40] = x[7], y[7]
    for classes in (3, None):
        values = lava(Problem(x, y, *clusters(30, 1), classes), seed=0).values
        assert values[40] == pytest.approx(values[7], abs=1e-9)
        assert values.sum() == pytest.approx(0, abs=1e-9)
        assert np.ptp(values) > 0.1


def test_values_are_calibrated_potentials() -> None:
    x, y = clusters(30, 2)
    val_x, val_y = clusters(12, 3)
    values = lava(Problem(x, y.astype(float), val_x, val_y.astype(float)), seed=0).values
    z, w = torch.from_numpy(np.c_[x, y]), torch.from_numpy(np.c_[val_x, val_y])
    f, _ = transport(costs(z, w), uniform(30), uniform(12), diameter_of(z, w), 0.1)
    expected = [np.delete(f.numpy(), i).mean() - float(f[i]) for i in range(30)]
    np.testing.assert_allclose(values, expected, atol=1e-9)


@pytest.mark.parametrize("classes", [3, None])
def test_bad_examples_have_less_value(classes: int | None) -> None:
    x, y = clusters(90, 4)
    x[:5] += 6 * np.random.default_rng(0).normal(size=(5, 3))
    if classes:
        y[5:10] = (y[5:10] + 1) % 3
    bad = 10 if classes else 5
    values = lava(Problem(x, y, *clusters(60, 5), classes), seed=0).values
    assert values[:bad].mean() < np.quantile(values[bad:], 0.1)


def test_poor_data_give_values() -> None:
    same = np.ones((6, 2))
    y = np.arange(6) % 2
    assert np.isfinite(lava(Problem(same, y, same[:3], y[:3], 2), seed=0).values).all()
    np.testing.assert_allclose(lava(Problem(same, y * 0, same[:3], y[:3] * 0, 1), seed=0).values, 0, atol=1e-9)
    x = np.random.default_rng(0).normal(size=(6, 2))
    assert np.isfinite(lava(Problem(x, y * 0, x, y, 2), seed=0).values).all()
    assert lava(Problem(x[:1], y[:1], x, y, 2), seed=0).values.tolist() == [0.0]


def test_bad_input_is_refused() -> None:
    x, y = clusters(9, 0)
    with pytest.raises(InputError, match="validation set is empty"):
        lava(Problem(x, y, x[:0], y[:0], 3), seed=0)
    with pytest.raises(SpecError, match="eps 0"):
        lava(Problem(x, y, x, y, 3), seed=0, eps=0)
    with pytest.raises(SpecError, match="0 sweeps"):
        lava(Problem(x, y, x, y, 3), seed=0, sweeps=0)
