"""Exact norms, dot products and sketches of the gradient of every example's loss, for any batch.

    norms_i = ||g_i||      dots_ik = <g_i, v_k>      sketches_i = S g_i        g_i = gradient of loss_i

Three ways give the same numbers, and the cheapest that applies is taken:

    ghost   one forward and backward pass over the batch, from each layer's input and output gradient (tape, terms)
    vmap    torch.func.vmap(grad) over chunks of examples: any layer, but materialises each example's gradient
    loop    one backward pass per example: anything that autograd can do

`auto` takes ghost where every chosen parameter lies in a layer with a rule, checks two examples of the first batch
against autograd, and falls back with a line in the log that names the layer. Results do not depend on the batch that
an example comes in, beyond rounding: layers that couple examples are refused.

Cost against a plain forward and backward pass: ghost about 0.7 to 1.1, vmap 1.5 to 70, loop 2 to 20.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from raydelt.errors import SpecError
from raydelt.gradients.layers import Unsupported
from raydelt.gradients.selection import Selection, select
from raydelt.gradients.sketch import Sketch
from raydelt.gradients.tape import Tape
from raydelt.gradients.terms import CHUNK_BYTES, Dense, Term, norms_and_dots, sketches

log = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]
Losses = Callable[[Callable[..., Any], Batch], Tensor]
Backend = Literal["auto", "ghost", "vmap", "loop"]

# Two correct float32 computations of a norm differ by less; in half precision the passes themselves differ.
AUDIT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 5e-2}


@dataclass(frozen=True)
class GradientBatch:
    """Losses [n], and what was asked for of the gradients: norms [n], dots [n, K] (float64), sketches [n, k]."""

    losses: Tensor
    norms: Tensor | None = None
    dots: Tensor | None = None
    sketches: Tensor | None = None


@dataclass(frozen=True)
class _Ask:
    norms: bool
    vectors: dict[str, Tensor] | None
    sketch: Sketch | None


class PerExampleGradients:
    """Per-example gradients of a model.

    `losses(forward, batch)` gives the losses [n] of a batch, calling `forward` as it would call the model; loss i may
    depend on row i alone. A batch is a mapping of tensors whose first dimension runs over the rows.

    Raises:
        SpecError: no such parameters, a layer that couples examples or draws random numbers, or `ghost` on a model
            that it cannot do.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Losses,
        *,
        parameters: str | Sequence[str] | Selection = "all",
        backend: Backend = "auto",
    ) -> None:
        _refuse_coupling(model)
        self.model, self.losses = model, losses
        self.selection = parameters if isinstance(parameters, Selection) else select(model, parameters)
        self.shapes = {name: p.shape for name, p in self.selection.parameters.items()}
        self.backend: Backend = backend
        self._fixed = backend != "auto"
        self._audited = self._fixed or self.selection.modules is not None
        if backend in ("auto", "ghost"):
            try:
                self._tape = Tape(model, self.selection)
                self.backend = "ghost"
            except Unsupported as reason:
                if backend == "ghost":
                    raise SpecError(
                        f"backend ghost: {reason}, which it has no rule for: use auto, vmap or loop"
                    ) from None
                self._fall_back("vmap", str(reason))

    def __call__(
        self,
        batch: Batch,
        *,
        norms: bool = True,
        vectors: Sequence[Mapping[str, Tensor]] = (),
        sketch: Sketch | None = None,
        index: Tensor | None = None,
    ) -> GradientBatch:
        """Everything asked for, from one pass over the batch.

        `vectors` hold a tensor for every chosen parameter; missing ones count as zero. With `index` [n, L], example i
        consists of positions `index[i]` of the batch's flattened rows x positions (-1: none), for packed rows and for
        documents of several rows; `losses` then gives one loss for each of those n examples.
        """
        ask = _Ask(norms, self._stacked(vectors), sketch)
        while True:
            try:
                result = {"ghost": self._ghost, "vmap": self._vmap, "loop": self._loop}[self.backend](
                    batch, ask, index
                )
                if not self._audited:
                    self._audit(batch, ask, index, result)
                return result
            except _Mistrusted as reason:
                if self._fixed:
                    raise SpecError(f"backend {self.backend} cannot do this model: {reason}; use auto") from reason
                self._fall_back("vmap" if self.backend == "ghost" else "loop", str(reason))

    def total(self, batches: Sequence[Batch], *, weights: Sequence[float] | None = None) -> dict[str, Tensor]:
        """The gradient of the (weighted) sum of all losses, by parameter; a plain backward pass per batch."""
        parameters = list(self.selection.parameters.values())
        total = {name: torch.zeros_like(p, dtype=_sum_type(p)) for name, p in self.selection.parameters.items()}
        for place, batch in enumerate(batches):
            with torch.enable_grad():
                loss = self.losses(self.model, batch).sum() * (1.0 if weights is None else weights[place])
                found = torch.autograd.grad(loss, parameters, allow_unused=True)
            for name, g in zip(total, found, strict=True):
                if g is not None:
                    total[name] += g
        return total

    def _stacked(self, vectors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor] | None:
        if not vectors:
            return None
        parameters = self.selection.parameters
        return {
            name: torch.stack([v[name].to(p.device) if name in v else torch.zeros_like(p) for v in vectors])
            for name, p in parameters.items()
        }

    def _ghost(self, batch: Batch, ask: _Ask, index: Tensor | None) -> GradientBatch:
        rows = _rows(batch)
        answer = _Answer(rows if index is None else len(index), self.shapes, ask)
        try:
            losses = self._tape.run(lambda: self.losses(self.model, batch), rows, index, answer.take)
        except Unsupported as reason:
            raise _Mistrusted(str(reason)) from None
        return answer.finish(losses)

    def _vmap(self, batch: Batch, ask: _Ask, index: Tensor | None) -> GradientBatch:
        if index is not None:
            raise _Mistrusted("vmap cannot take packed rows apart")
        own = {name: p.detach() for name, p in self.selection.parameters.items()}
        frozen = {
            n: p.detach() for n, p in (*self.model.named_parameters(), *self.model.named_buffers()) if n not in own
        }

        def loss(parameters: dict[str, Tensor], row: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                return functional_call(self.model, {**frozen, **parameters}, args, kwargs)

            [value] = self.losses(forward, {name: tensor[None] for name, tensor in row.items()})
            return value, value

        each = vmap(grad(loss, has_aux=True), in_dims=(None, 0), randomness="error")
        step = max(1, CHUNK_BYTES // (4 * sum(p.numel() for p in own.values())))
        rows = _rows(batch)
        answer, losses = _Answer(rows, self.shapes, ask), []
        for low in range(0, rows, step):
            try:
                grads, values = each(own, {name: tensor[low : low + step] for name, tensor in batch.items()})
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise _Mistrusted(f"vmap cannot run this model ({' '.join(str(error).split())[:160]})") from error
            losses.append(values.detach())
            for name, g in grads.items():
                answer.take(name, [Dense(g.detach().to(_sum_type(g)))], slice(low, low + len(values)))
        return answer.finish(torch.cat(losses))

    def _loop(self, batch: Batch, ask: _Ask, index: Tensor | None) -> GradientBatch:
        parameters = list(self.selection.parameters.values())
        count = _rows(batch) if index is None else len(index)
        answer, losses = _Answer(count, self.shapes, ask), []
        whole = None if index is None else self._differentiable(batch)
        for i in range(count):
            with torch.enable_grad():
                if whole is None:
                    [loss] = self._differentiable({name: tensor[i : i + 1] for name, tensor in batch.items()})
                else:
                    loss = whole[i]
            losses.append(loss.detach())
            found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=whole is not None)
            for name, g in zip(self.shapes, found, strict=True):
                if g is not None:
                    answer.take(name, [Dense(g[None].to(_sum_type(g)))], slice(i, i + 1))
        return answer.finish(torch.stack(losses) if losses else torch.zeros(0))

    def _differentiable(self, batch: Batch) -> Tensor:
        with torch.enable_grad():
            return self.losses(self.model, batch)

    def _audit(self, batch: Batch, ask: _Ask, index: Tensor | None, result: GradientBatch) -> None:
        """Compare the first and last example of a batch with autograd, where a rule that does not fit shows."""
        count = len(result.losses)
        if count == 0:
            return
        found, own = result, _Ask(True, None, None)
        if result.norms is None:
            found = self._ghost(batch, own, index) if self.backend == "ghost" else self._vmap(batch, own, index)
        assert found.norms is not None
        tolerance = AUDIT_TOLERANCE.get(next(iter(self.selection.parameters.values())).dtype, 1e-3)
        for i in sorted({0, count - 1}):
            if index is None:
                truth = self._loop({name: tensor[i : i + 1] for name, tensor in batch.items()}, own, None).norms
            else:
                truth = self._loop(batch, own, index[i : i + 1]).norms if i == 0 else None
            if truth is None:
                continue
            expected, norm = float(truth[0]), float(found.norms[i])
            if abs(norm - expected) > tolerance * max(expected, 1e-6):
                raise _Mistrusted(
                    f"example {i} of the first batch has norm {expected:.6g} by autograd, not {norm:.6g}"
                )
        self._audited = True

    def _fall_back(self, backend: Backend, reason: str) -> None:
        log.warning("per-example gradients: %s instead of %s, because %s", backend, self.backend, reason)
        self.backend, self._audited = backend, backend == "loop"


class _Mistrusted(Exception):
    """A backend cannot do this model, or does it wrongly; the next one is tried."""


class _Answer:
    """Sums over the parameters of what was asked for."""

    def __init__(self, count: int, shapes: Mapping[str, Sequence[int]], ask: _Ask) -> None:
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


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _sum_type(p: Tensor) -> torch.dtype:
    return torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype


def _refuse_coupling(model: nn.Module) -> None:
    """Refuse what makes an example's gradient depend on its batch, or on chance."""
    for path, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or not module.track_running_stats):
            raise SpecError(
                f"{path or 'the model'} is a {kind} that normalises by the batch, so an example has no gradient of "
                "its own: call model.eval() with tracked statistics, or use GroupNorm"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise SpecError(f"{path} is a {kind} in training mode, so gradients are random: call model.eval()")
