"""Whatever is asked of factors is what the gradient that they stand for would answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydelt.gradients import Sketch, terms
from raydelt.gradients.terms import Dense, Outer, Rows, Term, materialise, norms_and_dots, sketches
from tests.unit.gradients.networks import integers, random


def doubles(*shape: int, seed: int = 1) -> Tensor:
    return random(*shape, seed=seed).double()


def outer(n: int, positions: int, a: int, b: int, seed: int = 0) -> Outer:
    return Outer(doubles(n, positions, a, seed=2 * seed), doubles(n, positions, b, seed=2 * seed + 1))


def rows(n: int, positions: int, a: int, b: int, seed: int = 0) -> Rows:
    return Rows(integers(a, n, positions, seed=seed), doubles(n, positions, b, seed=seed + 500))


def matrix_of(term: Term) -> Tensor:
    """The gradients [n, a, b] of a term, position by position."""
    if isinstance(term, Dense):
        return term.value
    if isinstance(term, Outer):
        return torch.einsum("nta,ntb->nab", term.p, term.q)
    raise AssertionError("the rows of a table have no width of their own")


def truth(parts: Sequence[Term], a: int) -> Tensor:
    tables = [
        Outer(torch.nn.functional.one_hot(part.ids, a).to(part.q.dtype), part.q) if isinstance(part, Rows) else part
        for part in parts
    ]
    return torch.stack([matrix_of(part) for part in tables]).sum(0)


def assert_answers(parts: Sequence[Term], shape: tuple[int, ...], tolerance: float = 1e-10) -> None:
    """Norms, dot products, sketches and the gradients themselves equal those of the sum, taken by position."""
    gradients = truth(parts, shape[0]).reshape(-1, *shape)
    vectors = doubles(3, *shape, seed=99)
    squares, dots = norms_and_dots(parts, shape, vectors)
    assert squares is not None
    assert dots is not None
    assert squares.dtype == dots.dtype == torch.float64
    scale = sum(float(truth([part], shape[0]).square().sum()) for part in parts) + 1e-300
    assert float((squares - gradients.flatten(1).square().sum(1)).abs().max()) <= tolerance * scale
    assert float((dots - gradients.flatten(1) @ vectors.flatten(1).T).abs().max()) <= tolerance * scale**0.5 * 100
    torch.testing.assert_close(materialise(parts, shape), gradients, rtol=1e-10, atol=1e-10)
    sketch = Sketch(8)
    expected = sketch.dense(gradients, "w")
    torch.testing.assert_close(sketches(parts, shape, sketch, "w"), expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=150)
@given(
    n=st.integers(1, 4),
    a=st.integers(1, 9),
    b=st.integers(1, 9),
    outers=st.lists(st.integers(1, 12), max_size=3),
    tables=st.lists(st.integers(1, 12), max_size=2),
    seed=st.integers(0, 10**6),
    cost=st.sampled_from([-(10**9), 0, terms.PASS_COST, 10**9]),
    block=st.integers(1, 12),
    chunk=st.sampled_from([1, 200, 1 << 26]),
)
def test_factors_answer_like_the_gradient_that_they_stand_for(
    n: int, a: int, b: int, outers: list[int], tables: list[int], seed: int, cost: int, block: int, chunk: int
) -> None:
    parts: list[Term] = [outer(n, length, a, b, seed + i) for i, length in enumerate(outers)]
    parts += [rows(n, length, a, b, seed + i) for i, length in enumerate(tables)]
    if not parts:
        parts = [outer(n, 1, a, b, seed)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terms, "PASS_COST", cost)
        patch.setattr(terms, "GRAM_BLOCK", block)
        patch.setattr(terms, "CHUNK_BYTES", chunk)
        assert_answers(parts, (a, b))


def materialised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets an entry whenever gradients are materialised."""
    calls: list[int] = []

    def spy(*args: Any) -> Tensor:
        calls.append(1)
        return materialise(*args)

    monkeypatch.setattr(terms, "materialise", spy)
    return calls


