"""Workers that share a model: DDP through Ray Train, or FSDP, which cuts parameters, gradients and optimiser state up.

Both average gradients over the workers, and both meet once per step: passes before the last one of a step only add to
the gradient. FSDP is torch's `fully_shard`, over the whole model and every block that the model itself says must not
be cut (`_no_split_modules` of transformers). Cost of FSDP: its parameters travel twice per pass; memory of a worker:
1/W of the states, and one block whole. Caution: with FSDP all workers must take the same number of passes.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, Literal, cast

import ray.train.torch
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Strategy = Literal["ddp", "fsdp"]
Weights = dict[str, Any]


def wrapped(module: nn.Module, strategy: Strategy, workers: int) -> nn.Module:
    """The module as it is to be called, joined with those of the other workers."""
    if workers == 1:
        return module
    if strategy == "ddp":
        # The module is where it belongs already; frozen weights have no gradient to wait for.
        joined: nn.Module = ray.train.torch.prepare_model(
            module, move_to_device=False, parallel_strategy_kwargs={"broadcast_buffers": False}
        )
        return joined
    from torch.distributed.fsdp import fully_shard

    whole = set(getattr(module, "_no_split_modules", None) or [])
    for block in list(module.modules()):
        if type(block).__name__ in whole:
            fully_shard(block)
    fully_shard(module)
    return module


def adding(module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """A pass whose gradients meet those of the other workers only if it is the last of a step."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
        return contextlib.nullcontext()
    if last or not isinstance(module, DistributedDataParallel):
        return contextlib.nullcontext()
    quiet: AbstractContextManager[Any] = module.no_sync()
    return quiet


def states(module: nn.Module, optimiser: torch.optim.Optimizer, strategy: Strategy) -> dict[str, Any]:
    """The whole states of both, on the CPU; all workers must call, and the first one gets them."""
    if strategy == "ddp":
        return {"model": _plain(module).state_dict(), "optimizer": optimiser.state_dict()}
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    model, optimizer = get_state_dict(
        module, optimiser, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return {"model": model, "optimizer": optimizer}


def restore(module: nn.Module, optimiser: torch.optim.Optimizer, held: dict[str, Any], strategy: Strategy) -> None:
    """Go on from what `states` gave, with any number of workers."""
    if strategy == "ddp":
        _plain(module).load_state_dict(held["model"])
        optimiser.load_state_dict(held["optimizer"])
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    set_state_dict(
        module,
        optimiser,
        model_state_dict=held["model"],
        optim_state_dict=held["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )


def _plain(module: nn.Module) -> nn.Module:
    """The module inside DDP's wrapper, whose names do not depend on the number of workers."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def weights_of(module: nn.Module, strategy: Strategy) -> Weights:
    """All weights by name, whole; all workers must call, and all get them."""
    if strategy == "ddp":
        return dict(module.state_dict())
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return cast(Weights, get_model_state_dict(module, options=StateDictOptions(full_state_dict=True)))


def load_weights(module: nn.Module, weights: Weights, strategy: Strategy) -> None:
    """Take weights that `weights_of` gave."""
    if strategy == "ddp":
        module.load_state_dict(weights)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(module, dict(weights), options=StateDictOptions(full_state_dict=True))


def summed(values: torch.Tensor, workers: int) -> torch.Tensor:
    """The sum of a tensor on the CPU over all workers; all of them must call."""
    if workers > 1:
        device = ray.train.torch.get_device()
        moved = values.to(device)
        torch.distributed.all_reduce(moved)
        values = moved.cpu()
    return values
