"""Documents that share rows, or span several, have the gradients that each has alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raydelt.errors import SpecError
from raydelt.gradients import GradientBatch, PerExampleGradients, Sketch
from tests.unit.gradients.networks import integers, spread
from tests.unit.gradients.oracle import (
    Batch,
    Case,
    Gradients,
    assert_equal_to,
    assert_exact,
    cast,
    directions,
    true_gradients,
)

ROWS, LENGTH, VOCABULARY = 4, 8, 13
# The positions of the flattened batch that each document has; some belong to none.
Layout = list[list[int]]
PACKED: Layout = [[0, 1, 2], [3, 4, 5, 6, 7], [*range(8, 16)], [16, 17], [18, 19], [20, 21, 22], [25, 26, 27], [30]]
SPANNING: Layout = [[*range(16)], [*range(16, 29)]]
SCATTERED: Layout = [[5, 6, 7, 8, 9], [31, 0, 17], [20]]
LAYOUTS = {"packed": PACKED, "spanning": SPANNING, "scattered": SCATTERED}


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Positionwise(nn.Module):
    """Every position's logits depend on its own id alone."""

    def __init__(self, *layers: nn.Module, head: int = 6) -> None:
        super().__init__()
        self.words, self.layers = nn.Embedding(VOCABULARY, 6), nn.Sequential(*layers)
        self.head = nn.Linear(head, VOCABULARY, bias=False)

    def forward(self, ids: Tensor, _document: Tensor, _place: Tensor) -> Tensor:
        return self.head(self.layers(self.words(ids)))


