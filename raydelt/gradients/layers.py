"""What each kind of layer contributes to the gradients of its parameters, from its input and its output's gradient.

A rule maps (module, input x, output gradient g) to the terms of its chosen parameters. The first dimension of x and g
runs over the examples of the batch; all between it and the features are positions.

    Linear         weight: g (x) x                     bias: sum_t g
    Conv1d/2d      weight: g (x) patches(x)            bias: sum_t g
    Embedding      weight: onehot(id) (x) g
    norms          weight: sum_t g * x_hat             bias: sum_t g        (Layer, RMS, Group, Instance, frozen Batch)

Caution: a rule is chosen by the layer's own `forward`, so that a subclass with other mathematics is not mistaken for
it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from raydelt.gradients.terms import Dense, Outer, Rows, Term

Rule = Callable[[Any, Tensor, Tensor], Iterator[tuple[str, Term]]]


class Unsupported(Exception):
    """A layer, or a use of one, whose per-example gradients these rules cannot give; the message says which."""


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of a module, or None where there is none."""
    for kind, rule in _BY_FORWARD.items():
        if type(module).forward is kind.forward:
            return rule
    if type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils":
        return _transposed_linear
    if isinstance(module, nn.Embedding) and type(module).__name__.endswith("ScaledWordEmbedding"):
        return _scaled_embedding
    if type(module).__name__.endswith(("RMSNorm", "LayerNorm")) and _is_affine(module):
        return _affine
    return None


def _is_affine(module: nn.Module) -> bool:
    own = dict(module.named_parameters())
    return set(own) <= {"weight", "bias"} and all(p.dim() == 1 for p in own.values())


def accumulable(x: Tensor) -> Tensor:
    """Half precision as float32, so that sums are taken in it; other numbers, ids included, as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _positions(x: Tensor) -> Tensor:
    """[n, …, d] as [n, T, d]."""
    return x.reshape(len(x), -1, x.shape[-1])


def _linear(module: nn.Linear, x: Tensor, g: Tensor) -> Iterator[tuple[str, Term]]:
    p = _positions(g)
    yield "weight", Outer(p, _positions(x))
    if module.bias is not None:
        yield "bias", Dense(p[:, 0] if p.shape[1] == 1 else p.sum(1))


def _transposed_linear(module: nn.Module, x: Tensor, g: Tensor) -> Iterator[tuple[str, Term]]:
    p = _positions(g)
    yield "weight", Outer(_positions(x), p)
    yield "bias", Dense(p.sum(1))


def _embedding(module: nn.Embedding, x: Tensor, g: Tensor) -> Iterator[tuple[str, Term]]:
    if module.scale_grad_by_freq or module.max_norm is not None or module.sparse:
        raise Unsupported("an Embedding with scale_grad_by_freq, max_norm or sparse")
    ids, q = x.reshape(len(x), -1), _positions(g)
    if module.padding_idx is not None:
        q = q * (ids != module.padding_idx)[:, :, None].to(q.dtype)
    yield "weight", Rows(ids, q)


def _scaled_embedding(module: Any, x: Tensor, g: Tensor) -> Iterator[tuple[str, Term]]:
    yield from _embedding(module, x, g * accumulable(module.embed_scale.to(g.device)))


def _conv(module: nn.Conv1d | nn.Conv2d, x: Tensor, g: Tensor) -> Iterator[tuple[str, Term]]:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    if isinstance(module, nn.Conv1d):
        x, kernel = x[:, :, None], (1, *module.kernel_size)
        dilation, stride = (1, *module.dilation), (1, *module.stride)
    else:
        kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    patches = functional.unfold(x, kernel, dilation=dilation, stride=stride)
    p = g.flatten(2)
    if module.groups == 1:
        yield "weight", Outer(p.transpose(1, 2), patches.transpose(1, 2))
    else:
        n, groups = len(x), module.groups
        grouped = torch.einsum(
            "ngot,ngit->ngoi", p.reshape(n, groups, -1, p.shape[2]), patches.reshape(n, groups, -1, p.shape[2])
        )
        yield "weight", Dense(grouped.reshape(n, *module.weight.shape))
    if module.bias is not None:
        yield "bias", Dense(p.sum(2))


def _affine(module: nn.Module, x: Tensor, g: Tensor) -> Iterator[tuple[str, Term]]:
    """y = weight * x_hat + bias over the last dimensions; x_hat is what the weight multiplies: y(1) - y(0)."""
    own = dict(module.named_parameters())
    if "weight" in own:
        g_hat = _to_shape(g * _multiplied(module, x, own), own["weight"].shape)
        yield "weight", Dense(g_hat)
    if "bias" in own:
        yield "bias", Dense(_to_shape(g, own["bias"].shape))


def _channel_affine(module: nn.Module, x: Tensor, g: Tensor) -> Iterator[tuple[str, Term]]:
    """The same with one weight per channel, the dimension after the batch."""
    own = dict(module.named_parameters())
    if "weight" in own:
        yield "weight", Dense((g * _multiplied(module, x, own)).reshape(*g.shape[:2], -1).sum(2))
    if "bias" in own:
        yield "bias", Dense(g.reshape(*g.shape[:2], -1).sum(2))


def _multiplied(module: nn.Module, x: Tensor, own: dict[str, nn.Parameter]) -> Tensor:
    if isinstance(module, nn.LayerNorm):
        return functional.layer_norm(x, module.normalized_shape, eps=module.eps)

    def output(weight: Tensor) -> Tensor:
        swapped = {"weight": weight} | ({"bias": torch.zeros_like(own["bias"])} if "bias" in own else {})
        return accumulable(functional_call(module, swapped, (x.to(weight.dtype),)))

    with torch.no_grad():
        return output(torch.ones_like(own["weight"])) - output(torch.zeros_like(own["weight"]))


def _to_shape(g: Tensor, shape: torch.Size) -> Tensor:
    """Sum over all positions between the examples and the parameter's own dimensions."""
    return g.reshape(len(g), -1, *shape).sum(1)


_BY_FORWARD: dict[Any, Rule] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.LayerNorm: _affine,
    nn.RMSNorm: _affine,
    nn.GroupNorm: _channel_affine,
    nn.InstanceNorm1d: _channel_affine,
    nn.InstanceNorm2d: _channel_affine,
    nn.BatchNorm1d: _channel_affine,
    nn.BatchNorm2d: _channel_affine,
}
