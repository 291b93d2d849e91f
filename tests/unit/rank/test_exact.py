"""The distributed rank equals a sort of everything in one place."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from raydelt.rank import exact


def table_of(gates: list[bool], scores: list[float], ids: list[str]) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "example_id": pa.array(ids, pa.string()),
            "score": pa.array(scores, pa.float64()),
            "score_se": pa.nulls(n, pa.float64()),
            "gate": pa.array(gates, pa.bool_()),
            "label": pa.nulls(n, pa.int32()),
            "part": pa.array(np.zeros(n, np.int32)),
            "part_row": pa.array(np.arange(n, dtype=np.int32)),
        }
    )


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, -0.5, 0.25, 1.0, 7.5])), min_size=1, max_size=120),
    parts=st.integers(1, 6),
    ranges=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_ranks_equal_a_plain_sort_for_any_parts_and_ranges(
    rows: list[tuple[bool, float]], parts: int, ranges: int, seed: int
) -> None:
    ids = [f"{i:04d}" for i in np.random.default_rng(seed).permutation(len(rows))]
    expected = sorted((gate, score, key) for (gate, score), key in zip(rows, ids, strict=True))
    shares = np.array_split(np.arange(len(rows)), parts)
    tables = [
        table_of([rows[i][0] for i in own], [rows[i][1] for i in own], [ids[i] for i in own]).sort_by(exact.SORT_KEY)
        for own in shares
    ]
    at = exact.splitters([key for table in tables for key in exact.sample_keys(table, 4)], ranges)
    pieces = [exact.cut(table, at) for table in tables]
    below, found = 0, []
    for r in range(ranges):
        own = [piece[r] for piece in pieces]
        ranked = exact.ranked(own, below=below, total=len(rows))
        below += ranked.num_rows
        found += ranked.to_pylist()
    assert [row["example_id"] for row in found] == [key for _, _, key in expected]
    assert [row["rank"] for row in found] == list(range(len(rows)))


def test_equal_scores_are_ranked_by_id() -> None:
    ranked = exact.ranked([table_of([True] * 3, [1.0] * 3, ["c", "a", "b"])], below=0, total=3)
    assert ranked["example_id"].to_pylist() == ["a", "b", "c"]


def test_what_fails_the_gate_ranks_below_all_that_pass() -> None:
    ranked = exact.ranked([table_of([False, True], [9.0, -9.0], ["a", "b"])], below=0, total=2)
    assert ranked["example_id"].to_pylist() == ["a", "b"]


def test_percentiles_lie_in_the_middle_of_their_rank() -> None:
    ranked = exact.ranked([table_of([True] * 4, [1.0, 2.0, 3.0, 4.0], list("abcd"))], below=0, total=4)
    assert ranked["percentile"].to_pylist() == [12.5, 37.5, 62.5, 87.5]


def test_the_number_of_ranges_follows_from_the_rows_alone() -> None:
    assert [exact.ranges(n) for n in (0, 1, exact.ROWS_PER_RANGE, exact.ROWS_PER_RANGE + 1)] == [1, 1, 1, 2]
