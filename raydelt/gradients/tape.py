"""One forward and one backward pass that hand every chosen parameter's terms to a sink, with no weight gradient taken.

Forward hooks keep each layer's input; hooks on its output get the output's gradient during the backward pass, where
the layer's rule makes terms of both. All parameters are frozen meanwhile, so autograd computes the gradients of
activations alone: about two thirds of a plain forward and backward pass. A parameter with several uses is handed on
once all of them have come. Memory: the inputs of the layers, which a plain pass keeps as well.

Caution: a model that runs its layers a second time in the backward pass (activation checkpointing) is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from raydelt.gradients.layers import Rule, Unsupported, accumulable, rule_for
from raydelt.gradients.selection import Selection
from raydelt.gradients.terms import Term

Sink = Callable[[str, list[Term]], None]


class Tape:
    """The layers of a model that hold chosen parameters, ready to be recorded.

    Raises:
        Unsupported: a chosen parameter lies in a layer without a rule.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self.model = model
        names = {id(p): name for name, p in selection.parameters.items()}
        self.layers: list[tuple[nn.Module, str, Rule, dict[str, str]]] = []
        for path, module in model.named_modules():
            own = {local: names[id(p)] for local, p in module._parameters.items() if p is not None and id(p) in names}
            if not own or (selection.modules is not None and module not in selection.modules):
                continue
            rule = rule_for(module)
            if rule is None:
                raise Unsupported(f"{path or 'the model'} is a {type(module).__name__}")
            self.layers.append((module, path, rule, own))
        self._shared: dict[nn.Module, bool] = {}

    def run(self, losses: Callable[[], Tensor], rows: int, index: Tensor | None, sink: Sink) -> Tensor:
        """Losses [n] of a batch of `rows` rows, with the terms of every parameter given to `sink`.

        With `index` [n, L], example i consists of the positions `index[i]` of the batch's flattened rows x positions
        (-1 where it has fewer than L); without, it is row i.
        """
        recording = _Recording(rows, index, sink, self._shared)
        with _frozen(self.model), recording.hooks(self.layers):
            with torch.enable_grad():
                values = losses()
            recording.open = False
            if values.requires_grad:
                torch.autograd.backward(values.sum())
            recording.finish()
        return values.detach()


class _Recording:
    """The state of one pass: which uses of which parameters are still to come back."""

    def __init__(self, rows: int, index: Tensor | None, sink: Sink, shared: dict[nn.Module, bool]) -> None:
        self.rows, self.index, self.sink, self.shared = rows, index, sink, shared
        self.uses: dict[str, int] = {}
        self.terms: dict[str, list[Term]] = {}
        self.returned: dict[str, int] = {}
        self.open = True
        self.in_rule = False
        self.anchor: Tensor | None = None

    @contextlib.contextmanager
    def hooks(self, layers: list[tuple[nn.Module, str, Rule, dict[str, str]]]) -> Iterator[None]:
        handles = [
            module.register_forward_hook(self._forward(path, rule, own), with_kwargs=True)
            for module, path, rule, own in layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, path: str, rule: Rule, own: dict[str, str]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if self.in_rule:
                return None
            if not self.open:
                raise Unsupported(f"{path} runs again in the backward pass (activation checkpointing)")
            x = args[0] if args else next(iter(kwargs.values()))
            if not isinstance(output, Tensor):
                raise Unsupported(f"{path} does not return a tensor")
            x, output = self._per_row(module, path, x.detach(), output)
            if not output.requires_grad:
                if self.anchor is None:
                    self.anchor = torch.zeros((), device=output.device, requires_grad=True)
                output = _Source.apply(output, self.anchor)  # type: ignore[no-untyped-call]
            for name in own.values():
                self.uses[name] = self.uses.get(name, 0) + 1
            version = x._version

            def backward(g: Tensor) -> None:
                if x._version != version:
                    raise Unsupported(f"the input of {path} is changed in place")
                self._collect(module, rule, own, x, g)

            output.register_hook(backward)
            return output

        return hook

    def _per_row(self, module: nn.Module, path: str, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Input and output with one row per row of the batch; what all rows share (positions, say) is expanded."""
        if isinstance(module, nn.Embedding) and x.dim() <= 2:
            alone = x.dim() == 1 and self.shared.setdefault(module, len(x) != self.rows)
            if alone:
                x, output = x[None], output[None]
            if len(x) == 1 and self.rows > 1:
                return x.expand(self.rows, -1), output.expand(self.rows, *output.shape[1:])
        if len(x) != self.rows:
            raise Unsupported(f"{path} sees {len(x)} rows for a batch of {self.rows}")
        return x, output

    def _collect(self, module: nn.Module, rule: Rule, own: dict[str, str], x: Tensor, g: Tensor) -> None:
        self.in_rule = True
        with torch.no_grad():
            if self.index is not None:
                x, g = self._by_example(module, x), self._by_example(module, g)
                g = g * (self.index >= 0).reshape(*self.index.shape, *[1] * (g.dim() - 2)).to(g.dtype)
            for local, term in rule(module, x if not x.is_floating_point() else accumulable(x), accumulable(g)):
                if local in own:
                    name = own[local]
                    self.terms.setdefault(name, []).append(term)
                    self.returned[name] = self.returned.get(name, 0) + 1
                    if self.returned[name] == self.uses[name]:
                        self._hand_on(name)
        self.in_rule = False

    def _by_example(self, module: nn.Module, x: Tensor) -> Tensor:
        """[rows, T, …] as [n, L, …]: the positions of each example side by side."""
        assert self.index is not None
        if isinstance(module, (nn.Conv1d, nn.Conv2d)) or x.dim() < 2:
            raise Unsupported(
                f"{type(module).__name__} mixes positions, so examples cannot be taken apart by position"
            )
        return x.flatten(0, 1)[self.index.clamp(min=0)]

    def _hand_on(self, name: str) -> None:
        self.sink(name, self.terms.pop(name))

    def finish(self) -> None:
        """Hand on what some use of was not part of the loss."""
        with torch.no_grad():
            for name in list(self.terms):
                self._hand_on(name)


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
