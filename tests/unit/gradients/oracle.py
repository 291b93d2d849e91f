"""The truth about per-example gradients: one backward pass per example, in float64, and nothing from the package."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raydelt.gradients import GradientBatch, PerExampleGradients, Sketch

Batch = dict[str, Tensor]
Losses = Callable[[Callable[..., Any], Mapping[str, Tensor]], Tensor]
Gradients = dict[str, Tensor]

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Case(NamedTuple):
    """A model, the losses of its examples, and a batch of them."""

    model: nn.Module
    losses: Losses
    batch: Batch


def converted(tensors: Batch, dtype: torch.dtype) -> Batch:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}


def cast(case: Case, dtype: torch.dtype) -> Case:
    """The case in another number type; the same object where the type is float32."""
    return case if dtype == torch.float32 else Case(case.model.to(dtype), case.losses, converted(case.batch, dtype))


def row(batch: Batch, i: int) -> Batch:
    return {name: tensor[i : i + 1] for name, tensor in batch.items()}


def true_gradients(case: Case, names: Iterable[str] | None = None) -> Gradients:
    """The gradients [n, *shape] of every example's loss by parameter: batches of one, float64, autograd."""
    model = copy.deepcopy(case.model).double()
    named = {name: p for name, p in model.named_parameters() if (p.requires_grad if names is None else name in names)}
    for p in named.values():
        p.requires_grad_(True)
    batch = converted(case.batch, torch.float64)
    found: dict[str, list[Tensor]] = {name: [] for name in named}
    for i in range(len(next(iter(batch.values())))):
        [loss] = case.losses(model, row(batch, i))
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for (name, p), g in zip(named.items(), grads, strict=True):
            found[name].append(torch.zeros_like(p) if g is None else g)
    return {name: torch.stack(grads).detach() for name, grads in found.items()}


def directions(shapes: Mapping[str, Sequence[int]], count: int, dtype: torch.dtype) -> list[Gradients]:
    generator = torch.Generator().manual_seed(17)
    return [
        {
            name: torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype)
            for name, shape in shapes.items()
        }
        for _ in range(count)
    ]


def norms_of(truth: Gradients) -> Tensor:
    return torch.stack([g.reshape(len(g), -1).square().sum(1) for g in truth.values()]).sum(0).sqrt()


def dots_of(truth: Gradients, vectors: Sequence[Gradients]) -> Tensor:
    """[n, K]"""
    columns = [
        torch.stack([(g * v[name].double()).reshape(len(g), -1).sum(1) for name, g in truth.items() if name in v]).sum(
            0
        )
        for v in vectors
    ]
    return torch.stack(columns, 1)


def sketches_of(truth: Gradients, sketch: Sketch) -> Tensor:
    return torch.stack([sketch.dense(g, name) for name, g in truth.items()]).sum(0)


def norm_error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.clamp(min=1e-30)).max())


def dot_error(found: Tensor, truth: Gradients, vectors: Sequence[Gradients]) -> float:
    """Relative to the lengths of both vectors."""
    lengths = torch.stack([norms_of({name: g[None] for name, g in v.items()})[0].double() for v in vectors])
    scale = (norms_of(truth)[:, None] * lengths).clamp(min=1e-30)
    return float(((found - dots_of(truth, vectors)).abs() / scale).max())


def sketch_error(found: Tensor, truth: Gradients, sketch: Sketch) -> float:
    """Relative to the length of the gradient."""
    return float(((found.double() - sketches_of(truth, sketch)).norm(dim=1) / norms_of(truth).clamp(min=1e-30)).max())


def assert_equal_to(
    truth: Gradients, found: GradientBatch, vectors: Sequence[Gradients], sketch: Sketch, tol: float
) -> None:
    assert found.norms is not None
    assert found.dots is not None
    assert found.sketches is not None
    count = len(next(iter(truth.values())))
    assert found.norms.shape == (count,)
    assert found.dots.shape == (count, len(vectors))
    assert found.sketches.shape == (count, sketch.k)
    assert norm_error(found.norms, norms_of(truth)) <= tol
    assert dot_error(found.dots, truth, vectors) <= tol
    assert sketch_error(found.sketches, truth, sketch) <= tol


def assert_exact(gradients: PerExampleGradients, case: Case, truth: Gradients | None = None, **options: Any) -> None:
    """Norms, dot products with one and with three vectors, and sketches equal the truth."""
    truth = true_gradients(case, gradients.shapes) if truth is None else truth
    dtype = next(iter(case.model.parameters())).dtype
    for count in (1, 3):
        vectors, sketch = directions(gradients.shapes, count, dtype), Sketch(32, seed=count)
        found = gradients(case.batch, vectors=vectors, sketch=sketch, **options)
        assert_equal_to(truth, found, vectors, sketch, TOLERANCE[dtype])
