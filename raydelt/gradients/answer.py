"""What is asked of the gradients of a batch, and the sums over the parameters that answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydelt.gradients.sketch import Sketch
from raydelt.gradients.terms import Term, norms_and_dots, sketches


@dataclass(frozen=True)
class GradientBatch:
    """Losses [n], and what was asked for of the gradients: norms [n], dots [n, K] (float64), sketches [n, k]."""

    losses: Tensor
    norms: Tensor | None = None
    dots: Tensor | None = None
    sketches: Tensor | None = None


@dataclass(frozen=True)
class Ask:
    """What is asked of the gradients: norms, products with K vectors (a tensor [K, ...] by name), sketches."""

    norms: bool
    vectors: dict[str, Tensor] | None
    sketch: Sketch | None


class Answer:
    """Sums over the parameters of what was asked for."""

    def __init__(self, count: int, shapes: Mapping[str, Sequence[int]], ask: Ask) -> None:
        self.count, self.shapes, self.ask = count, shapes, ask
        self.squares: Tensor | None = None
        self.dots: Tensor | None = None
        self.sketches: Tensor | None = None

    def take(self, name: str, terms: list[Term], rows: slice = slice(None)) -> None:
        vectors = None if self.ask.vectors is None else self.ask.vectors[name]
        if self.ask.norms or vectors is not None:
            squares, dots = norms_and_dots(terms, self.shapes[name], vectors, norms=self.ask.norms)
            self.squares = self._added(self.squares, squares, rows)
            self.dots = self._added(self.dots, dots, rows)
        if self.ask.sketch is not None:
            self.sketches = self._added(self.sketches, sketches(terms, self.shapes[name], self.ask.sketch, name), rows)

    def _added(self, total: Tensor | None, part: Tensor | None, rows: slice) -> Tensor | None:
        if part is None:
            return total
        if total is None:
            total = part.new_zeros(self.count, *part.shape[1:])
        total[rows] += part
        return total

    def finish(self, losses: Tensor) -> GradientBatch:
        """The result; what no gradient reached is zero."""
        zeros = torch.zeros(self.count, dtype=torch.float64, device=losses.device)
        norms = (zeros if self.squares is None else self.squares).sqrt() if self.ask.norms else None
        dots, sketched = self.dots, self.sketches
        if self.ask.vectors is not None and dots is None:
            dots = zeros[:, None].expand(-1, len(next(iter(self.ask.vectors.values())))).clone()
        if self.ask.sketch is not None and sketched is None:
            sketched = torch.zeros(self.count, self.ask.sketch.k, device=losses.device)
        return GradientBatch(losses, norms, dots, sketched)
