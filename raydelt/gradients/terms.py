"""The per-example gradient of one parameter as a sum of structured terms, and what can be asked of it.

A layer's gradient for example i is a sum over positions t (tokens, pixels) of outer products:

    G_i = sum_t p_t (x) q_t        linear:    p = gradient of the output, q = input
                                   embedding: p = one-hot of the id,      q = gradient of the output

Several uses of a parameter add terms, so a tied weight is one sum over all its positions. Then

    ||G_i||^2 = sum_{s,t} (p_s . p_t) (q_s . q_t)         Gram form:   T^2 (a + b)
              = || sum_t p_t q_t^T ||_F^2                 direct form: T a b
    <G_i, V>  = sum_t p_t . (V q_t)                       T a b for every V

and the cheaper form is taken. Small parameters (biases, scales of norms) are summed outright. Half-precision inputs
are taken to float32 first; sums over positions end in float64. Source: Goodfellow 2015 (one position), Li et al. 2022
(ghost norms), Pham and Pagh 2013 for the sketch.

Caution: where an example's positions nearly cancel, the Gram form loses the digits that they cancel; such examples are
taken in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from raydelt.gradients.sketch import Sketch

# The most that one chunk of a direct form or a Gram matrix may hold.
CHUNK_BYTES = 64 << 20
GRAM_BLOCK = 32
# One pass over a materialised gradient costs about as much per element as this many multiplications in a product.
PASS_COST = 8
# Below this share of what the norm would be without cancellation, float32 Gram products miss five digits.
CANCELLED = 1e-3


@dataclass(frozen=True)
class Outer:
    """sum_t p_t (x) q_t with p [n, T, a] and q [n, T, b]: the gradient of an [a, b] weight."""

    p: Tensor
    q: Tensor

    @property
    def positions(self) -> int:
        return self.p.shape[1]


@dataclass(frozen=True)
class Rows:
    """sum_t onehot(ids_t) (x) q_t with ids [n, T] and q [n, T, b]: the gradient of an [a, b] table."""

    ids: Tensor
    q: Tensor

    @property
    def positions(self) -> int:
        return self.ids.shape[1]


@dataclass(frozen=True)
class Dense:
    """The gradient itself, [n, *shape]."""

    value: Tensor


Term = Outer | Rows | Dense
Factored = Outer | Rows


def norms_and_dots(
    terms: Sequence[Term], shape: Sequence[int], vectors: Tensor | None, *, norms: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Squared norms [n] and dot products [n, K] with vectors [K, *shape] of one parameter's summed terms, float64."""
    factored = [term for term in terms if not isinstance(term, Dense)]
    count = 0 if vectors is None else len(vectors)
    if len(factored) == len(terms) and _structured_is_cheaper(factored, shape, count, norms=norms):
        return _gram_norms(factored) if norms else None, None if vectors is None else _dots(factored, vectors)
    flat = None if vectors is None else vectors.reshape(len(vectors), -1).T

    def ask(dense: Tensor) -> Tensor:
        columns = [_sum_of_squares(dense)[:, None]] if norms else []
        if flat is not None:
            columns.append((dense.reshape(len(dense), -1) @ flat.to(dense.dtype)).double())
        return torch.cat(columns, dim=1)

    result = _by_chunks(terms, shape, ask)
    return result[:, 0] if norms else None, result[:, int(norms) :] if flat is not None else None


def sketches(terms: Sequence[Term], shape: Sequence[int], sketch: Sketch, name: str) -> Tensor:
    """Sketches [n, k] of the summed terms; `name` seeds the parameter's own hashes."""
    total: Tensor | None = None
    for term in terms:
        if isinstance(term, Outer):
            part = sketch.outer(term.p, term.q, name)
        elif isinstance(term, Rows):
            part = sketch.rows(term.ids, term.q, shape[0], name)
        else:
            part = sketch.dense(term.value, name)
        total = part if total is None else total + part
    assert total is not None
    return total


def _structured_is_cheaper(terms: Sequence[Factored], shape: Sequence[int], vectors: int, *, norms: bool) -> bool:
    """Whether working on the factors takes fewer multiplications than materialising the gradient first."""
    positions = sum(term.positions for term in terms)
    a, b = shape[0], prod(shape[1:])
    dense_sides = any(isinstance(term, Outer) for term in terms)
    gram = positions**2 * ((a if dense_sides else 1) + b) * norms
    products = vectors * positions * (a * b if dense_sides else b)
    direct = positions * (a * b if dense_sides else b) + PASS_COST * (norms + vectors + 1) * a * b
    return gram + products <= direct


def _gram_norms(terms: Sequence[Factored]) -> Tensor:
    """sum over pairs of positions of (p_s . p_t)(q_s . q_t), by blocks of positions; off the diagonal counts twice."""
    if len(terms) == 1 and isinstance(terms[0], Outer) and terms[0].positions == 1:
        return _sum_of_squares(terms[0].p[:, 0]) * _sum_of_squares(terms[0].q[:, 0])
    total = _gram_sum(terms)
    # Where positions nearly cancel, float32 products leave too few digits; those examples are taken in float64.
    lengths = torch.stack([_length_of_parts(term) for term in terms]).sum(0)
    faint = torch.nonzero(total < CANCELLED * lengths.square()).flatten()
    if len(faint) and terms[0].q.dtype != torch.float64:
        total[faint] = _gram_sum([_in_float64(term, faint) for term in terms])
    return total.clamp_(min=0)


