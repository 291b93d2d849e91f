"""The distributed rank equals a sort of everything in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydelt import cluster
from raydelt.rank import exact, keys

Row = tuple[bool, bool, float, str]
NAMES = ("eligible", "gate", "score", "example_id")


def table_of(rows: Sequence[Row]) -> pa.Table:
    types = (pa.bool_(), pa.bool_(), pa.float64(), pa.string())
    table = pa.table([pa.array([row[i] for row in rows], kind) for i, kind in enumerate(types)], names=NAMES)
    return table.append_column("carried", pa.array([f"with {row[3]}" for row in rows], pa.string()))


def written(index: int, table: pa.Table, below: int) -> tuple[int, pa.Table, int]:
    return index, table, below


def same(table: pa.Table) -> pa.Table:
    return table


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks as plain calls: what Ray adds is tested on a cluster."""

    def calls_of(function: Any, calls: Sequence[tuple[Any, ...]], *_: Any, label: str) -> list[Any]:
        return [function(*call) for call in calls]

    monkeypatch.setattr(cluster, "parallel", calls_of)
    monkeypatch.setattr(cluster, "scatter", calls_of)
    monkeypatch.setattr(cluster, "fetched", list)
    monkeypatch.setattr(cluster, "cpus", lambda: 1)


IDS = st.one_of(st.text("ab\0é", max_size=9), st.text("0123456789abcdef", min_size=32, max_size=32))
ROWS = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([0.0, -0.0, -0.5, 0.25, 1e-300, 7.5]), IDS),
    min_size=1,
    max_size=120,
    unique_by=lambda row: row[3],
)


def rank_of(rows: Sequence[Row], *, parts: int, per_range: int, seed: int = 0) -> list[tuple[int, pa.Table, int]]:
    shares = np.array_split(np.random.default_rng(seed).permutation(len(rows)), parts)
    tables = [table_of([rows[i] for i in own]) for own in shares]
    return exact.rank_rows(tables, same, written, rows=len(rows), rows_per_range=per_range)


@settings(deadline=None)
@given(
    rows=ROWS,
    parts=st.integers(1, 6),
    per_range=st.integers(1, 150),
    seed=st.integers(0, 99),
    tasks=st.sampled_from([2, 256]),
)
def test_ranks_equal_a_plain_sort_for_any_parts_and_ranges(
    rows: list[Row], parts: int, per_range: int, seed: int, tasks: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "SORTING_TASKS", tasks)
        found = rank_of(rows, parts=parts, per_range=per_range, seed=seed)
    assert [index for index, _, _ in found] == list(range(exact.ranges(len(rows), per_range)))
    below = np.cumsum([0, *(table.num_rows for _, table, _ in found)])
    assert [first for _, _, first in found] == below[:-1].tolist()
    whole = pa.concat_tables([table for _, table, _ in found])
    assert whole["example_id"].to_pylist() == [row[3] for row in sorted(rows)]
    assert whole["carried"].to_pylist() == [f"with {row[3]}" for row in sorted(rows)]


@settings(deadline=None)
@given(rows=ROWS, layouts=st.tuples(st.integers(1, 7), st.integers(1, 7)), per_range=st.integers(5, 60))
def test_the_ranges_do_not_depend_on_the_layout(rows: list[Row], layouts: tuple[int, int], per_range: int) -> None:
    found = [rank_of(rows, parts=parts, per_range=per_range, seed=parts) for parts in layouts]
    # -0.0 and 0.0 tie, so compare what the rows say, not the rows' own layout.
    assert [table.to_pylist() for _, table, _ in found[0]] == [table.to_pylist() for _, table, _ in found[1]]


@pytest.mark.parametrize("equal", [True, False])
def test_ranges_are_of_about_equal_size(equal: bool) -> None:
    generator = np.random.default_rng(0)
    rows = [
        (True, True, 0.5 if equal else float(generator.random()), generator.bytes(16).hex()) for _ in range(60_000)
    ]
    sizes = [table.num_rows for _, table, _ in rank_of(rows, parts=3, per_range=10_000)]
    assert len(sizes) == 6
    assert 0.7 * 10_000 < min(sizes) <= max(sizes) < 1.3 * 10_000


def test_a_row_at_a_splitter_belongs_to_the_range_above() -> None:
    level, key = np.array([3, 3, 3], np.uint8), keys.score_keys(np.array([1.0, 1.0, 2.0]))
    at = exact.Splitters(level, key, pa.array(["b", "d", "a"]))
    rows = [(1.0, "a"), (1.0, "b"), (1.0, "c"), (1.0, "d"), (1.5, "a"), (2.0, "a"), (2.0, "b"), (0.0, "z")]
    own = keys.score_keys(np.array([row[0] for row in rows]))
    found = at.range_of(np.full(len(rows), 3, np.uint8), own, pa.array([row[1] for row in rows]))
    assert found.tolist() == [0, 1, 1, 2, 2, 3, 3, 0]
    assert at.range_of(np.array([2], np.uint8), own[:1], pa.array(["a"])).tolist() == [0]


def test_equal_scores_are_ranked_by_id() -> None:
    [(_, table, _)] = rank_of([(True, True, 1.0, key) for key in ("c", "a", "b")], parts=1, per_range=9)
    assert table["example_id"].to_pylist() == ["a", "b", "c"]


def test_what_fails_the_gate_ranks_below_all_that_pass_and_what_is_excluded_below_these() -> None:
    rows = [(False, True, 99.0, "x"), (True, False, 9.0, "a"), (True, True, -9.0, "b")]
    [(_, table, _)] = rank_of(rows, parts=2, per_range=9)
    assert table["example_id"].to_pylist() == ["x", "a", "b"]


def test_percentiles_lie_in_the_middle_of_their_rank() -> None:
    assert exact.percentiles(0, 4, 4).tolist() == [12.5, 37.5, 62.5, 87.5]
    assert exact.percentiles(2, 2, 4).tolist() == [62.5, 87.5]


def test_the_number_of_ranges_follows_from_the_rows_alone() -> None:
    assert [exact.ranges(n) for n in (0, 1, exact.ROWS_PER_RANGE, exact.ROWS_PER_RANGE + 1)] == [1, 1, 1, 2]
