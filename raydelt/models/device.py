"""The device that a task or an actor computes on: the one that Ray assigned to it."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def assigned_device(num_gpus: float) -> str:
    """The device of this actor: Ray shows a process the GPUs that it was given, so the first is the right one."""
    if num_gpus <= 0:
        return "cpu"
    if not torch.cuda.is_available():
        log.warning("cluster.actors.num_gpus is %g but torch sees no GPU here: scoring on the CPU", num_gpus)
        return "cpu"
    return "cuda:0"