def _gram_sum(terms: Sequence[Factored]) -> Tensor:
    blocks = [block for term in terms for block in _blocks(term)]
    total = torch.zeros(len(_side(terms[0])), dtype=torch.float64, device=_side(terms[0]).device)
    for index, block in enumerate(blocks):
        for other in blocks[: index + 1]:
            products = _sum_of_products(_left_products(block, other), torch.bmm(block.q, other.q.transpose(1, 2)))
            total += (1 if block is other else 2) * products
    return total


def _length_of_parts(term: Factored) -> Tensor:
    """sum_t |p_t| |q_t| [n] float64: the norm that a term would have if no position cancelled another."""
    q = torch.linalg.vector_norm(term.q, dim=2)
    lengths: Tensor = q if isinstance(term, Rows) else q * torch.linalg.vector_norm(term.p, dim=2)
    return lengths.sum(1, dtype=torch.float64)


def _in_float64(term: Factored, rows: Tensor) -> Factored:
    if isinstance(term, Outer):
        return Outer(term.p[rows].double(), term.q[rows].double())
    return Rows(term.ids[rows], term.q[rows].double())


def _blocks(term: Factored) -> Iterator[Factored]:
    """The positions of a term in up to four blocks, which saves up to 3/8 of the products by symmetry."""
    size = max(GRAM_BLOCK, -(-term.positions // 4))
    for start in range(0, term.positions, size):
        q = term.q[:, start : start + size]
        if isinstance(term, Outer):
            yield Outer(term.p[:, start : start + size], q)
        else:
            yield Rows(term.ids[:, start : start + size], q)


def _left_products(one: Factored, other: Factored) -> Tensor:
    """(p_s . p_t) [n, S, T] for positions s of `one` and t of `other`."""
    if isinstance(one, Outer) and isinstance(other, Outer):
        return torch.bmm(one.p, other.p.transpose(1, 2))
    if isinstance(one, Rows) and isinstance(other, Rows):
        return (one.ids[:, :, None] == other.ids[:, None, :]).to(one.q.dtype)
    if isinstance(one, Outer) and isinstance(other, Rows):
        index = other.ids[:, None, :].expand(-1, one.positions, -1)
        return torch.gather(one.p, 2, index)
    return _left_products(other, one).transpose(1, 2)


def _by_chunks(terms: Sequence[Term], shape: Sequence[int], ask: Callable[[Tensor], Tensor]) -> Tensor:
    """`ask` of the materialised gradients [m, *shape], a bounded number of examples at a time."""
    size = len(_side(terms[0]))
    step = max(1, CHUNK_BYTES // (4 * max(1, prod(shape))))
    return torch.cat([ask(materialise(taken(terms, slice(low, low + step)), shape)) for low in range(0, size, step)])


def materialise(terms: Sequence[Term], shape: Sequence[int]) -> Tensor:
    """The gradients [n, *shape] of one parameter."""
    total: Tensor | None = None
    for term in terms:
        if isinstance(term, Dense):
            part = term.value
        elif isinstance(term, Outer):
            part = torch.bmm(term.p.transpose(1, 2), term.q).reshape(-1, *shape)
        else:
            part = term.q.new_zeros(len(term.ids), shape[0], term.q.shape[2])
            part.scatter_add_(1, term.ids[:, :, None].expand_as(term.q), term.q)
            part = part.reshape(-1, *shape)
        total = part if total is None else total + part
    assert total is not None
    return total


def _dots(terms: Sequence[Factored], vectors: Tensor) -> Tensor:
    columns = [functools.reduce(torch.add, (_dot(term, vector.flatten(1)) for term in terms)) for vector in vectors]
    return torch.stack(columns, dim=1)


def _dot(term: Factored, matrix: Tensor) -> Tensor:
    matrix = matrix.to(term.q.dtype)
    if isinstance(term, Rows):
        return _sum_of_products(matrix[term.ids], term.q)
    # The product runs towards the smaller side, which leaves less to multiply with afterwards.
    if matrix.shape[0] <= matrix.shape[1]:
        return _sum_of_products(term.q @ matrix.T, term.p)
    return _sum_of_products(term.p @ matrix, term.q)


def _sum_of_squares(x: Tensor) -> Tensor:
    """Sums [n] float64 of the squares of x [n, …]: rows in the type of x, their sums in float64."""
    rows: Tensor = torch.linalg.vector_norm(x.flatten(2) if x.dim() > 2 else x.reshape(len(x), -1), dim=-1)
    return rows.double().square().reshape(len(x), -1).sum(1)


def _sum_of_products(x: Tensor, y: Tensor) -> Tensor:
    """Sums [n] float64 of x * y, both [n, S, T]."""
    return (x * y).sum(2).sum(1, dtype=torch.float64)


def _side(term: Term) -> Tensor:
    return term.value if isinstance(term, Dense) else term.q


def taken(terms: Sequence[Term], rows: Tensor | slice) -> list[Term]:
    """The terms of some of the examples."""
    result: list[Term] = []
    for term in terms:
        if isinstance(term, Dense):
            result.append(Dense(term.value[rows]))
        elif isinstance(term, Outer):
            result.append(Outer(term.p[rows], term.q[rows]))
        else:
            result.append(Rows(term.ids[rows], term.q[rows]))
    return result
