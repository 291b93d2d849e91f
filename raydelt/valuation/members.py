"""R models side by side: their parameters stacked along a first axis, so that one product serves them all.

For networks of a hundred units the calls cost more than the arithmetic, and R models take little longer than one.
Initial values are those of torch.nn.Linear, drawn from the seed alone. A module of one's own is stacked by
torch.func; its forward pass must be a function of its parameters and its input, without dropout or running moments.

Caution: memory grows with R; a large model of one's own is better valued with few members.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from raydelt.errors import SpecError


class Members(Protocol):
    """R models; `parameters` are stacked [R, ...] and may be changed in place."""

    parameters: list[Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs [R, B, C] of inputs [R, B, ...]."""
        ...


class StackedMlp:
    """Multilayer perceptrons of the given widths, input to output."""

    def __init__(
        self, widths: Sequence[int], count: int, *, activation: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> None:
        self.activation, self.parameters = activation, []
        for fan_in, fan_out in itertools.pairwise(widths):
            for shape in ((count, fan_in, fan_out), (count, 1, fan_out)):
                drawn = torch.empty(shape).uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
                self.parameters.append(drawn)

    def __call__(self, x: Tensor) -> Tensor:
        last = len(self.parameters) - 2
        for at in range(0, last + 2, 2):
            x = torch.baddbmm(self.parameters[at + 1], x, self.parameters[at])
            x = self.activation(x) if at < last else x
        return x


class StackedModule:
    """Copies of a module, each with initial values of its own."""

    def __init__(self, factory: Callable[[], nn.Module], count: int, *, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules = [factory() for _ in range(count)]
        if any(True for _ in modules[0].buffers()):
            raise SpecError(
                "a module with buffers, such as running moments, cannot be stacked: use layers without them"
            )
        state, _ = torch.func.stack_module_state(modules)
        self.module, self.names = modules[0], list(state)
        self.parameters = [state[name].detach() for name in self.names]

    def __call__(self, x: Tensor) -> Tensor:
        def one(parameters: dict[str, Tensor], own: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(self.module, parameters, (own,))
            return found

        result: Tensor = torch.func.vmap(one)(dict(zip(self.names, self.parameters, strict=True)), x)
        return result