# Shapes (n, T, a, b) of which the first needs no gradient, and the second is cheaper with it.
@pytest.mark.parametrize(("shape", "direct"), [((5, 3, 40, 50), False), ((5, 400, 4, 3), True)])
@pytest.mark.parametrize("kind", ["outer", "rows", "tied"])
def test_both_forms_agree_with_the_gradient(
    kind: str, shape: tuple[int, int, int, int], direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[Term] = [outer(*shape)] if kind == "outer" else [rows(*shape)]
    if kind == "tied":
        parts.append(outer(*shape))
    calls = materialised(monkeypatch)
    assert_answers(parts, shape[2:])
    assert bool(calls) == direct


@pytest.mark.parametrize("make", [outer, rows])
@pytest.mark.parametrize("positions", [1, 31, 33, 130, 257])
def test_the_cost_that_chooses_the_form_does_not_change_the_answer(
    make: Any, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, vectors = [make(3, positions, 12, 10)], doubles(2, 12, 10, seed=5)
    found = []
    for cost, direct in ((10**9, False), (-(10**9), True)):
        monkeypatch.setattr(terms, "PASS_COST", cost)
        calls = materialised(monkeypatch)
        found.append(norms_and_dots(parts, (12, 10), vectors))
        assert bool(calls) == direct
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-9)


def test_a_gradient_beside_factors_is_added_to_them() -> None:
    assert_answers([outer(4, 3, 5, 6), Dense(doubles(4, 5, 6, seed=8)), rows(4, 2, 5, 6)], (5, 6))


@pytest.mark.parametrize("shape", [(7,), (5, 6), (4, 3, 2, 2)])
def test_a_gradient_answers_for_itself(shape: tuple[int, ...]) -> None:
    assert_answers([Dense(doubles(3, *shape))], shape)


def test_a_kernel_keeps_its_shape() -> None:
    assert_answers([outer(3, 9, 4, 12)], (4, 3, 2, 2))


@pytest.mark.parametrize("cost", [-(10**9), 10**9])
def test_terms_that_cancel_leave_rounding_that_is_not_negative(cost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "PASS_COST", cost)
    one, order = outer(64, 7, 5, 6), torch.tensor([3, 1, 6, 0, 5, 2, 4])
    whole, single = (Outer(one.p.to(t), one.q.to(t)) for t in (torch.float64, torch.float32))
    squares, _ = norms_and_dots([single, Outer(-single.p[:, order], single.q[:, order])], (5, 6), None)
    length, _ = norms_and_dots([whole], (5, 6), None)
    assert squares is not None
    assert (squares >= 0).all()
    assert float((squares / length).max()) <= 1e-5


@pytest.mark.parametrize("cost", [-(10**9), 10**9])
def test_norms_and_dot_products_are_independent_of_each_other(cost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "PASS_COST", cost)
    parts, vectors = [outer(3, 4, 5, 6), rows(3, 2, 5, 6)], doubles(2, 5, 6)
    squares, dots = norms_and_dots(parts, (5, 6), vectors)
    only_squares, none = norms_and_dots(parts, (5, 6), None)
    assert none is None
    torch.testing.assert_close(only_squares, squares, rtol=1e-12, atol=0)
    nothing, only_dots = norms_and_dots(parts, (5, 6), vectors, norms=False)
    assert nothing is None
    torch.testing.assert_close(only_dots, dots, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("positions", [5, 40])
def test_single_precision_keeps_six_digits_of_many_positions(positions: int) -> None:
    whole = outer(8, positions, 30, 20)
    single = Outer(whole.p.float(), whole.q.float())
    exact, _ = norms_and_dots([whole], (30, 20), None)
    found, _ = norms_and_dots([single], (30, 20), None)
    torch.testing.assert_close(found, exact, rtol=2e-6, atol=0)
