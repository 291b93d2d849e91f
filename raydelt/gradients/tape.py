"""One forward and one backward pass that hand every chosen parameter's terms to a sink, with no weight gradient taken.

Forward hooks keep each layer's input; hooks on its output get the output's gradient during the backward pass, where
the layer's rule makes terms of both. All parameters are frozen meanwhile, so autograd computes the gradients of
activations alone: about two thirds of a plain forward and backward pass. A parameter with several uses is handed on
once all of them have come. Memory: the inputs of the layers, which a plain pass keeps as well.

Caution: a model that runs its layers a second time in the backward pass (activation checkpointing) is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydelt.gradients.layers import Rule, Unsupported, accumulable, rule_for
from raydelt.gradients.selection import Selection
from raydelt.gradients.terms import Term

Sink = Callable[[str, list[Term]], None]


class Ambiguous(Exception):
    """A first batch has as many positions as rows, so that a table looked up by either looks the same."""


class Tape:
    """The layers of a model that hold chosen parameters, ready to be recorded.

    Raises:
        Unsupported: a chosen parameter lies in a layer without a rule.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self.model = model
        names = {id(p): name for name, p in selection.parameters.items()}
        self.layers: list[Layer] = []
        for path, module in model.named_modules():
            own = {local: names[id(p)] for local, p in module._parameters.items() if p is not None and id(p) in names}
            if not own or (selection.modules is not None and module not in selection.modules):
                continue
            rule = rule_for(module)
            if rule is None or set(own) - {"weight", "bias"}:
                raise Unsupported(f"{path or 'the model'} is a {type(module).__name__}")
            self.layers.append(Layer(module, path, rule, own))
        # Whether a table looked up without a batch dimension is shared by all rows (positions) or has one id per row.
        self._shared: dict[nn.Module, bool] = {}

    def run(self, losses: Callable[[], Tensor], grid: Sequence[int], index: Tensor | None, sink: Sink) -> Tensor:
        """Losses [n] of a batch, with the terms of every parameter given to `sink`.

        `grid` is the shape of the batch's first tensor, [rows, …]. With `index` [n, L], example i consists of the
        positions `index[i]` of the flattened grid [rows, T] (-1 where it has fewer than L); without, it is row i.

        Raises:
            Unsupported: a layer is used in a way that its rule does not cover.
            Ambiguous: see there; `settle` decides.
        """
        recording = _Recording(grid, index, sink, self._shared)
        with _frozen(self.model), recording.hooks(self.layers), torch.enable_grad():
            try:
                values = losses()
            except (Unsupported, Ambiguous):
                raise
            except Exception as error:
                if recording.expanded:
                    raise Unsupported(f"{recording.expanded} is shared by all rows in a way of its own") from error
                raise
            recording.open = False
            if recording.anchor is not None and values.requires_grad:
                # Only what leads to our own source: leaves outside the model keep their .grad.
                torch.autograd.backward(values.sum(), inputs=[recording.anchor])
            recording.finish()
        self.used = bool(recording.uses)
        return values.detach()

    def settle(self, losses: Callable[[], Tensor], rows: int) -> None:
        """Find out from a batch of another number of rows which tables are looked up once for all of them."""

        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and args[0].dim() == 1:
                self._shared[module] = len(args[0]) != rows

        tables = [layer.module for layer in self.layers if isinstance(layer.module, nn.Embedding)]
        handles = [module.register_forward_pre_hook(look) for module in tables]
        try:
            with torch.no_grad():
                losses()
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class Layer:
    """A module with chosen parameters, its path, its rule, and the parameters' names by their names in the module."""

    module: nn.Module
    path: str
    rule: Rule
    own: dict[str, str]


