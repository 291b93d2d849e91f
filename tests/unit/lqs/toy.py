"""A bigram language model of 96 parameters in float64, and its perturbed trajectories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydelt.lqs.objective import Batch, Objective, Vector
from raydelt.lqs.trajectory import Share

VOCABULARY, WIDTH, LENGTH = 8, 6, 7


class Bigram(nn.Module):
    """Logits of the next token from the token before it: tanh of an embedding, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.tokens(ids)))  # type: ignore[no-any-return]


def losses(forward: Callable[..., Any], batch: Batch) -> Tensor:
    """Mean cross entropy [n] of every document's tokens after the first."""
    logits = forward(batch["ids"][:, :-1])
    each = functional.cross_entropy(logits.flatten(0, 1), batch["ids"][:, 1:].flatten(), reduction="none")
    return each.reshape(len(logits), -1).mean(1)


def model(seed: int = 0) -> Bigram:
    torch.manual_seed(seed)
    return Bigram().double().eval()


def documents(count: int, *, seed: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def share(ids: Tensor, *, size: int | None = None) -> Share:
    """The mean over some documents, in batches of `size`."""
    return Share(lambda: [{"ids": part} for part in ids.split(size or len(ids))], len(ids))


def start(module: nn.Module) -> Vector:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def gradient_of(objective: Objective, at: Vector, ids: Tensor) -> Vector:
    """Mean gradient of some documents."""
    found, _ = objective.gradient(at, [{"ids": ids}])
    return {name: g / len(ids) for name, g in found.items()}


def value_of(module: nn.Module, at: Vector, ids: Tensor) -> float:
    return float(losses(lambda *a: torch.func.functional_call(module, at, a), {"ids": ids}).mean())


def dot(a: Vector, b: Vector) -> float:
    return float(sum((a[name] * b[name]).sum() for name in a))


def norm(a: Vector) -> float:
    return dot(a, a) ** 0.5
