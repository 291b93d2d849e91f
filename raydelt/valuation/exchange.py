"""How holders of shards add up what their shards found, and how their values become those of all rows.

Sums are taken in the order of the shards' numbers, so they have the same bits whoever holds which shard.

Caution: an exchange is called by all holders at the same points of the run; one that is missing blocks the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raydelt.scorers.protocol import Array
from raydelt.valuation.problem import Values


class Exchange(Protocol):
    """How the holders of shards add up what the shards found."""

    def sum(self, parts: dict[int, list[Tensor]]) -> list[Tensor]:
        """The sums over all shards in the order of their numbers, given those of the shards held here."""
        ...


class Alone:
    """The exchange of a process that holds all shards."""

    def sum(self, parts: dict[int, list[Tensor]]) -> list[Tensor]:
        return in_order(parts)


def in_order(parts: dict[int, list[Tensor]]) -> list[Tensor]:
    """The sums over shards in the order of their numbers."""
    columns = zip(*(parts[number] for number in sorted(parts)), strict=True)
    return [functools.reduce(torch.add, column) for column in columns]


def gathered(parts: Sequence[tuple[Array, Values]], n: int) -> Values:
    """All values [n] from those of parts of the rows."""
    values, errors = np.full(n, np.nan), np.full(n, np.nan)
    for ids, own in parts:
        values[ids] = own.values
        if own.errors is not None:
            errors[ids] = own.errors
    return Values(values, None if np.isnan(errors).all() else errors)