class _Recording:
    """The state of one pass: which uses of which parameters are still to come back."""

    def __init__(self, grid: Sequence[int], index: Tensor | None, sink: Sink, shared: dict[nn.Module, bool]) -> None:
        self.grid, self.index, self.sink, self.shared = tuple(grid), index, sink, shared
        self.rows = self.grid[0]
        self.uses: dict[str, int] = {}
        self.terms: dict[str, list[Term]] = {}
        self.returned: dict[str, int] = {}
        self.open, self.in_rule = True, False
        self.expanded = ""
        self.anchor: Tensor | None = None

    @contextlib.contextmanager
    def hooks(self, layers: Sequence[Layer]) -> Iterator[None]:
        handles = [layer.module.register_forward_hook(self._forward(layer), with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, layer: Layer) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if self.in_rule or not torch.is_grad_enabled():
                return None
            if not self.open:
                raise Unsupported(f"{layer.path} runs again in the backward pass (activation checkpointing)")
            inputs = [*args, *kwargs.values()]
            if len(inputs) != 1 or not isinstance(output, Tensor):
                raise Unsupported(f"{layer.path} takes {len(inputs)} inputs or does not return a tensor")
            return self._taken(layer, inputs[0].detach(), output)

        return hook

    def _taken(self, layer: Layer, x: Tensor, output: Tensor) -> Tensor:
        """The output to go on with; its gradient will come to the layer's rule together with x."""
        alone, spread = self._shape_of_use(layer, x)
        if spread:
            # One row for all: give every row a copy, so that every row's gradient comes back apart.
            self.expanded = layer.path
            output = (output[None] if alone else output).expand(self.rows, *output.shape[0 if alone else 1 :])
            x = (x[None] if alone else x).expand(self.rows, -1)
        if not output.requires_grad:
            if self.anchor is None:
                self.anchor = torch.zeros((), device=output.device, requires_grad=True)
            output = _Source.apply(output, self.anchor)  # type: ignore[no-untyped-call]
        for name in layer.own.values():
            self.uses[name] = self.uses.get(name, 0) + 1
        version = x._version

        def backward(g: Tensor) -> None:
            if x._version != version:
                raise Unsupported(f"the input of {layer.path} is changed in place")
            bare = alone and not spread
            self._collect(layer, x[None] if bare else x, g[None] if bare else g)

        output.register_hook(backward)  # type: ignore[no-untyped-call]
        return output

    def _shape_of_use(self, layer: Layer, x: Tensor) -> tuple[bool, bool]:
        """Whether x lacks a batch dimension, and whether it must be spread over the rows."""
        if isinstance(layer.module, nn.Embedding) and x.dim() == 1:
            if layer.module not in self.shared:
                if len(x) == self.rows:
                    raise Ambiguous(layer.path)
                self.shared[layer.module] = True
            if self.shared[layer.module]:
                return True, self.rows > 1
        if isinstance(layer.module, nn.Embedding) and x.dim() == 2 and len(x) == 1:
            return False, self.rows > 1
        if len(x) != self.rows:
            raise Unsupported(f"{layer.path} sees {len(x)} rows for a batch of {self.rows}")
        return False, False

    def _collect(self, layer: Layer, x: Tensor, g: Tensor) -> None:
        self.in_rule = True
        with torch.no_grad():
            if self.index is not None:
                x, g = self._by_example(layer, x), self._by_example(layer, g)
                g = g * (self.index >= 0).reshape(*self.index.shape, *[1] * (g.dim() - 2)).to(g.dtype)
            for local, term in layer.rule(layer.module, accumulable(x), accumulable(g)):
                if local in layer.own:
                    name = layer.own[local]
                    self.terms.setdefault(name, []).append(term)
                    self.returned[name] = self.returned.get(name, 0) + 1
                    if self.returned[name] == self.uses[name]:
                        self._hand_on(name)
        self.in_rule = False

    def _by_example(self, layer: Layer, x: Tensor) -> Tensor:
        """[rows, T, …] as [n, L, …]: the positions of each example side by side."""
        assert self.index is not None
        mixing = not isinstance(layer.module, (nn.Linear, nn.Embedding)) and not _normalises_last(layer.module)
        if mixing or tuple(x.shape[:2]) != self.grid[:2]:
            raise Unsupported(f"{layer.path} does not work position by position, so examples cannot be taken apart")
        return x.flatten(0, 1)[self.index.clamp(min=0)]

    def _hand_on(self, name: str) -> None:
        self.sink(name, self.terms.pop(name))

    def finish(self) -> None:
        """Hand on what some use of was not part of the loss."""
        with torch.no_grad():
            for name in list(self.terms):
                self._hand_on(name)


def _normalises_last(module: nn.Module) -> bool:
    """Whether a layer treats every position of [rows, T, …, d] by itself."""
    weight = getattr(module, "weight", None)
    kind = type(module).__name__
    return kind == "Conv1D" or (kind.endswith(("RMSNorm", "LayerNorm")) and (weight is None or weight.dim() == 1))


class _Source(torch.autograd.Function):
    """A copy of a tensor that requires a gradient: where the frozen part of a network ends."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, None]:
        return None, None


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
