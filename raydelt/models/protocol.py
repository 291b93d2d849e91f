"""What every model that gradients are taken of can do, whatever its examples are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
from torch import Tensor, nn

from raydelt.scorers.protocol import Array

Tensors = Mapping[str, Tensor]


class GradientModel(Protocol):
    """A module, its per-example loss, and the way from rows of a corpus batch to the tensors that it takes."""

    @property
    def module(self) -> nn.Module:
        """The network itself, in eval mode, on its device."""
        ...

    def groups(self, batch: pa.RecordBatch, rows: Array, budget: int) -> Sequence[Array]:
        """The given rows in groups that fit `budget` bytes, a function of the rows alone."""
        ...

    def tensors(self, batch: pa.RecordBatch, rows: Array) -> tuple[Tensors, Tensor | None]:
        """The tensors of these rows, and the positions of each example where it is not one row of them."""
        ...

    def losses(self, forward: Callable[..., Any], tensors: Tensors) -> Tensor:
        """The loss of each example [n], calling `forward` as it would call the module."""
        ...
