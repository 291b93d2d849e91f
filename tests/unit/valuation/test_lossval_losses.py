"""The losses of LossVal: the reference against a literal one on geomloss and autograd, the other by gradcheck."""

from __future__ import annotations

import pytest
import torch
from geomloss import SamplesLoss
from torch import nn

from raydelt.errors import SpecError
from raydelt.valuation import lossval_cross_entropy, lossval_mse
from raydelt.valuation.sinkhorn import Target

N, B, J, D, C = 30, 12, 9, 4, 3
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, nn.Parameter, torch.Tensor]


def drawn() -> Tensors:
    """Logits, features, validation features, weights and ids."""
    torch.manual_seed(0)
    x, v = torch.randn(B, D, dtype=torch.float64), torch.randn(J, D, dtype=torch.float64)
    weights = nn.Parameter(torch.rand(N, dtype=torch.float64) + 0.5)
    logits = torch.randn(B, C, dtype=torch.float64, requires_grad=True)
    return logits, x, v, weights, torch.randperm(N)[:B]


def literal(losses: torch.Tensor, x: torch.Tensor, v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    diameter = 1.1 * float(torch.cdist(x, v).max())
    o = SamplesLoss("sinkhorn", diameter=diameter)(w, x, torch.ones(len(v), dtype=x.dtype), v)
    return (w * losses).sum() * o**2


def agree(found: torch.Tensor, true: torch.Tensor, by: list[torch.Tensor]) -> None:
    assert torch.allclose(found, true, rtol=1e-6)
    for a, b in zip(torch.autograd.grad(found, by), torch.autograd.grad(true, by), strict=True):
        assert float((a - b).norm()) <= 1e-6 * float(b.norm())


def test_reference_of_classes_is_the_literal_one() -> None:
    logits, x, v, weights, ids = drawn()
    y = torch.arange(B) % C
    losses = -(torch.eye(C, dtype=x.dtype)[y] * torch.log(logits.softmax(1) + 1e-8)).sum(1)
    found = lossval_cross_entropy(logits, y, x, v, weights, ids, mode="reference")
    agree(found, literal(losses, x, v, weights[ids]), [logits, weights])


def test_reference_of_targets_is_the_literal_one() -> None:
    predictions, x, v, weights, ids = drawn()
    y = torch.randn(B, C, dtype=x.dtype)
    found = lossval_mse(predictions, y, x, v, weights, ids, mode="reference")
    agree(found, literal((y - predictions).square().sum(1), x, v, weights[ids]), [predictions, weights])


def test_transport_between_unit_masses_has_the_gradient_of_autograd() -> None:
    logits, x, v, weights, ids = drawn()
    y, target = torch.arange(B) % C, Target(v, unit_mass=True, diameter=7.0)
    found = lossval_cross_entropy(logits, y, x, target, weights, ids, transport=0.3)
    w = weights[ids]
    o = SamplesLoss("sinkhorn", diameter=7.0)(w / w.sum(), x, torch.full((J,), 1 / J, dtype=x.dtype), v)
    mean = (w * nn.functional.cross_entropy(logits, y, reduction="none")).sum() / w.sum()
    agree(found, mean + 0.3 * o, [logits, weights])


def test_gradients_are_right_by_finite_differences() -> None:
    logits, x, v, weights, ids = drawn()
    y, real = torch.arange(B) % C, torch.randn(B, C, dtype=x.dtype)
    assert torch.autograd.gradcheck(
        lambda p, w: lossval_cross_entropy(p, y, x, v, w, ids), (logits, weights), fast_mode=True
    )
    assert torch.autograd.gradcheck(lambda p, w: lossval_mse(p, real, x, v, w, ids), (logits, weights), fast_mode=True)
    held = weights.detach()
    assert torch.autograd.gradcheck(
        lambda p: lossval_cross_entropy(p, y, x, v, held, ids, mode="reference"), (logits,), atol=1e-3, fast_mode=True
    )


def test_the_weighted_mean_pulls_weights_of_high_losses_down_and_of_low_ones_up() -> None:
    logits, x, v, weights, ids = drawn()
    y = torch.arange(B) % C
    [gradient] = torch.autograd.grad(lossval_cross_entropy(logits, y, x, v, weights, ids), weights)
    losses = nn.functional.cross_entropy(logits, y, reduction="none")
    mean = (weights[ids] * losses).sum() / weights[ids].sum()
    assert torch.equal(gradient[ids] > 0, losses > mean)
    assert int((gradient != 0).sum()) == B


def test_targets_in_one_column_and_in_none_are_alike() -> None:
    predictions, x, v, weights, ids = drawn()
    one, y = predictions[:, :1], torch.randn(B, dtype=x.dtype)
    flat = lossval_mse(one.squeeze(1), y, x, v, weights, ids)
    assert torch.equal(lossval_mse(one, y, x, v, weights, ids), flat)


def test_what_does_not_fit_is_refused() -> None:
    logits, x, v, weights, ids = drawn()
    y = torch.arange(B) % C
    with pytest.raises(SpecError, match="mode"):
        lossval_cross_entropy(logits, y, x, v, weights, ids, mode="plain")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="do not pair"):
        lossval_mse(logits, torch.zeros(B), x, v, weights, ids)
    with pytest.raises(SpecError, match="unit_mass=False"):
        lossval_cross_entropy(logits, y, x, Target(v, unit_mass=True), weights, ids, mode="reference")
