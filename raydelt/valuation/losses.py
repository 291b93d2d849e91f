"""The losses of LossVal: the model and one weight per training example learn from the same weighted loss.

    reference:   L O^2,  L = sum_n w_n l_n,  O = Sinkhorn divergence of the weighted batch from the validation features
    normalised:  (sum_n w_n l_n) / (sum_n w_n) + transport * O_1,  weights floored at 1e-6, O_1 between masses of one
    l_n = -ln(p_y + 1e-8) (reference) or -ln p_y for classes,   l_n = ||y_n - f(x_n)||^2 for targets

Both are differentiable by the predictions and by the weights; O has its gradient in closed form. Cost of a batch of B
on J validation points: O(B^2 + B J + J^2) for a Sinkhorn divergence, nothing for it where `transport` is 0. Source:
Wibiral et al. 2024 (LossVal) for the reference.

Caution: the reference falls whenever a weight falls, so all weights drift down together, and its masses differ, which
makes O no distance; on most data sets tried its values are little better than random. Normalise, unless you compare.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from raydelt.errors import SpecError
from raydelt.valuation.sinkhorn import Target

Mode = Literal["normalised", "reference"]

LEAST_WEIGHT = 1e-6
LEAST_PROBABILITY = 1e-8


def lossval_cross_entropy(
    predictions: Tensor,
    targets: Tensor,
    features: Tensor,
    validation_features: Tensor | Target,
    weights: Tensor,
    ids: Tensor,
    *,
    mode: Mode = "normalised",
    transport: float = 0.0,
) -> Tensor:
    """The loss of a batch from logits [B, C], classes [B], features [B, d], all weights [n] and the batch's ids [B].

    A `Target` in place of validation features [J, d] keeps what depends on them alone from batch to batch.
    """
    losses = class_losses(predictions, targets, mode)
    return weighted(losses, features, validation_features, weights.index_select(0, ids), mode, transport)


def lossval_mse(
    predictions: Tensor,
    targets: Tensor,
    features: Tensor,
    validation_features: Tensor | Target,
    weights: Tensor,
    ids: Tensor,
    *,
    mode: Mode = "normalised",
    transport: float = 0.0,
) -> Tensor:
    """The loss of a batch from predictions and targets [B] or [B, k]; the rest as for `lossval_cross_entropy`."""
    losses = target_losses(predictions, targets)
    return weighted(losses, features, validation_features, weights.index_select(0, ids), mode, transport)


def class_losses(logits: Tensor, classes: Tensor, mode: Mode) -> Tensor:
    """l [..., B] from logits [..., B, C] and classes [..., B]."""
    if mode == "reference":
        own = logits.softmax(-1).gather(-1, classes.unsqueeze(-1)).squeeze(-1)
        return -(own + LEAST_PROBABILITY).log()
    flat = cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none")
    return flat.view(classes.shape)


def target_losses(predictions: Tensor, targets: Tensor) -> Tensor:
    """l [B] from predictions and targets [B] or [B, k]."""
    if predictions.numel() != targets.numel():
        raise SpecError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} do not pair: give one shape"
        )
    squares = (predictions - targets.view(predictions.shape)).square()
    return squares.flatten(1).sum(1) if squares.ndim > 1 else squares


def weighted(
    losses: Tensor, features: Tensor, validation: Tensor | Target, weights: Tensor, mode: Mode, transport: float
) -> Tensor:
    """The loss of a batch from its losses [B], features [B, d] and weights [B]."""
    if mode == "reference":
        return (weights * losses).sum() * divergence(weights, features, validation, unit_mass=False) ** 2
    if mode != "normalised":
        raise SpecError(f"mode {mode!r}: give 'normalised' or 'reference'")
    floored = weights.clamp_min(LEAST_WEIGHT)
    mean = (floored * losses).sum() / floored.sum()
    if not transport:
        return mean
    return mean + transport * divergence(floored, features, validation, unit_mass=True)


def divergence(weights: Tensor, features: Tensor, validation: Tensor | Target, *, unit_mass: bool) -> Tensor:
    """O [] of weights [B] at features [B, d], differentiable by the weights."""
    target = validation if isinstance(validation, Target) else Target(validation, unit_mass=unit_mass)
    if target.unit_mass != unit_mass:
        raise SpecError(f"a target with unit_mass={target.unit_mass}: this mode needs unit_mass={unit_mass}")
    found: Tensor = _Divergence.apply(weights, features, target)  # type: ignore[no-untyped-call]
    return found


class _Divergence(torch.autograd.Function):
    """The Sinkhorn divergence with its closed gradient by the weights; the features get none."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, features: Tensor, target: Target) -> Tensor:
        found = target.divergence(features, weights)
        ctx.save_for_backward(found.gradient)
        return found.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_value: Tensor) -> tuple[Tensor, None, None]:
        [gradient] = ctx.saved_tensors
        return by_value * gradient, None, None
