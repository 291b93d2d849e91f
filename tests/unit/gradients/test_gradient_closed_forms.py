"""Where the gradient has a closed form, its norm is that; the last layer's needs nothing of the network below it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raydelt.gradients import PerExampleGradients
from tests.unit.gradients.networks import case_of, integers, mlp, random, spread, transformer
from tests.unit.gradients.oracle import Case, assert_exact, cast, norm_error, true_gradients

BACKENDS = ["ghost", "vmap", "loop"]


def residuals(logits: Tensor, y: Tensor) -> Tensor:
    """||p - onehot(y)|| [n]"""
    return (logits.softmax(1) - functional.one_hot(y, logits.shape[1])).norm(dim=1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_logistic_regression_has_its_closed_form(backend: str, bias: bool) -> None:
    case = cast(case_of(nn.Linear(6, 4, bias=bias), 6, rows=30), torch.float64)
    x, y = case.batch["x"], case.batch["y"]
    expected = residuals(case.model(x), y) * (float(bias) + x.square().sum(1)).sqrt()
    found = PerExampleGradients(case.model, case.losses, backend=backend)(case.batch)
    assert norm_error(found.norms, expected.detach()) <= 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_least_squares_has_its_closed_form(backend: str) -> None:
    model, x, y = nn.Linear(6, 1).double(), random(20, 6).double(), random(20, seed=9).double()

    def losses(forward: Any, batch: dict[str, Tensor]) -> Tensor:
        return (forward(batch["x"])[:, 0] - batch["y"]).square() / 2

    expected = (model(x)[:, 0] - y).abs() * (1 + x.square().sum(1)).sqrt()
    found = PerExampleGradients(model, losses, backend=backend)({"x": x, "y": y})
    assert norm_error(found.norms, expected.detach()) <= 1e-12


def test_a_table_of_words_has_its_closed_form() -> None:
    """The gradient of sum_t <c, word_t> has the row count(w) c for every word w."""
    table, ids, c = nn.Embedding(7, 3).double(), integers(7, 10, 12), random(3).double()
    found = PerExampleGradients(table, lambda forward, batch: (forward(batch["ids"]) @ c).sum(1))({"ids": ids})
    counts = functional.one_hot(ids, 7).sum(1).double()
    assert norm_error(found.norms, counts.norm(dim=1) * c.norm()) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_last_layer_has_its_closed_form(dtype: torch.dtype) -> None:
    case = cast(mlp(), dtype)
    gradients = PerExampleGradients(case.model, case.losses, parameters="last_layer")
    h = case.model[:-1](case.batch["x"])
    expected = residuals(case.model(case.batch["x"]), case.batch["y"]) * (1 + h.square().sum(1)).sqrt()
    assert norm_error(gradients(case.batch).norms, expected.detach().double()) <= (1e-5, 1e-12)[dtype == torch.float64]
    assert set(gradients.shapes) == {"4.weight", "4.bias"}
    assert_exact(gradients, case)


class OneWay(torch.autograd.Function):
    """Lets nothing through backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise AssertionError("a backward pass went through the network")


class Guarded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 9), nn.Tanh()), nn.Linear(9, 4)
        self.needed_gradient: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        h = OneWay.apply(self.body(x))
        self.needed_gradient.append(h.requires_grad)
        return self.head(h)


def test_the_last_layer_needs_no_backward_pass_through_the_network() -> None:
    case = case_of(Guarded(), 6)
    with pytest.raises(AssertionError, match="went through the network"):
        PerExampleGradients(case.model, case.losses, backend="ghost")(case.batch)
    engine = PerExampleGradients(case.model, case.losses, parameters="last_layer")
    engine(case.batch)  # the first batch is also checked against autograd
    case.model.needed_gradient.clear()
    found = engine(case.batch)
    assert case.model.needed_gradient == [False]
    h = case.model.body(case.batch["x"])
    expected = residuals(case.model.head(h), case.batch["y"]) * (1 + h.square().sum(1)).sqrt()
    assert norm_error(found.norms, expected.detach().double()) <= 1e-5


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_of_a_tied_weight_the_last_layer_counts_its_use_as_output_alone(norm: type[nn.Module]) -> None:
    case = cast(transformer(norm, tied=True), torch.float64)
    case.model.get_output_embeddings = lambda: case.model.lm_head
    apart = copy.deepcopy(case)
    del apart.model.get_output_embeddings
    apart.model.lm_head.weight = nn.Parameter(case.model.lm_head.weight.detach().clone())
    gradients = PerExampleGradients(case.model, case.losses, parameters="last_layer")
    [truth] = true_gradients(apart, ["lm_head.weight"]).values()
    assert_exact(gradients, case, {"tokens.weight": truth})
    whole = PerExampleGradients(case.model, case.losses, parameters=["tokens.weight"])(case.batch).norms
    assert float((gradients(case.batch).norms / whole - 1).abs().min()) > 1e-3


def test_repeating_an_input_position_multiplies_the_gradient() -> None:
    """A sum over T equal positions: the Gram form's largest entries are all equal."""
    model = spread(nn.Linear(6, 4)).double()

    def losses(forward: Any, batch: dict[str, Tensor]) -> Tensor:
        return forward(batch["x"]).square().sum((1, 2))

    x = random(5, 1, 6).double()
    one = PerExampleGradients(model, losses)({"x": x}).norms
    many = PerExampleGradients(model, losses)({"x": x.expand(-1, 50, -1)}).norms
    assert norm_error(many, 50 * one) <= 1e-12


def test_a_constant_loss_has_no_gradient() -> None:
    case = Case(nn.Linear(6, 4), lambda forward, batch: forward(batch["x"]).sum(1) * 0, {"x": random(5, 6)})
    assert PerExampleGradients(case.model, case.losses)(case.batch).norms.tolist() == [0.0] * 5
