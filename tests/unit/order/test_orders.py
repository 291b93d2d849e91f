"""Orders are permutations, and equal their definitions by lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydelt.config import Order
from raydelt.errors import SpecError
from raydelt.order.orders import folding, permuted, positions


def naive_folding(n: int, layers: int) -> list[int]:
    """Ranks in the order of emission: every L-th from 0, then from 1, …"""
    return [rank for layer in range(layers) for rank in range(layer, n, layers)]


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 7, 64])
def test_folding_equals_its_definition_by_slicing(layers: int) -> None:
    for n in range(1, 400):
        emitted = np.empty(n, np.int64)
        emitted[folding(np.arange(n), n, layers)] = np.arange(n)
        assert emitted.tolist() == naive_folding(n, layers)


@pytest.mark.parametrize("layers", [1, 50, 51])
def test_folding_with_one_layer_or_a_layer_per_example_is_sorted(layers: int) -> None:
    n = 50
    assert folding(np.arange(n), n, layers).tolist() == list(range(n))


@given(n=st.integers(1, 5000), seed=st.integers(0, 2**31))
def test_shuffled_is_a_permutation(n: int, seed: int) -> None:
    assert sorted(permuted(np.arange(n), n, seed, "x").tolist()) == list(range(n))


@given(n=st.integers(2, 3000), seed=st.integers(0, 1000))
def test_a_position_does_not_depend_on_which_ranks_are_asked_together(n: int, seed: int) -> None:
    whole = permuted(np.arange(n), n, seed)
    assert permuted(np.array([n // 2]), n, seed)[0] == whole[n // 2]


def test_shuffled_places_are_close_to_uniform() -> None:
    n, draws = 8, 4000
    counts = np.zeros((n, n))
    for seed in range(draws):
        counts[np.arange(n), permuted(np.arange(n), n, seed)] += 1
    chi_square = ((counts - draws / n) ** 2 / (draws / n)).sum()
    # 49 degrees of freedom: above 100 has a probability below 1e-4.
    assert chi_square < 100


def test_different_seeds_give_different_orders() -> None:
    n = 1000
    assert permuted(np.arange(n), n, 1).tolist() != permuted(np.arange(n), n, 2).tolist()


def test_more_layers_than_examples_is_refused_with_the_cure() -> None:
    with pytest.raises(SpecError, match=r"order\.layers 9 .* use at most 4"):
        positions(np.arange(4), 4, Order(method="folding", layers=9), seed=0)


def test_sorted_goes_from_low_to_high_scores() -> None:
    assert positions(np.arange(5), 5, Order(method="sorted"), seed=0).tolist() == [0, 1, 2, 3, 4]
