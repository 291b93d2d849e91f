"""A shortlist merged from any layout of the pool is the head of one full sort."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydelt.active.shortlist import Shortlist
from raydelt.errors import InputError


def table(utilities: Sequence[float], ids: Sequence[str] | None = None) -> pa.Table:
    names = list(ids) if ids is not None else [f"id {i:03d}" for i in range(len(utilities))]
    columns = {
        "example_id": pa.array(names, pa.string()),
        "utility": pa.array(utilities, pa.float64()),
        "row": pa.array(range(len(names)), pa.int64()),
    }
    return pa.table(columns)


def best(shortlist: Shortlist, parts: Sequence[pa.Table]) -> pa.Table:
    states = [shortlist.add(shortlist.zero(), part) for part in parts]
    return shortlist.finish(functools.reduce(shortlist.merge, states, shortlist.zero()))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([-1.5, 0.0, -0.0, 0.25, 3.0]), min_size=1, max_size=40),
    st.integers(1, 45),
    st.booleans(),
    st.lists(st.integers(0, 40), max_size=5),
    st.randoms(use_true_random=False),
)
def test_any_layout_gives_the_head_of_a_full_sort(
    utilities: list[float], size: int, highest: bool, cuts: list[int], random: object
) -> None:
    whole = table(utilities)
    order = sorted(range(len(utilities)), key=lambda i: (-utilities[i] if highest else utilities[i], i))
    shuffled = np.array(sorted(range(len(utilities)), key=lambda _: random.random()))  # type: ignore[attr-defined]
    edges = [0, *sorted(min(cut, len(utilities)) for cut in cuts), len(utilities)]
    parts = [whole.take(shuffled[low:high]) for low, high in itertools.pairwise(edges)]
    shortlist = Shortlist(size, highest)
    found = best(shortlist, parts)
    assert found["row"].to_pylist() == order[:size]
    assert best(shortlist, parts[::-1]).equals(found)


def test_one_batch_after_the_other_gives_the_same_as_merging() -> None:
    rng = np.random.default_rng(5)
    whole = table(rng.normal(size=300).tolist())
    shortlist = Shortlist(20)
    state = shortlist.zero()
    for batch in whole.to_batches(max_chunksize=37):
        state = shortlist.add(state, batch)
    assert shortlist.finish(state).equals(best(shortlist, [whole]))


def test_columns_travel_along() -> None:
    features = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8, dtype=np.float32)), 2)
    whole = table([0.1, 0.9, 0.5, 0.7]).append_column("x", features)
    found = best(Shortlist(2), [whole.slice(0, 2), whole.slice(2)])
    assert found["x"].to_pylist() == [[2.0, 3.0], [6.0, 7.0]]


def test_an_empty_part_changes_nothing_and_an_empty_pool_gives_no_rows() -> None:
    empty = table([])
    assert best(Shortlist(3), [empty]).num_rows == 0
    assert best(Shortlist(3), [empty, table([1.0]), empty])["row"].to_pylist() == [0]
    with pytest.raises(InputError, match="no parts"):
        Shortlist(3).finish(Shortlist(3).zero())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_utility_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="1 of 2 scores are not finite"):
        best(Shortlist(1), [table([0.5, value])])


def test_missing_columns_and_a_size_of_0_are_refused() -> None:
    with pytest.raises(InputError, match="'utility'"):
        best(Shortlist(1), [table([0.5]).drop_columns("utility")])
    with pytest.raises(InputError, match="at least 1"):
        Shortlist(0)
