"""A sketch is a linear map drawn from a seed that keeps inner products in expectation, computed three ways."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydelt.gradients import Sketch
from tests.unit.gradients.networks import integers, random

SEEDS = 200


def doubles(*shape: int, seed: int = 1) -> Tensor:
    return random(*shape, seed=seed).double()


def outer(p: Tensor, q: Tensor) -> Tensor:
    return torch.einsum("nta,ntb->nab", p, q)


def table(ids: Tensor, q: Tensor, count: int) -> Tensor:
    return outer(torch.nn.functional.one_hot(ids, count).to(q.dtype), q)


@pytest.mark.parametrize("shape", [(), (7,), (5, 4), (6, 3, 2, 2)])
def test_a_seed_names_the_sketch(shape: tuple[int, ...]) -> None:
    value = doubles(3, *shape)
    sketch = Sketch(16, seed=4)
    found = sketch.dense(value, "a")
    assert found.shape == (3, 16)
    assert torch.equal(sketch.dense(value, "a"), found)
    assert torch.equal(Sketch(16, seed=4).dense(value, "a"), found)


def test_another_seed_name_or_size_gives_another_sketch() -> None:
    value = doubles(3, 5, 4)
    found = Sketch(16, seed=4).dense(value, "a")
    assert not torch.equal(Sketch(16, seed=5).dense(value, "a"), found)
    assert not torch.equal(Sketch(16, seed=4).dense(value, "b"), found)
    assert not torch.equal(Sketch(17, seed=4).dense(value, "a")[:, :16], found)


def test_what_was_sketched_before_does_not_matter() -> None:
    used, fresh = Sketch(16), Sketch(16)
    for size in (3, 9):
        used.dense(doubles(2, size, 4), "a")
    used.outer(doubles(2, 3, 5), doubles(2, 3, 4), "b")
    value = doubles(3, 5, 4)
    assert torch.equal(used.dense(value, "a"), fresh.dense(value, "a"))


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_sketch_is_linear(name: str) -> None:
    x, y, sketch = doubles(3, 5, 4), doubles(3, 5, 4, seed=2), Sketch(8)
    expected = 2 * sketch.dense(x, name) - 3 * sketch.dense(y, name)
    torch.testing.assert_close(sketch.dense(2 * x - 3 * y, name), expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 4),
    positions=st.integers(1, 6),
    a=st.integers(1, 9),
    b=st.integers(1, 9),
    k=st.integers(1, 33),
    seed=st.integers(0, 1000),
)
def test_factors_have_the_sketch_of_their_product(n: int, positions: int, a: int, b: int, k: int, seed: int) -> None:
    p, q, sketch = doubles(n, positions, a, seed=seed), doubles(n, positions, b, seed=seed + 1), Sketch(k, seed=seed)
    expected = sketch.dense(outer(p, q), "w")
    torch.testing.assert_close(sketch.outer(p, q, "w"), expected, rtol=1e-10, atol=1e-10)
    ids = integers(a, n, positions, seed=seed)
    expected = sketch.dense(table(ids, q, a), "w")
    torch.testing.assert_close(sketch.rows(ids, q, a, "w"), expected, rtol=1e-10, atol=1e-10)


def test_the_factors_of_a_convolution_have_the_sketch_of_its_kernel() -> None:
    p, q, sketch = doubles(3, 7, 5), doubles(3, 7, 12, seed=2), Sketch(10)
    expected = sketch.dense(outer(p, q).reshape(3, 5, 3, 2, 2), "w")
    torch.testing.assert_close(sketch.outer(p, q, "w"), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [1, 3, 10**9])
def test_the_chunks_of_a_sketch_do_not_matter(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = doubles(9, 4, 5), doubles(9, 4, 3, seed=2)
    expected = Sketch(8).outer(p, q, "w")
    monkeypatch.setattr("raydelt.gradients.sketch.CHUNK_BYTES", size * 16 * 8 * 4)
    torch.testing.assert_close(Sketch(8).outer(p, q, "w"), expected, rtol=1e-12, atol=1e-12)


def test_one_dimension_is_a_signed_sum() -> None:
    x = doubles(4, 5, 3)
    signs = Sketch(1).dense(torch.eye(15, dtype=torch.float64).reshape(15, 5, 3), "w")[:, 0]
    assert set(signs.tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(Sketch(1).dense(x, "w")[:, 0], x.flatten(1) @ signs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [0, -1])
def test_a_sketch_without_dimensions_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="at least one dimension"):
        Sketch(k)


def test_every_coordinate_goes_to_one_bucket_with_one_sign() -> None:
    units = torch.eye(24, dtype=torch.float64).reshape(24, 6, 4)
    found = Sketch(8, seed=3).dense(units, "w")
    assert ((found != 0).sum(1) == 1).all()
    assert (found.abs().sum(1) == 1).all()


def products(x: Tensor, y: Tensor, k: int) -> Tensor:
    """<Sx, Sy> over many seeds."""
    sketches = [Sketch(k, seed=seed).dense(torch.stack([x, y]), "w") for seed in range(SEEDS)]
    return torch.stack([s[0] @ s[1] for s in sketches])


def pairs(shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Vectors that are the same, unrelated, and related; and of one sign, where collisions without signs add up."""
    x, noise = doubles(*shape), doubles(*shape, seed=2)
    return [(x, x), (x, noise), (x, x + noise), (x.abs(), x.abs()), (x.abs(), noise.abs())]


@pytest.mark.parametrize("k", [1, 16, 64])
@pytest.mark.parametrize("shape", [(300,), (20, 15), (8, 3, 3, 3)])
def test_inner_products_are_kept_in_expectation(shape: tuple[int, ...], k: int) -> None:
    for x, y in pairs(shape):
        found = products(x, y, k)
        assert abs(float(found.mean() - (x * y).sum())) <= 4 * float(found.std()) / math.sqrt(SEEDS) + 1e-9


@pytest.mark.parametrize("k", [16, 64])
@pytest.mark.parametrize("shape", [(300,), (20, 15), (8, 3, 3, 3)])
def test_the_variance_of_an_inner_product_falls_with_the_dimensions(shape: tuple[int, ...], k: int) -> None:
    for x, y in pairs(shape)[:3]:
        assert float(products(x, y, k).var()) <= 3 * float(x.square().sum() * y.square().sum()) / k


def test_a_matrix_of_rank_one_is_the_hard_case_and_still_within_bounds() -> None:
    """Its coordinates share their rows' and columns' hashes; its bound is 2 + 3^2 instead of 3."""
    x, y = (outer(doubles(1, 1, 20, seed=s), doubles(1, 1, 15, seed=s + 7))[0] for s in (1, 2))
    found = products(x, y, 32)
    assert abs(float(found.mean() - (x * y).sum())) <= 4 * float(found.std()) / math.sqrt(SEEDS)
    assert float(found.var()) <= 11 * float(x.square().sum() * y.square().sum()) / 32


def test_the_sketches_of_two_parameters_are_uncorrelated() -> None:
    x = doubles(1, 40)
    found = torch.stack([(s.dense(x, "a") * s.dense(x, "b")).sum() for s in map(sketch_of_seed, range(SEEDS))])
    assert abs(float(found.mean())) <= 4 * float(found.std()) / math.sqrt(SEEDS)


def sketch_of_seed(seed: int) -> Sketch:
    return Sketch(16, seed=seed)
