"""Which parameters of a model gradients are taken of: all that train, the last layer, adapters, or some by name."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from raydelt.errors import SpecError

ADAPTERS = ("*lora_*", "*adapter*", "*ia3_*", "*prompt_embeddings*")


@dataclass(frozen=True)
class Selection:
    """Chosen parameters by name, and the modules whose use of them counts (None: every use)."""

    parameters: dict[str, nn.Parameter]
    modules: frozenset[nn.Module] | None = None


def select(model: nn.Module, parameters: str | Sequence[str] = "all") -> Selection:
    """The parameters that `all`, `last_layer`, `adapters`, or a list of names with wildcards stand for.

    `all` are those with `requires_grad`. `last_layer` counts only the use as output layer of a weight that is tied to
    the embedding, so that it needs no backward pass through the network.

    Raises:
        SpecError: nothing is chosen.
    """
    named = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    if parameters == "last_layer":
        layer = last_layer(model)
        own = {id(p) for p in layer.parameters(recurse=False)}
        return Selection({name: p for name, p in named.items() if id(p) in own}, frozenset([layer]))
    if parameters == "all":
        chosen = {name: p for name, p in named.items() if p.requires_grad}
    elif isinstance(parameters, str) and parameters != "adapters":
        raise SpecError(
            f"parameters {parameters!r} must be all, last_layer, adapters, or a list of parameter names with wildcards"
        )
    else:
        patterns = ADAPTERS if parameters == "adapters" else parameters
        chosen = {}
        for pattern in patterns:
            found = {name: p for name, p in named.items() if fnmatch.fnmatchcase(name, pattern)}
            if not found and parameters != "adapters":
                raise SpecError(f"parameters: no parameter is called {pattern!r}: {_hint(pattern, named)}")
            chosen |= found
    if not chosen:
        raise SpecError(f"parameters {parameters!r} choose nothing: {_hint('', named)}")
    return Selection({name: named[name] for name in named if name in chosen})


def last_layer(model: nn.Module) -> nn.Module:
    """The layer that gives the logits: the model's output embeddings, else its last linear layer."""
    output: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if isinstance(output, nn.Module):
        return output
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise SpecError(f"parameters last_layer: {type(model).__name__} has no linear layer; choose all, or names")
    return layers[-1]


def _hint(pattern: str, named: dict[str, nn.Parameter]) -> str:
    near = difflib.get_close_matches(pattern, list(named), 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(list(named)[:6])}, …"
