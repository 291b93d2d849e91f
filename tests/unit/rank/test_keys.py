"""Keys order scores and ids as Python orders them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydelt.errors import InputError
from raydelt.rank import keys

FINITE = st.floats(allow_nan=False, allow_infinity=False)
# Few letters and shared prefixes, so that ids tie for long; NUL and letters of several bytes of UTF-8.
IDS = st.one_of(
    st.text(max_size=20),
    st.text("ab\0é漢🙂", max_size=12),
    st.builds("shared-prefix-of-some-length/{}".format, st.text("01", max_size=10)),
    st.text("0123456789abcdef", min_size=32, max_size=32),
)


@given(st.lists(FINITE, min_size=1))
def test_score_keys_order_as_floats_do(values: list[float]) -> None:
    found = keys.score_keys(np.array(values))
    for a, key_a in zip(values, found.tolist(), strict=True):
        for b, key_b in zip(values[:10], found[:10].tolist(), strict=True):
            assert (key_a < key_b) == (a < b)


def test_negative_zero_is_zero() -> None:
    zero = keys.score_keys(np.array([0.0, -0.0, 5e-324, -5e-324])).tolist()
    assert zero[0] == zero[1]
    assert zero[3] < zero[0] < zero[2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="1 of 3 scores are not finite"):
        keys.score_keys(np.array([1.0, bad, 2.0]))


@given(st.lists(IDS, min_size=1), st.integers(0, 3))
def test_words_and_length_are_the_ids_bytes(ids: list[str], start: int) -> None:
    array = pa.array(["dropped", *ids], pa.string())[1:]
    encoded = [key.encode() for key in ids]
    for j in range(5):
        low = start + 8 * j
        expected = [int.from_bytes(key[low : low + 8].ljust(8, b"\0"), "big") for key in encoded]
        assert keys.id_words(array, j, start=start).tolist() == expected
    assert keys.id_lengths(array).tolist() == [len(key) for key in encoded]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, -0.0, -1.5, 2.0]), IDS), unique_by=lambda r: r[2]))
def test_the_order_is_that_of_tuples(rows: list[tuple[int, float, str]]) -> None:
    level = np.array([row[0] for row in rows], np.uint8)
    key = keys.score_keys(np.array([row[1] for row in rows]))
    found = keys.order(level, key, pa.array([row[2] for row in rows], pa.string()))
    assert [rows[i] for i in found] == sorted(rows)


def test_the_order_of_content_ids_is_that_of_lexsort() -> None:
    generator = np.random.default_rng(0)
    names = [generator.bytes(16).hex() for _ in range(5000)]
    level, score = generator.integers(0, 4, 5000).astype(np.uint8), generator.integers(-3, 3, 5000) / 2
    found = keys.order(level, keys.score_keys(score), pa.array(names))
    assert found.tolist() == np.lexsort((np.array(names), score, level)).tolist()


@given(st.lists(IDS, min_size=1), st.data())
def test_take_is_the_arrows_own(ids: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1)))
    array = pa.array(["sliced off", *ids], pa.string())[1:]
    assert keys.take(array, np.array(rows, np.int64)).to_pylist() == [ids[i] for i in rows]


def test_levels_follow_eligibility_then_the_gate() -> None:
    table = pa.table({"eligible": [False, False, True, True], "gate": [False, True, False, True]})
    assert keys.levels(table).tolist() == [0, 1, 2, 3]
    assert keys.levels(pa.table({"score": [1.0, 2.0]})).tolist() == [3, 3]


def test_hashes_of_ids_do_not_depend_on_their_neighbours() -> None:
    names = ["a", "b" * 31, "c" * 400, "", "é"]
    alone = [int(keys.id_hashes(pa.array([name]))[0]) for name in names]
    assert len(set(alone)) == len(names)
    assert keys.id_hashes(pa.array(names)).tolist() == alone
