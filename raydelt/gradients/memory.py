"""How many rows fit a memory budget, and what to do when they did not: halve, and go on.

The budget and the bytes that one row takes fix the batch, so batches are a function of the spec and the data, not of
what else runs on the machine. Bytes of a row are what autograd keeps for its backward pass, measured once on a real
row, times a margin for what comes and goes. Cost: one forward pass over two rows.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from raydelt.errors import InputError

log = logging.getLogger(__name__)
T = TypeVar("T")

# Output gradients, Gram blocks and a loss's temporaries come on top of what is kept for the backward pass.
MARGIN = 2.0


def bytes_per_row(
    model: nn.Module, losses: Callable[[Any, Mapping[str, Tensor]], Tensor], row: Mapping[str, Tensor]
) -> int:
    """Bytes that a pass needs for every further row like `row` (a batch of one)."""
    one, two = (
        _kept(model, losses, {name: x.repeat(n, *[1] * (x.dim() - 1)) for name, x in row.items()}) for n in (1, 2)
    )
    return max(1, int(MARGIN * (two - one)))


def _kept(model: nn.Module, losses: Callable[[Any, Mapping[str, Tensor]], Tensor], batch: Mapping[str, Tensor]) -> int:
    """Bytes of the distinct tensors that autograd keeps for the backward pass of a batch."""
    sizes: dict[int, int] = {}

    def seen(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda x: x), torch.enable_grad():
        loss = losses(model, batch)
    del loss
    return sum(sizes.values())


def rows_within(budget: int, row_bytes: int) -> int:
    """Rows of a batch, at least one."""
    return max(1, budget // row_bytes)


def backing_off(compute: Callable[[int, int], T], count: int, *, what: str) -> list[T]:
    """`compute(low, high)` over 0…count, whole if it fits into memory, else in halves, quarters and so on.

    Raises:
        InputError: a single one does not fit.
    """
    results: list[T] = []
    waiting = [(0, count)] if count else []
    while waiting:
        low, high = waiting.pop()
        try:
            results.append(compute(low, high))
            continue
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if high - low == 1:
                raise InputError(f"{what} does not fit into memory: shorten it, or take a larger machine") from error
        # Outside the handler, so that the traceback no longer holds the failed attempt's tensors.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = (low + high) // 2
        log.warning("out of memory with %d examples at once: going on with %d", high - low, middle - low)
        waiting += [(middle, high), (low, middle)]
    return results


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text
