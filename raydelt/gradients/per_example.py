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

import contextlib
import difflib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from raydelt.errors import SpecError
from raydelt.gradients.answer import Answer, Ask, GradientBatch
from raydelt.gradients.layers import Unsupported
from raydelt.gradients.memory import out_of_memory
from raydelt.gradients.refusals import refuse_coupling
from raydelt.gradients.selection import Selection, select
from raydelt.gradients.sketch import Sketch
from raydelt.gradients.tape import Ambiguous, Tape
from raydelt.gradients.terms import CHUNK_BYTES, Dense, Term, materialise, taken

log = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]
Losses = Callable[[Callable[..., Any], Batch], Tensor]
Backend = Literal["auto", "ghost", "vmap", "loop"]

# Two correct float32 computations of a gradient differ by less; in half precision the passes themselves differ.
AUDIT_TRIES = 8
AUDIT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 5e-2}


class PerExampleGradients:
    """Per-example gradients of a model.

    `losses(forward, batch)` gives the losses [n] of a batch, calling `forward` as it would call the model; loss i may
    depend on row i alone. A batch is a mapping of tensors whose first dimension runs over the rows.

    Raises:
        SpecError: no such parameters, a layer that couples examples or draws random numbers, or a fixed backend that
            cannot do the model.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Losses,
        *,
        parameters: str | Sequence[str] | Selection = "all",
        backend: Backend = "auto",
    ) -> None:
        refuse_coupling(model)
        self.model, self.losses = model, losses
        self.selection = parameters if isinstance(parameters, Selection) else select(model, parameters)
        self.shapes = {name: p.shape for name, p in self.selection.parameters.items()}
        self._fixed = backend != "auto"
        self._trusted = backend in ("vmap", "loop")
        self.backend: Backend = backend
        if backend in ("auto", "ghost"):
            self.backend = "ghost"
            try:
                self._tape = Tape(model, self.selection)
            except Unsupported as reason:
                self._fall_back(str(reason))

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

        Raises:
            SpecError: losses of another shape, vectors of parameters that are not chosen, or a model that has been put
                into training mode meanwhile.
        """
        refuse_coupling(self.model)
        with torch.inference_mode(False):
            batch = {name: tensor.detach() for name, tensor in batch.items()}
            ask = Ask(norms, self._stacked(vectors), sketch)
            count = _rows(batch) if index is None else len(index)
            if count == 0:
                return Answer(0, self.shapes, ask).finish(torch.zeros(0))
            while True:
                try:
                    if not self._trusted:
                        self._audit(batch, index, count)
                    return getattr(self, f"_{self.backend}")(batch, ask, index)  # type: ignore[no-any-return]
                except Mistrusted as reason:
                    self._fall_back(str(reason))

    def total(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """The gradient of the sum of all losses, by parameter; a plain backward pass per batch."""
        refuse_coupling(self.model)
        total = {name: torch.zeros_like(p, dtype=_sum_type(p)) for name, p in self.selection.parameters.items()}
        with torch.inference_mode(False), self._differentiable() as parameters:
            for batch in batches:
                loss = self.losses(self.model, batch).sum()
                for name, g in zip(total, _gradients(loss, parameters), strict=True):
                    if g is not None:
                        total[name] += g
        return total

    def _stacked(self, vectors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor] | None:
        if not vectors:
            return None
        parameters = self.selection.parameters
        for name in {name for vector in vectors for name in vector} - set(parameters):
            near = difflib.get_close_matches(name, list(parameters), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"chosen are {', '.join(list(parameters)[:6])}, …"
            raise SpecError(f"vectors: {name!r} is no chosen parameter: {hint}")
        result = {}
        for name, p in parameters.items():
            own = [v[name].to(p.device) if name in v else torch.zeros_like(p.detach()) for v in vectors]
            # A single vector, which may be as large as the model, is not copied.
            result[name] = own[0][None] if len(own) == 1 else torch.stack(own)
        return result

    @contextlib.contextmanager
    def _differentiable(self) -> Iterator[dict[str, nn.Parameter]]:
        """The chosen parameters, requiring gradients; where one use alone counts, a copy of its own for that use."""
        swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
        chosen = dict(self.selection.parameters)
        names = {id(p): name for name, p in chosen.items()}
        for module in self.selection.modules or ():
            for local, p in list(module._parameters.items()):
                if p is not None and id(p) in names:
                    swapped.append((module, local, p))
                    chosen[names[id(p)]] = nn.Parameter(p.detach().clone())
                    module._parameters[local] = chosen[names[id(p)]]
        frozen = [p for p in chosen.values() if not p.requires_grad]
        for p in frozen:
            p.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield chosen
        finally:
            for p in frozen:
                p.requires_grad_(False)
            for module, local, p in swapped:
                module._parameters[local] = p

    def _ghost(self, batch: Batch, ask: Ask, index: Tensor | None) -> GradientBatch:
        answer = Answer(_rows(batch) if index is None else len(index), self.shapes, ask)
        return answer.finish(self._recorded(batch, index, answer.take))

    def _recorded(self, batch: Batch, index: Tensor | None, sink: Callable[[str, list[Term]], None]) -> Tensor:
        """Losses of one recorded pass."""
        count = _rows(batch) if index is None else len(index)
        grid = next(iter(batch.values())).shape

        def losses() -> Tensor:
            return _checked(self.losses(self.model, batch), count)

        try:
            try:
                values = self._tape.run(losses, grid, index, sink)
            except Ambiguous as place:
                if index is not None:
                    raise Mistrusted(f"{place} looks up as many ids as there are rows") from None
                fewer = {
                    name: x[:-1] if len(x) > 1 else x.repeat(2, *[1] * (x.dim() - 1)) for name, x in batch.items()
                }
                self._tape.settle(lambda: self.losses(self.model, fewer), _rows(fewer))
                values = self._tape.run(losses, grid, index, sink)
        except Unsupported as reason:
            raise Mistrusted(str(reason)) from None
        if self.selection.modules is not None and not self._tape.used:
            raise SpecError(
                "parameters last_layer: the model does not use its last linear layer; choose names, or all"
            )
        return values

    def _vmap(self, batch: Batch, ask: Ask, index: Tensor | None) -> GradientBatch:
        if index is not None:
            raise Mistrusted("vmap cannot take packed rows apart")
        rows = _rows(batch)
        answer, losses = Answer(rows, self.shapes, ask), []
        with self._differentiable() as chosen:
            places = {id(p): name for name, p in self.model.named_parameters()}
            paths = {name: places[id(p)] for name, p in chosen.items()}
            own = {paths[name]: p.detach() for name, p in chosen.items()}
            rest = {n: x.detach() for n, x in (*self.model.named_parameters(), *self.model.named_buffers())}

            def loss(parameters: dict[str, Tensor], row: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
                def forward(*args: Any, **kwargs: Any) -> Any:
                    return functional_call(self.model, {**rest, **parameters}, args, kwargs)

                value = _checked(self.losses(forward, {name: tensor[None] for name, tensor in row.items()}), 1)[0]
                return value, value

            each = vmap(grad(loss, has_aux=True), in_dims=(None, 0), randomness="error")
            step = max(1, CHUNK_BYTES // (4 * max(1, sum(p.numel() for p in own.values()))))
            for low in range(0, rows, step):
                with _told_apart():
                    grads, values = each(own, {name: tensor[low : low + step] for name, tensor in batch.items()})
                losses.append(values.detach())
                for name, path in paths.items():
                    g = grads[path].detach()
                    answer.take(name, [Dense(g.to(_sum_type(g)))], slice(low, low + len(values)))
        return answer.finish(_checked(torch.cat(losses), rows))

    def _loop(self, batch: Batch, ask: Ask, index: Tensor | None) -> GradientBatch:
        count = _rows(batch) if index is None else len(index)
        answer, losses = Answer(count, self.shapes, ask), []
        for i in range(count):
            loss, gradients = self._alone(batch, index, i)
            losses.append(loss)
            for name, g in gradients.items():
                answer.take(name, [Dense(g[None])], slice(i, i + 1))
        return answer.finish(torch.stack(losses))

    def _alone(self, batch: Batch, index: Tensor | None, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and gradients of one example by autograd; without `index`, from its row alone."""
        own = batch if index is not None else {name: tensor[i : i + 1] for name, tensor in batch.items()}
        count, place = (1, 0) if index is None else (len(index), i)
        with self._differentiable() as parameters:
            loss = _checked(self.losses(self.model, own), count)[place]
            found = zip(parameters, _gradients(loss, parameters), strict=True)
            return loss.detach(), {name: g.to(_sum_type(g)) for name, g in found if g is not None}

    def _audit(self, batch: Batch, index: Tensor | None, count: int) -> None:
        """Compare two examples that have a gradient with autograd, parameter by parameter and one after the other."""
        if self.backend != "ghost":
            self._trusted = True
            return
        compared = 0
        for i in dict.fromkeys([0, count - 1, *range(1, min(count - 1, AUDIT_TRIES))]):
            truth = self._alone(batch, index, i)[1]
            whole = float(sum(g.double().square().sum() for g in truth.values())) ** 0.5
            if whole == 0:
                continue  # zero equal to zero would prove nothing
            self._compare(batch, index, i, truth, whole)
            compared += 1
            if compared == 2:
                break
        self._trusted = compared > 0

    def _compare(self, batch: Batch, index: Tensor | None, i: int, truth: dict[str, Tensor], whole: float) -> None:
        """Refuse a recorded pass that gives example i other gradients than autograd; `truth` is used up on the way."""

        def check(name: str, terms: list[Term]) -> None:
            own = materialise(taken(terms, slice(i, i + 1)), self.shapes[name])[0]
            expected = truth.pop(name, torch.zeros_like(own))
            allowed = self._tolerance(name) * max(float(expected.norm()), 0.01 * whole)
            if not float((own - expected).norm()) <= allowed:
                raise Mistrusted(f"the gradient of {name} for example {i} is not what autograd gives")

        self._recorded(batch, index, check)
        for name, expected in truth.items():
            if float(expected.norm()) > self._tolerance(name) * 0.01 * whole:
                raise Mistrusted(f"the gradient of {name} for example {i} is not what autograd gives")

    def _tolerance(self, name: str) -> float:
        return AUDIT_TOLERANCE.get(self.selection.parameters[name].dtype, 1e-3)

    def _fall_back(self, reason: str) -> None:
        """Go on with the next backend, with a word on why."""
        if self._fixed:
            raise SpecError(f"backend {self.backend} cannot do this model: {reason}; use auto")
        following: Backend = "vmap" if self.backend == "ghost" else "loop"
        log.warning("per-example gradients: %s instead of %s, because %s", following, self.backend, reason)
        self.backend, self._trusted = following, True


class Mistrusted(Exception):
    """A backend cannot do this model, or does it wrongly; the next one is tried."""


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _sum_type(p: Tensor) -> torch.dtype:
    return torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype


def _checked(losses: Tensor, count: int) -> Tensor:
    if tuple(losses.shape) != (count,):
        raise SpecError(f"losses have shape {list(losses.shape)}: give one loss for each of the {count} examples")
    return losses


def _gradients(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> tuple[Tensor | None, ...]:
    """Gradients of one loss, None for parameters that it does not depend on."""
    if not loss.requires_grad:
        return (None,) * len(parameters)
    try:
        return torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise SpecError("the model checkpoints activations with use_reentrant=True: set it to False") from error
        raise


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    """What vmap cannot do goes to the loop; running out of memory and random numbers do not."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if out_of_memory(error) or isinstance(error, SpecError):
            raise
        if "random" in str(error):
            raise SpecError("the model draws random numbers, so gradients are random: call model.eval()") from error
        raise Mistrusted(f"vmap cannot run this model ({' '.join(str(error).split())[:160]})") from error
