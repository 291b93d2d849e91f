"""What one pass cannot do is done another way, with a line in the log that names the layer; the numbers stay right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from raydelt.errors import SpecError
from raydelt.gradients import PerExampleGradients
from tests.unit.gradients.networks import Pooled, case_of, classified, integers, spread
from tests.unit.gradients.oracle import Case, assert_exact, cast


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x, x, x, need_weights=False)[0].mean(1))


class Scaled(nn.Module):
    """A parameter outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.exp()


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, 2 * self.weight, self.bias)


class OddRMSNorm(nn.Module):
    """Is called like a norm, but squares its weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight**2 * functional.rms_norm(x, x.shape[-1:])


class Branching(nn.Module):
    """Reads a number out of a tensor, which vmap cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(6)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.scale * (2.0 if x.sum().item() > 0 else 1.0))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x, use_reentrant=False))


class TiedByFunction(nn.Module):
    """Uses the weight of a layer past the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(9, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(torch.tanh(self.body(self.words(x).mean(1))), self.words.weight)


class Flattened(nn.Module):
    """Its layer sees a row per position instead of a row per example."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x.flatten(0, 1))).reshape(*x.shape[:2], -1).mean(1))


class PositionsFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x.transpose(0, 1))).mean(0))


class Overwriting(nn.Module):
    """Changes the input of a layer after the layer; autograd does not mind where only the bias trains."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 4)
        self.body.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        y = self.body(h)
        h *= 2
        return self.head(h + y)


def of_words(model: nn.Module, classes: int) -> Case:
    return Case(spread(model), classified, {"x": integers(9, 5, 6), "y": integers(classes, 5)})


def between(layer: nn.Module) -> Callable[[], Case]:
    return lambda: case_of(nn.Sequential(nn.Linear(6, 5), layer, nn.Tanh(), nn.Linear(5, 4)), 6)


# Each with what the line in the log says of the layer, and the way that is taken in the end.
WITHOUT_RULE: dict[str, tuple[Callable[[], Case], str, str]] = {
    "attention": (lambda: case_of(Attended(), 3, 6), "mix is a MultiheadAttention", "vmap"),
    "own parameter": (between(Scaled()), "1 is a Scaled", "vmap"),
    "subclass": (between(Doubled(5, 5)), "1 is a Doubled", "vmap"),
    "parametrised": (
        between(parametrizations.weight_norm(nn.Linear(5, 5))),
        "1.parametrizations.weight is a ParametrizationList",
        "vmap",
    ),
    "transposed convolution": (
        lambda: case_of(Pooled(nn.ConvTranspose2d(2, 4, 3), channels=1), 2, 5, 5),
        "layers.0 is a ConvTranspose2d",
        "vmap",
    ),
    "branching": (lambda: case_of(Branching(), 6), "the model is a Branching", "loop"),
}
UNFIT: dict[str, tuple[Callable[[], Case], str, str]] = {
    "checkpointed": (lambda: case_of(Checkpointed(), 6), "body.0 runs again in the backward pass", "loop"),
    "flattened": (lambda: case_of(Flattened(), 3, 6), "body sees 15 rows for a batch of 5", "vmap"),
    "positions first": (lambda: case_of(PositionsFirst(), 3, 6), "body sees 3 rows for a batch of 5", "vmap"),
    "overwriting": (lambda: case_of(Overwriting(), 6), "the input of body is changed in place", "vmap"),
}
# Only autograd can tell: no layer is to blame.
WRONG: dict[str, Callable[[], Case]] = {
    "lying norm": between(OddRMSNorm(5)),
    "tied by function": lambda: of_words(TiedByFunction(), 9),
    "as many positions as rows": lambda: case_of(PositionsFirst(), 5, 6),
}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", [*WITHOUT_RULE, *UNFIT])
def test_a_model_that_one_pass_cannot_do_falls_back_and_is_right(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, layer, backend = (WITHOUT_RULE | UNFIT)[name]
    case = cast(make(), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case)
    assert gradients.backend == backend
    lines = warnings_in(caplog)
    assert len(lines) == (2 if backend == "loop" else 1)
    assert layer in lines[0]


@pytest.mark.parametrize("name", WITHOUT_RULE)
def test_a_layer_without_a_rule_is_refused_where_one_pass_is_asked_for(name: str) -> None:
    make, layer, _ = WITHOUT_RULE[name]
    case = make()
    with pytest.raises(SpecError, match=layer):
        PerExampleGradients(case.model, case.losses, backend="ghost")


@pytest.mark.parametrize("name", UNFIT)
def test_a_use_without_a_rule_is_refused_where_one_pass_is_asked_for(name: str) -> None:
    make, layer, _ = UNFIT[name]
    case = make()
    gradients = PerExampleGradients(case.model, case.losses, backend="ghost")
    with pytest.raises(SpecError, match=layer):
        gradients(case.batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", WRONG)
def test_mathematics_other_than_the_rule_s_is_found_out_and_falls_back(
    name: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    case = cast(WRONG[name](), dtype)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case)
    assert gradients.backend == "vmap"
    [line] = warnings_in(caplog)
    assert "is not what autograd gives" in line


@pytest.mark.parametrize("shown", [0, 4])
def test_the_first_and_the_last_example_each_show_a_wrong_rule(shown: int) -> None:
    case = cast(WRONG["lying norm"](), torch.float64)
    case.batch["weight"] = torch.zeros(5, dtype=torch.float64)
    case.batch["weight"][[shown, 2]] = 1

    def losses(forward: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
        return case.losses(forward, batch) * batch["weight"]

    gradients = PerExampleGradients(case.model, losses)
    assert_exact(gradients, case._replace(losses=losses))
    assert gradients.backend == "vmap"


def test_what_vmap_cannot_run_is_refused_where_vmap_is_asked_for() -> None:
    case = case_of(Branching(), 6)
    with pytest.raises(SpecError, match="vmap cannot run this model"):
        PerExampleGradients(case.model, case.losses, backend="vmap")(case.batch)


def test_vmap_refuses_random_numbers() -> None:
    class Dropping(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(super().forward(x), 0.5)

    case = case_of(Dropping(6, 4), 6)
    with pytest.raises(SpecError, match="random numbers"):
        PerExampleGradients(case.model, case.losses, backend="vmap")(case.batch)


@pytest.mark.parametrize("name", [*WITHOUT_RULE, *UNFIT])
def test_the_loop_does_everything(name: str) -> None:
    make, *_ = (WITHOUT_RULE | UNFIT)[name]
    case = cast(make(), torch.float64)
    assert_exact(PerExampleGradients(case.model, case.losses, backend="loop"), case)


def test_a_layer_without_a_rule_does_not_matter_where_it_is_not_chosen(caplog: pytest.LogCaptureFixture) -> None:
    case = cast(case_of(Attended(), 3, 6), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, parameters=["head.*"])
    assert_exact(gradients, case)
    assert gradients.backend == "ghost"
    assert warnings_in(caplog) == []


def test_a_later_batch_that_does_not_fit_falls_back_as_well() -> None:
    case = cast(case_of(PositionsFirst(), 1, 6, rows=1), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses)
    gradients(case.batch)
    assert gradients.backend == "ghost"
    wide = cast(case_of(PositionsFirst(), 3, 6, rows=5), torch.float64)
    assert_exact(gradients, Case(case.model, case.losses, wide.batch))
    assert gradients.backend == "vmap"
