"""Results do not depend on the batch, the padding or the way they are computed, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raydelt.errors import SpecError
from raydelt.gradients import GradientBatch, PerExampleGradients, Sketch, per_example, sketch, terms
from tests.unit.gradients.networks import (
    RULED,
    case_of,
    conv1d,
    conv2d,
    integers,
    mlp,
    random,
    recurrent,
    tagged,
    transformer,
)
from tests.unit.gradients.oracle import Batch, Case, assert_exact, cast, directions

BACKENDS = ["ghost", "vmap", "loop"]
KINDS = ("losses", "norms", "dots", "sketches")


def grown(case: Case, rows: int) -> Case:
    """The case with another number of examples, all of them different."""
    generator = torch.Generator().manual_seed(rows)
    batch: Batch = {}
    for name, tensor in case.batch.items():
        drawn = torch.randint(len(tensor), (rows,), generator=generator)
        batch[name] = tensor[drawn]
        if tensor.is_floating_point() and name != "mask":
            batch[name] = batch[name] + torch.randn(batch[name].shape, generator=generator)
    return case._replace(batch=batch)


def everything(gradients: PerExampleGradients, batch: Batch, **options: Any) -> GradientBatch:
    dtype = next(iter(gradients.selection.parameters.values())).dtype
    return gradients(batch, vectors=directions(gradients.shapes, 2, dtype), sketch=Sketch(16), **options)


def assert_same(one: GradientBatch, other: GradientBatch, tolerance: float) -> None:
    """Norms to a relative tolerance, and what grows with the gradient relative to its length."""
    assert one.norms is not None
    assert other.norms is not None
    assert float(((one.norms - other.norms) / other.norms).abs().max()) <= tolerance
    for found, expected in ((one.dots, other.dots), (one.sketches, other.sketches)):
        assert found is not None
        assert expected is not None
        lengths = expected.norm(dim=1, keepdim=True).double() + other.norms[:, None]
        assert float(((found - expected).double() / lengths).abs().max()) <= tolerance


def bits(found: GradientBatch) -> list[list[float]]:
    return [t.tolist() for t in (found.losses, found.norms, found.dots, found.sketches) if t is not None]


MODELS: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "conv2d": conv2d,
    "conv1d": conv1d,
    "transformer": transformer,
    "transformer-tied": lambda: transformer(nn.RMSNorm, tied=True),
    "recurrent": recurrent,
    "embedding": tagged,
}


@pytest.mark.parametrize("name", MODELS)
def test_results_do_not_depend_on_the_batch_size(name: str) -> None:
    case = grown(MODELS[name](), 64)
    gradients = PerExampleGradients(case.model, case.losses)
    whole = everything(gradients, case.batch)
    for size, count in ((1, 9), (7, 63)):
        parts = [
            everything(gradients, {name: tensor[low : low + size] for name, tensor in case.batch.items()})
            for low in range(0, count, size)
        ]
        joined = [
            torch.cat([getattr(part, kind) for part in parts]) for kind in ("losses", "norms", "dots", "sketches")
        ]
        expected = [getattr(whole, kind)[:count] for kind in KINDS]
        assert_same(GradientBatch(*joined), GradientBatch(*expected), 1e-5)
    assert gradients.backend == "ghost"


@pytest.mark.parametrize("name", MODELS)
def test_results_follow_their_examples_through_a_permutation(name: str) -> None:
    case = grown(MODELS[name](), 64)
    gradients = PerExampleGradients(case.model, case.losses)
    whole = everything(gradients, case.batch)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(5))
    found = everything(gradients, {name: tensor[order] for name, tensor in case.batch.items()})
    expected = [getattr(whole, kind)[order] for kind in KINDS]
    assert_same(found, GradientBatch(*expected), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_padding_changes_nothing(backend: str) -> None:
    case = transformer(tied=True)
    gradients = PerExampleGradients(case.model, case.losses, backend=backend)
    plain = everything(gradients, case.batch)
    for extra in (1, 9):
        padding = {"ids": integers(19, 5, extra, seed=extra), "mask": torch.zeros(5, extra)}
        padded = {name: torch.cat([tensor, padding[name]], 1) for name, tensor in case.batch.items()}
        assert_same(everything(gradients, padded), plain, 1e-5)


@pytest.mark.parametrize("name", RULED)
def test_dot_products_add_up_to_that_of_the_whole_gradient(name: str) -> None:
    case = cast(RULED[name](), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses)
    vectors = directions(gradients.shapes, 3, torch.float64)
    total = gradients.total([case.batch])
    expected = [sum((total[name] * v[name]).sum() for name in total) for v in vectors]
    found = gradients(case.batch, vectors=vectors).dots
    torch.testing.assert_close(found.sum(0), torch.stack(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cost", [-(10**9), 0, 10**9])
@pytest.mark.parametrize("name", RULED)
def test_results_do_not_depend_on_the_form_that_they_are_computed_in(
    name: str, cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cast(RULED[name](), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses)
    monkeypatch.setattr(terms, "PASS_COST", cost)
    assert_exact(gradients, case)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["mlp", "conv2d", "transformer", "transformer-tied"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_results_do_not_depend_on_the_chunks_that_they_are_computed_in(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cast(grown(MODELS[name](), 9), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, backend=backend)
    whole = everything(gradients, case.batch)
    for module in (terms, sketch, per_example):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(terms, "GRAM_BLOCK", 2)
    assert_same(everything(gradients, case.batch), whole, 1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["mlp", "conv2d", "transformer"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_second_run_gives_the_same_bits(name: str, backend: str) -> None:
    case = grown(MODELS[name](), 16)
    gradients = PerExampleGradients(case.model, case.losses, backend=backend)
    first = bits(everything(gradients, case.batch))
    assert bits(everything(gradients, case.batch)) == first
    again = PerExampleGradients(case.model, case.losses, backend=backend)
    assert bits(everything(again, case.batch)) == first


def states(model: nn.Module) -> list[tuple[Any, ...]]:
    return [
        (name, p.requires_grad, None if p.grad is None else p.grad.tolist(), p.tolist(), p._version)
        for name, p in model.named_parameters()
    ]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def marked(case: Case) -> Case:
    """With one parameter frozen, and a gradient left over from before on another."""
    first, second, *_ = case.model.parameters()
    first.requires_grad_(False)
    second.grad = torch.full_like(second, 7.0)
    return case


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("name", ["mlp", "conv2d", "transformer-tied"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_model_is_left_as_it_was(name: str, backend: str) -> None:
    case = marked(MODELS[name]())
    before, buffers = states(case.model), [b.tolist() for b in case.model.buffers()]
    gradients = PerExampleGradients(case.model, case.losses, backend=backend)
    everything(gradients, case.batch)
    gradients.total([case.batch])
    assert states(case.model) == before
    assert [b.tolist() for b in case.model.buffers()] == buffers
    assert hooks(case.model) == 0


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("early", [True, False])
def test_a_model_is_left_as_it_was_where_the_losses_fail(backend: str, early: bool) -> None:
    class Failure(Exception):
        pass

    def losses(forward: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
        if not early:
            forward(batch["x"])
        raise Failure

    case = marked(mlp())
    before = states(case.model)
    with pytest.raises(Failure):
        PerExampleGradients(case.model, losses, backend=backend)(case.batch)
    assert states(case.model) == before
    assert hooks(case.model) == 0


def test_a_model_is_left_as_it_was_where_it_is_refused() -> None:
    class Flattened(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(0, 1)).reshape(len(x), -1)

    case = marked(case_of(Flattened(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), 2, 6))
    before = states(case.model)
    with pytest.raises(SpecError):
        PerExampleGradients(case.model, case.losses, backend="ghost")(case.batch)
    assert states(case.model) == before
    assert hooks(case.model) == 0


def halved(case: Case) -> Case:
    """The case with a model in half precision, whose inputs are cast to it and whose logits back."""

    def losses(forward: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
        def called(*args: Tensor) -> Tensor:
            return forward(*(x.bfloat16() if x is batch.get("x") else x for x in args)).float()

        return case.losses(called, batch)

    return Case(case.model.bfloat16(), losses, case.batch)


@pytest.mark.parametrize("name", ["mlp", "transformer", "transformer-tied", "conv2d"])
def test_half_precision_gives_norms_near_those_of_single_precision(name: str) -> None:
    case = MODELS[name]()
    expected = PerExampleGradients(case.model, case.losses)(case.batch).norms
    half = halved(case)
    gradients = PerExampleGradients(half.model, half.losses)
    found = everything(gradients, half.batch)
    assert gradients.backend == "ghost"
    assert found.norms.dtype == found.dots.dtype == torch.float64
    assert found.sketches.dtype == torch.float32
    torch.testing.assert_close(found.norms, expected, rtol=0.05, atol=0)


def test_half_precision_is_summed_over_positions_in_single_precision() -> None:
    """The loss is linear, so the gradient is the sum of the inputs: half precision would round it to two digits."""
    layer = nn.Linear(4, 3).bfloat16()
    x = (1 + random(2, 3001, 4)).bfloat16()
    gradients = PerExampleGradients(layer, lambda forward, batch: forward(batch["x"]).float().sum((1, 2)))
    sums = x.double().sum(1)
    expected = (3 * (sums.square().sum(1) + 3001.0**2)).sqrt()
    torch.testing.assert_close(gradients({"x": x}).norms, expected, rtol=1e-5, atol=0)
    assert gradients.backend == "ghost"


def test_the_form_of_the_loss_does_not_matter_beyond_its_value() -> None:
    case = cast(transformer(), torch.float64)

    def summed(forward: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
        """The same numbers by way of probabilities, in another order."""
        log_p = functional.log_softmax(forward(batch["ids"], batch["mask"])[:, :-1], -1)
        each = -log_p.gather(2, batch["ids"][:, 1:, None])[..., 0]
        weights = batch["mask"][:, 1:] / batch["mask"][:, 1:].sum(1, keepdim=True)
        return torch.einsum("nt,nt->n", each, weights)

    one = everything(PerExampleGradients(case.model, case.losses), case.batch)
    assert_same(everything(PerExampleGradients(case.model, summed), case.batch), one, 1e-11)


def test_scaling_the_losses_scales_the_gradients() -> None:
    case = cast(transformer(), torch.float64)
    weights = torch.tensor([0.0, 1.0, -2.0, 0.5, 100.0], dtype=torch.float64)

    def weighted(forward: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
        return case.losses(forward, batch) * batch["weight"]

    plain = everything(PerExampleGradients(case.model, case.losses), case.batch)
    found = everything(PerExampleGradients(case.model, weighted), case.batch | {"weight": weights})
    torch.testing.assert_close(found.norms, plain.norms * weights.abs(), rtol=1e-10, atol=0)
    torch.testing.assert_close(found.dots, plain.dots * weights[:, None], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.sketches, plain.sketches * weights[:, None], rtol=1e-10, atol=1e-10)
