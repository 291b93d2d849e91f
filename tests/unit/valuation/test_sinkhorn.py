"""Sinkhorn divergence and its closed gradient against geomloss and its autograd."""

from __future__ import annotations

import itertools

import pytest
import torch
from geomloss import SamplesLoss

from raydelt.errors import InputError
from raydelt.valuation.sinkhorn import MARGIN, Target, diameter_of, temperatures

SHAPES = [(1, 1, 1), (5, 3, 2), (17, 40, 6), (128, 100, 57), (104, 100, 784), (64, 150, 20)]


def drawn(
    n: int, j: int, d: int, dtype: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, v = torch.randn(n, d, generator=generator, dtype=dtype), torch.randn(j, d, generator=generator, dtype=dtype)
    return x, v + 0.3, torch.rand(n, generator=generator, dtype=dtype) + 0.1


def oracle(
    x: torch.Tensor, v: torch.Tensor, w: torch.Tensor, b: torch.Tensor, diameter: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and autograd's gradient by the masses of the first side."""
    diameter = diameter or MARGIN * float(torch.cdist(x, v).max())
    w = w.clone().requires_grad_()
    value = SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.5, diameter=diameter)(w, x, b, v)
    [gradient] = torch.autograd.grad(value, w)
    return value.detach(), gradient


def off(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_are_those_of_geomloss(
    shape: tuple[int, int, int], dtype: torch.dtype, bound: float
) -> None:
    x, v, w = drawn(*shape, dtype)
    found = Target(v).divergence(x, w)
    value, gradient = oracle(x, v, w, torch.ones(len(v), dtype=dtype))
    assert off(found.value, value) < bound
    assert off(found.gradient, gradient) < bound


def test_weights_that_are_not_positive_are_taken_as_geomloss_takes_them() -> None:
    x, v, w = drawn(30, 20, 5, torch.float64)
    w[3], w[7] = 0.0, -0.2
    found = Target(v).divergence(x, w)
    value, gradient = oracle(x, v, w, torch.ones(20, dtype=torch.float64))
    assert off(found.value, value) < 1e-10
    assert off(found.gradient, gradient) < 1e-10


def test_the_gradient_of_unit_masses_is_that_by_the_weights_before_scaling() -> None:
    x, v, w = drawn(40, 25, 7, torch.float64)
    free = w.clone().requires_grad_()
    loss = SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.5, diameter=9.0)
    value = loss(free / free.sum(), x, torch.full((25,), 1 / 25, dtype=torch.float64), v)
    [gradient] = torch.autograd.grad(value, free)
    found = Target(v, unit_mass=True, diameter=9.0).divergence(x, w)
    assert off(found.value, value.detach()) < 1e-10
    assert off(found.gradient, gradient) < 1e-9


def test_unit_masses_do_not_depend_on_the_scale_of_the_weights() -> None:
    x, v, w = drawn(40, 25, 7, torch.float64)
    target = Target(v, unit_mass=True)
    assert torch.allclose(target.divergence(x, 3 * w).value, target.divergence(x, w).value)


def test_the_divergence_of_a_set_from_itself_is_zero() -> None:
    _, v, _ = drawn(1, 25, 7, torch.float64)
    assert abs(float(Target(v).divergence(v, torch.ones(25, dtype=torch.float64)).value)) < 1e-9


def test_batches_with_a_fixed_diameter_are_the_single_ones_and_the_cache_changes_nothing() -> None:
    x, v, w = drawn(60, 20, 4, torch.float64)
    diameter = diameter_of(x, v)
    target = Target(v, diameter=diameter)
    first, again = target.divergence(x[:20], w[:20]), target.divergence(x[:20], w[:20])
    both = target.divergence(x.view(3, 20, 4), w.view(3, 20))
    value, gradient = oracle(x[:20], v, w[:20], torch.ones(20, dtype=torch.float64), diameter)
    assert torch.equal(first.value, again.value)
    assert torch.equal(first.gradient, again.gradient)
    assert off(both.value[0], value) < 1e-10
    assert off(both.gradient[0], gradient) < 1e-10
    assert off(both.gradient[2], Target(v, diameter=diameter).divergence(x[40:], w[40:]).gradient) < 1e-10


def test_the_schedule_falls_from_the_square_of_the_diameter_to_that_of_the_blur() -> None:
    found = temperatures(40.0, 0.05, 0.5)
    assert found[0] == 1600.0
    assert found[-1] == 0.05**2
    assert all(a >= b for a, b in itertools.pairwise(found))


def test_what_cannot_be_computed_is_refused() -> None:
    x, v, w = drawn(6, 3, 2, torch.float64)
    with pytest.raises(InputError, match="fix the target's diameter"):
        Target(v).divergence(x.view(2, 3, 2), w.view(2, 3))
    with pytest.raises(InputError, match="same point"):
        Target(torch.ones(3, 2)).divergence(torch.ones(4, 2), torch.ones(4))
    with pytest.raises(InputError, match="scaling"):
        Target(v, scaling=1.0)