class Attentive(nn.Module):
    """Attention and positions that begin anew with each document of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, 6), nn.Embedding(LENGTH, 6)
        self.norm, self.qkv, self.head = nn.RMSNorm(6), nn.Linear(6, 18), nn.Linear(6, VOCABULARY)

    def forward(self, ids: Tensor, document: Tensor, place: Tensor) -> Tensor:
        x = self.words(ids) + self.places(place)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        same = (document[:, :, None] == document[:, None, :]) & (place[:, :, None] >= place[:, None, :])
        return self.head(x + functional.scaled_dot_product_attention(q, k, v, attn_mask=same))


class Placed(nn.Module):
    """Positions that all rows share."""

    def __init__(self, *, batched: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, 6), nn.Embedding(LENGTH, 6)
        self.head, self.batched = nn.Linear(6, VOCABULARY), batched

    def forward(self, ids: Tensor, _document: Tensor, _place: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        return self.head(torch.tanh(self.words(ids) + self.places(places[None] if self.batched else places)))


POSITIONWISE: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: Positionwise(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 6)),
    "no-bias": lambda: Positionwise(
        nn.Linear(6, 5, bias=False), nn.RMSNorm(5), nn.Tanh(), nn.Linear(5, 6, bias=False)
    ),
    "heads": lambda: Positionwise(nn.Unflatten(2, (2, 3)), nn.LayerNorm(3), nn.Linear(3, 4), nn.Flatten(2), head=8),
}


def summed(forward: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """The losses of the documents: sums over their positions."""
    logits = forward(batch["ids"], batch["document"], batch["place"])
    each = functional.cross_entropy(
        logits.flatten(0, 1), (batch["ids"].flatten() * 5 + 1) % VOCABULARY, reduction="none"
    )
    owner = batch["document"].flatten()
    count = int(owner.max()) + 1
    return each.new_zeros(count).index_add(0, owner[owner >= 0], each[owner >= 0])


def laid_out(layout: Layout) -> Batch:
    ids, document, place = (torch.full((ROWS * LENGTH,), fill) for fill in (0, -1, 0))
    ids[:] = integers(VOCABULARY, ROWS * LENGTH)
    for number, positions in enumerate(layout):
        document[positions] = number
        place[positions] = torch.arange(len(positions)) % LENGTH
    return {name: t.reshape(ROWS, LENGTH) for name, t in (("ids", ids), ("document", document), ("place", place))}


def index_of(layout: Layout) -> Tensor:
    longest = max(map(len, layout))
    return torch.tensor([[*positions, *[-1] * (longest - len(positions))] for positions in layout])


def alone(case: Case, layout: Layout) -> Gradients:
    """The gradients of the documents, each the only row of a batch of its own."""
    found: list[Gradients] = []
    for positions in layout:
        batch = {name: t.flatten()[positions][None] for name, t in case.batch.items()}
        batch["document"] = torch.zeros_like(batch["document"])
        found.append(true_gradients(case._replace(batch=batch)))
    return {name: torch.cat([g[name] for g in found]) for name in found[0]}


def in_place(case: Case) -> Gradients:
    """The gradients of the documents where they are, for models that mix what is in a row."""
    named = dict(case.model.named_parameters())
    losses = case.losses(case.model, case.batch)
    found = [torch.autograd.grad(loss, list(named.values()), retain_graph=True) for loss in losses]
    return {name: torch.stack(grads) for name, grads in zip(named, zip(*found, strict=True), strict=True)}


def case_of(model: nn.Module, layout: Layout, dtype: torch.dtype = torch.float64) -> Case:
    return cast(Case(spread(model), summed, laid_out(layout)), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", POSITIONWISE)
def test_documents_have_the_gradients_that_they_have_alone(name: str, layout: Layout, dtype: torch.dtype) -> None:
    case = case_of(POSITIONWISE[name](), layout, dtype)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case, alone(case, layout), index=index_of(layout))
    assert gradients.backend == "ghost"


def test_documents_that_do_not_see_each_other_have_the_gradients_that_they_have_alone() -> None:
    case = case_of(Attentive(), PACKED)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case, alone(case, PACKED), index=index_of(PACKED))
    assert gradients.backend == "ghost"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("batched", [True, False])
def test_positions_that_rows_share_are_taken_apart(batched: bool, layout: Layout) -> None:
    case = case_of(Placed(batched=batched), layout)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case, in_place(case), index=index_of(layout))
    assert gradients.backend == "ghost"


def test_rows_by_their_index_are_rows() -> None:
    layout = [[*range(LENGTH * i, LENGTH * (i + 1))] for i in range(ROWS)]
    case = case_of(POSITIONWISE["mlp"](), layout)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case, alone(case, layout), index=index_of(layout))
    by_row = case._replace(losses=lambda forward, batch: summed(forward, batch | {"document": rows_of(batch)}))
    assert_exact(PerExampleGradients(case.model, by_row.losses), by_row, alone(case, layout))


def rows_of(batch: Mapping[str, Tensor]) -> Tensor:
    return torch.arange(len(batch["ids"]))[:, None].expand_as(batch["ids"])


def test_the_order_of_a_document_s_positions_and_the_places_of_its_gaps_do_not_matter() -> None:
    case = case_of(POSITIONWISE["mlp"](), PACKED)
    gradients = PerExampleGradients(case.model, case.losses)
    index = index_of(PACKED)
    gaps = torch.cat([torch.full((len(PACKED), 2), -1), index.flip(1)], 1)
    assert_exact(gradients, case, alone(case, PACKED), index=gaps)


def convolving() -> nn.Module:
    return Positionwise(Transposed(), nn.Conv1d(6, 6, 3, padding=1), Transposed(), nn.Tanh())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_convolution_mixes_positions_and_falls_back(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    case = case_of(convolving(), layout)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case, in_place(case), index=index_of(layout))
    assert gradients.backend == "loop"
    assert "does not work position by position" in caplog.text


@pytest.mark.parametrize(
    ("backend", "message"), [("ghost", "does not work position by position"), ("vmap", "packed rows")]
)
def test_documents_are_refused_where_the_backend_cannot_take_them_apart(backend: str, message: str) -> None:
    case = case_of(convolving(), PACKED)
    with pytest.raises(SpecError, match=message):
        PerExampleGradients(case.model, case.losses, backend=backend)(case.batch, index=index_of(PACKED))


def test_the_loop_takes_documents_apart() -> None:
    case = case_of(POSITIONWISE["mlp"](), PACKED)
    gradients = PerExampleGradients(case.model, case.losses, backend="loop")
    assert_exact(gradients, case, alone(case, PACKED), index=index_of(PACKED))


def test_mathematics_other_than_the_rule_s_is_found_out_in_packed_rows() -> None:
    class OddRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight**2 * functional.rms_norm(x, (6,))

    case = case_of(Positionwise(OddRMSNorm()), PACKED)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case, alone(case, PACKED), index=index_of(PACKED))
    assert gradients.backend == "loop"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_losses_are_those_of_the_documents(layout: Layout) -> None:
    case = case_of(POSITIONWISE["mlp"](), layout)
    gradients = PerExampleGradients(case.model, case.losses)
    vectors, sketch = directions(gradients.shapes, 1, torch.float64), Sketch(8)
    found: GradientBatch = gradients(case.batch, vectors=vectors, sketch=sketch, index=index_of(layout))
    assert_equal_to(alone(case, layout), found, vectors, sketch, 1e-10)
    torch.testing.assert_close(found.losses, case.losses(case.model, case.batch).detach())
