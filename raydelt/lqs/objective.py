"""A sum of example losses as a function of some of a model's parameters: gradient, and Hessian-vector product.

    gradient(theta) = sum_n grad l_n(theta)             product(theta, v) = sum_n H_n(theta) v

over the examples of several small batches, each a forward and backward pass. The product is forward-over-reverse
(Pearlmutter 1994): the tangent of the gradient along v, about twice a gradient's cost and memory; no Hessian is ever
formed. Memory: the activations of one batch, and three vectors of the parameters' size.

Caution: attention runs by its plain formula inside products, since the fused kernels have no forward derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from raydelt.gradients.refusals import refuse_coupling

Batch = Mapping[str, Tensor]
Vector = dict[str, Tensor]
Losses = Callable[[Callable[..., Any], Batch], Tensor]


class Objective:
    """The summed loss of examples, at parameters that are given by name; the module's own serve for all others.

    Autograd outside is off throughout, or a graph to those others would grow from step to step.

    `losses(forward, batch)` gives the losses [n] of a batch, calling `forward` as it would call the module.

    Raises:
        SpecError: a layer that couples the examples of a batch, or draws random numbers.
    """

    def __init__(self, module: nn.Module, losses: Losses) -> None:
        refuse_coupling(module)
        self.module, self.losses = module, losses

    def gradient(self, at: Vector, batches: Iterable[Batch]) -> tuple[Vector, float]:
        """Gradient of the sum, and the sum."""
        total: Vector = {}
        value = 0.0
        for batch in batches:
            with torch.no_grad():
                found, loss = grad(self._sum, has_aux=True)(at, batch)
            value += float(loss)
            total = _added(total, found)
            del found
        return total or _zeros(at), value

    def product(self, at: Vector, vector: Vector, batches: Iterable[Batch]) -> Vector:
        """Hessian of the sum times a vector."""
        total: Vector = {}
        for batch in batches:

            def gradient(own: Vector, batch: Batch = batch) -> Vector:
                found: Vector = grad(self._sum, has_aux=True)(own, batch)[0]
                return found

            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                found = jvp(gradient, (at,), (vector,))[1]
            total = _added(total, found)
            del found
        return total or _zeros(at)

    def _sum(self, at: Vector, batch: Batch) -> tuple[Tensor, Tensor]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.module, at, args, kwargs)

        value = self.losses(forward, batch).sum()
        return value, value.detach()


def _zeros(at: Vector) -> Vector:
    return {name: torch.zeros_like(p) for name, p in at.items()}


def _added(total: Vector, part: Vector) -> Vector:
    """The sum, in place; the first part is the sum itself."""
    for name, x in total.items():
        x += part[name]
    return total or part
