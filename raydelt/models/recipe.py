"""How a recipe turns into steps: the optimiser, and the learning rate as a function of the step.

    warm-up:  rate(s) = lr (s + 1) / w                       for s < w = round(warm_up S)
    after it: constant lr;  linear lr (1 - u);  cosine lr (1 + cos(pi u)) / 2       with u = (s - w) / (S - w)

The rate is a pure function of the step, so a training that goes on somewhere needs no state of a scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from raydelt.config import Recipe


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser that a recipe names, over all trainable parameters of the model."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of a step, 0 <= step < steps."""
    warm = math.floor(recipe.warm_up * steps + 0.5)
    if step < warm:
        return recipe.lr * (step + 1) / warm
    used = (step - warm) / max(steps - warm, 1)
    if recipe.schedule == "linear":
        return recipe.lr * (1 - used)
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * used)) / 2
    return recipe.lr


def set_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int) -> None:
    """Let the optimiser take a step at the recipe's rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate(recipe, step, steps)


def clip(parameters: Iterable[nn.Parameter], recipe: Recipe) -> None:
    """Scale the gradient down to the norm that the recipe allows."""
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(parameters, recipe.clip)
