"""A cut found by radix passes keeps what a sort of Python tuples keeps, for any layout of the parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydelt import cluster
from raydelt.errors import InputError
from raydelt.rank import keys, radix
from raydelt.rank.cuts import Bar, Cut


class Row(NamedTuple):
    eligible: bool
    gate: bool
    score: float
    example_id: str
    group: int
    weight: int


def table_of(rows: Sequence[Row]) -> pa.Table:
    types = (pa.bool_(), pa.bool_(), pa.float64(), pa.string(), pa.int32(), pa.int64())
    columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(types)]
    return pa.table(columns, names=list(Row._fields))


def read(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    return table.select([name for name in columns if name in table.column_names])


def split(rows: Sequence[Row], parts: int, seed: int) -> list[pa.Table]:
    """The rows in another order, in parts of any size, some empty."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(rows))
    edges = np.sort(generator.integers(0, len(rows) + 1, parts - 1))
    return [table_of([rows[i] for i in own]) for own in np.split(order, edges)]


def kept_by_sorting(rows: Sequence[Row], budget: Sequence[int], *, by_weight: bool) -> set[str]:
    """The oracle: sort everything, and take from the top."""
    kept = set()
    for group, most in enumerate(budget):
        own = sorted((r for r in rows if r.group == group and r.eligible), key=lambda r: r[1:4], reverse=True)
        if not by_weight:
            kept |= {row.example_id for row in own[:most]}
            continue
        total = np.cumsum([row.weight for row in own])
        kept |= {row.example_id for row, reached in zip(own, total, strict=True) if reached <= most}
    return kept


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks as plain calls: what Ray adds is tested on a cluster."""

    def parallel(function: Any, calls: Sequence[tuple[Any, ...]], *, label: str) -> list[Any]:
        return [function(*call) for call in calls]

    monkeypatch.setattr(cluster, "parallel", parallel)


IDS = st.one_of(
    st.text("ab\0é漢", max_size=12),
    st.builds("prefix/of/all/{}".format, st.text("01", max_size=10)),
    st.text("0123456789abcdef", min_size=32, max_size=32),
)
SCORES = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e300]), st.floats(-1, 1, width=16))
ROWS = st.lists(
    st.builds(Row, st.booleans(), st.booleans(), SCORES, IDS, st.integers(0, 2), st.integers(0, 5)),
    min_size=1,
    max_size=60,
    unique_by=lambda row: row.example_id,
)


def found_by_radix(parts: list[pa.Table], budget: Sequence[int], *, weight: str | None, gather: int) -> set[str]:
    source = radix.Source(parts, read, group="group", groups=len(budget), weight=weight)
    cut = radix.cut(source, np.array(budget), radix.census(source), gather=gather)
    return {key for part in parts for key in part.filter(pa.array(cut.mask(part)))["example_id"].to_pylist()}


@settings(deadline=None, max_examples=200)
@given(
    rows=ROWS, parts=st.integers(1, 5), seed=st.integers(0, 99), gather=st.sampled_from([1, 4, 1000]), data=st.data()
)
def test_every_group_keeps_its_highest(
    rows: list[Row], parts: int, seed: int, gather: int, data: st.DataObject
) -> None:
    available = [sum(row.eligible and row.group == group for row in rows) for group in range(3)]
    budget = [data.draw(st.integers(0, n)) for n in available]
    found = found_by_radix(split(rows, parts, seed), budget, weight=None, gather=gather)
    assert found == kept_by_sorting(rows, budget, by_weight=False)
    assert len(found) == sum(budget)


@settings(deadline=None, max_examples=200)
@given(
    rows=ROWS,
    parts=st.integers(1, 5),
    seed=st.integers(0, 99),
    gather=st.sampled_from([1, 4, 1000]),
    budget=st.tuples(*[st.integers(0, 80)] * 3),
)
def test_a_weight_budget_keeps_the_longest_prefix(
    rows: list[Row], parts: int, seed: int, gather: int, budget: tuple[int, ...]
) -> None:
    found = found_by_radix(split(rows, parts, seed), budget, weight="weight", gather=gather)
    assert found == kept_by_sorting(rows, budget, by_weight=True)


@settings(deadline=None)
@given(rows=ROWS, layouts=st.tuples(st.integers(1, 6), st.integers(1, 6)), k=st.integers(1, 60))
def test_the_cut_itself_does_not_depend_on_the_layout(rows: list[Row], layouts: tuple[int, int], k: int) -> None:
    cuts = []
    for parts in layouts:
        source = radix.Source(split(rows, parts, parts), read)
        counted = radix.census(source)
        cuts.append(radix.cut(source, np.minimum([k], counted.eligible), counted, gather=2))
    assert cuts[0] == cuts[1]


def test_equal_scores_are_cut_by_id_however_few_are_gathered() -> None:
    rows = [Row(True, True, 0.5, f"s3://bucket/folder/{i:06d}", 0, 1) for i in range(3000)]
    found = found_by_radix(split(rows, 7, 0), [1234], weight=None, gather=8)
    assert found == {row.example_id for row in rows[-1234:]}


def test_only_ids_that_tie_are_needed() -> None:
    table = pa.table({"score": [1.0, 2.0, 3.0], "example_id": ["a", "b", "c"]})
    cut = Cut((Bar(3, int(keys.score_keys(np.array([2.0]))[0]), "b"),))
    assert cut.ties(table.select(["score"]))
    assert cut.mask(table).tolist() == [False, True, True]
    assert not cut.ties(table.select(["score"]).slice(2))
    assert cut.mask(table.select(["score"]).slice(2)).tolist() == [True]


def test_an_id_that_stands_twice_at_the_cut_is_refused() -> None:
    rows = [Row(True, True, 1.0, key, 0, 1) for key in ("a", "b", "b", "c")]
    with pytest.raises(InputError, match=r"example id 'b' stands more than once: make corpus\.id_column unique"):
        found_by_radix([table_of(rows)], [2], weight=None, gather=100)


@pytest.mark.parametrize(("groups", "bits"), [(1, 16), (64, 16), (65, 8), (16384, 8), (16385, 4)])
def test_many_groups_settle_fewer_bits_a_pass(groups: int, bits: int) -> None:
    assert radix._bits(groups) == bits
