"""Draws are uniform, independent between salts, and pure functions of (seed, salt, id)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from raydelt.examples import content_id, draw_keys, mix, shuffled, uniform

IDS = [content_id(str(i).encode()) for i in range(20_000)]
KEYS = draw_keys(IDS)


def test_draws_are_uniform() -> None:
    u = uniform(KEYS, 7, "test")
    assert kstest(u, "uniform").pvalue > 1e-3
    assert 0 < u.min() < u.max() < 1
    assert chisquare(np.bincount((u * 64).astype(int), minlength=64)).pvalue > 1e-3


def test_sequential_keys_give_uniform_draws_too() -> None:
    assert kstest(uniform(np.arange(20_000, dtype=np.uint64), 0, "x"), "uniform").pvalue > 1e-3


def test_salts_and_seeds_are_independent() -> None:
    base = uniform(KEYS, 7, "a")
    for other in (uniform(KEYS, 7, "b"), uniform(KEYS, 8, "a"), uniform(KEYS, 7, "a", 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.03


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 19_999))
def test_a_draw_does_not_depend_on_the_other_examples(seed: int, row: int) -> None:
    assert uniform(KEYS[row : row + 1], seed, "s")[0] == uniform(KEYS, seed, "s")[row]


def test_mixing_is_one_to_one() -> None:
    assert len(np.unique(mix(np.arange(100_000, dtype=np.uint64), 3, "x"))) == 100_000


def test_shuffling_is_a_permutation_that_follows_the_keys_not_the_rows() -> None:
    order = shuffled(KEYS[:500], 1, "e")
    assert sorted(order.tolist()) == list(range(500))
    back = shuffled(KEYS[:500][::-1], 1, "e")
    assert KEYS[:500][order].tolist() == KEYS[:500][::-1][back].tolist()
