"""What lies around the mathematics: positions without a batch, frozen parameters, audits, shapes, refusals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from raydelt.errors import SpecError
from raydelt.gradients import PerExampleGradients, Sketch
from tests.unit.gradients.networks import (
    RULED,
    Transformer,
    case_of,
    classified,
    conv2d,
    integers,
    mlp,
    next_token,
    spread,
    texts,
    transformer,
)
from tests.unit.gradients.oracle import (
    Case,
    assert_exact,
    cast,
    directions,
    norm_error,
    norms_of,
    sketch_error,
    true_gradients,
)
from tests.unit.gradients.test_gradient_fallbacks import Attended, OddRMSNorm, TiedByFunction, between, of_words
from tests.unit.gradients.test_gradient_index import (
    PACKED,
    SPANNING,
    Layout,
    Positionwise,
    Transposed,
    in_place,
    index_of,
)
from tests.unit.gradients.test_gradient_index import case_of as packed_case


# As many tokens as rows.
def test_ghost_is_right_for_as_many_tokens_as_rows() -> None:
    case = cast(transformer(rows=8, length=8), torch.float64)
    assert_exact(PerExampleGradients(case.model, case.losses, backend="ghost"), case)


def test_a_first_batch_of_one_token_does_not_settle_what_positions_are() -> None:
    case = cast(transformer(rows=8, length=8), torch.float64)

    def losses(forward: Callable[..., Any], batch: Any) -> Tensor:
        logits = forward(batch["ids"], batch["mask"])
        return functional.cross_entropy(logits.transpose(1, 2), batch["ids"], reduction="none").sum(1)

    case = case._replace(losses=losses)
    gradients = PerExampleGradients(case.model, losses)
    gradients({name: tensor[:1, :1] for name, tensor in case.batch.items()})
    assert_exact(gradients, case)


def test_a_small_share_of_the_norm_is_found_out_as_well() -> None:
    torch.manual_seed(0)
    model = Transformer(layers=12, width=64, vocabulary=1000).eval()
    case = Case(model, next_token, {"ids": integers(1000, 12, 12, seed=0), "mask": torch.ones(12, 12)})
    gradients, truth, sketch = PerExampleGradients(model, next_token), true_gradients(case), Sketch(64)
    found = gradients(case.batch, sketch=sketch)
    assert norm_error(found.norms, norms_of(truth)) <= 1e-5
    assert sketch_error(found.sketches, truth, sketch) <= 1e-5


# ghost asked for is not audited.
@pytest.mark.parametrize("make", [between(OddRMSNorm(5)), lambda: of_words(TiedByFunction(), 9)])
def test_ghost_asked_for_refuses_what_it_gets_wrong(make: Callable[[], Case]) -> None:
    case = make()
    with pytest.raises(SpecError):
        PerExampleGradients(case.model, case.losses, backend="ghost")(case.batch)


# Uses of the positions of another shape than [n, T, d].
class Unsqueezed(Transformer):
    def placed(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))[None]


class Expanded(Transformer):
    def placed(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1])).unsqueeze(0).expand(len(ids), -1, -1)


class Repeated(Transformer):
    def placed(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1])).repeat(len(ids), 1, 1)


class RepeatedRows(Transformer):
    def placed(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1])[None]).repeat(len(ids), 1, 1)


class TransposedPlaces(Transformer):
    def placed(self, ids: Tensor) -> Tensor:
        return (self.tokens(ids).mT + self.positions(torch.arange(ids.shape[1])).T).mT


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("kind", [Unsqueezed, Expanded, Repeated, RepeatedRows, TransposedPlaces])
def test_positions_may_be_used_in_any_shape(kind: type[Transformer], rows: int) -> None:
    case = cast(Case(spread(kind()), next_token, texts(rows, 8)), torch.float64)
    assert_exact(PerExampleGradients(case.model, case.losses), case)


# A chosen layer that runs without gradients.
class Detached(nn.Module):
    def __init__(self, *, added: bool) -> None:
        super().__init__()
        self.body, self.head, self.added = nn.Linear(6, 6), nn.Linear(6, 4), added

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = torch.tanh(self.body(x))
        return self.head(y + torch.sin(self.body(x)) if self.added else y)


@pytest.mark.parametrize("added", [True, False])
def test_a_use_without_gradients_does_not_count(added: bool) -> None:
    case = cast(case_of(Detached(added=added), 6), torch.float64)
    assert_exact(PerExampleGradients(case.model, case.losses), case)


# Called under no_grad.
def test_a_call_without_gradients_is_no_matter() -> None:
    case = cast(mlp(), torch.float64)
    truth = norms_of(true_gradients(case))
    with torch.no_grad():
        found = PerExampleGradients(case.model, case.losses)(case.batch)
    assert norm_error(found.norms, truth) <= 1e-10


# Chosen parameters that do not train.
@pytest.mark.parametrize("backend", ["auto", "loop"])
def test_a_frozen_parameter_may_be_chosen_by_name(backend: str) -> None:
    case = cast(mlp(), torch.float64)
    case.model[0].weight.requires_grad_(False)
    gradients = PerExampleGradients(case.model, case.losses, parameters=["0.weight"], backend=backend)
    assert_exact(gradients, case)


def test_the_total_of_a_frozen_last_layer() -> None:
    case = cast(mlp(), torch.float64)
    case.model.requires_grad_(False)
    gradients = PerExampleGradients(case.model, case.losses, parameters="last_layer")
    total = gradients.total([case.batch])
    for name, g in true_gradients(case, gradients.shapes).items():
        torch.testing.assert_close(total[name], g.sum(0))


def test_only_what_the_loss_does_not_reach_trains() -> None:
    case = cast(RULED["unreached"](), torch.float64)
    case.model.requires_grad_(False)
    case.model.idle.requires_grad_(True)
    assert not PerExampleGradients(case.model, case.losses)(case.batch).norms.any()


# The last layer by another backend, and its total.
@pytest.mark.parametrize("backend", ["vmap", "loop"])
def test_every_backend_counts_the_same_uses_of_a_tied_last_layer(backend: str) -> None:
    case = cast(transformer(tied=True), torch.float64)
    one, other = (
        PerExampleGradients(case.model, case.losses, parameters="last_layer", backend=b)(case.batch).norms
        for b in ("ghost", backend)
    )
    assert norm_error(other, one) <= 1e-10


def test_the_total_counts_the_same_uses_of_a_tied_last_layer() -> None:
    case = cast(transformer(tied=True), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, parameters="last_layer")
    [vector] = directions(gradients.shapes, 1, torch.float64)
    total = gradients.total([case.batch])
    expected = sum((total[name] * vector[name]).sum() for name in total)
    torch.testing.assert_close(gradients(case.batch, vectors=[vector]).dots.sum(), expected)


# Parameters without dimensions.
class Tempered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.temperature = nn.Linear(6, 4), nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.temperature


@pytest.mark.parametrize("backend", ["auto", "vmap", "loop"])
def test_a_parameter_may_be_a_single_number(backend: str) -> None:
    case = cast(case_of(Tempered(), 6), torch.float64)
    assert_exact(PerExampleGradients(case.model, case.losses, backend=backend), case)


# Errors within rules.
class GatedRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.weight * functional.silu(gate) * functional.rms_norm(x, (5,))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.head = nn.Linear(6, 5), nn.Linear(6, 5), GatedRMSNorm(), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.a(x), self.b(x)))


def test_a_norm_of_two_inputs_falls_back() -> None:
    case = cast(case_of(Gated(), 6), torch.float64)
    assert_exact(PerExampleGradients(case.model, case.losses), case)


# Layers within packed rows that are not [rows, T, ...].
class Summarised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.gate(x.mean(1)))[:, None]


@pytest.mark.parametrize("layout", [PACKED, SPANNING])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Positionwise(Transposed(), nn.BatchNorm1d(6), Transposed()),
        lambda: Positionwise(nn.LayerNorm([8, 6])),
        lambda: Positionwise(nn.Unflatten(2, (2, 3)), Transposed(), nn.RMSNorm(3), Transposed(), nn.Flatten(2)),
        lambda: Positionwise(Summarised()),
    ],
)
def test_layers_that_cannot_be_taken_apart_fall_back(make: Callable[[], nn.Module], layout: Layout) -> None:
    case = packed_case(make(), layout)
    assert_exact(PerExampleGradients(case.model, case.losses), case, in_place(case), index=index_of(layout))


# Leaves that are not the model's.
@pytest.mark.parametrize("backend", ["auto", "ghost"])
def test_gradients_of_what_is_not_the_model_s_are_left_alone(backend: str) -> None:
    case, head = mlp(), nn.Linear(4, 4)

    def losses(forward: Callable[..., Any], batch: Any) -> Tensor:
        return functional.cross_entropy(head(forward(batch["x"])), batch["y"], reduction="none")

    x = case.batch["x"].clone().requires_grad_()
    PerExampleGradients(case.model, losses, backend=backend)({**case.batch, "x": x})
    assert head.weight.grad is None
    assert x.grad is None


# A batch of nothing.
@pytest.mark.parametrize("backend", ["auto", "vmap", "loop"])
@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_a_batch_of_nothing_has_no_gradients(name: str, backend: str) -> None:
    case = RULED[name]()
    empty = {key: tensor[:0] for key, tensor in case.batch.items()}
    found = PerExampleGradients(case.model, case.losses, backend=backend)(empty)
    assert found.norms.shape == (0,)


# Training mode after construction, and randomness that is not a Dropout module.
@pytest.mark.parametrize("make", [conv2d, lambda: case_of(nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), 6)])
def test_training_mode_is_refused_when_it_matters(make: Callable[[], Case]) -> None:
    case = make()
    gradients = PerExampleGradients(case.model, case.losses)
    case.model.train()
    with pytest.raises(SpecError):
        gradients(case.batch)


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.head(x), 0.5, self.training)


def attended_with_dropout() -> nn.Module:
    model = Attended()
    model.mix.dropout = 0.5
    return model


@pytest.mark.parametrize(("model", "shape"), [(Dropping(), (6,)), (attended_with_dropout(), (3, 6))])
def test_randomness_of_any_kind_is_refused(model: nn.Module, shape: tuple[int, ...]) -> None:
    case = case_of(model, *shape)
    model.train()
    with pytest.raises(SpecError):
        PerExampleGradients(model, case.losses)(case.batch)


# The last layer is not audited.
def test_a_normalised_last_layer_is_right() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.utils.weight_norm(nn.Linear(5, 4))).double()
    batch = {"x": torch.randn(5, 6).double(), "y": integers(4, 5)}
    found, expected = (
        PerExampleGradients(model, classified, parameters="last_layer", backend=b)(batch).norms
        for b in ("auto", "loop")
    )
    assert norm_error(found, expected) <= 1e-10


def test_a_last_layer_that_does_not_run_is_refused() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.auxiliary = nn.Linear(6, 4), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)

    case = case_of(Auxiliary(), 6)
    with pytest.raises(SpecError):
        PerExampleGradients(case.model, case.losses, parameters="last_layer")(case.batch)


# Reentrant checkpoints.
class Reentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, self.first(x), use_reentrant=True))


def test_a_reentrant_checkpoint_is_refused_in_one_sentence() -> None:
    case = case_of(Reentrant(), 6)
    with pytest.raises(SpecError):
        PerExampleGradients(case.model, case.losses)(case.batch)


# An audit of examples without a gradient.
def test_an_audit_looks_at_examples_that_have_a_gradient() -> None:
    case = cast(between(OddRMSNorm(5))(), torch.float64)
    weights = torch.tensor([0, 1, 1, 1, 0], dtype=torch.float64)

    def losses(forward: Callable[..., Any], batch: Any) -> Tensor:
        return case.losses(forward, batch) * batch["weight"]

    weighted = Case(case.model, losses, case.batch | {"weight": weights})
    found = PerExampleGradients(case.model, losses)(weighted.batch)
    assert norm_error(found.norms[1:4], norms_of(true_gradients(weighted))[1:4]) <= 1e-10


# Losses of the wrong shape.
@pytest.mark.parametrize("backend", ["auto", "ghost", "vmap", "loop"])
def test_a_single_loss_for_the_batch_is_refused_in_one_sentence(backend: str) -> None:
    case = mlp()
    with pytest.raises(SpecError):
        PerExampleGradients(case.model, lambda f, b: case.losses(f, b).mean(), backend=backend)(case.batch)


# Vectors of unknown names.
def test_a_vector_of_no_parameter_is_refused() -> None:
    case = mlp()
    with pytest.raises(SpecError, match=r"0\.wieght"):
        PerExampleGradients(case.model, case.losses)(case.batch, vectors=[{"0.wieght": torch.ones(9, 6)}])


# Cancelling positions, in single precision.
def test_positions_that_cancel_keep_their_digits() -> None:
    from raydelt.gradients.terms import Outer, materialise, norms_and_dots

    torch.manual_seed(0)
    p, q = torch.randn(4, 24, 64, dtype=torch.float64), torch.randn(4, 24, 64, dtype=torch.float64)
    p -= p.mean(1, keepdim=True)
    q[:, :, 0] += 1000
    p, q = p.float(), q.float()
    expected = materialise([Outer(p.double(), q.double())], (64, 64)).flatten(1).norm(dim=1)
    found, _ = norms_and_dots([Outer(p, q)], (64, 64), None)
    assert norm_error(found.sqrt(), expected) <= 1e-5
