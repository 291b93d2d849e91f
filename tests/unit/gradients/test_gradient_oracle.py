"""Norms, dot products and sketches equal those of gradients taken one example at a time in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raydelt.gradients import PerExampleGradients, Sketch
from tests.unit.gradients.networks import RULED, mlp, transformer
from tests.unit.gradients.oracle import (
    Case,
    assert_exact,
    cast,
    directions,
    dots_of,
    norm_error,
    norms_of,
    sketches_of,
    true_gradients,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULED)
def test_one_backward_pass_gives_what_a_loop_over_the_examples_gives(name: str, dtype: torch.dtype) -> None:
    case = cast(RULED[name](), dtype)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case)
    assert gradients.backend == "ghost"


@pytest.mark.parametrize("backend", ["ghost", "vmap", "loop"])
@pytest.mark.parametrize("name", RULED)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_every_backend_gives_the_same(name: str, backend: str) -> None:
    case = cast(RULED[name](), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, backend=backend)
    assert_exact(gradients, case)
    assert gradients.backend == backend


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_as_many_tokens_as_rows_are_not_mixed_up(norm: type[nn.Module], tied: bool) -> None:
    case = cast(transformer(norm, tied=tied, rows=8, length=8), torch.float64)
    assert_exact(PerExampleGradients(case.model, case.losses), case)


def test_as_many_tokens_as_rows_stay_in_one_pass_once_positions_were_seen() -> None:
    first, second = (cast(transformer(rows=rows, length=8), torch.float64) for rows in (5, 8))
    gradients = PerExampleGradients(first.model, first.losses)
    gradients(first.batch)
    assert_exact(gradients, Case(first.model, first.losses, second.batch))
    assert gradients.backend == "ghost"


def test_a_parameter_that_nothing_reaches_has_a_gradient_of_zero() -> None:
    case = cast(RULED["unreached"](), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, parameters=["idle.*", "scale.*"])
    found = gradients(case.batch, vectors=directions(gradients.shapes, 2, torch.float64), sketch=Sketch(8))
    assert gradients.backend == "ghost"
    assert not found.norms.any()
    assert found.dots.tolist() == [[0.0, 0.0]] * 5
    assert found.sketches.tolist() == [[0.0] * 8] * 5


@pytest.mark.parametrize("patterns", [["*.bias"], ["0.weight", "4.weight"], ["2.*"]])
def test_chosen_parameters_alone_count(patterns: list[str]) -> None:
    case = cast(mlp(), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, parameters=patterns)
    assert 0 < len(gradients.shapes) < 6
    assert_exact(gradients, case)


def test_frozen_parameters_do_not_count() -> None:
    case = cast(transformer(), torch.float64)
    case.model.blocks.requires_grad_(False)
    gradients = PerExampleGradients(case.model, case.losses)
    assert set(gradients.shapes) == {"tokens.weight", "positions.weight", "norm.weight", "norm.bias", "lm_head.weight"}
    assert_exact(gradients, case)


@pytest.mark.parametrize("backend", ["ghost", "vmap", "loop"])
def test_only_what_was_asked_for_is_given(backend: str) -> None:
    case = cast(mlp(), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, backend=backend)
    truth, vectors = true_gradients(case), directions(gradients.shapes, 2, torch.float64)
    plain = gradients(case.batch)
    assert plain.dots is None
    assert plain.sketches is None
    assert norm_error(plain.norms, norms_of(truth)) <= 1e-10
    dots = gradients(case.batch, norms=False, vectors=vectors)
    assert dots.norms is None
    torch.testing.assert_close(dots.dots, dots_of(truth, vectors), rtol=1e-9, atol=1e-9)
    sketched = gradients(case.batch, norms=False, sketch=Sketch(8))
    assert sketched.norms is None
    assert sketched.dots is None
    torch.testing.assert_close(sketched.sketches, sketches_of(truth, Sketch(8)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["ghost", "vmap", "loop"])
def test_a_vector_without_a_parameter_is_zero_there(backend: str) -> None:
    case = cast(mlp(), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, backend=backend)
    vectors = directions(gradients.shapes, 2, torch.float64)
    del vectors[0]["0.weight"], vectors[1]["4.bias"]
    found = gradients(case.batch, vectors=vectors).dots
    torch.testing.assert_close(found, dots_of(true_gradients(case), vectors), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", RULED)
def test_the_losses_are_those_of_the_batch(name: str) -> None:
    case = cast(RULED[name](), torch.float64)
    found = PerExampleGradients(case.model, case.losses)(case.batch)
    assert not found.losses.requires_grad
    torch.testing.assert_close(found.losses, case.losses(case.model, case.batch).detach(), rtol=1e-12, atol=1e-12)
